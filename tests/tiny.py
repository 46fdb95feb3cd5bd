"""Tiny random models for the tests: a Checkpoint in memory, of any family, without any file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmq.engine.base import Batch
from llmq.formats.checkpoint import Checkpoint, MetaValue, Tensor
from llmq.formats.gguf_writer import GGUFWriter, TensorInfo
from llmq.quant.rows import quantize
from llmq.quant.types import QuantType

LLAMA: dict[str, MetaValue] = {
    "general.architecture": "llama",
    "llama.vocab_size": 61,
    "llama.context_length": 64,
    "llama.embedding_length": 48,
    "llama.block_count": 3,
    "llama.feed_forward_length": 80,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def llama_shapes(n_vocab: int = 61, d: int = 48, layers: int = 3, ff: int = 80, kv: int = 24) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of the model that LLAMA describes."""
    block = {"attn_norm": (d,), "attn_q": (d, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, d), "ffn_norm": (d,),
             "ffn_gate": (ff, d), "ffn_up": (ff, d), "ffn_down": (d, ff)}  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_vocab, d), "output_norm.weight": (d,)}
    return shapes | {f"blk.{i}.{name}.weight": shape for i in range(layers) for name, shape in block.items()}


def tensor(name: str, values: npt.NDArray[np.float32]) -> Tensor:
    """An F32 tensor held in memory."""
    values = np.ascontiguousarray(values, np.float32)
    return Tensor(name, values.shape, QuantType.F32, lambda: values.reshape(-1).view(np.uint8))


def checkpoint(
    metadata: Mapping[str, MetaValue] = LLAMA, shapes: Mapping[str, tuple[int, ...]] | None = None, seed: int = 0
) -> Checkpoint:
    """A seeded random model; norms are around 1, everything else has unit-gain columns."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in (llama_shapes() if shapes is None else shapes).items():
        values = rng.standard_normal(shape) * shape[-1] ** -0.5 if len(shape) > 1 else 1 + 0.1 * rng.standard_normal(shape)
        tensors[name] = tensor(name, values.astype(np.float32))
    return Checkpoint(Path("tiny"), dict(metadata), tensors)


def retyped(old: Tensor, qtype: QuantType) -> Tensor:
    """A tensor in another type."""
    data = quantize(old.numpy(), qtype).reshape(-1)
    return Tensor(old.name, old.shape, qtype, lambda: data)


def quantized(model: Checkpoint, qtype: QuantType) -> Checkpoint:
    """The model with every matrix in that type."""
    tensors = {name: t if len(t.shape) < 2 else retyped(t, qtype) for name, t in model.tensors.items()}
    return Checkpoint(model.path, model.metadata, tensors)


def batch(*parts: tuple[int, int, npt.ArrayLike], outputs: npt.ArrayLike | None = None) -> Batch:
    """Parts (sequence, first position, tokens) one after another; all outputs unless told."""
    tokens = [np.asarray(ids, np.int32) for _, _, ids in parts]
    n = sum(len(ids) for ids in tokens)
    return Batch(
        np.concatenate(tokens),
        np.concatenate(
            [np.arange(start, start + len(ids), dtype=np.int32) for (_, start, _), ids in zip(parts, tokens, strict=True)]
        ),
        np.concatenate([np.full(len(ids), seq, np.int32) for (seq, _, _), ids in zip(parts, tokens, strict=True)]),
        np.arange(n, dtype=np.int32) if outputs is None else np.asarray(outputs, np.int32),
    )


def write_gguf(model: Checkpoint, path: Path) -> Path:
    """The model as a GGUF file, with the types it has."""
    infos = [TensorInfo(t.name, t.shape, t.type) for t in model.tensors.values()]
    with GGUFWriter(path, model.metadata, infos) as writer:
        for tensor in model.tensors.values():
            writer.write(tensor.raw())
    return path
