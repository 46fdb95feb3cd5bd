"""The last look at a tape before it runs: every id, shape, flag and offset, checked from the frozen arrays alone.

Written apart from the builder and the passes, so that a mistake there is found here and never reaches a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from llmq.errors import TapeError
from llmq.graph.tape import (
    ACTIVATIONS,
    ALIGN,
    BODY,
    ENCODE,
    HEAD,
    KIND_NAMES,
    KINDS,
    MAX_EXPERTS,
    MAX_TAPS,
    OP_DTYPE,
    VALUE_DTYPE,
    Op,
    Slot,
    State,
    Tape,
)

__all__ = ["verify"]

RECURRENT = ("CONV", "SCAN", "DELTA")


class _Checker:
    """One tape and the op that is looked at."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.n = -1
        self.put_by: dict[int, int] = {}  # slot -> the part that fills it
        self.op = Op("")
        self.ops: list[Op] = []  # those looked at

    def need(self, condition: bool, what: str) -> None:
        if not condition:
            where = f"op {self.n} {self.op.kind} ({self.op.label}): " if self.n >= 0 else ""
            raise TapeError(f"{self.tape.arch} tape: {where}{what}")

    def width(self, value: int) -> int:
        return int(self.tape.values["width"][value])

    def weight(self, n: int, use: str, shape: tuple[int, ...]) -> None:
        w = self.tape.weights[n]
        self.need(use in w.uses, f"weight {w.name!r} is not declared for use as {use!r}")
        self.need(w.shape == shape, f"weight {w.name!r} has shape {w.shape}, the op needs {shape}")

    def same_width(self) -> None:
        op = self.op
        for v in op.inputs:
            self.need(
                self.width(v) == self.width(op.out), f"value {v} is {self.width(v)} wide, the output {self.width(op.out)}"
            )


def verify(tape: Tape) -> None:
    """Raise TapeError unless the tape keeps every rule of csrc/ops.def and of its memory plan."""
    c = _Checker(tape)
    c.need(tape.ops.dtype == OP_DTYPE and tape.ops.ndim == 1, "ops are not an array of OP_DTYPE")
    c.need(tape.values.dtype == VALUE_DTYPE and tape.values.ndim == 1, "values are not an array of VALUE_DTYPE")
    c.need(len(tape.labels) == len(tape.ops), "one label per op is needed")
    c.need(not tape.ops.flags.writeable and not tape.values.flags.writeable, "the arrays must be read-only")
    c.need(bool(np.all(tape.values["width"] >= 1)), "a value has no columns")
    for w in tape.weights:
        c.need(len(w.shape) >= 1 and min(w.shape) >= 1, f"weight {w.name!r} has shape {w.shape}")
        c.need(not {"f32", "lanes"} <= w.uses, f"weight {w.name!r} is read in two orders")
        if w.data is not None:
            c.need(
                w.data.dtype == np.float32 and w.data.shape == w.shape and bool(np.isfinite(w.data).all()), f"table {w.name!r}"
            )
    for n, slot in enumerate(tape.slots):
        sizes = (slot.channels, slot.columns) if isinstance(slot, State) else (slot.heads, slot.k_dim, slot.v_dim)
        c.need(min(sizes) >= 1 and (isinstance(slot, State) or slot.window >= 0), f"slot {n} is {slot}")
    written: set[int] = set()
    filled: set[int] = set()
    read: set[int] = set()
    for c.n in range(len(tape.ops)):
        c.need(0 <= int(tape.ops["kind"][c.n]) < len(KIND_NAMES), f"kind {tape.ops['kind'][c.n]} is unknown")
        c.op = tape.op(c.n)
        c.ops.append(c.op)
        _check_ids(c, written, filled)
        _check_tail(c)
        _SHAPES[c.op.kind](c)
        read.update(c.op.inputs)
    c.n = -1
    c.need(written == set(range(len(tape.values))), "a value is never written")
    c.need(filled == set(range(len(tape.slots))), "a state slot is never written")
    c.need(0 <= tape.result < len(tape.values), f"result {tape.result} is no value")
    c.need(bool(tape.values["tail"][tape.result]), "the result must have the output rows only")
    unread = written - read - {tape.result}
    c.need(not unread, f"values {sorted(unread)} are never read")
    _check_parts(c)
    _check_memory(c)


