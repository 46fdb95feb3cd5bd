"""Decoders with mixtures of experts."""

from __future__ import annotations

from typing import Any

from golden_cases.parts import HALF_ROTARY, rope

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
LLAMA4: dict[str, Any] = {"head_dim": 16, "num_local_experts": 6, "intermediate_size": 40, "intermediate_size_mlp": 72}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # name: (class of the configuration, what differs from SMALL)
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
    "glm4moe-lite": (
        "Glm4MoeLiteConfig",
        {k: v for k, v in DEEPSEEK.items() if k != "first_k_dense_replace"} | {"n_group": 1, "topk_group": 1},
    ),
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
    "llama4": (
        "Llama4TextConfig",
        LLAMA4
        | {"num_hidden_layers": 5, "attention_chunk_size": 10, "floor_scale": 7, "attn_scale": 0.3}
        | rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=1.0, original_max_position_embeddings=16),
    ),
    "llama4-dense-between": (
        "Llama4TextConfig",
        LLAMA4
        | {"num_local_experts": 128, "use_qk_norm": False, "interleave_moe_layer_step": 2, "num_hidden_layers": 4}
        | {"intermediate_size": 16, "attn_temperature_tuning": False, "tie_word_embeddings": True},
    ),
    "granitemoe-shared": (
        "GraniteMoeSharedConfig",
        {"num_local_experts": 6, "num_experts_per_tok": 2, "shared_intermediate_size": 40, "attention_multiplier": 0.3},
    ),
}
