"""Make tests/data/goldens with torch and transformers (which the package and its tests never import).

    python tests/tools/make_goldens.py [NAME ...]        all of them, or those whose name begins with NAME

Every case is a tiny model of a family with the weights of tests/goldens.py, run in float32 with plain ("eager") attention,
once per sequence. Lengths exceed every sliding window and every original context of the cases."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from goldens import FOLDER, Golden, write_folder

LENGTHS = (37, 12, 1)
SMALL: dict[str, Any] = {
    "vocab_size": 71, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **more}}


YARN = rope("yarn", factor=4.0, original_max_position_embeddings=16)
# transformers takes the short factors for a sequence that fits into the original context, llmq for a context that does
FACTORS = {
    "short_factor": [1.0, 1.1, 1.3, 1.5, 1.8, 2.0, 2.5, 3.0],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0],
}
QWEN_EXPERTS: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40}
GPT_OSS: dict[str, Any] = {
    "num_hidden_layers": 3, "num_local_experts": 6, "num_experts_per_tok": 2, "head_dim": 24, "sliding_window": 9,
    **rope("yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=0.4, truncate=False),
}  # fmt: skip
DEEPSEEK: dict[str, Any] = {
    "num_key_value_heads": 4, "q_lora_rank": 40, "kv_lora_rank": 32, "qk_nope_head_dim": 24, "qk_rope_head_dim": 16,
    "v_head_dim": 20, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 2, "moe_intermediate_size": 40,
    "first_k_dense_replace": 1,
}  # fmt: skip
ERNIE_EXPERTS: dict[str, Any] = {
    "moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 24, "moe_layer_start_index": 1, "moe_layer_end_index": 2,
    "num_hidden_layers": 3, "head_dim": 16,
}  # fmt: skip
SIGMOID_EXPERTS: dict[str, Any] = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "head_dim": 24, "norm_topk_prob": True, "routed_scaling_factor": 1.7, "num_hidden_layers": 3,
}  # fmt: skip
HALF_ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}}
MAMBA: dict[str, Any] = {
    "vocab_size": 71, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 16,
}  # fmt: skip
MAMBA2: dict[str, Any] = {**MAMBA, "num_heads": 8, "head_dim": 16, "state_size": 32, "chunk_size": 32}
GRANITE4: dict[str, Any] = {
    "num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"], "mamba_n_heads": 8,
    "mamba_d_head": 16, "mamba_d_state": 24, "mamba_chunk_size": 32, "shared_intermediate_size": 80, "intermediate_size": 40,
    "embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.3, "logits_scaling": 2.5,
}  # fmt: skip
FALCON_H1: dict[str, Any] = {
    "mamba_d_ssm": 96, "mamba_n_heads": 6, "mamba_d_head": 16, "mamba_d_state": 24, "mamba_chunk_size": 32,
    "lm_head_multiplier": 0.7, "embedding_multiplier": 1.8, "mlp_multipliers": [0.8, 1.3], "key_multiplier": 0.6,
    "attention_out_multiplier": 0.9, "attention_in_multiplier": 1.1, "ssm_multipliers": [0.9, 1.2, 0.8, 1.1, 0.7],
    "ssm_in_multiplier": 1.4, "ssm_out_multiplier": 0.75,
}  # fmt: skip
CONTEXTS = {"ministral3": 40, "phi3-short": 40, "llama-dynamic": 37, "mamba": 256, "mamba2-groups": 256}
# what a context of that length is built for is what transformers does for a sequence that fills it
ONLY = {
    "phi3-long": LENGTHS[:2],
    "llama-dynamic": LENGTHS[:1],
    "mamba": (150, *LENGTHS[1:]),  # past pages, where recurrent states have checkpoints
    "mamba2-groups": (150, *LENGTHS[1:]),
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # name: (class of the configuration, what differs from SMALL)
    "llama-gqa": ("LlamaConfig", {}),
    "llama-mha-tied": ("LlamaConfig", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama-mqa-head24": ("LlamaConfig", {"num_key_value_heads": 1, "head_dim": 24}),
    "llama-head20-biases": ("LlamaConfig", {"head_dim": 20, "attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("LlamaConfig", rope("linear", factor=3.0)),
    "llama-llama3": (
        "LlamaConfig",
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    ),
    "llama-yarn": ("LlamaConfig", YARN),
    "llama-yarn-betas": (
        "LlamaConfig",
        rope("yarn", factor=2.5, original_max_position_embeddings=16, beta_fast=8.0, beta_slow=0.5, attention_factor=0.7),
    ),
    "llama-yarn-mscale": (
        "LlamaConfig",
        rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.2, mscale_all_dim=0.6),
    ),
    "mistral-window": ("MistralConfig", {"sliding_window": 9}),
    "mistral-full": ("MistralConfig", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2-tied-mqa": ("Qwen2Config", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2-windows": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1, "num_hidden_layers": 3},
    ),
    "qwen2-yarn": ("Qwen2Config", YARN),
    "qwen3": ("Qwen3Config", {"head_dim": 24}),
    "qwen3-tied-biases": ("Qwen3Config", {"head_dim": 20, "tie_word_embeddings": True, "attention_bias": True}),
    "phi3": ("Phi3Config", {"sliding_window": 9, "pad_token_id": 0}),
    "phi3-long": (
        "Phi3Config",
        {"pad_token_id": 0, "original_max_position_embeddings": 10, **rope("longrope", **FACTORS)},
    ),
    "phi3-short": (
        "Phi3Config",
        {"pad_token_id": 0, "original_max_position_embeddings": 40, "hidden_size": 80}
        | rope("longrope", partial_rotary_factor=0.8, **FACTORS),
    ),
    "granite": (
        "GraniteConfig",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.3, "logits_scaling": 2.5},
    ),
    "granite-biases-tied": (
        "GraniteConfig",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "residual_multiplier": 0.7},
    ),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 5, "tie_word_embeddings": True, "pad_token_id": 0}),
    "gemma": ("GemmaConfig", {"head_dim": 24, "tie_word_embeddings": True}),
    "gemma-mqa": ("GemmaConfig", {"head_dim": 16, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2Config",
        {
            "num_hidden_layers": 3,
            "head_dim": 24,
            "sliding_window": 7,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 2.0,
            "tie_word_embeddings": True,
        },
    ),
    "gemma2-uncapped": (
        "Gemma2Config",
        {
            "head_dim": 16,
            "sliding_window": 64,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 7,
            "head_dim": 24,
            "sliding_window": 7,
            "query_pre_attn_scalar": 20,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
    "gemma3-plain": (
        "Gemma3TextConfig",
        {"head_dim": 16, "sliding_window": 9, "num_key_value_heads": 4, "tie_word_embeddings": True},
    ),
    # what llama.cpp can say of them: the scale of the heads, the pattern and the bases of the released models
    "gemma2-usual": (
        "Gemma2Config",
        {"head_dim": 24, "sliding_window": 7, "query_pre_attn_scalar": 24, "tie_word_embeddings": True},
    ),
    "gemma3-usual": (
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 7,
            "head_dim": 24,
            "sliding_window": 7,
            "query_pre_attn_scalar": 24,
            "tie_word_embeddings": True,
        },
    ),
    "phi": ("PhiConfig", {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    "phi-gqa": ("PhiConfig", {"hidden_size": 80, "partial_rotary_factor": 0.4}),
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 64, "tie_word_embeddings": True}),
    "gpt2-inner": (
        "GPT2Config",
        {"n_embd": 48, "n_head": 3, "n_layer": 3, "n_positions": 40, "n_inner": 80, "tie_word_embeddings": True},
    ),
    "gptneox": ("GPTNeoXConfig", {"num_key_value_heads": None, "rotary_pct": 0.25}),
    "gptneox-in-turn": (
        "GPTNeoXConfig",
        {"num_key_value_heads": None, "use_parallel_residual": False, "rotary_pct": 1.0, "tie_word_embeddings": True},
    ),
    "gptj": ("GPTJConfig", {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 64, "rotary_dim": 8}),
    "gptj-whole-head": (
        "GPTJConfig",
        {"n_embd": 72, "n_head": 3, "n_layer": 2, "n_positions": 64, "n_inner": 96, "rotary_dim": 24},
    ),
    "stablelm": ("StableLmConfig", {"partial_rotary_factor": 0.25}),
    "stablelm-biases-parallel": (
        "StableLmConfig",
        {"use_qkv_bias": True, "use_parallel_residual": True, "num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    ),
    "stablelm-12b": (
        "StableLmConfig",
        {"qk_layernorm": True, "use_parallel_residual": True, "partial_rotary_factor": 0.25},
    ),
    "falcon-7b": ("FalconConfig", {"alibi": False, "multi_query": True, "parallel_attn": True, "bias": False}),
    "falcon-40b": (
        "FalconConfig",
        {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": False, "tie_word_embeddings": True},
    ),
    "falcon-11b": (
        "FalconConfig",
        {
            "alibi": False,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "ffn_hidden_size": 96,
        },
    ),
    "starcoder2": ("Starcoder2Config", {"sliding_window": 8}),
    "starcoder2-plain": ("Starcoder2Config", {"use_bias": False, "tie_word_embeddings": True, "num_key_value_heads": 1}),
    "olmo2": ("Olmo2Config", {}),
    "olmo2-mha": ("Olmo2Config", {"num_key_value_heads": 4, "attention_bias": True, "tie_word_embeddings": True}),
    "cohere": ("CohereConfig", {"logit_scale": 0.3, "tie_word_embeddings": True}),
    "cohere-biases": ("CohereConfig", {"num_key_value_heads": 4, "attention_bias": True, "tie_word_embeddings": True}),
    "cohere2": ("Cohere2Config", {"num_hidden_layers": 5, "sliding_window": 7, "tie_word_embeddings": True}),
    "mpt": (
        "MptConfig",
        {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "tie_word_embeddings": True},
    ),
    "bloom": ("BloomConfig", {"hidden_size": 64, "n_head": 4, "n_layer": 2, "tie_word_embeddings": True}),
    "bloom-6-heads": ("BloomConfig", {"hidden_size": 48, "n_head": 6, "n_layer": 2, "tie_word_embeddings": True}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "mixtral-window": (
        "MixtralConfig",
        {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 9, "tie_word_embeddings": True},
    ),
    "qwen2moe": ("Qwen2MoeConfig", QWEN_EXPERTS | {"shared_expert_intermediate_size": 80}),
    "qwen2moe-normalized": (
        "Qwen2MoeConfig",
        QWEN_EXPERTS | {"shared_expert_intermediate_size": 48, "norm_topk_prob": True},
    ),
    "qwen3moe": ("Qwen3MoeConfig", QWEN_EXPERTS | {"head_dim": 24, "norm_topk_prob": True}),
    "qwen3moe-plain": ("Qwen3MoeConfig", QWEN_EXPERTS | {"head_dim": 16, "num_experts_per_tok": 1}),
    "olmoe": (
        "OlmoeConfig",
        {"num_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 48, "num_key_value_heads": 4}
        | {"eos_token_id": None, "pad_token_id": None},
    ),
    "granitemoe": (
        "GraniteMoeConfig",
        {"num_local_experts": 6, "num_experts_per_tok": 2, "embedding_multiplier": 3.0, "residual_multiplier": 0.4}
        | {"attention_multiplier": 0.3, "logits_scaling": 2.5},
    ),
    "gptoss": ("GptOssConfig", GPT_OSS),
    "gptoss-plain": (
        "GptOssConfig",
        GPT_OSS | {"num_experts_per_tok": 4, "head_dim": 16} | rope("yarn", factor=1.0, truncate=False),
    ),
    "deepseek2-lite": ("DeepseekV2Config", DEEPSEEK | {"q_lora_rank": None, "n_group": 1, "topk_group": 1}),
    "deepseek2-groups": (
        "DeepseekV2Config",
        DEEPSEEK
        | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 3.0}
        | rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.7, mscale_all_dim=0.7),
    ),
    "deepseek3": (
        "DeepseekV3Config",
        DEEPSEEK
        | {"n_group": 4, "topk_group": 2, "norm_topk_prob": True, "num_experts_per_tok": 4}
        | rope("yarn", factor=4.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=1.0),
    ),
    "deepseek3-one-group": ("DeepseekV3Config", DEEPSEEK | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 0}),
    "qwen3-yarn": ("Qwen3Config", {"head_dim": 24, **YARN}),
    "llama-dynamic": ("LlamaConfig", {"max_position_embeddings": 20, **rope("dynamic", factor=3.0)}),
    "llama-dynamic-short": ("LlamaConfig", rope("dynamic", factor=3.0)),
    "cohere-plus": ("CohereConfig", {"use_qk_norm": True, "logit_scale": 0.3, "tie_word_embeddings": True}),
    "mamba": ("MambaConfig", MAMBA),
    "mamba-odd-untied": (
        "MambaConfig",
        MAMBA
        | {"hidden_size": 40, "state_size": 5, "time_step_rank": 7, "conv_kernel": 3, "use_bias": True, "use_conv_bias": False}
        | {"tie_word_embeddings": False},
    ),
    "falcon-mamba": ("FalconMambaConfig", MAMBA | {"layer_norm_epsilon": 1e-3, "mixer_rms_eps": 1e-2}),
    "falcon-mamba-usual": ("FalconMambaConfig", MAMBA | {"layer_norm_epsilon": 1e-3, "mixer_rms_eps": 1e-3}),
    "mamba2": ("Mamba2Config", MAMBA2 | {"n_groups": 1, "tie_word_embeddings": True}),
    "mamba2-groups": ("Mamba2Config", MAMBA2 | {"n_groups": 2, "conv_kernel": 3}),
    "mamba2-odd-biases": (
        "Mamba2Config",
        MAMBA2
        | {"hidden_size": 42, "num_heads": 12, "head_dim": 7, "n_groups": 3, "state_size": 10, "use_bias": True},
    ),
    "granite4-experts": ("GraniteMoeHybridConfig", GRANITE4 | {"num_local_experts": 6, "num_experts_per_tok": 2}),
    "granite4-dense-rope": (
        "GraniteMoeHybridConfig",
        GRANITE4 | {"num_local_experts": 0, "num_experts_per_tok": 0, "position_embedding_type": "rope", "mamba_n_groups": 2},
    ),
    "lfm2": (
        "Lfm2Config",
        {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "conv_L_cache": 3, "block_multiple_of": 32}
        | {"tie_word_embeddings": True},
    ),
    "lfm2-plain-width": (
        "Lfm2Config",
        {"num_hidden_layers": 3, "layer_types": ["full_attention", "conv", "conv"], "block_auto_adjust_ff_dim": False}
        | {"conv_L_cache": 4, "conv_bias": True},
    ),
    "jamba": (
        "JambaConfig",
        {"num_hidden_layers": 4, "attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 2, "mamba_d_state": 12}
        | {"expert_layer_offset": 1, "num_experts": 5, "num_experts_per_tok": 2, "mamba_dt_rank": 6},
    ),
    "falcon-h1": ("FalconH1Config", FALCON_H1),
    "falcon-h1-norm-tied": (
        "FalconH1Config",
        FALCON_H1
        | {"mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 2, "tie_word_embeddings": True},
    ),
    "nemotron-h": (
        "NemotronHConfig",
        {"layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"], "head_dim": 24}
        | {"mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 24, "chunk_size": 32},
    ),
    "lfm2moe": (
        "Lfm2MoeConfig",
        {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1, "num_experts": 6}
        | {"num_experts_per_tok": 3, "moe_intermediate_size": 40, "tie_word_embeddings": True, "norm_eps": 1e-4},
    ),
    "nemotron3": (
        "NemotronHConfig",
        {"layers_block_type": ["linear_attention", "moe", "full_attention", "moe"], "head_dim": 24, "chunk_size": 32}
        | {"routed_scaling_factor": 1.7, "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 24}
        | {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "n_group": 4, "topk_group": 2}
        | {"moe_shared_expert_intermediate_size": 56},
    ),
    "nemotron3-one-group": (
        "NemotronHConfig",
        {"layers_block_type": ["moe", "linear_attention", "full_attention"], "head_dim": 16, "norm_topk_prob": False}
        | {"mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 24, "chunk_size": 32}
        | {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
        | {"moe_shared_expert_intermediate_size": 56},
    ),
    "opt": ("OPTConfig", {"ffn_dim": 96, "num_key_value_heads": None, "word_embed_proj_dim": 64, "tie_word_embeddings": True}),
    "opt-350m": (
        "OPTConfig",
        {
            "ffn_dim": 96,
            "num_key_value_heads": None,
            "word_embed_proj_dim": 48,
            "do_layer_norm_before": False,
            "tie_word_embeddings": True,
        },
    ),
    "glm": ("GlmConfig", {"head_dim": 16, "rms_norm_eps": 1e-5, "pad_token_id": 0}),
    "glm4": ("Glm4Config", {"head_dim": 16, "pad_token_id": 0, **HALF_ROTARY}),
    "glm4-plain": (
        "Glm4Config",
        {"head_dim": 24, "attention_bias": False, "num_key_value_heads": 4, "pad_token_id": 0, **HALF_ROTARY},
    ),
    "seed-oss": ("SeedOssConfig", {"head_dim": 24}),
    "seed-oss-plain": (
        "SeedOssConfig",
        {"head_dim": 16, "attention_bias": False, "attention_out_bias": False, "tie_word_embeddings": True},
    ),
    "exaone": ("ExaoneConfig", {}),
    "exaone-llama3": (
        "ExaoneConfig",
        {"tie_word_embeddings": True, "num_key_value_heads": 4}
        | rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    ),
    "glm4moe-lite": (
        "Glm4MoeLiteConfig",
        {k: v for k, v in DEEPSEEK.items() if k != "first_k_dense_replace"} | {"n_group": 1, "topk_group": 1},
    ),
    "exaone4": ("Exaone4Config", {"sliding_window": None, "layer_types": ["full_attention"] * 2, "tie_word_embeddings": True}),
    "exaone4-windows": (
        "Exaone4Config",
        {"sliding_window": 7, "num_hidden_layers": 5, "layer_types": None}
        | rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    ),
    "olmo3": (
        "Olmo3Config",
        {
            "num_hidden_layers": 5,
            "sliding_window": 7,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "rope_theta": 100.0,
                    "original_max_position_embeddings": 16,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
    "olmo": ("OlmoConfig", {}),
    "olmo-gqa-tied": ("OlmoConfig", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "nemotron": ("NemotronConfig", {"head_dim": 16, "norm_eps": 1e-5, **HALF_ROTARY}),
    "nemotron-biases": ("NemotronConfig", {"head_dim": 16, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    "arcee": ("ArceeConfig", {"head_dim": 16}),
    "arcee-yarn": ("ArceeConfig", {"head_dim": 24, "tie_word_embeddings": True, **YARN}),
    "ernie45": ("Ernie4_5Config", {"head_dim": 24, "tie_word_embeddings": True}),
    "ernie45-biases": ("Ernie4_5Config", {"head_dim": 16, "use_bias": True}),
    "ernie45moe": ("Ernie4_5_MoeConfig", ERNIE_EXPERTS),
    "ernie45moe-plain": (
        "Ernie4_5_MoeConfig",
        ERNIE_EXPERTS | {"moe_num_shared_experts": 0, "moe_layer_start_index": 0, "tie_word_embeddings": True},
    ),
    "glm4moe": ("Glm4MoeConfig", SIGMOID_EXPERTS | {"use_qk_norm": True, "attention_bias": True}),
    "glm4moe-groups": ("Glm4MoeConfig", SIGMOID_EXPERTS | {"n_group": 4, "topk_group": 2, "norm_topk_prob": False}),
    "dots1": ("Dots1Config", SIGMOID_EXPERTS | {"num_key_value_heads": 4, "head_dim": 16, "sliding_window": None}),
    "dots1-groups": (
        "Dots1Config",
        SIGMOID_EXPERTS | {"n_group": 2, "topk_group": 1, "sliding_window": None, "n_shared_experts": 1},
    ),
    "minimax-m2": ("MiniMaxM2Config", {"head_dim": 24, "num_local_experts": 8, "num_experts_per_tok": 3, **HALF_ROTARY}),
    "hunyuan": ("HunYuanDenseV1Config", {"head_dim": 24}),
    "hunyuan-biases": ("HunYuanDenseV1Config", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    "starcoder": (
        "GPTBigCodeConfig",
        {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 64, "tie_word_embeddings": True},
    ),
    "starcoder-inner": ("GPTBigCodeConfig", {"n_embd": 48, "n_head": 3, "n_layer": 3, "n_positions": 40, "n_inner": 80}),
    "ministral": (
        "MinistralConfig",
        {
            "num_hidden_layers": 4,
            "sliding_window": 7,
            "head_dim": 24,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
    ),
    "ministral3": (
        "Ministral3Config",
        {"head_dim": 24, "max_position_embeddings": 160}
        | rope(
            "yarn", factor=4.0, original_max_position_embeddings=40, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1
        ),
    ),
    "internlm3": ("InternLM3Config", {"head_dim": 24, "attention_bias": True, "mlp_bias": True}),
    "granitemoe-shared": (
        "GraniteMoeSharedConfig",
        {"num_local_experts": 6, "num_experts_per_tok": 2, "shared_intermediate_size": 40, "attention_multiplier": 0.3},
    ),
    "phi-usual": ("PhiConfig", {"num_key_value_heads": 4, "partial_rotary_factor": 0.5, "intermediate_size": 256}),
}


VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
QWEN_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 64}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [4, 2, 2]}}
# llama.cpp gives pairs that the coordinates in turn leave over no position
INTERLEAVED = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [3, 3, 2]}}
WITH_PICTURES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: (class of the configuration, the language model's, that of the rest), of which tokens of text are the golden
    "gemma3-pictures": (
        "Gemma3Config",
        {"head_dim": 24, "sliding_window": 7, "query_pre_attn_scalar": 24},
        {"vision_config": VISION | {"num_hidden_layers": 1}, "mm_tokens_per_image": 4},
    ),
    "mistral3-pictures": (
        "Mistral3Config",
        {"model_type": "mistral", "head_dim": 24, "sliding_window": None},
        {"vision_config": VISION | {"model_type": "pixtral", "num_hidden_layers": 1}},
    ),
    "qwen2-vl": ("Qwen2VLConfig", MROPE, {"vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 64, "num_heads": 2}}),
    "qwen25-vl": ("Qwen2_5_VLConfig", MROPE | {"tie_word_embeddings": True}, {"vision_config": QWEN_VISION}),
    "qwen3-vl": (
        "Qwen3VLConfig",
        INTERLEAVED | {"head_dim": 16},
        {"vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}},
    ),
    "qwen3-vl-moe": (
        "Qwen3VLMoeConfig",
        INTERLEAVED | QWEN_EXPERTS | {"head_dim": 16},
        {"vision_config": QWEN_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}},
    ),
}


T5: dict[str, Any] = {
    "vocab_size": 71, "d_model": 64, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0,
}  # fmt: skip
TINY_BERT = {**SMALL, "num_key_value_heads": None, "max_position_embeddings": 48}
ENCODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # name: (class of the configuration, class of the model, what differs from TINY_BERT)
    "bert": ("BertConfig", "BertModel", {}),
    "bert-one-type": ("BertConfig", "BertModel", {"type_vocab_size": 1, "num_attention_heads": 2, "hidden_size": 48}),
    "bert-rank": ("BertConfig", "BertForSequenceClassification", {"num_labels": 1}),
    "bert-labels": ("BertConfig", "BertForSequenceClassification", {"num_labels": 3}),
    "roberta": ("RobertaConfig", "RobertaModel", {"type_vocab_size": 1}),
    "xlm-roberta-rank": ("XLMRobertaConfig", "XLMRobertaForSequenceClassification", {"num_labels": 1, "type_vocab_size": 1}),
    "distilbert": ("DistilBertConfig", "DistilBertModel", {"dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4}),
    "modernbert": (
        "ModernBertConfig",
        "ModernBertModel",
        {"num_hidden_layers": 5, "local_attention": 8, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "modernbert-every": (
        "ModernBertConfig",
        "ModernBertModel",
        {
            "num_hidden_layers": 4,
            "local_attention": 6,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "attention_bias": True,
            "mlp_bias": True,
            "norm_bias": True,
            "pad_token_id": 0,
        },
    ),
    "embedding-gemma": (
        "Gemma3TextConfig",
        "Gemma3TextModel",
        {
            "num_hidden_layers": 7,
            "num_key_value_heads": 1,
            "head_dim": 24,
            "query_pre_attn_scalar": 24,
            "sliding_window": 16,
            "use_bidirectional_attention": True,
        },
    ),
    "t5-encoder": ("T5Config", "T5EncoderModel", T5 | {"num_key_value_heads": None}),
    "umt5-encoder": ("UMT5Config", "UMT5EncoderModel", T5 | {"feed_forward_proj": "gated-gelu"}),
    "nomic-bert": (
        "NomicBertConfig",
        "NomicBertModel",
        {"hidden_act": "silu", "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    ),
}


SEQ2SEQ: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5Config", {}),
    "t5-gated": (
        "T5Config",
        {
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "num_decoder_layers": 3,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 20,
        },
    ),
    "umt5": ("UMT5Config", {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 2}),
}


def make_seq2seq(name: str) -> None:
    cls, changes = SEQ2SEQ[name]
    config = getattr(transformers, cls)(**{**T5, **changes})
    model, stored, shapes = seeded(name, transformers.AutoModelForSeq2SeqLM.from_config(config))
    arrays: dict[str, np.ndarray] = {}
    rng = np.random.RandomState(7)
    for n, (length, source_length) in enumerate(((12, 37), (37, 9), (1, 1))):
        tokens, source = (rng.randint(0, config.vocab_size, k).astype(np.int32) for k in (length, source_length))
        with torch.no_grad():
            given = {"input_ids": source, "decoder_input_ids": tokens}
            logits = model(**{key: torch.from_numpy(x).long()[None] for key, x in given.items()}).logits[0].numpy()
        arrays |= {f"tokens{n}": tokens, f"source{n}": source, f"logits{n}": logits.astype(np.float32)}
    save(name, stored, shapes, arrays, kind="seq2seq")


def seeded(name: str, model: Any) -> tuple[Any, Any, Any]:
    """The model with the weights of tests/goldens.py, its config.json and the shapes of its tensors. The names of tensors and
    keys are those of a saved folder, which for some models are not the ones in memory."""
    with tempfile.TemporaryDirectory() as folder:
        model.float().save_pretrained(folder)
        stored = json.loads(Path(folder, "config.json").read_text())
        with safe_open(Path(folder, "model.safetensors"), "np") as saved:
            shapes = {key: tuple(saved.get_slice(key).get_shape()) for key in saved.keys()}  # noqa: SIM118 - no dict
        shapes = {key: shape for key, shape in shapes.items() if not key.endswith("position_ids")}
        write_folder(Golden(name, stored, shapes, None, []), Path(folder))
        return type(model).from_pretrained(folder, attn_implementation="eager").float().eval(), stored, shapes


def make_encoder(name: str) -> None:
    cls, model_cls, changes = ENCODERS[name]
    config = getattr(transformers, cls)(**{k: v for k, v in {**TINY_BERT, **changes}.items() if v is not None})
    model, stored, shapes = seeded(name, getattr(transformers, model_cls)(config))
    scores = "Classification" in model_cls
    arrays: dict[str, np.ndarray] = {}
    rng = np.random.RandomState(6)
    for n, length in enumerate(LENGTHS):
        tokens = rng.randint(3, config.vocab_size, length).astype(np.int32)
        two = scores and config.type_vocab_size > 1
        types = (np.arange(length) >= (length // 2 if two else length)).astype(np.int32)  # where the tokens of type 1 begin
        given = {"input_ids": torch.from_numpy(tokens).long()[None]}
        given |= {"token_type_ids": torch.from_numpy(types).long()[None]} if two else {}
        with torch.no_grad():
            out = model(**given)
        arrays |= {f"tokens{n}": tokens, f"logits{n}": (out.logits if scores else out.last_hidden_state[0]).numpy()}
        if types.any() or f"types{n - 1}" in arrays:
            arrays[f"types{n}"] = types
    save(name, stored, shapes, arrays, kind="scores" if scores else "hidden")


def save(name: str, config: Any, shapes: Any, arrays: dict[str, np.ndarray], **more: Any) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"config": config, "shapes": shapes, "n_ctx": CONTEXTS.get(name), **more}, sort_keys=True)
    (FOLDER / f"{name}.json").write_text(text + "\n")
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    first, last = arrays["logits0"], arrays["logits0"][-1]
    print(f"{name}: outputs of deviation {first.std():.2f}, largest {abs(last).max():.2f}")  # noqa: T201 - a tool


def make_with_pictures(name: str) -> None:
    cls, changes, rest = WITH_PICTURES[name]
    config = getattr(transformers, cls)(text_config={**SMALL, **changes}, **rest)
    make_logits(name, config, transformers.AutoModelForImageTextToText)


def make(name: str) -> None:
    cls, changes = CASES[name]
    # a configuration with its own names for the widths (n_embd, d_model, …) gets none of SMALL's but the vocabulary
    small = {"vocab_size": SMALL["vocab_size"]} if {"n_layer", "n_layers", "state_size"} & changes.keys() else SMALL
    make_logits(name, getattr(transformers, cls)(**{**small, **changes}), transformers.AutoModelForCausalLM)


def make_logits(name: str, config: Any, auto: Any) -> None:
    model, stored, shapes = seeded(name, auto.from_config(config))
    arrays: dict[str, np.ndarray] = {}
    rng = np.random.RandomState(5)
    for n, length in enumerate(ONLY.get(name, LENGTHS)):
        tokens = rng.randint(0, SMALL["vocab_size"], length).astype(np.int32)
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens).long()[None]).logits[0].numpy()
        arrays |= {f"tokens{n}": tokens, f"logits{n}": logits.astype(np.float32)}
    save(name, stored, shapes, arrays)


if __name__ == "__main__":
    wanted = tuple(sys.argv[1:]) or ("",)
    makers = ((CASES, make), (WITH_PICTURES, make_with_pictures), (ENCODERS, make_encoder), (SEQ2SEQ, make_seq2seq))
    for cases, maker in makers:
        for case in cases:
            if case.startswith(wanted):
                maker(case)
