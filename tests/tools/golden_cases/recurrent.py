"""Decoders with recurrent layers, alone or among attention."""

from __future__ import annotations

from typing import Any

from golden_cases.parts import HALF_ROTARY

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
QWEN3_NEXT: dict[str, Any] = {
    "num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"], "head_dim": 32,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
QWEN3_NEXT_EXPERTS: dict[str, Any] = {
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "shared_expert_intermediate_size": 56,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # name: (class of the configuration, what differs from SMALL)
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
    "bamba": (
        "BambaConfig",
        {"num_hidden_layers": 3, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 24}
        | {"mamba_n_groups": 2, "mamba_chunk_size": 32, "attention_bias": True, "mlp_bias": True},
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
    "qwen3next": ("Qwen3NextConfig", QWEN3_NEXT | QWEN3_NEXT_EXPERTS),
    "qwen3next-odd": (  # heads of other widths, as many keys as values, an epsilon of its own for the norms
        "Qwen3NextConfig",
        QWEN3_NEXT
        | QWEN3_NEXT_EXPERTS
        | {"layer_types": None, "full_attention_interval": 2, "num_hidden_layers": 2, "hidden_size": 40}
        | {"linear_key_head_dim": 9, "linear_value_head_dim": 19, "linear_num_key_heads": 3, "linear_num_value_heads": 3}
        | {"linear_conv_kernel_dim": 3, "rms_norm_eps": 1e-3, "attention_bias": True, "tie_word_embeddings": True}
        | HALF_ROTARY,
    ),
    "qwen35": (
        "Qwen3_5TextConfig",
        QWEN3_NEXT | {"linear_num_value_heads": 6, "tie_word_embeddings": True, "max_position_embeddings": 256},
    ),
    "qwen35moe": ("Qwen3_5MoeTextConfig", QWEN3_NEXT | QWEN3_NEXT_EXPERTS),
}
