"""Mixtures of experts: routing, multiplication by experts, and the feed-forward made of them, native against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_cases import level  # noqa: F401
from test_engine_native import N_VOCAB, Builder, tokens
from tiny import batch, retyped, tensor

from llmq.engine.compare import compare_ops
from llmq.engine.native import NativeEngine
from llmq.engine.reference import ReferenceEngine
from llmq.errors import TapeError
from llmq.graph.builder import Param, Value
from llmq.graph.passes import freeze
from llmq.graph.tape import Tape
from llmq.quant.types import QuantType

ROUTINGS = {
    "one": (1, {}),
    "all": (12, {"normalize": True}),
    "softmax": (3, {}),
    "normalized and scaled": (3, {"normalize": True, "scale": 2.5}),
    "sigmoid": (4, {"sigmoid": True}),
    "biased": (4, {"sigmoid": True, "normalize": True, "biased": True}),
    "groups": (2, {"groups": 4, "groups_used": 2}),
    "groups by two": (5, {"sigmoid": True, "biased": True, "groups": 3, "groups_used": 2, "by_two": True}),
}


def result(made: Builder, x: Value) -> Tape:
    """The tape whose result is x itself."""
    return freeze(made.g, x, arch="made", n_vocab=N_VOCAB, n_embd=x.width, n_layer=1, n_ctx_train=1024)


def routed(name: str, made: Builder, x: Value, experts: int = 12) -> tuple[Value, int]:
    used, options = ROUTINGS[name]
    options = dict(options)
    bias = made.w("bias", experts, spread=0.5) if options.pop("biased", False) else None
    logits = made.g.matmul(x, made.w("router", experts, x.width, spread=2.0))
    return made.g.route(logits, used, bias=bias, **options), used


def outcomes(tape: Tape, made: Builder, ids: np.ndarray) -> list[np.ndarray]:
    """The result as float64 NumPy and as the native engine has it."""
    exact = ReferenceEngine(tape, made.tensors, dtype=np.float64)
    native = NativeEngine(tape, made.tensors, n_threads=2)
    with exact, native:
        return [engine.run(batch((engine.new_sequence(), 0, ids))) for engine in (exact, native)]


@pytest.mark.parametrize("name", ROUTINGS)
def test_routing(name: str) -> None:
    made = Builder()
    routes, used = routed(name, made, made.embed(40))
    tape = result(made, routes)
    ids = tokens(33)
    want, got = outcomes(tape, made, ids)
    np.testing.assert_array_equal(got[:, :used], want[:, :used])
    np.testing.assert_allclose(got[:, used:], want[:, used:], rtol=1e-5, atol=1e-7)
    assert all(len(set(row)) == used for row in got[:, :used].tolist())
    options = ROUTINGS[name][1]
    if "groups" in options:
        groups = [{int(e) // (12 // options["groups"]) for e in row} for row in got[:, :used]]
        assert max(map(len, groups)) == options["groups_used"]
    if options.get("normalize"):
        np.testing.assert_allclose(got[:, used:].sum(axis=1), options.get("scale", 1.0), rtol=1e-5)


def test_routing_of_equal_and_of_broken_scores() -> None:
    """Of equal experts the first ones; with NaN there are still different experts in range, and the weights show it."""
    made = Builder()
    logits = made.g.embed(made.w("embed", N_VOCAB, 6))
    values = np.array([[1, 1, 1, 1, 1, 1], [0, 2, 1, 2, 2, 0], [np.nan, 0, 1, 0, 0, 0]], np.float32)
    made.tensors["embed"] = tensor("embed", np.concatenate([values, np.zeros((N_VOCAB - 3, 6), np.float32)]))
    tape = result(made, made.g.route(logits, 3))
    with NativeEngine(tape, made.tensors, n_threads=1) as engine:
        out = engine.run(batch((engine.new_sequence(), 0, [0, 1, 2])))
    assert out[:2, :3].tolist() == [[0, 1, 2], [1, 3, 4]]
    assert len(set(out[2, :3].tolist()) & set(range(6))) == 3 and np.isnan(out[2, 3:]).all()


class Typed(Builder):
    """Experts in `qtype`, everything else F32."""

    def __init__(self, qtype: QuantType) -> None:
        super().__init__()
        self.qtype = qtype

    def w(self, name: str, *shape: int, spread: float = 1.0) -> Param:
        if len(shape) < 3:
            return super().w(name, *shape, spread=spread)
        values = self.rng.standard_normal(shape) * shape[-1] ** -0.5
        self.tensors[name] = retyped(tensor(name, values.astype(np.float32)), self.qtype)
        return self.g.w(name, shape)


def mixture(made: Builder, *, d: int = 64, ff: int = 96, experts: int = 12, biases: bool = True) -> Tape:
    g, x = made.g, made.embed(d)
    routes, used = routed("normalized and scaled", made, x, experts)
    gate, up = (
        g.experts(x, routes, made.w(name, experts, ff, d), made.w(f"{name}.b", experts, ff) if biases else None)
        for name in ("gate", "up")
    )
    y = g.experts(g.glu(gate, up, "silu"), routes, made.w("down", experts, d, ff))
    return made.tape(g.add(x, g.mix(y, routes, used)))


@pytest.mark.parametrize("qtype", [QuantType.F32, QuantType.BF16, QuantType.Q8_0])
def test_mixture_at_every_level(level: str, qtype: QuantType) -> None:  # noqa: F811
    """Each op within its bound, for many tokens (more of one expert than are taken at once) and for one."""
    made = Typed(qtype)
    n = 260
    found = compare_ops(
        mixture(made, d=32, ff=64, experts=3),
        made.tensors,
        tokens(n).tolist(),
        lambda tape, tensors: NativeEngine(tape, tensors, n_threads=2, n_batch=n),
    )
    assert found.first is None, found
    assert {"ROUTE", "EXPERTS", "MIX"} <= {op.kind for op in found.ops}


def logits_of(tape: Tape, made: Builder, ids: np.ndarray, parts: list[int], n_threads: int) -> np.ndarray:
    with NativeEngine(tape, made.tensors, n_threads=n_threads, n_batch=512) as engine:
        seq, out, at = engine.new_sequence(), [], 0
        for n in parts:
            out.append(engine.run(batch((seq, at, ids[at : at + n]))))
            at += n
    return np.concatenate(out)


@pytest.mark.parametrize("qtype", [QuantType.F32, QuantType.Q4_K])
def test_any_threads_and_any_batch_give_the_same_bits(qtype: QuantType) -> None:
    made = Typed(qtype)
    tape = mixture(made, d=256, ff=256, experts=5)
    ids = tokens(20)
    want = logits_of(tape, made, ids, [20], 1)
    for parts in ([1] * 20, [7, 13]):
        for n_threads in (1, 2, 5):
            np.testing.assert_array_equal(logits_of(tape, made, ids, parts, n_threads), want)


@pytest.mark.parametrize("qtype", [QuantType.F32, QuantType.Q4_K])
def test_gated_experts_are_a_part_of_their_products(qtype: QuantType) -> None:
    """From 32 tokens on, without biases; the bits stay."""
    made = Typed(qtype)
    tape = mixture(made, d=256, ff=256, experts=7, biases=False)
    ids, want = tokens(40), None
    for parts in ([20, 20], [40]):
        for n_threads in (1, 2, 5):
            got = logits_of(tape, made, ids, parts, n_threads)
            want = got if want is None else want
            np.testing.assert_array_equal(got, want)


def test_a_token_reads_the_experts_that_it_uses() -> None:
    made = Builder()
    tape = mixture(made)  # 3 of 12 experts
    sizes = {w.name: w.nbytes for w in tape.weights if "matmul" in w.uses}
    experts = sum(sizes.pop(name) for name in ("gate", "up", "down"))
    assert set(sizes) == {"router", "out"}
    assert tape.bytes_per_token == sum(sizes.values()) + experts // 4


def test_heads_and_columns() -> None:
    """HEADS, SLICE of heads and JOIN with heads of their own and with a shared one."""
    made = Builder()
    g, x = made.g, made.embed(60)
    y = g.heads(x, made.w("w", 5, 9, 12))
    left, shared = g.slice(y, 1, 4, heads=5), g.slice(y, 0, 3)
    joined = g.join(g.join(left, g.slice(y, 6, 2, heads=5), 5, 6), shared, 5, 9)
    tape = result(made, joined)
    ids = tokens(40)
    want, got = outcomes(tape, made, ids)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got.reshape(40, 5, 9)[:, 1:, 6:], np.repeat(got.reshape(40, 5, 9)[:, :1, 6:], 4, axis=1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"used": 13}, "13 of 12 experts"),
        ({"used": 5, "groups": 3, "groups_used": 1}, "5 experts out of 1 groups of 4"),
        ({"used": 2, "groups": 5}, "1 of 5 groups of 12 experts"),
        ({"used": 2, "groups": 12, "groups_used": 3, "by_two": True}, "groups of one"),
        ({"used": 2, "scale": 0.0}, "flags"),
    ],
)
def test_impossible_routings_are_found_by_the_verifier(change: dict[str, Any], words: str) -> None:
    made = Builder()
    x = made.embed(12)
    with pytest.raises(TapeError, match=words):
        result(made, made.g.route(x, **change))


def test_experts_of_another_shape_are_found_by_the_verifier() -> None:
    for columns, heads in ((7, 4), (8, 5)):
        made = Builder()
        x = made.embed(32)
        made.w("w", heads, 6, columns)
        with pytest.raises(TapeError, match="parts of"):
            result(made, made.g.heads(x, made.g.w("w", (heads, 6, columns))))
    made = Builder()
    x = made.embed(32)
    with pytest.raises(TapeError, match="no stack of matrices"):
        result(made, made.g.emit("EXPERTS", 6, x, x, w0=made.g.use(made.w("w", 6, 32), "matmul"), i=(1,)))
