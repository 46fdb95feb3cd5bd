"""How the K types choose integers and scales: csrc/formats/kquant_search.inc in NumPy, operation by operation, so that both
give the same bits. The C file explains the search; arrays here are float32 (n blocks, groups) unless said otherwise, weights
and importances (group size, n blocks, groups)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from llmq.quant.codecs import Floats, Levels
from llmq.quant.floats import to_f16
from llmq.quant.lanes import divide, nearest, power, rounded, total

__all__ = ["Shape", "search", "starts"]

Bools = npt.NDArray[np.bool_]
ZERO, ONE = np.float32(0), np.float32(1)


@dataclass(frozen=True)
class Shape:
    """kq_shape: the ranges of a type's integers and where its search looks."""

    group: int
    off: int
    q: tuple[float, float]
    sc: tuple[float, float]
    m: float
    step: float
    reach: tuple[int, int]
    start: Floats
    codebook: tuple[int, ...] = ()

    def level(self, y: Floats) -> Floats:
        """The level nearest to y."""
        return nearest(y, *self.q, self.codebook)


def starts(text: str) -> Floats:
    """The starts of stage one from their numbers, separated by commas: float32 (n, 1), or (n, 2) for a type with minima."""
    return np.array([start.split() for start in text.split(",")], np.float32)


@dataclass(frozen=True)
class Problem:
    """Scaled weights and importances, and their sums."""

    x: Floats
    h: Floats
    h0: Floats
    mean: Floats
    lo: Floats
    hi: Floats


@dataclass(frozen=True)
class Groups:
    """Stage one: a, b, half the error's second derivative by a, and the mean level."""

    a: Floats
    b: Floats
    curve: Floats
    level: Floats


@dataclass(frozen=True)
class Scales:
    """The integers of every group; d and dmin, one per block, are (n, 1) or repeated."""

    sc: Floats
    m: Floats
    d: Floats
    dmin: Floats


@dataclass(frozen=True)
class State(Scales):
    """And what rounding with them gives."""

    err: Floats
    q1: Floats
    q2: Floats
    r0: Floats
    rq: Floats


T = TypeVar("T", Groups, State)


def over_groups(values: Floats) -> Floats:
    """Sum over the groups of each block, (n, groups) to (n, 1)."""
    return total(values[:, g : g + 1] for g in range(values.shape[1]))


def half(d: Floats, back: Floats) -> Floats:
    """binary16 nearest to d * back, over back; never zero for a d that is not."""
    bits = to_f16(d * back).view(np.uint16)
    bits = np.where((bits & 0x7FFF) == 0, bits | 1, bits)
    value: Floats = np.where(d == 0, ZERO, bits.view(np.float16).astype(np.float32) / back)
    return value


def gather(shape: Shape, src: Floats, weight: Floats | None) -> tuple[Floats, Floats, Floats]:
    amax = np.abs(src).max(axis=1, keepdims=True)
    seen = amax > np.float32(2.0**-25)
    back = np.where(seen, power(amax), ONE)
    x = src * np.where(seen, ONE / back, ZERO)
    h = np.ones_like(x)
    if weight is not None:
        hmax = weight.max(axis=1, keepdims=True)
        some = hmax >= np.float32(2.0**-126)
        h = np.where(some, weight * (ONE / np.where(some, power(hmax), ONE)) + np.float32(2.0**-20), ONE)

    def by_weight(values: Floats) -> Floats:
        return np.ascontiguousarray(values.reshape(len(values), -1, shape.group).transpose(2, 0, 1))

    return by_weight(x), by_weight(h), back


def kept(better: Bools, new: T, old: T) -> T:
    """Field by field, `new` where it is better."""
    return type(new)(*(np.where(better, getattr(new, f.name), getattr(old, f.name)) for f in fields(new)))


def groups(shape: Shape, p: Problem) -> Groups:
    zero = np.zeros_like(p.h0)
    extent = p.hi - p.lo
    far = np.where(-p.lo > p.hi, p.lo, p.hi)
    gain, best = zero, Groups(zero, -p.mean, zero, zero)
    for start in (*shape.start, None):
        if start is None:
            inverse, shift = divide(ONE, best.a), best.b
        elif shape.m:
            inverse = divide(np.float32(shape.q[1]) - start[0] - start[1], extent)
            shift = divide(start[0], inverse) - p.lo
        else:
            inverse, shift = divide(start[0], far), zero
        q = shape.level((p.x + shift) * inverse)
        hq = p.h * q
        q1, q2, xq = total(hq), total(hq * q), total(hq * (p.x - p.mean))
        middle = q1 / p.h0 if shape.m else zero
        bend = q2 - q1 * middle
        slope = divide(xq, bend)
        won = slope * xq
        better = (won > gain * np.float32(1 + 2.0**-20)) & (bend > 0)
        gain = np.where(better, won, gain)
        best = kept(better, Groups(slope, slope * middle - p.mean, bend, middle), best)
    return best


