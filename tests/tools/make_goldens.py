"""Make tests/data/goldens with torch and transformers (which the package and its tests never import).

    python tests/tools/make_goldens.py [NAME ...]        all of them, or those whose name begins with NAME

The cases stand in golden_cases/, by kind. Each is a tiny model of a family with the weights of tests/goldens.py, run in float32
with plain ("eager") attention, once per sequence. Lengths exceed every sliding window and every original context of theirs."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden_cases import dense, experts, recurrent
from golden_cases.encoders import ENCODERS, SEQ2SEQ, T5, TINY_BERT
from golden_cases.parts import SMALL
from golden_cases.pictures import WITH_PICTURES
from golden_cases.remote import REMOTE
from goldens import FOLDER, Golden, write_folder

CASES = dense.CASES | experts.CASES | recurrent.CASES
LENGTHS = (37, 12, 1)
CONTEXTS = {"phi3-short": 40, "llama-dynamic": 37, "mamba": 256, "mamba2-groups": 256, "qwen35": 256}
# what a context of that length is built for is what transformers does for a sequence that fills it
ONLY = {
    "phi3-long": LENGTHS[:2],
    "llama-dynamic": LENGTHS[:1],
    "mamba": (150, *LENGTHS[1:]),  # past pages, where recurrent states have checkpoints
    "mamba2-groups": (150, *LENGTHS[1:]),
    "qwen35": (150, *LENGTHS[1:]),
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


def make_remote(name: str) -> None:
    cls, changes, own = REMOTE[name]
    make_logits(name, getattr(transformers, cls)(**{**SMALL, **changes}), transformers.AutoModelForCausalLM, own)


def make_logits(name: str, config: Any, auto: Any, own: Mapping[str, Any] | None = None) -> None:
    model, stored, shapes = seeded(name, auto.from_config(config))
    model = model.language_model if stored["model_type"] == "llama4" else model  # the whole asks its output for pictures
    arrays: dict[str, np.ndarray] = {}
    rng = np.random.RandomState(5)
    for n, length in enumerate(ONLY.get(name, LENGTHS)):
        tokens = rng.randint(0, SMALL["vocab_size"], length).astype(np.int32)
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens).long()[None]).logits[0].numpy()
        arrays |= {f"tokens{n}": tokens, f"logits{n}": logits.astype(np.float32)}
    for key, value in (own or {}).items():
        stored = {k: v for k, v in stored.items() if k != key} if value is None else {**stored, key: value}
    save(name, stored, shapes, arrays)


if __name__ == "__main__":
    wanted = tuple(sys.argv[1:]) or ("",)
    makers = (
        (CASES, make),
        (REMOTE, make_remote),
        (WITH_PICTURES, make_with_pictures),
        (ENCODERS, make_encoder),
        (SEQ2SEQ, make_seq2seq),
    )
    for cases, maker in makers:
        for case in cases:
            if case.startswith(wanted):
                maker(case)
