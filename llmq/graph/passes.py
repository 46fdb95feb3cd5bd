"""From a built graph to a frozen tape: where the unwanted rows are dropped, and where every value lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmq.graph.builder import Graph, Value
from llmq.graph.tape import ALIGN, KIND_NAMES, OP_DTYPE, VALUE_DTYPE, Op, Tape
from llmq.graph.verify import verify

__all__ = ["freeze"]


NEEDS_ALL = frozenset({"ROPE", "KV_PUT", "ATTN", "CONV", "SCAN", "DELTA"})
"""Kinds that look at positions and sequences, which are those of the whole batch."""


@dataclass
class Program:
    """Ops over values of known widths; tail[v]: value v has only the output rows."""

    ops: list[Op]
    widths: list[int]
    tail: list[bool]
    result: int
    hidden: int = -1


def freeze(graph: Graph, result: Value, *, arch: str, n_vocab: int, n_embd: int, n_layer: int, n_ctx_train: int) -> Tape:
    """The tape that computes `result`, placed and verified."""
    program = place_rows(graph.ops, graph.widths, result.id, graph.hidden.id if graph.hidden else -1)
    offsets, arena = plan_memory(program)
    ops = np.zeros(len(program.ops), OP_DTYPE)
    for row, op in zip(ops, program.ops, strict=True):
        row["kind"] = KIND_NAMES.index(op.kind)
        for name in ("out", "a", "b", "w0", "w1", "slot", "part", "i", "f"):
            row[name] = getattr(op, name)
    values = np.zeros(len(program.widths), VALUE_DTYPE)
    values["width"], values["tail"], values["offset"] = program.widths, program.tail, offsets
    ops.flags.writeable = values.flags.writeable = False
    tape = Tape(
        arch=arch,
        ops=ops,
        values=values,
        weights=tuple(graph.weights),
        slots=tuple(graph.slots),
        labels=tuple(op.label for op in program.ops),
        result=program.result,
        arena=arena,
        n_vocab=n_vocab,
        n_embd=n_embd,
        n_layer=n_layer,
        n_ctx_train=n_ctx_train,
        hidden=program.hidden,
        output=graph.output,
    )
    verify(tape)
    return tape


def place_rows(ops: Sequence[Op], widths: Sequence[int], result: int, hidden: int = -1) -> Program:
    """Insert ROWS so that only what feeds the state is computed for every token.

    A value must be whole when an op of NEEDS_ALL, or a whole value that one needs, reads it; everything else is computed for
    the output rows alone. Each whole value that such an op reads gets one ROWS, right before its first reader. Ops whose
    output nobody reads are dropped."""
    whole: set[int] = set()  # the values that those ops depend on
    live = {result}
    kept: list[Op] = []
    for op in reversed(ops):
        if op.out not in live and op.out >= 0:
            continue
        kept.append(op)
        live.update(op.inputs)
        if op.kind in NEEDS_ALL or op.out in whole:
            whole.update(op.inputs)
    new_ops: list[Op] = []
    new_widths, tail = list(widths), [False] * len(widths)
    short: dict[int, int] = {}  # whole value -> its output rows
    part = {op.out: op.part for op in kept}

    def rows_of(value: int, label: str) -> int:
        if tail[value]:
            return value
        if value not in short:
            short[value] = len(new_widths)
            new_widths.append(widths[value])
            tail.append(True)
            new_ops.append(Op("ROWS", short[value], value, label=f"{label}.rows", part=part[value]))
        return short[value]

    for op in reversed(kept):
        if op.kind in NEEDS_ALL or op.out in whole or not op.inputs:
            new_ops.append(op)
            continue
        a = rows_of(op.a, op.label)
        b = rows_of(op.b, op.label) if op.b >= 0 else -1
        tail[op.out] = True
        new_ops.append(replace(op, a=a, b=b))
    result, hidden = (rows_of(v, label) if v >= 0 else -1 for v, label in ((result, "result"), (hidden, "hidden")))
    return _compact(new_ops, new_widths, tail, result, hidden)


def _compact(ops: list[Op], widths: list[int], tail: list[bool], result: int, hidden: int) -> Program:
    # Values that no op writes any more leave, so that ids are the order of writing.
    order = [op.out for op in ops if op.out >= 0]
    new_id = {old: new for new, old in enumerate(order)} | {-1: -1}
    moved = [replace(op, out=new_id[op.out], a=new_id[op.a], b=new_id[op.b]) for op in ops]
    return Program(moved, [widths[v] for v in order], [tail[v] for v in order], new_id[result], new_id[hidden])


def plan_memory(program: Program) -> tuple[list[int], int]:
    """An arena offset for every value, in floats per token, and the size of the arena.

    A value lives from the op that writes it to its last reader, the result for ever; no two that live at the same op share
    memory. What gates are made of lives until they are applied: an engine may do both at once (csrc/plan.c). Best fit: values
    in order of writing, each into the smallest gap that the living leave."""
    last = [0] * len(program.widths)
    writer: dict[int, Op] = {}
    for n, op in enumerate(program.ops):
        made_of = [v for product in op.inputs if op.kind == "GLU" and product in writer for v in writer[product].inputs]
        for v in (*op.inputs, *made_of, *([op.out] if op.out >= 0 else [])):
            last[v] = n
        if op.out >= 0:
            writer[op.out] = op
    last[program.result] = len(program.ops)
    offsets = [0] * len(program.widths)
    living: list[tuple[int, int, int]] = []  # (offset, end, value), ascending
    arena = 0
    for n, op in enumerate(program.ops):
        living = [entry for entry in living if last[entry[2]] >= n]
        if op.out < 0:
            continue
        room = -(-program.widths[op.out] // ALIGN) * ALIGN
        gaps, start = [], 0
        for begin, end, _ in living:
            gaps.append((begin - start, start))
            start = end
        fitting = [(size, at) for size, at in gaps if size >= room]
        offset = min(fitting)[1] if fitting else start
        offsets[op.out] = offset
        living.append((offset, offset + room, op.out))
        living.sort()
        arena = max(arena, offset + room)
    return offsets, arena
