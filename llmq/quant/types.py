"""`QuantType`: the tensor types llmq knows, read from the build (csrc/types.def), named as llama-quantize names them."""

from __future__ import annotations

import difflib
from enum import IntEnum
from typing import TYPE_CHECKING

from llmq import _native
from llmq.errors import UnsupportedQuantError

__all__ = ["QuantType", "parse_type"]

_ROWS = {name: (block, size) for name, _, block, size in _native.tensor_types()}


class _TypeFacts(IntEnum):
    @property
    def block(self) -> int:
        """Weights per block."""
        return _ROWS[self.name][0]

    @property
    def block_bytes(self) -> int:
        """Bytes per block."""
        return _ROWS[self.name][1]

    def nbytes(self, n: int) -> int:
        """Bytes of n weights; n must be a multiple of `block`."""
        if n % self.block:
            raise ValueError(f"{n} weights are not whole blocks of {self.name}, which holds {self.block}")
        return n // self.block * self.block_bytes

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block

    @property
    def x8_width(self) -> int:
        """Columns of activations that share a scale when the type is multiplied (csrc/formats/dot.c); for quantized types."""
        return _native.x8_width(int(self))

    @property
    def is_float(self) -> bool:
        """F32, F16 and BF16: no blocks, no scales."""
        return self.block == 1


if TYPE_CHECKING:

    class QuantType(_TypeFacts):
        F32 = 0
        F16 = 1
        BF16 = 30
        Q4_0 = 2
        Q4_1 = 3
        Q5_0 = 6
        Q5_1 = 7
        Q8_0 = 8
        Q2_K = 10
        Q3_K = 11
        Q4_K = 12
        Q5_K = 13
        Q6_K = 14
        IQ1_S = 19
        IQ1_M = 29
        IQ2_XXS = 16
        IQ2_XS = 17
        IQ2_S = 22
        IQ3_XXS = 18
        IQ3_S = 21
        IQ4_NL = 20
        IQ4_XS = 23
        TQ1_0 = 34
        TQ2_0 = 35
        MXFP4 = 39
        NVFP4 = 40
        Q1_0 = 41
        Q2_0 = 42
else:
    QuantType = _TypeFacts("QuantType", {name: number for name, number, _, _ in _native.tensor_types()})


def parse_type(name: str) -> QuantType:
    """The type of that name in any case; `UnsupportedQuantError` with a suggestion otherwise."""
    wanted = name.upper()
    if wanted in QuantType.__members__:
        return QuantType[wanted]
    near = difflib.get_close_matches(wanted, QuantType.__members__, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise UnsupportedQuantError(f"unknown type {name!r}{hint} Types: {', '.join(QuantType.__members__)}")
