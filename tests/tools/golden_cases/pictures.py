"""The language models of folders that also see pictures."""

from __future__ import annotations

from typing import Any

from golden_cases.dense import GEMMA4
from golden_cases.experts import LLAMA4, QWEN_EXPERTS
from golden_cases.recurrent import QWEN3_NEXT, QWEN3_NEXT_EXPERTS

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
INTERLEAVED_HALF = {"rope_parameters": {**INTERLEAVED["rope_parameters"], "partial_rotary_factor": 0.5}}
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
    "gemma4-pictures": (
        "Gemma4Config",
        GEMMA4 | {"num_kv_shared_layers": 3},
        {
            "vision_config": VISION
            | {"num_hidden_layers": 1, "head_dim": 8, "num_key_value_heads": 2}
            | {"position_embedding_size": 16},
            "audio_config": None,
        },
    ),
    "llama4-pictures": (
        "Llama4Config",
        {**LLAMA4, "num_hidden_layers": 4},
        {
            "vision_config": VISION
            | {"num_hidden_layers": 1, "vision_output_dim": 16, "projector_input_dim": 16}
            | {"projector_output_dim": 16}
        },
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
    "qwen35-pictures": (
        "Qwen3_5Config",
        INTERLEAVED_HALF | QWEN3_NEXT,
        {"vision_config": QWEN_VISION | {"num_position_embeddings": 16}},
    ),
    "qwen35moe-pictures": (
        "Qwen3_5MoeConfig",
        INTERLEAVED_HALF | QWEN3_NEXT | QWEN3_NEXT_EXPERTS,
        {"vision_config": QWEN_VISION | {"num_position_embeddings": 16}},
    ),
}
