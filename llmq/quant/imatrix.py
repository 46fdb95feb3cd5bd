"""Importance matrices: for every weight matrix, the mean square of each input column, as llama-imatrix measures it.

Two file formats, told apart by their first bytes:

    GGUF (general.type "imatrix")   per matrix NAME two F32 tensors: NAME.in_sum2 (experts, columns), NAME.counts (experts, 1);
                                    importance = in_sum2 / counts, 1 where an expert was never called
    legacy ".dat", little-endian    i32 n, then n times: i32 length, name, i32 calls, i32 values, float32[values]; then, in
    newer
                                    files, i32 chunks, i32 length, name of the data set;  importance = values / calls
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llmq.errors import FormatError, LimitError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.formats.cursor import Cursor
from llmq.formats.gguf_reader import read_gguf
from llmq.formats.gguf_writer import GGUFWriter, TensorInfo
from llmq.formats.source import Source
from llmq.quant.types import QuantType

__all__ = ["Imatrix", "Sums", "read_imatrix", "write_imatrix"]

_MAX_ENTRIES = 65_536
_MAX_NAME = 4096
_UINT32 = 4  # of the types of GGUF values


@dataclass(frozen=True)
class Imatrix:
    """`entries`: importance per matrix name, float32 (experts, columns), finite and >= 0."""

    path: str
    entries: Mapping[str, npt.NDArray[np.float32]] = field(repr=False)
    datasets: Sequence[str] = ()
    chunks: int = 0

    def of(self, name: str, shape: Sequence[int]) -> npt.NDArray[np.float32] | None:
        """Importance for the tensor `name`, float32 (matrices, columns), or None. FormatError when it is of another shape."""
        found = self.entries.get(name)
        if found is None:
            return None
        matrices, columns = math.prod(shape[:-2]), shape[-1]
        if found.size != matrices * columns:
            raise FormatError(
                f"importances of {quoted(name)}: expected {matrices} x {columns}, found {found.size}; "
                "the file was made with another model",
                path=self.path,
            )
        return found.reshape(matrices, columns)

    def metadata(self) -> dict[str, MetaValue]:
        """What llama-quantize notes in the file it writes."""
        out: dict[str, MetaValue] = {"quantize.imatrix.file": os.path.basename(self.path)}
        if self.datasets:
            out["quantize.imatrix.dataset"] = os.path.basename(self.datasets[0])
        out["quantize.imatrix.entries_count"] = len(self.entries)
        if self.chunks:
            out["quantize.imatrix.chunks_count"] = self.chunks
        return out


def read_imatrix(path: str | os.PathLike[str]) -> Imatrix:
    """Read either format. Raises ModelFileError and OSError."""
    source = Source(path)
    try:
        is_gguf = source.read(0, 4) == b"GGUF"
        found = _read_gguf(os.fspath(path)) if is_gguf else _read_legacy(Cursor(source))
    finally:
        source.close()
    for name, values in found.entries.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise FormatError(f"importances of {quoted(name)} are not all finite and at least 0", path=path)
    return found


@dataclass(frozen=True)
class Sums:
    """What a tensor's matrices were multiplied by, float64: sums of squares (matrices, columns), counts of rows (matrices,)."""

    squares: npt.NDArray[np.float64]
    counts: npt.NDArray[np.float64]


def write_imatrix(
    path: str | os.PathLike[str], sums: Mapping[str, Sums], datasets: Sequence[str], chunks: int, chunk_size: int
) -> None:
    """Write the GGUF format, the whole file or none. Raises OSError."""
    numbers = {"imatrix.chunk_count": chunks, "imatrix.chunk_size": chunk_size}
    metadata: dict[str, MetaValue] = {"general.type": "imatrix", "imatrix.datasets": list(datasets)}
    metadata.update(numbers)
    parts: dict[str, npt.NDArray[np.float32]] = {}
    for name, found in sorted(sums.items()):
        parts[f"{name}.in_sum2"] = found.squares.astype(np.float32)
        parts[f"{name}.counts"] = found.counts.astype(np.float32)[:, None]
    infos = [TensorInfo(name, values.shape, QuantType.F32) for name, values in parts.items()]
    with GGUFWriter(path, metadata, infos, dict.fromkeys(numbers, _UINT32)) as writer:
        for values in parts.values():
            writer.write(values)


def _read_gguf(path: str) -> Imatrix:
    with read_gguf(path) as file:
        kind = file.metadata.get("general.type")
        if kind != "imatrix":
            raise FormatError(
                f"expected an importance matrix (general.type 'imatrix'), found general.type {quoted(kind)}", path=path
            )
        entries = {}
        for key, tensor in file.tensors.items():
            if not key.endswith(".in_sum2"):
                continue
            name = key.removesuffix(".in_sum2")
            counts = file.tensors.get(f"{name}.counts")
            sums = tensor.numpy().reshape(-1, tensor.shape[-1])
            if counts is None or counts.numpy().size != len(sums):
                raise FormatError(f"{quoted(name)}.counts: expected {len(sums)} counts", path=path, offset=tensor.offset)
            calls = counts.numpy().reshape(-1, 1)
            entries[name] = np.where(calls > 0, sums / np.maximum(calls, 1), np.float32(1)).astype(np.float32)
        datasets, chunks = file.metadata.get("imatrix.datasets", []), file.metadata.get("imatrix.chunk_count", 0)
    return Imatrix(path, entries, datasets if isinstance(datasets, list) else [], chunks if isinstance(chunks, int) else 0)  # type: ignore[arg-type]


def _read_legacy(cursor: Cursor) -> Imatrix:
    path = cursor.path
    n = cursor.u32("the number of entries")
    if not 1 <= n <= _MAX_ENTRIES:
        raise FormatError(f"{n} entries announced: this is no importance matrix", path=path, offset=0)
    entries = {}
    for i in range(n):
        name = cursor.text(cursor.u32(f"the length of name {i}"), _MAX_NAME, f"name {i}")
        if name in entries:
            raise FormatError(f"{quoted(name)} appears twice", path=path, offset=cursor.offset)
        calls = cursor.u32(f"the calls of {quoted(name)}")
        count = cursor.u32(f"the number of values of {quoted(name)}")
        if count * 4 > cursor.remaining or count < 1:
            raise LimitError(f"{quoted(name)} announces {count} values", path=path, offset=cursor.offset - 4)
        values = cursor.numbers(np.dtype("<f4"), count, f"the values of {quoted(name)}").astype(np.float32)
        entries[name] = (values / np.float32(calls or 1)).reshape(1, -1)
    chunks, datasets = 0, []
    if cursor.remaining:
        chunks = cursor.u32("the number of chunks")
        datasets = [cursor.text(cursor.u32("the length of the data set's name"), _MAX_NAME, "the data set's name")]
    return Imatrix(str(path), entries, datasets, chunks)
