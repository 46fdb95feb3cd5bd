"""How far an exact kernel of each op kind may be from the op's meaning, element by element.

u = 2^-24 is the rounding of float32, b = 2^-8 that of bfloat16; sums of k terms lose at most k roundings of the sum of
magnitudes (Higham 2002, §3.1). Inputs are the same float32 numbers on both sides, so only what the op itself does counts:

    MATMUL     by the way the matmul driver goes: float32 sums ("floats"); activations rounded to integers, half a step of
               dx = max|x| / 127 per 32 or 256 columns each ("x8_32", "x8_256"); both operands rounded to bfloat16 ("tiles")
    SCAN       an error of the state decays as the state does; each step adds its own
    DELTA      the same of its length, which taking away along a key does not add to
    ATTN       queries, keys, values and softmax weights are rounded to the type of the cache; an error d of every score
               changes each weight by a factor within exp(2d)
    functions  exp, tanh, erf, sin, cos: FUNCTION of their argument's magnitude, which is what the kernels promise
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llmq import _native
from llmq.engine.ops import Array, activation, visible
from llmq.graph.tape import ACTIVATIONS, Op
from llmq.quant.types import QuantType

__all__ = ["Case", "bound"]

U = 2.0**-24
B = 2.0**-8
FUNCTION = 2.0**-20
_KV_ROUNDING = {QuantType.F32: U, QuantType.F16: 2.0**-11, QuantType.BF16: B}
_F16_TINY = 2.0**-25


@dataclass(frozen=True)
class Case:
    """An op that ran alone: float64 inputs (tokens, width), the exact output, its weights dequantized, the type of w0 in
    the file, each token's position, for ATTN the keys and values (positions, width) and the cache's type, and in `history`
    the inputs with those of the tokens before, for ops that have a state."""

    op: Op
    inputs: list[Array]
    exact: Array
    weights: list[Array]
    type: QuantType
    keys: Array | None = None
    values: Array | None = None
    positions: npt.NDArray[np.int32] | None = None
    kv_type: QuantType = QuantType.F32
    history: list[Array] = field(default_factory=list)


def bound(case: Case) -> Array:
    """The largest difference from case.exact that its kernel may have, of the same shape."""
    allowed: Array = _BOUNDS[case.op.kind](case) + U * abs(case.exact)
    return allowed


def _copy(case: Case) -> Array:
    return np.zeros_like(case.exact)


def _elementwise(case: Case) -> Array:
    # sums and products of two terms, each of which is rounded once
    op = case.op
    a = abs(case.inputs[0])
    if op.kind == "SCALE":
        return 3 * U * (abs(op.f[0]) * a + abs(op.f[1]))
    b = abs((case.inputs[1:] or case.weights)[0])
    return 2 * U * (a * b if op.kind == "MUL" else a + b)


def _rmsnorm(case: Case) -> Array:
    group = case.op.i[0] or case.exact.shape[1]
    return (group / 2 + 8) * U * abs(case.exact)


def _layernorm(case: Case) -> Array:
    # The mean is off by d; the centred row and the deviation each take that over, relative to the deviation.
    k = case.op.i[0] or case.exact.shape[1]
    x = case.inputs[0].reshape(-1, case.exact.shape[1] // k, k)
    deviation = np.sqrt(x.var(axis=2, keepdims=True) + case.op.f[0])
    d = (k + 1) * U * abs(x).mean(axis=2, keepdims=True)
    off = (d + U * abs(x)) / deviation
    scaled = (case.exact - (case.weights[1] if len(case.weights) > 1 else 0)).reshape(x.shape)
    weight = abs(case.weights[0]).reshape(-1, k)
    result: Array = weight * off + abs(scaled) * (2 * off.mean(axis=2, keepdims=True) + (k / 2 + 8) * U)
    return result.reshape(case.exact.shape)


def _matmul(case: Case) -> Array:
    return _product(case.type, case.inputs[0], *case.weights)


def _product(type: QuantType, x: Array, w: Array, bias: Array | None = None) -> Array:
    # x . wᵀ + bias by the matmul driver
    w = abs(w)
    k = x.shape[1]
    products = abs(x) @ w.T
    sums: Array = (k + 4) * U * products
    if bias is not None:
        sums = sums + 2 * U * (products + abs(bias))
    path = _native.matmul_kind(int(type), len(w), k, len(x))
    if path == "tiles":
        sums = sums + 2 * B * (1 + B) * products
    elif path != "floats":
        # half a step of every activation, and float32 sums of whole groups, whose minima may cancel
        width = type.x8_width
        most_x = abs(x).reshape(len(x), k // width, width).max(axis=2)
        grouped = w.reshape(len(w), k // width, width)
        steps = most_x / 254 @ grouped.sum(axis=2).T
        sums = sums + steps * (1 + 2.0**-8) + (k / width + 16) * U * (most_x @ (4 * width * grouped.max(axis=2)).T)
    return sums


def _rope(case: Case) -> Array:
    op = case.op
    heads, head_dim, dims, apart = op.i[:4]
    x = case.inputs[0].reshape(len(case.exact), heads, head_dim)
    assert case.positions is not None
    angle = abs(case.positions[:, None, None] * case.weights[0])
    first = abs(x[..., : dims // 2] if apart else x[..., 0:dims:2])
    second = abs(x[..., dims // 2 : dims] if apart else x[..., 1:dims:2])
    off = abs(op.f[0]) * (first + second) * (4 * U * angle + 4 * U + FUNCTION)
    out = np.zeros_like(x)
    out[..., : dims // 2] = off
    out[..., dims // 2 : dims] = off
    if not apart:
        out[..., 0:dims:2], out[..., 1:dims:2] = off, off
    return out.reshape(case.exact.shape)


def _attn(case: Case) -> Array:
    op = case.op
    heads, k_dim, kv_heads, v_dim = op.i[:4]
    assert case.keys is not None and case.values is not None and case.positions is not None
    n, m = len(case.exact), len(case.keys)
    r = _KV_ROUNDING[case.kv_type]
    tiny = _F16_TINY if case.kv_type is QuantType.F16 else 0.0
    q = abs(case.inputs[0]).reshape(n, kv_heads, heads // kv_heads, k_dim).transpose(1, 2, 0, 3).reshape(kv_heads, -1, k_dim)
    k = abs(case.keys).reshape(m, kv_heads, k_dim).transpose(1, 2, 0) + tiny
    v = abs(case.values).reshape(m, kv_heads, v_dim).transpose(1, 0, 2)
    scores = (q @ k).reshape(heads, n, m) * abs(op.f[0])
    distance = case.positions[:, None] - np.arange(m)[None, :]
    # an error of every visible score: operands, the sum, ALiBi and soft-capping on top
    off = scores * (2 * r + r * r + (k_dim + 4) * U) + 4 * U * (op.f[2] * abs(distance)) + (FUNCTION * op.f[1])
    if op.w1 >= 0:
        off = off + 4 * U * (abs(case.weights[-1]).max() + scores)
    worst = np.where(visible(op, case.positions, m), off, 0).max(axis=2)
    # the largest |v| of each column up to the token bounds every weighted sum of errors of the weights
    running = np.maximum.accumulate(v, axis=1)
    seen = running[:, np.full(n, m - 1) if op.i[5] else case.positions]
    spread = np.repeat(seen, heads // kv_heads, axis=0)
    relative = np.expm1(2 * worst) + 3 * r + FUNCTION + (m + 8) * U
    out = spread * relative[:, :, None] + tiny
    result: Array = out.transpose(1, 0, 2).reshape(n, heads * v_dim)
    return result


def _function(case: Case, x: Array, value: Array) -> Array:
    # |act(x)| <= |x| for the gated kinds, so x bounds what cancellation leaves of 1 + erf or 1 + tanh
    kind = ACTIVATIONS[case.op.i[0]]
    result: Array = FUNCTION * (abs(value) if kind in ("sigmoid", "tanh", "relu", "relu2", "softplus") else abs(x))
    return result


def _act(case: Case) -> Array:
    return _function(case, case.inputs[0], case.exact)


def _glu(case: Case) -> Array:
    gate, up = case.inputs
    result: Array = _function(case, gate, activation(case.op.i[0], gate)) * abs(up) + U * abs(case.exact)
    return result


def _softcap(case: Case) -> Array:
    result: Array = FUNCTION * abs(case.inputs[0])
    return result


def _route(case: Case) -> Array:
    # Scores are off by FUNCTION of themselves; where that may change the order of the choices, ids and weights may be anything.
    used, sigmoid, groups, _, by_two, _ = case.op.i[:6]
    (x,) = case.inputs
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    score = activation(ACTIVATIONS.index("sigmoid"), x) if sigmoid else powers / powers.sum(axis=1, keepdims=True)
    off = (FUNCTION + x.shape[1] * U) * score.max(axis=1, keepdims=True)
    choice = score + (case.weights[0] if case.op.w0 >= 0 else 0)
    off = off + 2 * U * abs(choice).max(axis=1, keepdims=True)
    grouped = np.sort(choice.reshape(len(x), groups, -1), axis=2)
    best = grouped[:, :, -2:].sum(axis=2) if by_two else grouped[:, :, -1]
    close = np.zeros(len(x), bool)
    for ranked in (np.sort(choice, axis=1), *([np.sort(best, axis=1)] if groups > 1 else [])):
        close |= (np.diff(ranked, axis=1) <= 4 * off).any(axis=1)
    out: Array = abs(case.exact) * (4 * FUNCTION + 4 * x.shape[1] * U)
    out[:, :used] = 0
    out[close] = np.inf
    return out


def _experts(case: Case) -> Array:
    # the same, for the rows of each expert, so many at a time
    used = case.op.i[0]
    x, stack = case.inputs[0], case.weights[0]
    heads = case.op.kind == "HEADS"
    ids = np.tile(np.arange(used), (len(x), 1)) if heads else case.inputs[1][:, :used].astype(np.int64)
    parts = np.broadcast_to(x.reshape(len(x), -1, stack.shape[2]), (len(x), used, stack.shape[2]))
    out = np.empty((len(x), used, stack.shape[1]))
    for expert in np.unique(ids):
        mine = np.argwhere(ids == expert)
        for at in range(0, len(mine), _native.GATHERED):
            taken = tuple(mine[at : at + _native.GATHERED].T)
            out[taken] = _product(case.type, parts[taken], stack[expert], *(bias[expert] for bias in case.weights[1:]))
    return out.reshape(case.exact.shape)


def _mix(case: Case) -> Array:
    parts, weights = (abs(x) for x in case.inputs)
    used = case.op.i[0]
    terms = parts.reshape(len(parts), used, -1) * weights[:, weights.shape[1] - used :, None]
    result: Array = (used + 1) * U * terms.sum(axis=1)
    return result


def _conv(case: Case) -> Array:
    taps = case.op.i[0]
    (x,) = (abs(x) for x in case.history)
    weight = abs(case.weights[0])
    padded = np.concatenate([np.zeros((taps - 1, x.shape[1])), x])
    terms = sum(padded[k : k + len(x)] * weight[:, k] for k in range(taps)) + (abs(case.weights[1]) if case.op.w1 >= 0 else 0)
    result: Array = (taps + 1) * U * terms[len(x) - len(case.exact) :]
    return result


def _scan(case: Case) -> Array:
    heads, width, groups, n_states = case.op.i[:4]
    x, dt = case.history
    end = heads * width
    a = case.weights[0]
    size, off = np.zeros((2, heads, width, n_states))  # what may be the magnitude of the state, and its error
    out = np.empty((len(x), end))
    for t in range(len(x)):
        b, c = abs(x[t, end:]).reshape(2, groups, 1, n_states).repeat(heads // groups, axis=1)
        value, step = abs(x[t, :end]).reshape(heads, width), dt[t][:, None]
        decay = np.exp(step * a)[:, None, :]
        put = (abs(step) * value)[:, :, None] * b
        relative = FUNCTION + 2 * U * abs(step * a)[:, None, :]
        off = decay * (off + size * (relative + 2 * U)) + 4 * U * put
        size = decay * size + put
        direct = abs(case.weights[1]).reshape(-1, 1) * value if case.op.w1 >= 0 else 0
        out[t] = ((off + (n_states + 2) * U * size) * c).sum(axis=2).reshape(end) + 4 * U * np.reshape(direct + 0 * value, end)
    return out[len(x) - len(case.exact) :]


def _delta(case: Case) -> Array:
    heads, width, groups, n_states, in_turn = case.op.i[:5]
    x, rates = case.history
    a = case.weights[0][:, None]
    group = np.arange(heads) % groups if in_turn else np.arange(heads) // (heads // groups)
    h, off = np.zeros((heads, width, n_states)), np.zeros((heads, width))  # the state, and the length of its error
    out = np.empty((len(x), heads, width))
    for t in range(len(x)):
        q, k = x[t, : 2 * groups * n_states].reshape(2, groups, 1, n_states)[:, group]
        value, (step, rate) = x[t, 2 * groups * n_states :].reshape(heads, width), rates[t].reshape(2, heads, 1)
        keep, relative = np.exp(step * a), FUNCTION + 2 * U * abs(step * a)
        h = keep[:, :, None] * h
        known, square = (h * k).sum(axis=2), (k * k).sum(axis=2)
        change = rate * (value - known)
        wrong = abs(rate) * (abs(h * k).sum(axis=2) * (relative + (n_states + 4) * U) + 2 * U * (abs(value) + abs(known)))
        off = keep * off * np.maximum(1, abs(1 - rate * square)) + np.sqrt(square) * (wrong + 3 * U * abs(change))
        off = off + np.sqrt((h * h).sum(axis=2)) * (relative + 2 * U)
        h = h + change[:, :, None] * k
        out[t] = np.sqrt((q * q).sum(axis=2)) * off + (n_states + 3) * U * abs(h * q).sum(axis=2)
    return abs(case.op.f[0]) * out.reshape(len(x), heads * width)[len(x) - len(case.exact) :]


_BOUNDS: dict[str, Callable[[Case], Array]] = {
    "EMBED": _copy, "ROWS": _copy, "SLICE": _copy, "RMSNORM": _rmsnorm, "LAYERNORM": _layernorm, "MATMUL": _matmul,
    "ROPE": _rope, "ATTN": _attn, "ACT": _act, "GLU": _glu, "ADD": _elementwise, "MUL": _elementwise, "SCALE": _elementwise,
    "ADD_BIAS": _elementwise, "SOFTCAP": _softcap, "CLAMP": _copy, "JOIN": _copy, "ROUTE": _route, "EXPERTS": _experts,
    "HEADS": _experts, "MIX": _mix, "CONV": _conv, "SCAN": _scan, "DELTA": _delta,
}  # fmt: skip
