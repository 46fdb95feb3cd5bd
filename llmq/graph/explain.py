"""Reading a tape: the listing of `model.explain()`, and the table of op kinds for docs/ops.md."""

from __future__ import annotations

import re
import sys
from collections import Counter

from llmq.graph.tape import KINDS, Op, Slot, State, Tape

__all__ = ["explain", "ops_markdown"]


def explain(tape: Tape, *, full: bool = False) -> str:
    """The tape as text: every op with what it reads, what it writes and where that lies, its weights with their types and
    bytes, and the totals. A block that only repeats the one before is one line unless `full`."""
    lines = [_head(tape), "", f"{'':>5}  {'op':<9} {'where':<22} {'reads':<12} {'writes':<28} weights"]
    ops = [tape.op(n) for n in range(len(tape.ops))]
    blocks = [(found[0] if (found := re.match(r"blk\.\d+\.", op.label)) else "") for op in ops]
    n, before = 0, ""
    while n < len(ops):
        end = n + 1
        while end < len(ops) and blocks[end] == blocks[n]:
            end += 1
        shape = "\n".join(_signature(tape, op) for op in ops[n:end])
        if blocks[n] and shape == before and not full:
            lines.append(f"{n:>5}  … {end - n} ops of {blocks[n][:-1]}, as the block before")
        else:
            lines += [f"{i:>5}  {_line(tape, ops[i])}" for i in range(n, end)]
        n, before = end, shape
    return "\n".join(lines) + "\n"


def _head(tape: Tape) -> str:
    stored = [w for w in tape.weights if w.data is None]
    types: Counter[str] = Counter()
    for w in stored:
        types[w.type.name] += w.nbytes
    kinds = ", ".join(f"{name} {_bytes(n)}" for name, n in types.most_common())
    state = sum(slot.heads * (slot.k_dim + slot.v_dim) for slot in tape.slots if isinstance(slot, Slot))
    recurrent = [slot.channels * slot.columns for slot in tape.slots if isinstance(slot, State)]
    shown = f", {sum(recurrent)} numbers per sequence in {len(recurrent)} more" if recurrent else ""
    kept = sum(int(v["width"]) for v in tape.values)
    return (
        f"{tape.arch}: {tape.n_layer} layers, width {tape.n_embd}, vocabulary {tape.n_vocab},"
        f" trained context {tape.n_ctx_train}\n"
        f"weights: {_bytes(sum(types.values()))} in {len(stored)} tensors ({kinds})\n"
        f"state: {state} numbers per token in {len(tape.slots) - len(recurrent)} slots{shown}\n"
        f"arena: {_bytes(4 * tape.arena)} per token for {len(tape.values)} values ({_bytes(4 * kept)} without reuse)"
    )


def _line(tape: Tape, op: Op) -> str:
    reads = " ".join(f"v{v}" for v in op.inputs) or ("tokens" if op.kind == "EMBED" else "")
    if op.out >= 0:
        value = tape.values[op.out]
        rows = "outputs" if value["tail"] else "tokens"
        writes = f"v{op.out} [{rows}, {value['width']}] @{value['offset']}"
    else:
        writes = f"slot {op.slot}"
    if op.slot >= 0 and op.out >= 0:
        reads += f" slot {op.slot}"
    return f"{op.kind:<9} {op.label:<22} {reads:<12} {writes:<28} {_weights(tape, op)}{_numbers(op)}".rstrip()


def _weights(tape: Tape, op: Op) -> str:
    shown = []
    for w in (tape.weights[i] for i in op.weights):
        shape = "x".join(map(str, w.shape))
        shown.append(f"{w.name} {shape} {w.type.name} {_bytes(w.nbytes)}" if w.data is None else f"{w.name} {shape} (computed)")
    return ", ".join(shown)


def _numbers(op: Op) -> str:
    shown = [f"i{n}={x}" for n, x in enumerate(op.i) if x] + [f"f{n}={x:.6g}" for n, x in enumerate(op.f) if x]
    return ("  " if op.weights else "") + " ".join(shown)


def _signature(tape: Tape, op: Op) -> str:
    # What makes two blocks look alike: everything but ids, offsets and the number of the block.
    name = re.sub(r"^blk\.\d+\.", "", op.label)
    widths = [int(tape.values["width"][v]) for v in (op.out, *op.inputs) if v >= 0]
    tails = [int(tape.values["tail"][v]) for v in (op.out, *op.inputs) if v >= 0]
    return f"{op.kind} {name} {widths} {tails} {op.i} {op.f} {[tape.weights[w].type for w in op.weights]}"


def _bytes(n: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"


def ops_markdown() -> str:
    """docs/ops.md: the op kinds of this build. `python -m llmq.graph.explain > docs/ops.md` writes it."""
    lines = [
        "# The op kinds of the tape",
        "",
        "Made from `csrc/ops.def` by `python -m llmq.graph.explain`; a test checks that it is current.",
        "",
        "A value is a float32 matrix (tokens, width). An op writes one value and reads at most two (a, b), up to two",
        "weights (w0, w1) and a state slot; i and f are its integers and floats. The NumPy function of each kind in",
        "`llmq/engine/ops.py` is its meaning.",
        "",
        "| kind | reads | weights | state | meaning |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS.values():
        reads = ", ".join(name for name, used in (("a", kind.reads_a), ("b", kind.reads_b)) if used) or "–"
        doc = kind.doc.replace("|", "\\|")
        lines.append(f"| {kind.name} | {reads} | {kind.weights or '–'} | {'yes' if kind.state else '–'} | {doc} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(ops_markdown())
