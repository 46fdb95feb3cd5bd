"""How the types with one scale per block choose scale, minimum and integers: csrc/formats/scale_search.inc in NumPy, operation
by operation, so that both give the same bits. The C file explains the search; arrays here are float32 (n blocks,), weights and
importances (weights per block, n blocks)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from llmq.quant.codecs import Floats, UInt8s
from llmq.quant.lanes import divide, e4m3, half, nearest, power, power_scale, total

__all__ = ["EIGHT_BIT_STARTS", "IQ4_STARTS", "MIN_STARTS", "MXFP4_STARTS", "NVFP4_STARTS", "Shape", "search", "uniform_starts"]

REFITS = 2
# the largest magnitude that the least scale cannot hold
_NOTHING = {"F16": np.float32(2.0**-25), "E8M0": np.float32(2.0**-126 - 2.0**-149), "E4M3": np.float32(2.0**-11)}
MIN_STARTS = (
    *((0.0, 0.0), (-0.6, -0.6), (-0.6, -0.2), (-0.6, 0.2), (-0.6, 0.6), (-0.2, -0.6), (-0.2, -0.2), (-0.2, 0.2)),
    *((-0.2, 0.6), (0.2, -0.6), (0.2, -0.2), (0.2, 0.2), (0.2, 0.6), (0.6, -0.2), (0.6, 0.2), (0.6, 0.6)),
    *((-1.0, -1.0), (-1.0, 0.0), (0.0, -1.0), (-1.0, -0.5), (-0.5, -1.0), (-0.5, -0.5), (-0.5, 0.0), (0.0, -0.5)),
    *((0.0, 1.0), (1.0, 0.0), (0.5, 1.0), (1.0, 0.5), (1.0, 1.0)),
)
IQ4_STARTS = (-127, -122, -117, -112, -132, -137, -142, -147, 113, 108, 103, 98, 118, 123, 128, 93)
MXFP4_STARTS = (8, 4, 2, 16, 32)
NVFP4_STARTS = (12, 11.5, 11, 10.5, 12.5, 13, 13.5, 8, 7.5, 8.5, 6, 6.5, 4, 14, 16, 9)
EIGHT_BIT_STARTS = (
    *(127, 126.1, 123.1, 124, 124.9, 120.1, 118.9, 121),
    *(116.8, 121.9, 127.4, 126.6, 125.4, 123.6, 122.5, 117.8),
)


def uniform_starts(lo: int, hi: int) -> tuple[float, ...]:
    steps = (
        *((lo, (0, -0.5, 0.8, -0.8, 0.3, -0.2)), (hi, (-0.1,)), (lo, (1.3, 0.5, 0.1, 1, 1.8, -1))),
        (hi, (0, -0.2, -0.4, -0.6, -0.8, 0.2, 0.4, 0.6, -1, -1.4, -1.8)),
        *((lo, (-0.35, 0.6)), (hi, (-2.2,)), (lo, (-0.65, 1.5))),
    )
    return tuple(float(np.float32(end) + np.float32(by)) for end, all_by in steps for by in all_by)


@dataclass(frozen=True)
class Shape:
    """ss_shape: the levels (lo..hi; or a codebook, with lo what counts as 0) and the starts, pairs for a type with a
    minimum; the first `plain` serve without importances; `scale`: the kind of number that it is."""

    lo: int
    hi: int
    starts: tuple[float, ...] | tuple[tuple[float, float], ...]
    n: int = 32
    plain: int = 16
    codebook: tuple[int, ...] = ()
    scale: Literal["F16", "E8M0", "E4M3"] = "F16"

    def level(self, y: Floats) -> Floats:
        """The level nearest to y."""
        return nearest(y, self.lo, self.hi, self.codebook)


@dataclass(frozen=True)
class Sums:
    err: Floats
    q1: Floats
    q2: Floats
    r0: Floats
    rq: Floats


def gather(shape: Shape, src: Floats, weight: Floats | None) -> tuple[Floats, Floats, Floats]:
    """Blocks (n, shape.n) scaled and transposed: x, importances, and the powers of two that undo the scaling, 0 where
    a block is nothing beside the least scale."""
    amax = np.abs(src).max(axis=1)
    back = np.where(amax > _NOTHING[shape.scale], power(amax), np.float32(0))
    x = src.T * divide(np.ones_like(back), back)
    if weight is None:
        return x, np.ones_like(x), back
    hmax = weight.max(axis=1)
    seen = hmax >= np.float32(2.0**-126)
    scaled = weight.T * (np.float32(1) / np.where(seen, power(hmax), np.float32(1)))
    return x, np.where(seen, scaled + np.float32(2.0**-20), np.float32(1)), back


def measure(shape: Shape, x: Floats, h: Floats, d: Floats, m: Floats) -> Sums:
    """What rounding with scale d and minimum m gives; r = x - d q - m."""
    q = shape.level((x - m) * divide(np.ones_like(d), d))
    r = x - d * q - m
    hr, hq = h * r, h * q
    return Sums(total(hr * r), total(hq), total(hq * q), total(hr), total(hr * q))


def search(shape: Shape, src: Floats, weight: Floats | None) -> tuple[UInt8s, Floats, Floats]:
    """Blocks (n, shape.n) to (levels counted from lo, of that shape, d (n,), m (n,)); d and m are binary16 numbers."""
    x, h, back = gather(shape, src, weight)
    fore = divide(np.ones_like(back), back)

    def rounded(a: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return power_scale(a, fore) if shape.scale == "E8M0" else (e4m3 if shape.scale == "E4M3" else half)(a * back) * fore

    best_d, best_m = np.zeros_like(back), np.zeros_like(back)
    best = measure(shape, x, h, best_d, best_m).err

    def attempt(d: Floats, m: Floats) -> None:
        nonlocal best, best_d, best_m
        err = measure(shape, x, h, d, m).err
        better: npt.NDArray[np.bool_] = err < best
        best, best_d, best_m = (np.where(better, new, old) for new, old in ((err, best), (d, best_d), (m, best_m)))

    has_min = isinstance(shape.starts[0], tuple)
    solved = not has_min and shape.scale == "F16"
    gain, slope = np.zeros_like(back), np.zeros_like(back)
    extreme = x[np.abs(x).argmax(axis=0), np.arange(x.shape[1])]
    least, greatest, top = x.min(axis=0), x.max(axis=0), np.float32(shape.hi - shape.lo)
    count = shape.plain if weight is None else len(shape.starts)
    starts: tuple[float | tuple[float, float], ...] = shape.starts[:count]
    for i, start in enumerate(starts):
        if isinstance(start, tuple):
            a, b = np.float32(start[0]), np.float32(start[1])
            m = rounded(least + (greatest - least) / (top + (a + b)) * a)
            attempt(rounded((greatest - m) / (top + b)), m)
            continue
        if solved:
            inverse: Floats = divide(np.full_like(extreme, start), extreme)
            q = shape.level(x * inverse)
            hq = h * q
            q2, xq = total(hq * q), total(hq * x)
            fit = divide(xq, q2)
            better = fit * xq > gain * np.float32(1 + 2.0**-20)
            gain, slope = np.where(better, fit * xq, gain), np.where(better, fit, slope)
        if i == 0 or not solved:
            attempt(rounded(extreme / np.float32(start)), best_m)
    if solved:
        attempt(rounded(slope), best_m)
    h0 = total(h)
    for _ in range(REFITS - solved):
        s = measure(shape, x, h, best_d, best_m)
        m, rq = best_m, s.rq
        if has_min:
            m = rounded(best_m + divide(s.q2 * s.r0 - s.q1 * s.rq, h0 * s.q2 - s.q1 * s.q1))
            rq = rq - (m - best_m) * s.q1
        attempt(rounded(best_d + divide(rq, s.q2)), m)
    q = shape.level((x - best_m) * divide(np.ones_like(best_d), best_d))
    return np.ascontiguousarray(q.T - np.float32(shape.lo)).astype(np.uint8), best_d * back, best_m * back