def unit(target: Floats, curve: Floats, limits: tuple[float, float], step: float, back: Floats) -> Floats:
    lo, hi = np.float32(limits[0]), np.float32(limits[1])
    far = np.take_along_axis(target, np.abs(target).argmax(axis=1, keepdims=True), axis=1)
    c = np.arange(16)
    down = np.float32(step) * (c // 2 if lo < 0 else c).astype(np.float32)
    k = np.where((lo < 0) & (c % 2 == 0), lo + down, hi - down)
    k[15] = np.float32(0.5) * (hi + 1)
    units = half(np.where(far == 0, ONE, far) / k, back)
    inverse = ONE / units

    def terms() -> Iterator[Floats]:
        for g in range(target.shape[1]):
            t = target[:, g : g + 1]
            e = rounded(t * inverse, *limits) * units - t
            yield curve[:, g : g + 1] * e * e

    best = total(terms()).argmin(axis=1)[:, None]
    return np.where(far == 0, ZERO, np.take_along_axis(units, best, axis=1))


def one_sign(shape: Shape, p: Problem, at: Groups) -> tuple[Floats, Groups]:
    weight = p.h0 * at.b * at.b
    over, under = over_groups(np.where(at.b > 0, weight, ZERO)), over_groups(np.where(at.b < 0, weight, ZERO))
    sign = np.where(under > over, -ONE, ONE)
    keep = at.b * sign >= 0
    a = np.where(keep, at.a, np.where(p.hi > 0, p.hi / np.float32(shape.q[1]), ZERO))
    level = np.where(keep, at.level, divide(p.mean, a))
    curve = np.where(keep, at.curve, p.h0 * level * level)
    return sign, Groups(a, np.where(keep, at.b, ZERO), curve, level)


def units(shape: Shape, p: Problem, at: Groups, back: Floats) -> Scales:
    sign = np.ones_like(back)
    if shape.m:
        sign, at = one_sign(shape, p, at)
    d = unit(at.a, at.curve, shape.sc, shape.step, back)
    sc = rounded(at.a * divide(ONE, d), *shape.sc)
    if not shape.m:
        return Scales(sc, np.zeros_like(sc), d, np.zeros_like(d))
    b = np.maximum((d * sc * at.level - p.mean) * sign, ZERO)
    dmin = unit(b, p.h0, (0, shape.m), shape.step, back)
    return Scales(sc, rounded(divide(b, dmin), 0, shape.m), d, sign * dmin)


def levels_of(shape: Shape, p: Problem, at: Scales) -> tuple[Floats, Floats]:
    """(level of each weight, residual)."""
    a = at.d * at.sc
    x = p.x + at.dmin * at.m
    q = shape.level(x * divide(np.ones_like(a), a))
    return q, x - a * q


def measure(shape: Shape, p: Problem, at: Scales) -> State:
    q, r = levels_of(shape, p, at)
    hq, hr = p.h * q, p.h * r
    sums = (total(terms) for terms in (hr * r, hq, hq * q, hr, hr * q))
    return State(at.sc, at.m, at.d, at.dmin, *sums)


def follow(shape: Shape, p: Problem, at: State, da: Floats, by: int) -> Floats:
    """The m that goes with a change of a by da while the rounding stays, moved by `by`."""
    if not shape.m:
        return at.m
    steps = rounded(divide((at.q1 * da - at.r0) / p.h0, at.dmin), -256, 256)
    return rounded(at.m + (steps + np.float32(by)), 0, shape.m)


def step(shape: Shape, p: Problem, at: State) -> State:
    da = divide(at.rq * p.h0 - at.r0 * at.q1, at.q2 * p.h0 - at.q1 * at.q1) if shape.m else divide(at.rq, at.q2)
    sc = rounded(at.sc + rounded(divide(da, at.d), -256, 256), *shape.sc)
    trial = measure(shape, p, Scales(sc, follow(shape, p, at, (sc - at.sc) * at.d, 0), at.d, at.dmin))
    return kept(trial.err < at.err, trial, at)


def window(shape: Shape, p: Problem, at: State) -> State:
    best = at
    for i in range(-shape.reach[0], shape.reach[0] + 1):
        sc = rounded(at.sc + np.float32(i), *shape.sc)
        for j in range(-shape.reach[1], shape.reach[1] + 1):
            if (i, j) != (0, 0):
                trial = measure(shape, p, Scales(sc, follow(shape, p, at, (sc - at.sc) * at.d, j), at.d, at.dmin))
                best = kept(trial.err < best.err, trial, best)
    return best


def refit(shape: Shape, p: Problem, at: State, back: Floats) -> State:
    dd, dm = over_groups(at.sc * at.sc * at.q2), over_groups(at.sc * at.m * at.q1)
    mm, rd, rm = over_groups(at.m * at.m * p.h0), over_groups(at.sc * at.rq), over_groups(at.m * at.r0)
    det = dd * mm - dm * dm
    both = det > np.float32(2.0**-18) * dd * mm
    step_d = np.where(both, divide(rd * mm - rm * dm, det), np.where(dd > 0, divide(rd, dd), ZERO))
    step_m = np.where(both, divide(rd * dm - rm * dd, det), ZERO)
    trial = measure(shape, p, Scales(at.sc, at.m, half(at.d + step_d, back), half(at.dmin + step_m, back)))
    return kept(over_groups(trial.err) < over_groups(at.err), trial, at)


def search(shape: Shape, src: Floats, weight: Floats | None) -> Levels:
    """Blocks of finite weights (n, 256), and importances of that shape or None, as levels."""
    x, h, back = gather(shape, src, weight)
    h0 = total(h)
    mean = total(h * x) / h0 if shape.m else np.zeros_like(h0)
    p = Problem(x, h, h0, mean, x.min(axis=0), x.max(axis=0))
    at = measure(shape, p, units(shape, p, groups(shape, p), back))
    for _ in range(2):
        at = refit(shape, p, window(shape, p, step(shape, p, at)), back)
    q, _ = levels_of(shape, p, at)
    stored = (q + np.float32(shape.off)).astype(np.uint8).transpose(1, 2, 0).reshape(len(src), 256)
    return Levels(stored, at.sc.astype(np.int8), at.m.astype(np.uint8), (at.d * back)[:, 0], (at.dmin * back)[:, 0])
