"""The ops other than matmul, in the widths of a 1.1B model: microseconds of one op for one token and for a prompt of 512,
attention behind other tokens too. A tape of COPIES of the op is run, and what it takes without them is taken off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from runs import timed

from llmq import _native
from llmq.cpu import default_threads
from llmq.engine.base import Batch
from llmq.engine.native import NativeEngine
from llmq.formats.checkpoint import Tensor
from llmq.graph.builder import Graph, Value
from llmq.graph.passes import freeze
from llmq.quant.types import QuantType

WIDTH, HEADS, KV_HEADS, HIDDEN, COPIES, N_VOCAB, N_CTX = 2048, 32, 4, 5632, 16, 16, 2048


class Ops:
    """A graph whose weights are made up on first use."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.g = Graph(self.tensors)

    def w(self, name: str, *shape: int):  # type: ignore[no-untyped-def]
        values = np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)
        self.tensors[name] = Tensor(name, shape, QuantType.F32, lambda: values.reshape(-1).view(np.uint8))
        return self.g.w(name, shape)

    def engine(self, op: Callable[[Ops, Value, int], Value], width: int, copies: int) -> NativeEngine:
        x = self.g.embed(self.w("embed", N_VOCAB, width))
        for i in range(copies):
            x = op(self, x, i)
        logits = self.g.matmul(x, self.w("out", N_VOCAB, width))
        tape = freeze(self.g, logits, arch="made", n_vocab=N_VOCAB, n_embd=width, n_layer=1, n_ctx_train=N_CTX)
        return NativeEngine(tape, self.tensors, n_threads=default_threads())


def attention(o: Ops, x: Value, i: int) -> Value:
    d = WIDTH // HEADS
    kv = o.g.slice(x, 0, KV_HEADS * d)
    return o.g.attention(x, kv, kv, heads=HEADS, kv_heads=KV_HEADS, scale=d**-0.5)


def rope(o: Ops, x: Value, i: int) -> Value:
    table = o.g.const(f"table {i}", (10_000.0 ** -np.linspace(0, 1, 32, endpoint=False)).astype(np.float32))
    return o.g.rope(x, table, HEADS, interleaved=True)


# of mamba with 370M parameters, and of a mamba2 of the same width with heads of 64 columns
INNER, STATES, SSM_HEADS = 2048, {"mamba": 16, "mamba2": 128}, {"mamba": 2048, "mamba2": 32}


def scan(kind: str) -> tuple[int, Callable[[Ops, Value, int], Value]]:
    """B and C, and the steps, are those of the token before it: joined to the output again."""
    states, heads = STATES[kind], SSM_HEADS[kind]

    def op(o: Ops, x: Value, i: int) -> Value:
        a, rest = o.w(f"a {i}", heads, 1 if kind == "mamba2" else states), o.g.slice(x, INNER, 2 * states)
        y = o.g.scan(x, o.g.slice(x, 0, heads), a, None, heads=heads, width=INNER // heads, groups=1, states=states)
        return o.g.join(y, rest, 1, INNER + 2 * states)

    return INNER + 2 * states, op


def delta(o: Ops, x: Value, i: int) -> Value:
    """16 heads of 128 by 128, as Qwen3.5-0.8B has them; queries, keys and rates are those of the token before it."""
    n, d = 16, 128
    rates = o.g.clamp(o.g.slice(x, 0, 2 * n), 0.1, 0.9)
    y = o.g.delta(x, rates, o.w(f"a {i}", n), heads=n, width=d, groups=n, states=d, in_turn=False, scale=0.1)
    return o.g.join(o.g.slice(x, 0, 2 * n * d), y, 1, 3 * n * d)


OPS: dict[str, tuple[int, Callable[[Ops, Value, int], Value]]] = {
    "rmsnorm": (WIDTH, lambda o, x, i: o.g.rmsnorm(x, o.w(f"norm {i}", WIDTH), 1e-5)),
    "layernorm": (WIDTH, lambda o, x, i: o.g.layernorm(x, o.w(f"norm {i}", WIDTH), None, 1e-5)),
    "rope": (WIDTH, rope),
    "add": (WIDTH, lambda o, x, i: o.g.add(x, x)),
    "silu gate": (HIDDEN, lambda o, x, i: o.g.glu(x, x, "silu")),
    "gelu gate": (HIDDEN, lambda o, x, i: o.g.glu(x, x, "gelu_tanh")),
    "softcap": (WIDTH, lambda o, x, i: o.g.softcap(x, 30.0)),
    "attention": (WIDTH, attention),
    "conv": (INNER, lambda o, x, i: o.g.conv(x, o.w(f"taps {i}", INNER, 4))),
    "scan mamba": scan("mamba"),
    "scan mamba2": scan("mamba2"),
    "delta": (3 * INNER, delta),
}
CASES = [(name, n, 0) for name in OPS for n in (1, 512)] + [("attention", n, 1024) for n in (1, 512)]


@pytest.mark.parametrize(("name", "n", "depth"), CASES)
def test_op(benchmark, name: str, n: int, depth: int) -> None:  # type: ignore[no-untyped-def]
    width, op = OPS[name]
    taken = []
    for copies in (0, COPIES):
        with Ops().engine(op, width, copies) as engine:
            seq, other = engine.new_sequence(), engine.new_sequence()
            engine.run(
                _batch(other, 0, 1)
            )  # while it holds states, the memory of those that are cut off is kept and used again
            if depth:
                engine.run(_batch(seq, 0, depth))

            def once(engine: NativeEngine = engine, seq: int = seq) -> None:
                engine.truncate(seq, depth)
                engine.run(_batch(seq, depth, n))

            once()
            taken.append(min(timed(once) for _ in range(9)))
            if copies:
                benchmark(once)
    microseconds = round(1e6 * (taken[1] - taken[0]) / COPIES, 2)
    benchmark.extra_info.update(isa=_native.isa_used(), threads=default_threads(), us=microseconds)


def _batch(seq: int, at: int, n: int) -> Batch:
    places = np.arange(at, at + n, dtype=np.int32)
    return Batch(places % N_VOCAB, places, np.full(n, seq, np.int32), np.arange(n, dtype=np.int32))
