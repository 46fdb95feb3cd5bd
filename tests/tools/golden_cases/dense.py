"""Decoders that run every weight for every token."""

from __future__ import annotations

from typing import Any

from golden_cases.parts import HALF_ROTARY, LLAMA3, YARN, rope

# transformers takes the short factors for a sequence that fits into the original context, llmq for a context that does
FACTORS = {
    "short_factor": [1.0, 1.1, 1.3, 1.5, 1.8, 2.0, 2.5, 3.0],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0],
}
GEMMA4: dict[str, Any] = {
    "num_hidden_layers": 5, "head_dim": 8, "global_head_dim": 16, "sliding_window": 7, "vocab_size_per_layer_input": 71,
    "hidden_size_per_layer_input": 12, "final_logit_softcapping": 5.0, "tie_word_embeddings": True,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # name: (class of the configuration, what differs from SMALL)
    "llama-gqa": ("LlamaConfig", {}),
    "llama-mha-tied": ("LlamaConfig", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama-mqa-head24": ("LlamaConfig", {"num_key_value_heads": 1, "head_dim": 24}),
    "llama-head20-biases": ("LlamaConfig", {"head_dim": 20, "attention_bias": True, "mlp_bias": True}),
    "llama-linear": ("LlamaConfig", rope("linear", factor=3.0)),
    "llama-llama3": ("LlamaConfig", LLAMA3),
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
    "gemma4": ("Gemma4TextConfig", GEMMA4 | {"num_kv_shared_layers": 3, "use_double_wide_mlp": True}),
    "gemma4-keys": (
        "Gemma4UnifiedTextConfig",
        {key: value for key, value in GEMMA4.items() if not key.endswith("per_layer_input")}
        | {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
    ),
    "gemma4-experts": (
        "Gemma4TextConfig",
        GEMMA4
        | {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 40}
        | {"hidden_size_per_layer_input": 0, "global_head_dim": 8},
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
    "qwen3-yarn": ("Qwen3Config", {"head_dim": 24, **YARN}),
    "llama-dynamic": ("LlamaConfig", {"max_position_embeddings": 20, **rope("dynamic", factor=3.0)}),
    "llama-dynamic-short": ("LlamaConfig", rope("dynamic", factor=3.0)),
    "cohere-plus": ("CohereConfig", {"use_qk_norm": True, "logit_scale": 0.3, "tie_word_embeddings": True}),
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
        {"tie_word_embeddings": True, "num_key_value_heads": 4} | LLAMA3,
    ),
    "exaone4": ("Exaone4Config", {"sliding_window": None, "layer_types": ["full_attention"] * 2, "tie_word_embeddings": True}),
    "exaone4-windows": (
        "Exaone4Config",
        {"sliding_window": 7, "num_hidden_layers": 5, "layer_types": None} | LLAMA3,
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
        {"head_dim": 24, "max_position_embeddings": 40}
        | rope(
            "yarn", factor=4.0, original_max_position_embeddings=10, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1
        ),
    ),
    "helium": ("HeliumConfig", {"head_dim": 16}),
    "internlm3": ("InternLM3Config", {"head_dim": 24, "attention_bias": True, "mlp_bias": True}),
    "phi-usual": ("PhiConfig", {"num_key_value_heads": 4, "partial_rotary_factor": 0.5, "intermediate_size": 256}),
}
