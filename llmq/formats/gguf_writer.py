"""Writing GGUF version 3: the same input gives the same bytes, and the file appears whole or not at all.

The layout is drawn in gguf_reader.py. Tensors are announced first (names, shapes and types fix every offset), then their bytes
follow in that order, in pieces of any size, which several threads may write at once.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from llmq.formats.atomic import AtomicFile
from llmq.formats.checkpoint import MetaValue
from llmq.formats.gguf_reader import DEFAULT_ALIGNMENT, MAX_NAME
from llmq.formats.values import encode_string, encode_value, type_of_value
from llmq.quant.types import QuantType

__all__ = ["GGUFWriter", "Slot", "TensorInfo"]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that will be written: row-major shape and type."""

    name: str
    shape: tuple[int, ...]
    type: QuantType

    @property
    def nbytes(self) -> int:
        return self.type.nbytes(math.prod(self.shape))


class GGUFWriter:
    """`with GGUFWriter(path, metadata, infos) as w:` then, for each info in order, `w.write(data)` until its bytes are
    complete; or `w.slot(n)` in its place, which any thread may fill, each `done` in the order in which it was asked for.

    `metadata` keeps its order; `types` gives the GGUF value type of keys that came from a GGUF file. general.alignment is
    honoured. Raises ValueError for a value, name or amount of data that does not fit, OSError from the disk; then no file is
    left."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Mapping[str, MetaValue],
        infos: Sequence[TensorInfo],
        types: Mapping[str, int] | None = None,
        inputs: Iterable[tuple[int, int]] = (),
    ) -> None:
        self._file = AtomicFile(path, inputs)
        self._infos = list(infos)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment & (alignment - 1) or not 8 <= alignment <= 65_536:
            raise ValueError(f"general.alignment is {alignment!r}; expected a power of two from 8 to 65536")
        self._alignment = alignment
        header = self._header(metadata, types or {})
        self._head = header + bytes(-len(header) % alignment)
        self._index = 0  # of the tensor being written
        self._left = self._infos[0].nbytes if self._infos else 0
        self._open = 0  # slots that are not done

    @property
    def total_bytes(self) -> int:
        """Size of the finished file."""
        return len(self._head) + sum(self._padded(info) for info in self._infos)

    @property
    def full(self) -> bool:
        """Whether every byte of the tensors has its slot."""
        return self._index >= len(self._infos)

    @property
    def paths(self) -> list[Path]:
        """The file."""
        return [self._file.path]

    def _padded(self, info: TensorInfo) -> int:
        return -(-info.nbytes // self._alignment) * self._alignment

    def _header(self, metadata: Mapping[str, MetaValue], types: Mapping[str, int]) -> bytes:
        architecture = metadata.get("general.architecture")
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(self._infos), len(metadata))]
        for key, value in metadata.items():
            kind, array = type_of_value(key, value, architecture if isinstance(architecture, str) else None, types)
            parts += [encode_string(key), encode_value(key, value, kind, array)]
        offset = 0
        seen = set()
        for info in self._infos:
            if info.name in seen or not 1 <= len(info.name.encode()) <= MAX_NAME or not 1 <= len(info.shape) <= 4:
                raise ValueError(
                    f"tensor {info.name!r} {info.shape}: names are unique, 1 to {MAX_NAME} bytes; shapes have 1 to 4 dimensions"
                )
            seen.add(info.name)
            dims = struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *reversed(info.shape))
            parts += [encode_string(info.name), dims, struct.pack("<IQ", info.type, offset)]
            offset += self._padded(info)
        return b"".join(parts)

    def __enter__(self) -> GGUFWriter:
        self._file.__enter__()
        try:
            self._file.write(self._head)
        except BaseException as error:
            self._file.__exit__(type(error), error, None)
            raise
        return self

    def write(self, data: npt.NDArray[np.generic] | bytes) -> None:
        """The next bytes of the current tensor; a piece does not reach into the next tensor."""
        slot = self.slot(data.nbytes if isinstance(data, np.ndarray) else len(data))
        slot.write(data)
        slot.done()

    def slot(self, n: int) -> Slot:
        """Where the next n bytes of the current tensor go."""
        if self._index >= len(self._infos) or n > self._left:
            raise ValueError(f"{n} bytes are more than what is left of tensor {self._index} of {len(self._infos)}")
        begin = self._file.take(n)
        self._open += 1
        self._left -= n
        while self._left == 0 and self._index < len(self._infos):
            info = self._infos[self._index]
            padding = bytes(self._padded(info) - info.nbytes)
            self._file.put(self._file.take(len(padding)), padding)
            self._index += 1
            self._left = self._infos[self._index].nbytes if self._index < len(self._infos) else 0
        return Slot(self, begin, begin + n)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and not (self.full and self._open == 0):
            kind = ValueError
            what = "the tensors are" if self.full else f"tensor {self._infos[self._index].name!r} is"
            error = ValueError(f"{what} not complete: {self._left} bytes are missing, {self._open} slots were not filled")
            self._file.__exit__(kind, error, trace)
            raise error
        self._file.__exit__(kind, error, trace)


@dataclass(frozen=True)
class Slot:
    """Bytes begin to end of a file that is being written; they belong to one tensor."""

    writer: GGUFWriter
    begin: int
    end: int

    def write(self, data: npt.NDArray[np.generic] | bytes) -> None:
        """Fill it, from any thread. Raises OSError from the disk."""
        view = memoryview(data) if isinstance(data, bytes) else np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        if len(view) != self.end - self.begin:
            raise ValueError(f"{len(view)} bytes for a slot of {self.end - self.begin}")
        self.writer._file.put(self.begin, view)

    def done(self) -> None:
        """It is filled, and so are all before it: for the thread that asked for it."""
        self.writer._open -= 1
        self.writer._file.settle(self.end)
