"""A model's files as one thing: GGUF metadata and GGUF-named tensors, whatever the files are.

A Hugging Face folder is presented exactly as the GGUF that would be written from it (same keys, same tensor names, same row
order), so that architectures, the quantizer and the tokenizer have one source to read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llmq.formats.source import Source
from llmq.quant.types import QuantType

__all__ = ["Checkpoint", "MetaValue", "Packed", "Tensor"]

MetaValue = bool | int | float | str | list[bool] | list[int] | list[float] | list[str] | npt.NDArray[np.generic]
"""A GGUF value. Numeric arrays are NumPy arrays of the file's element type; string arrays are lists."""


class Packed(Protocol):
    """A matrix that its file holds in another tool's form (llmq.formats.packed). `kind` names the form, `nbytes` is its size;
    `is_float` tells floats of 8 bits from integers and codes of fewer; `forms` are the block types that take its integers as
    they are."""

    kind: str
    nbytes: int
    is_float: bool
    forms: tuple[QuantType, ...]

    def values(self, begin: int, end: int) -> npt.NDArray[np.float32]:
        """Rows begin to end, float32 (rows, columns), by the tool's own formula. FormatError for NaN or infinity."""

    def blocks(self, qtype: QuantType, begin: int, end: int) -> npt.NDArray[np.uint8]:
        """The same rows as one of `forms`, or rounded to a float type: uint8 (bytes,)."""


@dataclass(frozen=True)
class Tensor:
    """One tensor. `shape` is row-major (rows, columns), the reverse of GGUF's dims; `offset` is its first byte in `path`. When
    its file holds it `packed`, `type` and `raw` are what keeps most of it, `numpy` is exact."""

    name: str
    shape: tuple[int, ...]
    type: QuantType
    read: Callable[[], npt.NDArray[np.uint8]] = field(repr=False)
    path: str = ""
    offset: int | None = None
    packed: Packed | None = field(default=None, repr=False)
    source: Source | None = field(default=None, repr=False)
    """The file that holds the bytes of `raw` from `offset` on; None where something had to be rearranged."""

    @classmethod
    def stored(cls, name: str, shape: tuple[int, ...], qtype: QuantType, source: Source, offset: int) -> Tensor:
        """One that lies in a file as it is."""
        read = partial(source.view, offset, qtype.nbytes(math.prod(shape)))
        return cls(name, shape, qtype, read, str(source.path), offset, source=source)

    @property
    def nbytes(self) -> int:
        return self.type.nbytes(int(np.prod(self.shape)))

    def raw(self) -> npt.NDArray[np.uint8]:
        """The bytes, uint8 (nbytes,): a read-only view of the mapped file where nothing had to be rearranged."""
        return self.read()

    def fill(self, begin: int, out: npt.NDArray[np.uint8]) -> None:
        """Read bytes of `raw` from `begin` on into `out`, past the mapping; where there is a `source`."""
        assert self.source is not None
        assert self.offset is not None
        self.source.fill(self.offset, begin, out)

    def release(self, begin: int, end: int) -> None:
        """Give back the memory of these bytes of the mapping, if they are mapped: they are read from the file again when
        needed."""
        if self.source is not None and self.offset is not None:
            self.source.release(self.offset, begin, end)

    def numpy(self) -> npt.NDArray[np.float32]:
        """The dequantized values, float32 of `shape`."""
        if self.packed is not None:
            return self.packed.values(0, math.prod(self.shape[:-1])).reshape(self.shape)
        from llmq.quant.rows import dequantize  # noqa: PLC0415 - keeps the formats importable without the codecs

        return dequantize(self.raw(), self.type, self.shape)


@dataclass
class Checkpoint:
    """`metadata` has GGUF keys (general.architecture, llama.block_count, tokenizer.ggml.tokens, …); `types` the GGUF value type
    of each key that came from a GGUF file, so that it is written back as it was; `sources` are the open files. Close it (or use
    `with`) to unmap the files."""

    path: Path
    metadata: dict[str, MetaValue]
    tensors: dict[str, Tensor]
    types: dict[str, int] = field(default_factory=dict, repr=False)
    sources: list[Source] = field(default_factory=list, repr=False)

    def close(self) -> None:
        self.tensors = {}
        for source in self.sources:
            source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
