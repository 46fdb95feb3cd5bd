"""Integers with a scale, and perhaps a zero point, per group of columns: what GPTQ, AWQ, compressed-tensors and LLM.int8 have.

    w[r, c] = (q[r, c] - z[r, g]) * s[r, g] * unit,   g = group_of[c]

The integers of a group of 32 columns or more are GGUF's own, block by block (s * unit must be binary16, else it is rounded):

    Q4_0, Q5_0, Q8_0    d = s * unit, levels q - z, when -8..7, -16..15 or -128..127 hold all of them
    Q4_1                d = s * unit, m = -z * d rounded to binary16, levels q; 0..15

Where the groups of neighbouring columns differ (GPTQ's act-order), only floats are left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llmq.formats.packed.weight import F16_MAX, Floats, PackedWeight, Rows, UInt8s, float_type, in_f16
from llmq.quant.types import QuantType

__all__ = ["Grouped", "unpack_bits"]

Int16s = npt.NDArray[np.int16]

_BLOCK = 32
_ONE = np.float32(1)
_LEVELS = {"Q4_0": (-8, 7), "Q5_0": (-16, 15), "Q8_0": (-128, 127)}


@dataclass(frozen=True)
class Grouped(PackedWeight):
    """codes(rows): q, uint8 (n, columns), below 2**bits. zeros(rows): z, int16 (n, groups) or (n, 1); scales(rows): s, float32
    (n, groups), finite. group_of: the group of each column, intp (columns,)."""

    bits: int
    codes: Callable[[Rows], UInt8s] = field(repr=False)
    zeros: Callable[[Rows], Int16s] = field(repr=False)
    scales: Callable[[Rows], Floats] = field(repr=False)
    group_of: npt.NDArray[np.intp] = field(repr=False)
    unit: np.float32 = _ONE
    run: int = field(init=False)  # columns that share a group, 32 or 1

    def __post_init__(self) -> None:
        columns = self.shape[1]
        blocks = self.group_of.reshape(-1, _BLOCK) if columns % _BLOCK == 0 else None
        whole = blocks is not None and bool((blocks == blocks[:, :1]).all())
        self._set("run", _BLOCK if whole else 1)
        scales = self.scales(slice(None)) * self.unit
        forms = self._forms(float(np.abs(scales).max(initial=0))) if whole and in_f16(scales) else ()
        self._set("forms", forms)
        kept = ("Q4_0", "Q4_1") if self.bits <= 4 else ("Q5_0", "Q8_0")  # a few more bits per weight would hold z exactly
        found = next((QuantType[name] for name in kept if QuantType[name] in forms), None)
        largest = float(np.abs(scales).max(initial=0)) * 2**self.bits
        self._set("type", float_type(largest) if found is None else found)

    def _forms(self, largest: float) -> tuple[QuantType, ...]:
        least, most = 0, 0
        for rows in self.chunks():
            z = self.zeros(rows)
            least, most = min(least, -int(z.max())), max(most, 2**self.bits - 1 - int(z.min()))
        exact = [QuantType[name] for name, (low, high) in _LEVELS.items() if low <= least and most <= high]
        return (*exact, QuantType.Q4_1) if self.bits <= 4 and -least * largest <= F16_MAX else tuple(exact)

    def _per_run(self, rows: Rows) -> tuple[UInt8s, Int16s, Floats]:
        """q (n, runs, columns per run), and the zero point and scale of each run (n, runs, 1)."""
        q = self.codes(rows)
        groups = self.group_of[:: self.run]
        z, s = self.zeros(rows), self.scales(rows)
        z = z[:, groups] if z.shape[1] > 1 else z
        return q.reshape(len(q), -1, self.run), z[:, :, None], s[:, groups][:, :, None]

    def unpack(self, rows: Rows) -> Floats:
        q, z, s = self._per_run(rows)
        with np.errstate(over="ignore"):
            values = ((q.astype(np.int16) - z).astype(np.float32) * s * self.unit).reshape(len(q), -1)
        if not np.isfinite(values).all():
            raise self.refuse("has values beyond float32")
        return values

    def move(self, rows: Rows, qtype: QuantType) -> UInt8s:
        from llmq.quant.codecs import codec_of  # noqa: PLC0415 - keeps the formats importable without the codecs
        from llmq.quant.legacy import Legacy  # noqa: PLC0415

        codec = codec_of(qtype)
        assert isinstance(codec, Legacy), qtype
        q, z, s = self._per_run(rows)
        s = s * self.unit
        d, m = s.reshape(-1), np.zeros(s.size, np.float32)
        if qtype is QuantType.Q4_1:
            places, m = q, (np.broadcast_to(-z, s.shape) * s).reshape(-1)
        else:
            places = (q.astype(np.int16) - (z + np.int16(codec.shape.lo))).astype(np.uint8)
        return codec.join(places.reshape(-1, _BLOCK), d, m).reshape(len(q), -1)


def unpack_bits(words: npt.NDArray[np.generic], bits: int, count: int) -> UInt8s:
    """Rows of 32-bit words, (n, words), as the numbers of `bits` bits that follow each other in them from the lowest bit on,
    across words: uint8 (n, count)."""
    octets: UInt8s = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets[:, :count]
    if 8 % bits:
        fields = np.unpackbits(octets, axis=1, count=count * bits, bitorder="little").reshape(len(octets), count, bits)
        return np.packbits(fields, axis=2, bitorder="little")[:, :, 0]
    per = 8 // bits
    out = np.empty((len(octets), octets.shape[1] * per), np.uint8)
    for i in range(per):
        out[:, i::per] = octets >> np.uint8(bits * i) & np.uint8(2**bits - 1)
    return out[:, :count]
