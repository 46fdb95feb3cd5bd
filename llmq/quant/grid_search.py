"""How the types with a grid choose points, signs and scales: csrc/formats/grid_search.inc in NumPy, operation by operation, so
that both give the same bits. The C file explains the search, and skips points that cannot win; here all are tried. Arrays are
float32 (n blocks, groups) unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmq.quant.codecs import Floats, UInt8s
from llmq.quant.kquant_search import half
from llmq.quant.lanes import divide, power, rounded, total

__all__ = ["Grid", "Points", "Shape", "search"]

Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
STARTS = (0.75, 1.05, 1.3)
UNITS = 16
ONE = np.float32(1)


class Grid:
    """`levels` float32 (points, 4 or 8), `level` the different ones; `place` intp (points, 4 or 8): which of them."""

    def __init__(self, levels: Floats, level: tuple[int, ...]) -> None:
        self.levels = levels
        self.level = np.array(level, np.float32)
        self.place = np.searchsorted(self.level, levels)
        self.dim = levels.shape[1]


@dataclass(frozen=True)
class Shape:
    """llmq_grid_type: `signs` are "in grid", "free" or "even"."""

    grid: Grid
    signs: str
    group: int
    top: int
    unit: float
    lowered: int = 0

    def level(self, lower: bool) -> Floats:
        if self.signs != "in grid":
            return self.grid.level
        level: Floats = np.float32(8) * self.grid.level + np.float32(-1 if lower else 1)
        return level


@dataclass(frozen=True)
class Points:
    """What blocks store: d float32 (n,), s uint8 (n, groups), point uint16 (n, 32 or 64), and per 8 weights, uint8 (n, 32): the
    bits of those that are negative, 1 where they are lowered."""

    d: Floats
    s: UInt8s
    point: npt.NDArray[np.uint16]
    minus: UInt8s | None
    lower: UInt8s | None


@dataclass(frozen=True)
class Pick:
    """Rounded groups: cost (n, groups), point (n, 32 or 64), turned and lower (n, 256) of every weight, q (n, 256) levels."""

    cost: Floats
    point: Ints
    turned: Bools
    lower: Bools
    q: Floats


class Problem:
    """Blocks scaled by powers of two: x, without signs where they are stored beside the points, and h, (n, 256)."""

    def __init__(self, shape: Shape, src: Floats, weight: Floats | None) -> None:
        self.shape = shape
        amax = np.abs(src).max(axis=1, keepdims=True)
        seen = amax > np.float32(2.0**-25)
        self.back = np.where(seen, power(amax), ONE)
        x = src * np.where(seen, ONE / self.back, np.float32(0))
        self.minus = (x < 0) & (shape.signs != "in grid")
        self.x = np.where(self.minus, -x, x)
        self.h = np.ones_like(x)
        if weight is not None:
            hmax = weight.max(axis=1, keepdims=True)
            some = hmax >= np.float32(2.0**-126)
            self.h = np.where(some, weight * (ONE / np.where(some, power(hmax), ONE)) + np.float32(2.0**-20), ONE)

    def by_group(self, values: Floats) -> Floats:
        """(n, 256) to (group, n, groups), for sums over the weights of a group."""
        grouped: Floats = values.reshape(len(values), -1, self.shape.group).transpose(2, 0, 1)
        return grouped

    def sums(self, pick: Pick) -> tuple[Floats, Floats]:
        hq = self.h * pick.q
        return total(self.by_group(hq * self.x)), total(self.by_group(hq * pick.q))

    def round(self, a: Floats) -> Pick:
        """The best points for the scales a."""
        shape = self.shape
        first = self._points(a, shape.level(False))
        if shape.signs != "in grid":
            return first[0]
        (pick, cost), (other, cost_other) = first, self._points(a, shape.level(True))
        n = len(a)
        if shape.lowered == 8:
            lower = cost_other < cost
            each = np.where(lower, cost_other, cost)
        else:
            lower = np.repeat(other.cost < pick.cost, shape.group // 8, axis=1)
            each = np.where(lower, cost_other, cost)
        wide = np.repeat(lower, 8, axis=1)
        return Pick(
            total(each.reshape(n, -1, shape.group // 8).transpose(2, 0, 1)),
            np.where(lower, other.point, pick.point),
            pick.turned,
            wide,
            np.where(wide, other.q, pick.q),
        )

    def _points(self, a: Floats, level: Floats) -> tuple[Pick, Floats]:
        """With these levels; and the cost of each eight weights."""
        shape, n, dim = self.shape, len(a), self.shape.grid.dim
        x, h = (v.reshape(-1, dim).T for v in (self.x, self.h))
        scaled = np.repeat(a, shape.group // dim, axis=1).reshape(-1) * level[:, None]
        minus = self.minus.reshape(-1, 8)
        odd = minus.sum(axis=1) % 2 == 1
        if shape.signs != "even":
            odd[:] = False
        even_cost, even_point = nearest(shape.grid, x, h, scaled, None)
        turned = np.zeros((len(odd), 8), bool)
        if dim == 8:
            cost, point = even_cost, even_point
            if odd.any():
                some = np.flatnonzero(odd)
                odd_cost, odd_point = nearest(shape.grid, x[:, some], h[:, some], scaled[:, some], True)
                cost[some], point[some] = odd_cost, odd_point
                which = turned_weight(shape.grid, x[:, some], h[:, some], scaled[:, some], odd_point)
                turned[some, which] = True
        else:
            pairs = even_cost.reshape(-1, 2)
            cost, point = pairs[:, 0] + pairs[:, 1], even_point
            if odd.any():
                some = np.flatnonzero(odd)
                at = (2 * some[:, None] + np.arange(2)).reshape(-1)
                odd_cost, odd_point = nearest(shape.grid, x[:, at], h[:, at], scaled[:, at], True)
                first = odd_cost[::2] + pairs[some, 1]
                second = pairs[some, 0] + odd_cost[1::2]
                later = ~(first <= second)
                cost[some] = np.where(later, second, first)
                mine = 2 * some + later
                chosen = odd_point.reshape(-1, 2)[np.arange(len(some)), later.astype(np.intp)]
                point[mine] = chosen
                which = turned_weight(shape.grid, x[:, mine], h[:, mine], scaled[:, mine], chosen)
                turned[some, 4 * later + which] = True
        q = level[shape.grid.place[point]].reshape(n, 256)
        flat = turned.reshape(n, 256)
        per_group = cost.reshape(n, -1, shape.group // 8)
        pick = Pick(
            total(per_group.transpose(2, 0, 1)), point.reshape(n, -1), flat, np.zeros((n, 256), bool), np.where(flat, -q, q)
        )
        return pick, cost.reshape(n, 32)


def place_costs(x: Floats, h: Floats, scaled: Floats) -> tuple[list[list[Floats]], list[list[Floats]]]:
    """Per weight of a point and place: what it costs, and with its sign turned. x, h (dim, points), scaled (places, points)."""
    plain, turned = [], []
    for j in range(len(x)):
        r, t = x[j] - scaled, x[j] + scaled
        plain.append(list(h[j] * (r * r)))
        turned.append(list(h[j] * (t * t)))
    return plain, turned


def nibble_costs(x: Floats, h: Floats, scaled: Floats) -> tuple[list[dict[int, Floats]], list[dict[int, Floats]]]:
    """Per quarter of a point, by its places: the cost of two weights (points of eight) or one (of four), even and odd."""
    plain, turned = place_costs(x, h, scaled)
    places = range(len(scaled))
    if len(x) == 4:
        return [dict(enumerate(c)) for c in plain], [dict(enumerate(c)) for c in turned]
    even, odd = [], []
    for k in range(0, 8, 2):
        pairs = [(p + 16 * q, p, q) for q in places for p in places]  # ascending
        even.append({at: plain[k][p] + plain[k + 1][q] for at, p, q in pairs})
        odd.append({at: np.minimum(turned[k][p] + plain[k + 1][q], plain[k][p] + turned[k + 1][q]) for at, p, q in pairs})
    return even, odd


def quarters(grid: Grid) -> Ints:
    """Each point as four keys of nibble_costs, (points, 4)."""
    place: Ints = grid.place
    return place if grid.dim == 4 else place[:, ::2] + 16 * place[:, 1::2]


def nearest(grid: Grid, x: Floats, h: Floats, scaled: Floats, turn: bool | None) -> tuple[Floats, Ints]:
    """The first of the points that cost least, and that cost; with turn, one sign turned."""
    even, odd = nibble_costs(x, h, scaled)
    best = np.full(x.shape[1], np.finfo(np.float32).max, np.float32)
    point = np.zeros(x.shape[1], np.intp)
    halves: dict[tuple[int, int, int], tuple[Floats, Floats | None]] = {}

    def joined(k: int, a: int, b: int) -> tuple[Floats, Floats | None]:
        if (k, a, b) not in halves:
            both = np.minimum(odd[k][a] + even[k + 1][b], even[k][a] + odd[k + 1][b]) if turn else None
            halves[k, a, b] = even[k][a] + even[k + 1][b], both
        return halves[k, a, b]

    for i, (a, b, c, d) in enumerate(quarters(grid).tolist()):
        (low, low_odd), (high, high_odd) = joined(0, a, b), joined(2, c, d)
        cost = low + high if low_odd is None or high_odd is None else np.minimum(low_odd + high, low + high_odd)
        better = cost < best
        point[better] = i
        np.minimum(best, cost, out=best)
    return best, point


def turned_weight(grid: Grid, x: Floats, h: Floats, scaled: Floats, point: Ints) -> Ints:
    """The weight of each point whose turned sign costs least."""
    columns = np.arange(len(point))
    keys = quarters(grid)[point].T

    def chosen(costs: list[dict[int, Floats]]) -> Floats:
        """What each quarter costs, (4, points)."""
        found = [np.stack(list(c.values()))[np.searchsorted(list(c), k), columns] for c, k in zip(costs, keys, strict=True)]
        return np.stack(found)

    even, odd = map(chosen, nibble_costs(x, h, scaled))
    low = np.minimum(odd[0] + even[1], even[0] + odd[1]) + (even[2] + even[3])
    high = (even[0] + even[1]) + np.minimum(odd[2] + even[3], even[2] + odd[3])
    pair = np.where(low <= high, 0, 2)
    k: Ints = pair + ~(odd[pair, columns] + even[pair + 1, columns] <= even[pair, columns] + odd[pair + 1, columns])
    if grid.dim == 4:
        return k
    plain, turned = (np.array(c) for c in place_costs(x, h, scaled))
    place = grid.place[point].T
    a, b = (2 * k, place[2 * k, columns], columns), (2 * k + 1, place[2 * k + 1, columns], columns)
    second: Ints = 2 * k + ~(turned[a] + plain[b] <= plain[a] + turned[b])
    return second


def search(shape: Shape, src: Floats, weight: Floats | None) -> Points:
    """Blocks (n, 256) as points."""
    k = Problem(shape, src, weight)
    groups = 256 // shape.group
    a, curve = stage_one(k)
    unit = best_unit(k, a, curve)
    s = scale(shape, a, unit)
    pick = k.round(unit * (2 * s + 1))
    after = np.where(a < unit * (2 * s + 1), s - 1, s + 1)
    inside = (after >= 0) & (after <= shape.top)
    trial = k.round(unit * (2 * np.where(inside, after, s) + 1))
    better = inside & (trial.cost < pick.cost)
    s, pick = np.where(better, after, s), choose(k, better, trial, pick)
    error = total(pick.cost.T)[:, None]

    xq, qq = k.sums(pick)
    sc = 2 * s + 1
    num, den = total((sc * xq).T)[:, None], total((sc * sc * qq).T)[:, None]
    wanted = np.where(num > 0, divide(num, den), np.float32(0))
    again = half(wanted / np.float32(shape.unit), k.back) * np.float32(shape.unit)
    trial = k.round(again * sc)
    then = total(trial.cost.T)[:, None]
    better = (again != 0) & (again != unit) & (then < error)
    unit, pick = np.where(better, again, unit), choose(k, np.repeat(better, groups, axis=1), trial, pick)
    error = np.where(better, then, error)

    nothing = total((k.h * k.x * k.x).T)[:, None]
    some = (unit != 0) & (error < nothing)
    d = np.where(some, unit / np.float32(shape.unit) * k.back, np.float32(0))[:, 0]
    point = np.where(some, pick.point, 0).astype(np.uint16)
    in_grid = shape.signs == "in grid"
    minus = np.packbits(some & (k.minus ^ pick.turned), axis=1, bitorder="little")
    lower = (some & pick.lower)[:, ::8].astype(np.uint8)
    return Points(d, np.where(some, s, 0).astype(np.uint8), point, None if in_grid else minus, lower if in_grid else None)


def choose(k: Problem, mask: Bools, yes: Pick, no: Pick) -> Pick:
    """yes for the groups (n, groups) where the mask is set."""
    per_point = np.repeat(mask, k.shape.group // k.shape.grid.dim, axis=1)
    per_weight = np.repeat(mask, k.shape.group, axis=1)
    return Pick(
        np.where(mask, yes.cost, no.cost),
        np.where(per_point, yes.point, no.point),
        np.where(per_weight, yes.turned, no.turned),
        np.where(per_weight, yes.lower, no.lower),
        np.where(per_weight, yes.q, no.q),
    )


def stage_one(k: Problem) -> tuple[Floats, Floats]:
    """a, and half the error's second derivative by it; 0 for a group of zeros."""
    top = k.shape.level(False)[-1]
    far = np.abs(k.by_group(k.x)).max(axis=0)
    a, curve, gain = np.zeros_like(far), np.zeros_like(far), np.zeros_like(far)
    for start in STARTS:
        xq, qq = k.sums(k.round(far / (top * np.float32(start))))
        slope = xq / qq
        won = slope * xq
        better = (far > 0) & (xq > 0) & (won > gain)
        gain, a, curve = (np.where(better, new, old) for new, old in ((won, gain), (slope, a), (qq, curve)))
    return a, curve


def scale(shape: Shape, a: Floats, unit: Floats) -> Floats:
    return rounded(divide(a, np.broadcast_to(unit, a.shape)) * np.float32(0.5) - np.float32(0.5), 0, shape.top)


def best_unit(k: Problem, a: Floats, curve: Floats) -> Floats:
    """(n, 1): D, of 16 candidates."""
    far = a.max(axis=1, keepdims=True)
    best, least = np.zeros_like(far), np.full_like(far, np.finfo(np.float32).max)
    for c in range(UNITS):
        step = np.float32(2 * k.shape.top + 1) * (np.float32(1.06) - np.float32(0.03) * np.float32(c))
        unit = half(far / step / np.float32(k.shape.unit), k.back) * np.float32(k.shape.unit)
        e = unit * (2 * scale(k.shape, a, unit) + 1) - a
        cost = total((curve * e * e).T)[:, None]
        best = np.where(cost < least, unit, best)
        least = np.minimum(cost, least)
    found: Floats = np.where(far == 0, np.float32(0), best)
    return found
