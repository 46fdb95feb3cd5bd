"""What a model file holds, without loading it: metadata and a table of tensors."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmq.errors import printable, quoted
from llmq.formats import open_unchecked
from llmq.formats.checkpoint import MetaValue, Tensor
from llmq.formats.ggjt import is_ggjt
from llmq.formats.values import show_type, type_of_value
from llmq.formats.weights import open_weights, weights_format
from llmq.quant.recipes import RECIPES

__all__ = ["Inspection", "TensorRow", "inspect"]

_LONG_ARRAY = 16  # longer ones are shown by their beginning
_NAMES = {recipe.file_type: recipe.name for recipe in RECIPES.values()}


@dataclass(frozen=True)
class TensorRow:
    """One tensor: row-major shape, type as the file names it, size in bytes, and where it begins (None when it is computed)."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    offset: int | None


@dataclass(frozen=True)
class Inspection:
    """`format` is "GGUF", "GGUF in 3 parts", "GGJT", "safetensors", "PyTorch checkpoint" or "Hugging Face folder"; `types`
    names the type of each metadata value."""

    path: str
    format: str
    metadata: Mapping[str, MetaValue] = field(repr=False)
    types: Mapping[str, str] = field(repr=False)
    tensors: tuple[TensorRow, ...] = field(repr=False)

    @property
    def weights(self) -> int:
        return sum(math.prod(t.shape) for t in self.tensors)

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(t.bytes for t in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; an array of more than 16 elements is its length and first elements."""
        return {
            "path": self.path,
            "format": self.format,
            "weights": self.weights,
            "bytes": self.bytes,
            "metadata": {key: _plain(value) for key, value in self.metadata.items()},
            "types": dict(self.types),
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }

    def table(self) -> str:
        """For people: a summary, the metadata, the tensors, and how much there is of each type."""
        lines = [
            f"{self.path}: {self.format}, {len(self.tensors)} tensors, {self.weights / 1e6:.2f}M weights, {_mib(self.bytes)}"
        ]
        file_type = self.metadata.get("general.file_type")
        if isinstance(file_type, int) and file_type in _NAMES:
            lines[0] += f", {_NAMES[file_type]}"
        keys = {key: printable(key) for key in self.metadata}
        width = max(map(len, keys.values()), default=0)
        lines.append("")
        for key, value in self.metadata.items():
            lines.append(f"{keys[key]:<{width}}  {self.types[key]:<12} {_shown(value, self.types[key])}")
        if self.tensors:
            rows = [(printable(t.name), "x".join(map(str, t.shape)) or "scalar", t.type, f"{t.bytes}") for t in self.tensors]
            w = [max(len(row[i]) for row in rows) for i in range(4)]
            lines += ["", *(f"{n:<{w[0]}}  {s:<{w[1]}}  {k:<{w[2]}}  {b:>{w[3]}}" for n, s, k, b in rows)]
            lines += ["", *self._by_type()]
        return "\n".join(line.rstrip() for line in lines)

    def _by_type(self) -> list[str]:
        totals: dict[str, list[int]] = {}
        for tensor in self.tensors:
            total = totals.setdefault(tensor.type, [0, 0, 0])
            for i, n in enumerate((1, math.prod(tensor.shape), tensor.bytes)):
                total[i] += n
        return [
            f"{kind:<8} {n:>5} tensors {weights / 1e6:>10.2f}M weights {_mib(size):>12}  {8 * size / max(weights, 1):.2f} bits"
            for kind, (n, weights, size) in sorted(totals.items(), key=lambda item: -item[1][2])
        ]


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Look into a GGUF file (a model, a vocabulary, an adapter, an importance matrix), a safetensors file, a PyTorch
    checkpoint, or a Hugging Face folder (as the GGUF that would be written from it). Raises ModelFileError and OSError."""
    given = Path(path)
    alone = None if given.is_dir() else weights_format(given)
    if alone:
        source, stored, notes = open_weights(given)
        source.close()
        rows = tuple(TensorRow(t.name, t.shape, t.dtype, t.size * t.item, t.offset) for t in stored.values())
        return Inspection(str(path), alone, dict(notes), dict.fromkeys(notes, "str"), rows)
    with open_unchecked(given) as model:
        rows = tuple(_row(t) for t in model.tensors.values())
        architecture = model.metadata.get("general.architecture")
        known = architecture if isinstance(architecture, str) else None
        types = {key: show_type(*type_of_value(key, value, known, model.types)) for key, value in model.metadata.items()}
        parts = f" in {len(model.sources)} parts" if len(model.sources) > 1 else ""
        kind = "Hugging Face folder" if given.is_dir() else "GGJT" if is_ggjt(given) else f"GGUF{parts}"
        return Inspection(str(path), kind, model.metadata, types, rows)


def _row(t: Tensor) -> TensorRow:
    kind, size = (t.type.name, t.nbytes) if t.packed is None else (t.packed.kind, t.packed.nbytes)
    return TensorRow(t.name, t.shape, kind, size, t.offset)


def _plain(value: MetaValue) -> Any:
    items = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(items, list) and len(items) > _LONG_ARRAY:
        return {"length": len(items), "first": items[:_LONG_ARRAY]}
    return items


def _shown(value: MetaValue, kind: str) -> str:
    if kind == "f32":
        return str(np.float32(value))  # type: ignore[arg-type]  # as few digits as tell it from its neighbours
    if isinstance(value, list | np.ndarray):
        first = ", ".join(quoted(item.item() if isinstance(item, np.generic) else item, 24) for item in value[:6])
        return f"[{len(value)}] {first}{', ...' if len(value) > 6 else ''}"
    return quoted(value, 100)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
