"""Floats of 4 or 8 bits with scales: fp8 folders, NF4 and FP4 of bitsandbytes, NVFP4 and MXFP4 of compressed-tensors.

    w[r, c] = table[code[r, c]] * s[r, c]

MXFP4 is a type of GGUF too and is moved as it is. The other tables are a format's own, so no GGUF block type holds the weights;
they become a float type: exactly where the scales are powers of two or nearly so, else rounded to 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from llmq.formats.packed.weight import Floats, PackedWeight, Rows, UInt8s, float_type
from llmq.quant.types import QuantType

__all__ = ["Coded", "nibbles"]

_MOST_SCALES = 1 << 14  # different ones; more are surely not all powers of two


@dataclass(frozen=True)
class Coded(PackedWeight):
    """codes(rows): uint8 (n, columns). scales(rows): s, float32 (n, runs), finite; each for as many columns as the next, or
    (n, columns). mxfp4: the table is E2M1, the scales are powers of two for runs of 32."""

    table: Floats = field(repr=False)
    codes: Callable[[Rows], UInt8s] = field(repr=False)
    scales: Callable[[Rows], Floats] = field(repr=False)
    mxfp4: bool = False

    def __post_init__(self) -> None:
        self._set("is_float", len(self.table) == 256)
        if self.mxfp4:
            self._set("type", QuantType.MXFP4)
            self._set("forms", (QuantType.MXFP4,))
            return
        found = np.unique(np.concatenate([np.unique(self.scales(rows)) for rows in self.chunks()]))
        levels = self.table[np.isfinite(self.table)]
        largest = float(np.abs(found).max(initial=0)) * float(np.abs(levels).max())
        self._set("type", self._exact(levels, found) or float_type(largest))

    def _exact(self, levels: Floats, scales: Floats) -> QuantType | None:
        """The 16-bit type that holds every level with every scale."""
        from llmq.quant.rows import dequantize, quantize  # noqa: PLC0415 - keeps the formats importable without the codecs

        if len(scales) > _MOST_SCALES:
            return None
        with np.errstate(over="ignore"):
            products = np.outer(scales, levels)
        if not np.isfinite(products).all():
            return None
        for qtype in (QuantType.BF16, QuantType.F16):
            if np.array_equal(dequantize(quantize(products, qtype), qtype, products.shape), products):
                return qtype
        return None

    def unpack(self, rows: Rows) -> Floats:
        s = self.scales(rows)
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.table[self.codes(rows)]
            runs = values.reshape(len(values), s.shape[1], -1) * s[:, :, None]
        if not np.isfinite(runs).all():
            raise self.refuse("holds NaN or infinity")
        return runs.reshape(values.shape)


    def move(self, rows: Rows, qtype: QuantType) -> UInt8s:
        from llmq.quant.fp4 import MXFP4, level_of  # noqa: PLC0415 - keeps the formats importable without the codecs

        # its levels are twice the numbers
        codes, s = self.codes(rows), self.scales(rows).reshape(-1)
        blocks = MXFP4().join(level_of(codes.reshape(len(s), -1)), s * np.float32(0.5), np.zeros_like(s))
        return blocks.reshape(len(codes), -1)


def nibbles(octets: UInt8s, *, high_first: bool = False) -> UInt8s:
    """(n, k) bytes as (n, 2 k) numbers of 4 bits."""
    halves = [octets & np.uint8(15), octets >> np.uint8(4)]
    return np.stack(halves[::-1] if high_first else halves, axis=-1).reshape(len(octets), -1)
