"""Make tests/data/goldens with torch and transformers (which the package and its tests never import).

    python tests/tools/make_goldens.py [NAME ...]        all of them, or those whose name begins with NAME

Every case is a tiny model of a family with the weights of tests/goldens.py, run in float32 with plain ("eager") attention,
once per sequence. Lengths exceed every sliding window and every original context of the cases."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from goldens import FOLDER, weight

LENGTHS = (37, 12, 1)
SMALL: dict[str, Any] = {
    "vocab_size": 71, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **more}}


YARN = rope("yarn", factor=4.0, original_max_position_embeddings=16)
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
    "qwen3-yarn": ("Qwen3Config", {"head_dim": 24, **YARN}),
}


def make(name: str) -> None:
    cls, changes = CASES[name]
    config = getattr(transformers, cls)(**{**SMALL, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    shapes = {}
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            shapes[key] = tuple(parameter.shape)
            parameter.copy_(torch.from_numpy(weight(key, shapes[key])))
    arrays: dict[str, np.ndarray] = {}
    rng = np.random.RandomState(5)
    for n, length in enumerate(LENGTHS):
        tokens = rng.randint(0, config.vocab_size, length).astype(np.int32)
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens).long()[None]).logits[0].numpy()
        arrays |= {f"tokens{n}": tokens, f"logits{n}": logits.astype(np.float32)}
    stored = json.loads(config.to_json_string())
    FOLDER.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"config": stored, "shapes": shapes}, sort_keys=True)
    (FOLDER / f"{name}.json").write_text(text + "\n")
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    first, last = arrays["logits0"], arrays["logits0"][-1]
    print(f"{name}: logits of deviation {first.std():.2f}, largest {abs(last).max():.2f}")  # noqa: T201 - a tool


if __name__ == "__main__":
    wanted = tuple(sys.argv[1:]) or ("",)
    for case in CASES:
        if case.startswith(wanted):
            make(case)