def _check_ids(c: _Checker, written: set[int], filled: set[int]) -> None:
    tape, op, kind = c.tape, c.op, KINDS[c.op.kind]
    c.need((op.a >= 0) == kind.reads_a and (op.b >= 0) == kind.reads_b, "reads the wrong number of values")
    for v in op.inputs:
        c.need(v in written, f"reads value {v} before it is written")
    if op.kind == "KV_PUT":
        c.need(op.out == -1, "has an output")
    else:
        c.need(0 <= op.out < len(tape.values) and op.out not in written, f"writes value {op.out}, which is taken or none")
        written.add(op.out)
    for n, w in enumerate((op.w0, op.w1)):
        c.need(-1 <= w < (len(tape.weights) if n < kind.weights else 0), f"weight id {w}")
    c.need((0 <= op.slot < len(tape.slots)) if kind.state else op.slot == -1, f"state slot {op.slot}")
    if kind.state:
        recurrent = op.kind in RECURRENT
        c.need(isinstance(tape.slots[op.slot], State) == recurrent, f"slot {op.slot} is {tape.slots[op.slot]}")
        c.need(not recurrent or op.part == BODY, "is recurrent and not in the body")
    if op.kind == "KV_PUT" or op.kind in RECURRENT:
        c.need(op.slot not in filled, f"slot {op.slot} is written twice")
        filled.add(op.slot)
    elif kind.state:
        c.need(op.slot in filled, f"slot {op.slot} is read before it is written")
    c.need(all(math.isfinite(x) for x in op.f), f"floats {op.f}")


def _check_tail(c: _Checker) -> None:
    # Positions and tokens are those of the whole batch, so only ops that look at single rows may run on the output rows alone.
    op, tail = c.op, c.tape.values["tail"]
    inside = {int(tail[v]) for v in op.inputs}
    if op.kind in ("EMBED", "ROPE", "KV_PUT", "ATTN", *RECURRENT):
        c.need(inside <= {0} and (op.out < 0 or tail[op.out] == 0), "needs every token, after ROWS")
    elif op.kind == "ROWS":
        c.need(inside == {0} and tail[op.out] == 1, "must go from all tokens to the output rows")
    else:
        c.need(inside == {int(tail[op.out])}, "mixes all tokens with the output rows")


def _check_parts(c: _Checker) -> None:
    # Parts run in order, the encoder possibly in another run: values pass from BODY to HEAD only, and each part that sees all
    # tokens begins by looking them up.
    tape = c.tape
    parts = tape.ops["part"].tolist()
    order = [ENCODE, BODY, HEAD]
    c.need(set(parts) <= set(order) and parts == sorted(parts, key=order.index), f"parts {parts}")
    made = {int(op["out"]): int(op["part"]) for op in tape.ops}
    for n, (part, op) in enumerate(zip(parts, c.ops, strict=True)):
        inside = {made[v] for v in op.inputs}
        c.need(inside <= ({BODY, HEAD} if part == HEAD else {part}), f"op {n} ({op.label}) reads values of another part")
        opens = part != HEAD and (n == 0 or parts[n - 1] != part)
        c.need(op.kind == "EMBED" or not opens, f"op {n} ({op.label}) opens a part and is no EMBED")
    c.need(-1 <= tape.hidden < len(tape.values), f"hidden state {tape.hidden} is no value")
    if tape.hidden >= 0:
        c.need(bool(tape.values["tail"][tape.hidden]) and made[tape.hidden] == BODY, "the hidden state is no output of BODY")
        read_later = any(tape.hidden in op.inputs for op in c.ops if op.part == HEAD)
        c.need((tape.hidden == tape.result) == (tape.output == "hidden"), f"the result is not {tape.output}")
        c.need(tape.hidden == tape.result or read_later, "the hidden state is not read by HEAD, so it may be overwritten")


def _embed(c: _Checker) -> None:
    by = c.op.i[0]
    c.need(c.op.w0 >= 0 and by in (0, 1, 2) and c.op.f[0] != 0, f"weight {c.op.w0}, i0 {by}, scale {c.op.f[0]}")
    rows = c.tape.weights[c.op.w0].shape[0] if by else c.tape.n_vocab
    c.weight(c.op.w0, "rows", (rows, c.width(c.op.out)))


