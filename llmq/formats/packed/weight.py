"""A matrix in a form that GGUF does not have: what all tools' forms share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llmq.errors import FormatError, quoted
from llmq.formats.checkpoint import Packed
from llmq.quant.types import QuantType

__all__ = ["F16_MAX", "Floats", "OrderedRows", "PackedWeight", "Rows", "StackedRows", "UInt8s", "float_type", "in_f16"]

Floats = npt.NDArray[np.float32]
UInt8s = npt.NDArray[np.uint8]
Rows = slice | npt.NDArray[np.intp]
"""Which rows of a matrix, in which order."""

_CHUNK = 1 << 20  # weights unpacked at once: what is between the parts and the result stays small
F16_MAX = 65504.0
_F16_MIN = 2.0**-14  # the smallest that has all its bits


@dataclass(frozen=True)
class PackedWeight(ABC):
    """A matrix (rows, columns). `name` is that of Hugging Face ("model.layers.0.mlp.up_proj.weight"), `kind` says how it is
    packed, for reports; `nbytes`, `path` and `offset` are of its parts. `type` is the GGUF type that keeps most of it for its
    size, `forms` the block types that its integers are moved to as they are. `is_float`: its levels are floats of 8 bits."""

    name: str
    kind: str
    shape: tuple[int, int]
    nbytes: int
    path: str
    offset: int
    type: QuantType = field(init=False)
    forms: tuple[QuantType, ...] = field(init=False, default=())
    is_float: bool = field(init=False, default=False)

    @abstractmethod
    def unpack(self, rows: Rows) -> Floats:
        """The values of these rows, by the tool's own formula in float32. FormatError for NaN or infinity."""

    def move(self, rows: Rows, qtype: QuantType) -> UInt8s:
        """These rows as blocks of one of `forms`, uint8 (n, bytes per row), the integers as they are."""
        raise NotImplementedError

    def blocks(self, rows: Rows, qtype: QuantType) -> UInt8s:
        """These rows as one of `forms` or a float type, rounded to nearest."""
        return self.move(rows, qtype) if qtype in self.forms else as_floats(self.unpack(rows), qtype)

    def chunks(self) -> Iterator[Rows]:
        """All rows, a piece at a time."""
        return (rows for _, rows in OrderedRows(self).pieces(0, self.shape[0]))

    def refuse(self, problem: str) -> FormatError:
        return FormatError(f"tensor {quoted(self.name)} {problem}", path=self.path, offset=self.offset)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


class OrderedRows:
    """A packed matrix with its rows, and its columns, in the order of GGUF, or some of its rows: what
    llmq.formats.checkpoint.Packed asks for. Where columns change places, its integers are not moved as they are."""

    def __init__(
        self, weight: PackedWeight, order: npt.NDArray[np.intp] | None = None, columns: npt.NDArray[np.intp] | None = None
    ) -> None:
        self.weight = weight
        self.order, self.columns = order, columns
        self.kind, self.is_float = weight.kind, weight.is_float
        self.forms = weight.forms if columns is None else ()
        self.nbytes = weight.nbytes if order is None else weight.nbytes * len(order) // weight.shape[0]

    def pieces(self, begin: int, end: int) -> Iterator[tuple[int, Rows]]:
        """The rows a piece at a time: (first place after begin, rows)."""
        step = max(1, _CHUNK // self.weight.shape[1])
        for at in range(begin, end, step):
            piece = slice(at, min(at + step, end))
            yield at - begin, piece if self.order is None else self.order[piece]

    def values(self, begin: int, end: int) -> Floats:
        """See `Packed`."""
        out = np.empty((end - begin, self.weight.shape[1]), np.float32)
        for at, rows in self.pieces(begin, end):
            found = self._unpack(rows)
            out[at : at + len(found)] = found
        return out

    def blocks(self, qtype: QuantType, begin: int, end: int) -> UInt8s:
        """See `Packed`."""
        out = np.empty((end - begin, qtype.nbytes(self.weight.shape[1])), np.uint8)
        for at, rows in self.pieces(begin, end):
            found = self.weight.blocks(rows, qtype) if self.columns is None else as_floats(self._unpack(rows), qtype)
            out[at : at + len(found)] = found
        return out.reshape(-1)

    def _unpack(self, rows: Rows) -> Floats:
        found = self.weight.unpack(rows)
        return found if self.columns is None else found[:, self.columns]


class StackedRows:
    """Packed matrices of `rows` rows each, one after another: what llmq.formats.checkpoint.Packed asks for."""

    def __init__(self, matrices: Sequence[Packed], rows: int) -> None:
        self.matrices, self.rows = matrices, rows
        self.kind, self.is_float = matrices[0].kind, all(matrix.is_float for matrix in matrices)
        self.forms = tuple(form for form in matrices[0].forms if all(form in matrix.forms for matrix in matrices))
        self.nbytes = sum(matrix.nbytes for matrix in matrices)

    def _ranges(self, begin: int, end: int) -> Iterator[tuple[Packed, int, int]]:
        for i in range(begin // self.rows, -(-end // self.rows)):
            start = i * self.rows
            yield self.matrices[i], max(begin - start, 0), min(end - start, self.rows)

    def values(self, begin: int, end: int) -> Floats:
        """See `Packed`."""
        return np.concatenate([matrix.values(first, last) for matrix, first, last in self._ranges(begin, end)])

    def blocks(self, qtype: QuantType, begin: int, end: int) -> UInt8s:
        """See `Packed`."""
        return np.concatenate([matrix.blocks(qtype, first, last) for matrix, first, last in self._ranges(begin, end)])


def as_floats(values: Floats, qtype: QuantType) -> UInt8s:
    """Values as a float type, uint8 (n, bytes per row)."""
    from llmq.quant.rows import quantize  # noqa: PLC0415 - keeps the formats importable without the codecs

    assert qtype.is_float, qtype
    return quantize(np.ascontiguousarray(values), qtype)


def in_f16(scales: Floats) -> bool:
    """Whether rounding scales to binary16 loses no more than rounding does: none overflows, and what underflows is nothing
    beside the largest."""
    largest = float(np.abs(scales).max(initial=0))
    with np.errstate(over="ignore"):
        error = float(np.abs(scales.astype(np.float16).astype(np.float32) - scales).max(initial=0))
    return largest <= F16_MAX and error <= largest * 2.0**-11


def float_type(largest: float) -> QuantType:
    """The 16-bit type for values that reach `largest`: F16 has more bits, BF16 more range."""
    return QuantType.F16 if 1024 * _F16_MIN <= largest <= F16_MAX or largest == 0 else QuantType.BF16
