"""Tensors as their files store them, under the files' own names and types, before anything becomes GGUF."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmq.formats.small_floats import EIGHT_BITS
from llmq.formats.source import Source

__all__ = ["DTYPES", "Opened", "StoredTensor"]

# Each dtype of safetensors, and the NumPy type that holds its bits.
DTYPES: dict[str, np.dtype[np.generic]] = {
    name: np.dtype(held)
    for name, held in {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1",
        "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
        "BOOL": "?", "C64": "<c8",
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of one of DTYPES: `nbytes` of it from `offset` of `source` on; row-major, unless `strides` (in elements) say
    where each dimension steps to within these bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Source
    offset: int
    nbytes: int
    strides: tuple[int, ...] | None = None

    def array(self) -> npt.NDArray[np.generic]:
        """The elements as they are stored, of `shape` and DTYPES[dtype]: a read-only view of the mapped file."""
        flat: npt.NDArray[np.generic] = self.source.view(self.offset, self.nbytes).view(DTYPES[self.dtype])
        if self.strides is None:
            return flat.reshape(self.shape)
        steps = [step * self.item for step in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)

    def values(self, index: Any = ()) -> npt.NDArray[np.generic]:
        """The elements (those at `index`) as numbers: floats of fewer than 32 bits as float32, others as they are stored."""
        stored: npt.NDArray[Any] = self.array()[index]
        if self.dtype in EIGHT_BITS:
            stored = EIGHT_BITS[self.dtype][stored]
        if self.dtype == "BF16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32) if self.dtype == "F16" else stored

    def release(self) -> None:
        """Give back the memory of the mapped bytes."""
        self.source.release(self.offset, 0, self.nbytes)

    @property
    def item(self) -> int:
        """Bytes per element."""
        return DTYPES[self.dtype].itemsize

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)


Opened = tuple[Source, dict[str, StoredTensor], dict[str, str]]
"""An open file, its tensors, and what it says about itself."""
