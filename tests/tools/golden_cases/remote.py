"""Models whose code transformers does not have, where one of its classes computes the same."""

from __future__ import annotations

from typing import Any

from golden_cases.dense import FACTORS
from golden_cases.parts import rope

MINICPM: dict[str, Any] = {
    "embedding_multiplier": 3.0, "residual_multiplier": 1.4 / 2**0.5, "attention_multiplier": 0.25, "logits_scaling": 4.0,
}  # fmt: skip
AS_MINICPM: dict[str, Any] = {
    "model_type": "minicpm", "architectures": ["MiniCPMForCausalLM"], "scale_emb": 3.0, "scale_depth": 1.4,
    "dim_model_base": 16, **dict.fromkeys(MINICPM),
}  # fmt: skip
REMOTE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: (class of the configuration, what differs from SMALL, what the model's own config.json has instead; None: left out)
    "minicpm": ("GraniteConfig", MINICPM, AS_MINICPM),
    "minicpm4": (
        "GraniteConfig",
        MINICPM
        | {"tie_word_embeddings": True, "max_position_embeddings": 512}
        | rope("longrope", original_max_position_embeddings=512, **FACTORS),
        AS_MINICPM,
    ),
}
