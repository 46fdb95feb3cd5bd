"""Writing safetensors: one file, or shards with an index, as transformers names them. The layout is drawn in safetensors.py."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmq.formats.atomic import AtomicFile

__all__ = ["SHARD_BYTES", "PlannedTensor", "write_safetensors"]

SHARD_BYTES = 5_000_000_000
_ALIGNMENT = 8  # of the data, as the format's own writer has it


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: `nbytes` of safetensors' `dtype`, which `data` gives when it is its turn."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    data: Callable[[], npt.NDArray[np.uint8]]


def write_safetensors(
    folder: Path, tensors: Sequence[PlannedTensor], told: Callable[[int], None], shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write model.safetensors, or shards of at most `shard_bytes` and their index; the files. `told` is called with the bytes
    written so far. Raises OSError."""
    shards: list[list[PlannedTensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t.nbytes for t in shards[-1]) + tensor.nbytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    n = len(shards)
    names = ["model.safetensors"] if n == 1 else [f"model-{i + 1:05d}-of-{n:05d}.safetensors" for i in range(n)]
    done = 0
    for name, shard in zip(names, shards, strict=True):
        with AtomicFile(folder / name) as file:
            file.write(_header(shard))
            for tensor in shard:
                file.write(tensor.data().data)
                done += tensor.nbytes
                told(done)
    if n > 1:
        where = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": done}, "weight_map": where}
        with AtomicFile(folder / "model.safetensors.index.json") as file:
            file.write(json.dumps(index, indent=1).encode())
    return [folder / name for name in names]


def _header(shard: Sequence[PlannedTensor]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in shard:
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