def _norm(c: _Checker) -> None:
    op, width = c.op, c.width(c.op.out)
    c.same_width()
    c.need(op.f[0] > 0, f"epsilon {op.f[0]}")
    group = op.i[0] or width
    c.need(0 < group <= width and width % group == 0, f"groups of {group} columns in rows of {width}")
    if op.kind == "RMSNORM":
        c.need(op.i[1] in (0, 1), f"flags {op.i}")
        for w in op.weights:
            c.weight(w, "f32", (width // group, group) if op.i[1] else (group,))
        return
    c.need(op.w0 >= 0, "has no weight")
    c.weight(op.w0, "f32", (width // group, group) if op.i[0] else (width,))
    if op.w1 >= 0:
        c.weight(op.w1, "f32", (width,))


def _matmul(c: _Checker) -> None:
    rows = c.width(c.op.out)
    c.need(c.op.w0 >= 0, "has no weight")
    c.weight(c.op.w0, "matmul", (rows, c.width(c.op.a)))
    if c.op.w1 >= 0:
        c.weight(c.op.w1, "f32", (rows,))


def _rope(c: _Checker) -> None:
    heads, head_dim, dims, pairing = c.op.i[:4]
    c.same_width()
    c.need(
        heads >= 1 and heads * head_dim == c.width(c.op.a), f"{heads} heads of {head_dim} columns in rows of {c.width(c.op.a)}"
    )
    c.need(
        2 <= dims <= head_dim and dims % 2 == 0 and pairing in (0, 1),
        f"rotates {dims} of {head_dim} columns, pairing {pairing}",
    )
    c.need(c.op.w0 >= 0, "has no table")
    c.weight(c.op.w0, "f32", (dims // 2,))
    c.need(c.op.f[0] > 0, f"scale {c.op.f[0]}")


def _kv_put(c: _Checker) -> None:
    op, slot = c.op, c.tape.slots[c.op.slot]
    assert isinstance(slot, Slot)  # _check_ids
    c.put_by[op.slot] = op.part
    c.need(op.i[:3] == (slot.heads, slot.k_dim, slot.v_dim), f"puts {op.i[:3]} into a slot of {slot}")
    c.need(
        c.width(op.a) == slot.heads * slot.k_dim and c.width(op.b) == slot.heads * slot.v_dim, "keys or values of another width"
    )


def _attn(c: _Checker) -> None:
    op, slot = c.op, c.tape.slots[c.op.slot]
    assert isinstance(slot, Slot)  # _check_ids
    heads, k_dim, kv_heads, v_dim, window, whole, reach, chunked = op.i
    c.need(
        (kv_heads, k_dim, v_dim) == (slot.heads, slot.k_dim, slot.v_dim),
        f"reads {(kv_heads, k_dim, v_dim)} from a slot of {slot}",
    )
    c.need(heads >= 1 and heads % kv_heads == 0, f"{heads} heads over {kv_heads}")
    c.need(c.width(op.a) == heads * k_dim and c.width(op.out) == heads * v_dim, "queries or output of another width")
    c.need(
        window >= 0 and (slot.window == 0 or 0 < window <= slot.window), f"window {window} over a slot that keeps {slot.window}"
    )
    c.need(whole in (0, 1, 2) and 0 <= reach < 1 << 24, f"flags {op.i}")
    c.need(chunked == 0 or (chunked == 1 and window > 0 and whole == 0), f"chunks of {window}, flags {op.i}")
    c.need(op.f[0] > 0 and op.f[1] >= 0 and op.f[2] >= 0, f"scale, cap and bias {op.f}")
    if op.w0 >= 0:
        c.weight(op.w0, "f32", (heads,))
    c.need((op.w1 >= 0) == (reach > 0), f"biases {op.w1} for distances up to {reach}")
    if op.w1 >= 0:
        c.weight(op.w1, "f32", (heads, 2 * reach + 1))
    c.need((c.put_by[op.slot], op.part) == ((ENCODE, BODY) if whole == 2 else (op.part, op.part)), "a slot of another part")


def _conv(c: _Checker) -> None:
    op, (taps, channels) = c.op, c.op.i[:2]
    c.same_width()
    c.need(2 <= taps <= MAX_TAPS, f"{taps} taps, of at most {MAX_TAPS}")
    c.need(channels == c.width(op.a), f"{channels} channels in rows of {c.width(op.a)}")
    c.need(c.tape.slots[op.slot] == State(channels, taps - 1), f"keeps {taps - 1} rows in {c.tape.slots[op.slot]}")
    c.need(op.w0 >= 0, "has no weight")
    c.weight(op.w0, "lanes", (channels, taps))
    if op.w1 >= 0:
        c.weight(op.w1, "f32", (channels,))


def _scan(c: _Checker) -> None:
    op, (heads, columns, groups, states, shared) = c.op, c.op.i[:5]
    c.need(min(heads, columns, groups, states) >= 1 and heads % groups == 0, f"{heads} heads in {groups} groups, sizes {op.i}")
    c.need(c.width(op.a) == heads * columns + 2 * groups * states, f"{op.i} in rows of {c.width(op.a)}")
    c.need(c.width(op.b) == heads and c.width(op.out) == heads * columns, "steps or output of another width")
    c.need(c.tape.slots[op.slot] == State(heads * columns, states), f"keeps {states} states in {c.tape.slots[op.slot]}")
    c.need(op.w0 >= 0 and shared in (0, 1), f"weight {op.w0}, flags {op.i}")
    if shared:
        c.weight(op.w0, "f32", (heads, 1))
    else:
        c.need(columns == groups == 1, "decays of their own for states of heads with columns or groups")
        c.weight(op.w0, "lanes", (heads, states))
    if op.w1 >= 0:
        shape = c.tape.weights[op.w1].shape
        c.weight(op.w1, "f32", (heads, 1) if len(shape) == 2 else (heads,))


def _delta(c: _Checker) -> None:
    op, (heads, columns, groups, states, in_turn) = c.op, c.op.i[:5]
    c.need(min(heads, columns, groups, states) >= 1 and heads % groups == 0, f"{heads} heads in {groups} groups, sizes {op.i}")
    c.need(c.width(op.a) == heads * columns + 2 * groups * states, f"{op.i} in rows of {c.width(op.a)}")
    c.need(c.width(op.b) == 2 * heads and c.width(op.out) == heads * columns, "rates or output of another width")
    c.need(c.tape.slots[op.slot] == State(heads * columns, states), f"keeps {states} states in {c.tape.slots[op.slot]}")
    c.need(op.w0 >= 0 and in_turn in (0, 1) and op.f[0] > 0, f"weight {op.w0}, flags {op.i}, scale {op.f[0]}")
    c.weight(op.w0, "f32", (heads,))


def _act(c: _Checker) -> None:
    c.same_width()
    c.need(0 <= c.op.i[0] < len(ACTIVATIONS), f"activation {c.op.i[0]}")


def _softcap(c: _Checker) -> None:
    c.same_width()
    c.need(c.op.f[0] > 0, f"cap {c.op.f[0]}")


def _add_bias(c: _Checker) -> None:
    c.same_width()
    c.need(c.op.w0 >= 0, "has no bias")
    c.weight(c.op.w0, "f32", (c.width(c.op.out),))


def _clamp(c: _Checker) -> None:
    c.same_width()
    c.need(c.op.f[0] <= c.op.f[1], f"from {c.op.f[0]} to {c.op.f[1]}")


def _slice(c: _Checker) -> None:
    start, heads, out, a = c.op.i[0], c.op.i[1] or 1, c.width(c.op.out), c.width(c.op.a)
    c.need(heads >= 1 and out % heads == 0 and a % heads == 0, f"{heads} heads in rows of {a} and {out}")
    end = start + out // heads
    c.need(start >= 0 and end <= a // heads, f"columns {start}..{end} of {a // heads}")


def _join(c: _Checker) -> None:
    heads, a, b, out = c.op.i[0], c.width(c.op.a), c.width(c.op.b), c.width(c.op.out)
    c.need(heads >= 1 and a % heads == 0 and out % heads == 0, f"{heads} heads in rows of {a} and {out}")
    right = (out - a) // heads
    c.need(b in (right, heads * right), f"heads of {a // heads} columns of a leave {right} for b, which has {b} in all")


def _route(c: _Checker) -> None:
    experts, (used, sigmoid, groups, kept, by_two, normalize) = c.width(c.op.a), c.op.i[:6]
    c.need(1 <= used <= experts <= MAX_EXPERTS, f"{used} of {experts} experts, of at most {MAX_EXPERTS}")
    c.need(c.width(c.op.out) == 2 * used, f"{c.width(c.op.out)} columns for {used} experts")
    c.need({sigmoid, by_two, normalize} <= {0, 1} and c.op.f[0] > 0, f"flags {c.op.i} {c.op.f}")
    c.need(1 <= kept <= groups and experts % groups == 0, f"{kept} of {groups} groups of {experts} experts")
    c.need(not by_two or experts // groups > 1, "the two best of groups of one")
    c.need(used <= experts // groups * kept, f"{used} experts out of {kept} groups of {experts // groups}")
    for w in c.op.weights:
        c.weight(w, "f32", (experts,))


def _experts(c: _Checker) -> None:
    op, a = c.op, c.width(c.op.a)
    c.need(op.w0 >= 0 and len(c.tape.weights[op.w0].shape) == 3, "has no stack of matrices")
    experts, rows, columns = c.tape.weights[op.w0].shape
    parts = op.i[0]
    c.need(1 <= parts <= experts <= MAX_EXPERTS, f"{parts} of {experts} experts, of at most {MAX_EXPERTS}")
    c.need(op.kind == "EXPERTS" or parts == experts, f"{parts} heads, {experts} matrices")
    c.weight(op.w0, "matmul", (experts, rows, columns))
    fits = a == parts * columns or (op.kind == "EXPERTS" and a == columns)
    c.need(fits, f"{parts} parts of {columns} columns in rows of {a}")
    c.need(c.width(op.out) == parts * rows, f"{parts} parts of {rows} columns in rows of {c.width(op.out)}")
    if op.w1 >= 0:
        c.weight(op.w1, "f32", (experts, rows))
    if op.b >= 0:
        c.need(c.width(op.b) >= parts, f"{parts} choices in rows of {c.width(op.b)}")


def _mix(c: _Checker) -> None:
    parts, a, b, out = c.op.i[0], c.width(c.op.a), c.width(c.op.b), c.width(c.op.out)
    c.need(parts >= 1 and a == parts * out and b >= parts, f"{parts} parts in rows of {a}, weights in rows of {b}")


_SHAPES: dict[str, Callable[[_Checker], None]] = {
    "EMBED": _embed, "RMSNORM": _norm, "LAYERNORM": _norm, "MATMUL": _matmul, "ROPE": _rope, "KV_PUT": _kv_put, "ATTN": _attn,
    "ACT": _act, "GLU": _act, "ADD": _Checker.same_width, "MUL": _Checker.same_width, "SCALE": _Checker.same_width,
    "SOFTCAP": _softcap, "ADD_BIAS": _add_bias, "CLAMP": _clamp, "SLICE": _slice, "JOIN": _join,
    "ROUTE": _route, "EXPERTS": _experts, "HEADS": _experts, "MIX": _mix, "CONV": _conv, "SCAN": _scan,
    "DELTA": _delta, "ROWS": _Checker.same_width,
}  # fmt: skip


def _check_memory(c: _Checker) -> None:
    # Two values overlap in memory only if one is read for the last time before the other is written.
    tape = c.tape
    first = np.zeros(len(tape.values), np.int64)
    last = np.zeros(len(tape.values), np.int64)
    for n, op in enumerate(c.ops):
        if op.out >= 0:
            first[op.out] = last[op.out] = n
        for v in op.inputs:
            last[v] = n
    last[tape.result] = len(tape.ops)
    start = tape.values["offset"]
    end = start + tape.values["width"]
    c.need(
        bool(np.all(start >= 0) and np.all(start % ALIGN == 0) and np.all(end <= tape.arena)), "a value lies outside the arena"
    )
    for v in range(len(tape.values)):
        clash = (first <= last[v]) & (first[v] <= last) & (start < end[v]) & (start[v] < end)
        clash[v] = False
        c.need(not clash.any(), f"values {v} and {np.flatnonzero(clash)[:1]} share memory while both are alive")
