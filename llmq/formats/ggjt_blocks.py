"""Blocks of 32 weights as GGJT had them before version 3.

    version 1      byte l of the nibbles has weights 2 l and 2 l + 1 in its low and high half, and not l and l + 16
    versions 1, 2  scales (and minima) of Q4_0, Q4_1 and Q8_0 are binary32; those of Q5_0 and Q5_1 are binary16 as today

So Q5_0 and Q5_1 are laid out anew without loss. The integers of the others are today's too, but binary16 cannot hold the
scales: they are matrices that a file holds in another form (`llmq.formats.checkpoint.Packed`), whose exact values are there
for F32.
Source: llama.cpp's changes "remove bit shuffling" (#1405) and "use F16 instead of F32 in Q4_0, Q4_1, Q8_0" (#1508).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from llmq.formats.packed.weight import Floats, PackedWeight, Rows, UInt8s
from llmq.quant.types import QuantType

__all__ = ["SAME", "FullScales", "relaid_fives", "stored_bytes"]

_BLOCK = 32
_FULL = {QuantType.Q4_0: 4, QuantType.Q4_1: 8, QuantType.Q8_0: 4}  # bytes before the levels
_FIVES = {QuantType.Q5_0: 6, QuantType.Q5_1: 8}
SAME = frozenset({QuantType.F32, QuantType.F16})
"""The types that never changed."""


def stored_bytes(qtype: QuantType) -> int | None:
    """Bytes of a block before version 3, None for a type that these versions did not have."""
    if qtype in _FULL:
        return _FULL[qtype] + (_BLOCK if qtype is QuantType.Q8_0 else _BLOCK // 2)
    return qtype.block_bytes if qtype in _FIVES or qtype in SAME else None


def _in_turn(nibbles: UInt8s) -> UInt8s:
    """Version 1's nibbles (n, 16) as today's."""
    levels = np.stack([nibbles & np.uint8(15), nibbles >> np.uint8(4)], axis=2).reshape(len(nibbles), _BLOCK)
    out: UInt8s = levels[:, :16] | levels[:, 16:] << np.uint8(4)
    return out


def relaid_fives(raw: UInt8s, qtype: QuantType) -> UInt8s:
    """Blocks of Q5_0 or Q5_1 of version 1 as today's, uint8 (bytes,) both. The bits of qh are in the order of the weights."""
    blocks = raw.reshape(-1, qtype.block_bytes).copy()
    at = _FIVES[qtype]
    blocks[:, at:] = _in_turn(blocks[:, at:])
    out: UInt8s = blocks.reshape(-1)
    return out


@dataclass(frozen=True)
class FullScales(PackedWeight):
    """A matrix of Q4_0, Q4_1 or Q8_0 with binary32 scales. raw(): its bytes, uint8 (nbytes,)."""

    stored: QuantType
    version: int
    raw: Callable[[], UInt8s] = field(repr=False)

    def __post_init__(self) -> None:
        self._set("type", self.stored)
        self._set("forms", (self.stored,))

    def _fields(self, rows: Rows) -> tuple[Floats, UInt8s]:
        """Scales (and minima), float32 (blocks, 1 or 2), and levels as today's blocks have them, of these rows."""
        size = stored_bytes(self.stored)
        assert size is not None
        blocks = self.raw().reshape(self.shape[0], -1)[rows].reshape(-1, size)
        at = _FULL[self.stored]
        numbers = np.ascontiguousarray(blocks[:, :at]).view(np.float32)
        if not np.isfinite(numbers).all():
            raise self.refuse("holds NaN or infinity")
        levels = blocks[:, at:]
        return numbers, _in_turn(levels) if self.version == 1 and self.stored is not QuantType.Q8_0 else levels

    def unpack(self, rows: Rows) -> Floats:
        from llmq.quant.blocks import unpack_nibbles  # noqa: PLC0415 - keeps the formats importable without the codecs

        numbers, levels = self._fields(rows)
        if self.stored is QuantType.Q8_0:
            q = levels.view(np.int8).astype(np.float32)
        else:
            q = unpack_nibbles(levels).astype(np.float32) - np.float32(8 if self.stored is QuantType.Q4_0 else 0)
        with np.errstate(over="ignore"):
            values = q * numbers[:, :1] + (numbers[:, 1:] if numbers.shape[1] > 1 else np.float32(0))
        if not np.isfinite(values).all():
            raise self.refuse("has values beyond float32")
        return values.reshape(-1, self.shape[1])

    def move(self, rows: Rows, qtype: QuantType) -> UInt8s:
        numbers, levels = self._fields(rows)
        with np.errstate(over="ignore"):
            halves = numbers.astype(np.float16)
        if not np.isfinite(halves).all():
            raise self.refuse("has scales beyond binary16: convert it to F32")
        blocks = np.concatenate([halves.view(np.uint8), levels], axis=1)
        return blocks.reshape(-1, qtype.nbytes(self.shape[1]))
