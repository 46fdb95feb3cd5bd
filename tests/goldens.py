"""Golden logits of tiny models: what tests/tools/make_goldens.py wrote with Hugging Face transformers, and the models
themselves.

A golden is NAME.json (the config.json, the shapes of the tensors, the kind) and NAME.npz (per sequence token ids and float32
logits, hidden states or scores, for some also the types of the tokens).
The weights are not stored: they are a function of the tensor's name and shape, the same here and in the tool."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # the tools that make goldens have no llmq
    from llmq.formats.checkpoint import Checkpoint

FOLDER = Path(__file__).parent / "data" / "goldens"
CONVERTED = FOLDER.parent / "llama_converter.json"
"""What llama.cpp's converter makes of goldens (tests/tools/peer_convert.py): by name, `converted`."""
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
}


@dataclass(frozen=True)
class Golden:
    """`n_ctx` is the context to build the model for, None: as trained. `sequences` are (token ids int32 (n,), what the model
    makes of them, float32), each run from position 0: of the `kind` "logits" (n, n_vocab), "hidden" (n, n_embd) or "scores"
    (1, labels); "seq2seq" has logits too, and in `sources` the texts that the encoder was given. `types` are those of the
    tokens, per sequence, when they are not all 0."""

    name: str
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    n_ctx: int | None
    sequences: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]
    kind: str = "logits"
    types: list[npt.NDArray[np.int32]] | None = None
    sources: list[npt.NDArray[np.int32]] | None = None


def converted(model: Checkpoint) -> dict[str, Any]:
    """What a GGUF says of a model, without the vocabulary, and one number for the tensors: their names, lengths in each
    direction but 1, and values; factors of rotary frequencies and decays, which come from other arithmetic, have no values in
    it."""
    digest = 0
    for name, tensor in sorted(model.tensors.items()):
        digest = zlib.crc32(f"{name} {[n for n in tensor.shape if n > 1]}".encode(), digest)
        digest = digest if name.startswith("rope_") or name.endswith(".ssm_a") else zlib.crc32(tensor.numpy().tobytes(), digest)
    own = (f"{model.metadata['general.architecture']}.", "general.architecture", "tokenizer.ggml.token_type_count")
    said = {key: np.asarray(value).tolist() for key, value in model.metadata.items() if key.startswith(own)}
    return {"metadata": said, "tensors": digest}


def weight(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The float32 weights of a tensor. RandomState's stream never changes between versions of NumPy.

    Matrices keep the variance of their input, queries and keys raise it so that attention is far from uniform; norms are
    around 1, biases far enough from 0 to be missed; states of recurrent layers are kept for between 1 and 50 tokens."""
    noise = np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, shape)
    if name.endswith("A_log"):
        return np.float32(2 * noise - 2)
    if len(shape) == 1:
        is_scale = name.endswith("weight") and any(part in name.lower() for part in ("norm", "ln_", "layernorm", "ln"))
        is_scale |= name.endswith(("_scalar", "scale"))
        return np.float32(1 + 0.4 * noise if is_scale else 0.4 * noise)
    gain = 1.7 if any(part in name for part in ("q_proj", "k_proj", "query", "c_attn", "qkv", "Wqkv")) else 1.0
    return np.float32(noise * gain * (3 / shape[-1]) ** 0.5)


def load(name: str) -> Golden:
    stored = json.loads((FOLDER / f"{name}.json").read_text())
    with np.load(FOLDER / f"{name}.npz") as arrays:
        n = sum(key.startswith("tokens") for key in arrays.files)
        sequences = [(arrays[f"tokens{i}"], arrays[f"logits{i}"]) for i in range(n)]
        types, sources = (
            [arrays[f"{key}{i}"] for i in range(n)] if f"{key}0" in arrays.files else None for key in ("types", "source")
        )
    shapes = {k: tuple(v) for k, v in stored["shapes"].items()}
    return Golden(name, stored["config"], shapes, stored["n_ctx"], sequences, stored.get("kind", "logits"), types, sources)


def names(*kinds: str) -> list[str]:
    """The goldens of these kinds."""
    found = {path.stem: json.loads(path.read_text()).get("kind", "logits") for path in FOLDER.glob("*.json")}
    return sorted(name for name, kind in found.items() if kind in kinds)


def write_folder(golden: Golden, folder: Path, config: Mapping[str, Any] | None = None) -> Path:
    """The golden's model as a Hugging Face folder, with another config.json if one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(golden.config if config is None else config))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    header, offset, parts = {}, 0, []
    for name, shape in golden.shapes.items():
        data = weight(name, shape).tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
    return folder
