"""Arithmetic that the searches for scales share: csrc/simd/lanes.h and half.h in NumPy, one rounding per operation."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import numpy as np

from llmq.quant.codecs import Floats
from llmq.quant.floats import to_f16

__all__ = ["divide", "e4m3", "half", "nearest", "power", "power_scale", "rounded", "total"]


def total(terms: Iterable[Floats]) -> Floats:
    """The sum from the first term (of an array: along its first axis) to the last, each addition rounded."""
    return reduce(np.add, terms)


def divide(a: Floats, b: Floats) -> Floats:
    """a / b, and 0 where b is 0."""
    none = b == 0
    quotient: Floats = np.where(none, np.float32(0), a / np.where(none, np.float32(1), b))
    return quotient


def rounded(values: Floats, lo: float, hi: float) -> Floats:
    """The nearest of the integers lo..hi."""
    out: Floats = np.rint(np.clip(values, np.float32(lo), np.float32(hi)))
    return out


def nearest(y: Floats, lo: float, hi: float, codebook: tuple[int, ...] = ()) -> Floats:
    """The level nearest to y: of the integers lo..hi, or of the codebook's, where halfway belongs to the upper one."""
    if not codebook:
        return rounded(y, lo, hi)
    book = np.array(codebook, np.float32)
    out: Floats = book[np.searchsorted((book[1:] + book[:-1]) / np.float32(2), y, side="right")]
    return out


def power(v: Floats) -> Floats:
    """2^floor(log2 v), at most 2^126."""
    out: Floats = np.minimum(v.view(np.uint32) & np.uint32(0x7F800000), np.uint32(0x7E800000)).view(np.float32)
    return out


def half(a: Floats) -> Floats:
    """The nearest binary16 number, the largest finite one where a is beyond the range; never -0."""
    out: Floats = to_f16(a).astype(np.float32) + np.float32(0)
    return out


def e4m3(a: Floats) -> Floats:
    """The number nearest to |a| that is a scale of NVFP4."""
    a = np.minimum(np.abs(a), np.float32(224))
    bits = a.view(np.uint32)
    kept = (bits + np.uint32(0x7FFFF) + (bits >> np.uint32(20) & np.uint32(1)) & ~np.uint32(0xFFFFF)).view(np.float32)
    tiny = (a + np.float32(12288)) - np.float32(12288)
    out: Floats = np.where(a < np.float32(2.0**-7), tiny, kept)
    return out


def power_scale(a: Floats, fore: Floats) -> Floats:
    """The power of two below |a|, or the nearest that, divided by fore, is a scale of MXFP4 with finite weights."""
    least, most = fore * np.float32(2.0**-126) * np.float32(0.25), fore * np.float32(2.0**124)
    floor = (a.view(np.uint32) & np.uint32(0x7F800000)).view(np.float32)
    out: Floats = np.minimum(np.maximum(floor, least), most)
    return out
