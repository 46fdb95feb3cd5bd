"""What every op means, in NumPy: the specification that the native engine is held to.

Each function takes the op, the run it belongs to, and its inputs, matrices (tokens, width) of the run's float type; it
returns the op's output. Field meanings stand in csrc/ops.def."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmq.engine.base import Batch
from llmq.graph.tape import ACTIVATIONS, Op

__all__ = ["OPS", "Array", "History", "Run", "States", "activation"]

Array = npt.NDArray[Any]
"""A float matrix, of the type the engine computes in."""


class History(Protocol):
    """The keys and values of one slot of one sequence."""

    def put(self, start: int, keys: Array, values: Array) -> None:
        """Store rows (n, heads*dim) at positions start, start+1, …"""

    def get(self, end: int) -> tuple[Array, Array]:
        """The rows at positions 0 .. end-1."""


class States(Protocol):
    """The recurrent state of one slot of one sequence."""

    def get(self) -> Array:
        """(channels, columns), where the batch begins."""

    def put(self, position: int, state: Array) -> None:
        """Take the state after the first `position` tokens, as far as it is wanted."""


@dataclass
class Run:
    """One forward pass as ops see it.

    width(value): its columns; weight(id): the float matrix or vector; look_up(id, tokens): rows of a matrix;
    history(sequence, slot): keys and values; states(sequence, slot): recurrent state; source(sequence): the sequence that its
    encoder filled and its length;
    rows[sequence]: the batch indexes of its tokens, in order of position."""

    batch: Batch
    width: Callable[[int], int]
    weight: Callable[[int], Array]
    look_up: Callable[[int, npt.NDArray[np.int32]], Array]
    history: Callable[[int, int], History]
    states: Callable[[int, int], States]
    source: Callable[[int], tuple[int, int]]
    rows: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for seq in np.unique(self.batch.sequences).tolist():
            rows = np.flatnonzero(self.batch.sequences == seq)
            self.rows[seq] = rows[np.argsort(self.batch.positions[rows])]


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[x.dtype])(x) if x.size else x


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + _erf(x * x.dtype.type(math.sqrt(0.5)))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "gelu_quick": lambda x: x / (1 + np.exp(-x.dtype.type(1.702) * x)),
    "softplus": lambda x: np.logaddexp(x, 0),
}


def activation(number: int, x: Array) -> Array:
    """act_i0 of ACT and GLU."""
    with np.errstate(over="ignore"):  # exp(-x) of a very negative x is infinity, and the result 0, as it should be
        return _FUNCTIONS[ACTIVATIONS[number]](x)


def embed(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    batch = run.batch
    types = np.zeros_like(batch.tokens) if batch.types is None else batch.types
    rows = run.look_up(op.w0, (batch.tokens, batch.positions, types)[op.i[0]])
    out: Array = rows * rows.dtype.type(op.f[0])
    return out


def rmsnorm(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    (x,) = inputs
    group = op.i[0] or x.shape[1]
    grouped = x.reshape(len(x), x.shape[1] // group, group)
    mean = np.mean(grouped * grouped, axis=-1, keepdims=True)
    out: Array = grouped / np.sqrt(mean + x.dtype.type(op.f[0]))
    if op.w0 >= 0:
        out = out * run.weight(op.w0)
    return out.reshape(x.shape)


def layernorm(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    (x,) = inputs
    group = op.i[0] or x.shape[1]
    grouped = x.reshape(len(x), x.shape[1] // group, group)
    centred = grouped - np.mean(grouped, axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    out: Array = (centred / np.sqrt(variance + x.dtype.type(op.f[0]))).reshape(x.shape) * run.weight(op.w0).reshape(-1)
    return out + run.weight(op.w1) if op.w1 >= 0 else out


def matmul(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    out: Array = inputs[0] @ run.weight(op.w0).T
    return out + run.weight(op.w1) if op.w1 >= 0 else out


def rope(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    (x,) = inputs
    heads, head_dim, dims, apart = op.i[:4]
    out: Array = x.reshape(len(x), heads, head_dim).copy()
    angle = run.batch.positions.astype(x.dtype)[:, None, None] * run.weight(op.w0)
    cos, sin = (f(angle) * x.dtype.type(op.f[0]) for f in (np.cos, np.sin))
    first = out[..., : dims // 2] if apart else out[..., 0:dims:2]
    second = out[..., dims // 2 : dims] if apart else out[..., 1:dims:2]
    first[...], second[...] = first * cos - second * sin, first * sin + second * cos
    return out.reshape(x.shape)


def kv_put(op: Op, run: Run, inputs: Sequence[Array]) -> None:
    for seq, rows in run.rows.items():
        run.history(seq, op.slot).put(int(run.batch.positions[rows[0]]), inputs[0][rows], inputs[1][rows])


def attn(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    (q,) = inputs
    heads, k_dim, kv_heads, v_dim = op.i[:4]
    out = np.empty((len(q), heads * v_dim), q.dtype)
    for seq, rows in run.rows.items():
        positions = run.batch.positions[rows]
        owner, length = run.source(seq) if op.i[5] == 2 else (seq, int(positions[-1]) + 1)
        keys, values = run.history(owner, op.slot).get(length)
        n, m = len(rows), len(keys)
        # (kv head, query of its group, …): the heads of a group share one kv head
        k = keys.reshape(m, kv_heads, k_dim).transpose(1, 2, 0)
        v = values.reshape(m, kv_heads, v_dim).transpose(1, 0, 2)
        grouped = q[rows].reshape(n, kv_heads, heads // kv_heads, k_dim).transpose(1, 2, 0, 3).reshape(kv_heads, -1, k_dim)
        score = (grouped @ k).reshape(heads, n, m) * q.dtype.type(op.f[0])
        weight = _attention_weights(op, run, score, positions)
        mixed = (weight.reshape(kv_heads, -1, m) @ v).reshape(heads, n, v_dim)
        out[rows] = mixed.transpose(1, 0, 2).reshape(n, heads * v_dim)
    return out


def visible(op: Op, positions: npt.NDArray[np.int32], m: int) -> npt.NDArray[np.bool_]:
    """Which of m positions the tokens at `positions` attend to, (tokens, m)."""
    at, p = np.arange(m)[None, :], positions[:, None]
    seen = np.full((len(p), m), True) if op.i[5] else at <= p
    if op.i[4]:
        seen &= at >= p - p % op.i[4] if op.i[7] else at > p - op.i[4]
    return seen


def _attention_weights(op: Op, run: Run, score: Array, positions: npt.NDArray[np.int32]) -> Array:
    # softmax over the visible positions of score (heads, queries, positions), in place
    heads, _, m = score.shape
    cap, max_bias = op.f[1], op.f[2]
    if cap > 0:
        score = np.tanh(score / score.dtype.type(cap)) * score.dtype.type(cap)
    distance = np.arange(m)[None, :] - positions[:, None]
    if max_bias > 0:
        score = score + _alibi_slopes(heads, max_bias)[:, None, None].astype(score.dtype) * distance
    if op.w1 >= 0:
        reach = op.i[6]
        score = score + run.weight(op.w1)[:, np.clip(distance, -reach, reach) + reach]
    score = np.where(visible(op, positions, m), score, -np.inf)
    sinks = run.weight(op.w0)[:, None, None] if op.w0 >= 0 else None
    top = score.max(axis=-1, keepdims=True)
    if sinks is not None:
        top = np.maximum(top, sinks)
    score = np.exp(score - top)
    total = score.sum(axis=-1, keepdims=True)
    weight: Array = score / (total if sinks is None else total + np.exp(sinks - top))
    return weight


def _alibi_slopes(heads: int, max_bias: float) -> npt.NDArray[np.float64]:
    """Press et al. 2022: geometric slopes; head counts that are no power of two take every other slope of the next one for
    the rest."""
    whole = 1 << (heads.bit_length() - 1)
    slopes = 2.0 ** (-max_bias / whole * np.arange(1, whole + 1))
    more = 2.0 ** (-max_bias / (2 * whole) * np.arange(1, 2 * (heads - whole) + 1, 2))
    return np.concatenate([slopes, more])


def conv(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    (x,) = inputs
    taps = op.i[0]
    weight = run.weight(op.w0)
    out = np.empty_like(x)
    for seq, rows in run.rows.items():
        states = run.states(seq, op.slot)
        padded = np.concatenate([states.get().T, x[rows]])
        out[rows] = sum(padded[k : k + len(rows)] * weight[:, k] for k in range(taps))
        for n, row in enumerate(rows):
            states.put(int(run.batch.positions[row]) + 1, padded[n + 1 : n + taps].T)
    return out + run.weight(op.w1) if op.w1 >= 0 else out


def scan(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    x, dt = inputs
    n_heads, width, groups, n_states = op.i[:4]
    a, d = run.weight(op.w0), run.weight(op.w1).reshape(-1, 1) if op.w1 >= 0 else None
    end = n_heads * width
    out = np.empty((len(x), n_heads, width), x.dtype)
    for seq, rows in run.rows.items():
        states = run.states(seq, op.slot)
        h = states.get().reshape(n_heads, width, n_states)
        for row in rows:
            b, c = x[row, end:].reshape(2, groups, 1, n_states).repeat(n_heads // groups, axis=1)
            value, step = x[row, :end].reshape(n_heads, width), dt[row][:, None]
            h = np.exp(step * a)[:, None, :] * h + (step * value)[:, :, None] * b
            out[row] = (h * c).sum(axis=2) + (0 if d is None else d * value)
            states.put(int(run.batch.positions[row]) + 1, h.reshape(end, n_states))
    return out.reshape(len(x), end)


def delta(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    x, rates = inputs
    n_heads, width, groups, n_states, in_turn = op.i[:5]
    a = run.weight(op.w0)
    group = np.arange(n_heads) % groups if in_turn else np.arange(n_heads) // (n_heads // groups)
    out = np.empty((len(x), n_heads, width), x.dtype)
    for seq, rows in run.rows.items():
        states = run.states(seq, op.slot)
        h = states.get().reshape(n_heads, width, n_states)
        for row in rows:
            q, k = x[row, : 2 * groups * n_states].reshape(2, groups, 1, n_states)[:, group]
            value, (step, rate) = x[row, 2 * groups * n_states :].reshape(n_heads, width), rates[row].reshape(2, n_heads)
            h = np.exp(step * a)[:, None, None] * h
            h = h + (rate[:, None] * (value - (h * k).sum(axis=2)))[:, :, None] * k
            out[row] = (h * q).sum(axis=2) * x.dtype.type(op.f[0])
            states.put(int(run.batch.positions[row]) + 1, h.reshape(n_heads * width, n_states))
    return out.reshape(len(x), n_heads * width)


def act(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    return activation(op.i[0], inputs[0])


def glu(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    return activation(op.i[0], inputs[0]) * inputs[1]


def add(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    out: Array = inputs[0] + inputs[1]
    return out


def mul(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    out: Array = inputs[0] * inputs[1]
    return out


def scale(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    (x,) = inputs
    out: Array = x * x.dtype.type(op.f[0]) + x.dtype.type(op.f[1])
    return out


def softcap(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    (x,) = inputs
    out: Array = np.tanh(x / x.dtype.type(op.f[0])) * x.dtype.type(op.f[0])
    return out


def add_bias(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    return inputs[0] + run.weight(op.w0)


def clamp(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    (x,) = inputs
    return np.clip(x, x.dtype.type(op.f[0]), x.dtype.type(op.f[1]))


def _heads(x: Array, heads: int) -> Array:
    return x.reshape(len(x), heads, x.shape[1] // heads)


def slice_(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    (x,) = inputs
    heads, width = op.i[1] or 1, run.width(op.out)
    return _heads(x, heads)[:, :, op.i[0] : op.i[0] + width // heads].reshape(len(x), width)


def join(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    a, b = inputs
    heads = op.i[0]
    right = (run.width(op.out) - a.shape[1]) // heads
    shared = np.broadcast_to(b.reshape(len(b), b.shape[1] // right, right), (len(b), heads, right))
    return np.concatenate([_heads(a, heads), shared], axis=2).reshape(len(a), run.width(op.out))


def route(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    (logits,) = inputs
    used, sigmoid, groups, kept, by_two, normalize = op.i[:6]
    if sigmoid:
        score = _FUNCTIONS["sigmoid"](logits)
    else:
        score = np.exp(logits - logits.max(axis=1, keepdims=True))
        score = score / score.sum(axis=1, keepdims=True)
    choice = score + run.weight(op.w0) if op.w0 >= 0 else score
    if groups > 1:
        grouped = np.sort(_heads(choice, groups), axis=2)
        best = grouped[:, :, -2:].sum(axis=2) if by_two else grouped[:, :, -1]
        out = np.argsort(-best, axis=1, kind="stable")[:, kept:]
        choice = _heads(choice, groups).copy()
        np.put_along_axis(choice, out[:, :, None], -np.inf, axis=1)
        choice = choice.reshape(score.shape)
    ids = np.argsort(-choice, axis=1, kind="stable")[:, :used]
    weight = np.take_along_axis(score, ids, axis=1)
    if normalize:
        weight = weight / (weight.sum(axis=1, keepdims=True) + weight.dtype.type(1e-20))
    if op.w1 >= 0:
        weight = weight * run.weight(op.w1)[ids]
    return np.concatenate([ids.astype(weight.dtype), weight * weight.dtype.type(op.f[0])], axis=1)


def experts(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    x, used = inputs[0], op.i[0]
    weight = run.weight(op.w0)
    ids = inputs[1][:, :used].astype(np.int64)
    parts = np.broadcast_to(_heads(x, x.shape[1] // weight.shape[2]), (len(x), used, weight.shape[2]))
    out = np.empty((len(x), used, weight.shape[1]), x.dtype)
    for expert in np.unique(ids):
        out[ids == expert] = parts[ids == expert] @ weight[expert].T
    if op.w1 >= 0:
        out = out + run.weight(op.w1)[ids]
    return out.reshape(len(x), run.width(op.out))


def heads(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    (x,) = inputs
    weight = run.weight(op.w0)
    out: Array = (_heads(x, len(weight)).transpose(1, 0, 2) @ weight.transpose(0, 2, 1)).transpose(1, 0, 2)
    return out.reshape(len(x), run.width(op.out))


def mix(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    parts, weights = inputs
    used = op.i[0]
    out: Array = (_heads(parts, used) * weights[:, weights.shape[1] - used :, None]).sum(axis=1)
    return out


def rows(op: Op, run: Run, inputs: Sequence[Array]) -> Array:
    return inputs[0][run.batch.outputs]


OPS: dict[str, Callable[..., Array | None]] = {
    "EMBED": embed, "RMSNORM": rmsnorm, "LAYERNORM": layernorm, "MATMUL": matmul, "ROPE": rope, "KV_PUT": kv_put, "ATTN": attn,
    "ACT": act, "GLU": glu, "ADD": add, "MUL": mul, "SCALE": scale, "SOFTCAP": softcap, "ADD_BIAS": add_bias, "CLAMP": clamp,
    "SLICE": slice_, "JOIN": join, "ROUTE": route, "EXPERTS": experts, "HEADS": heads, "MIX": mix, "CONV": conv, "SCAN": scan,
    "DELTA": delta, "ROWS": rows,
}  # fmt: skip
