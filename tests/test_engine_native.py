"""The native engine against the reference engine: every op, attention over pages and chunks, sequences, failures."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tiny import batch, checkpoint, tensor, write_gguf

from llmq import _native
from llmq.arch import build_tape
from llmq.cpu import use_isa
from llmq.engine import native
from llmq.engine.base import Batch
from llmq.engine.compare import compare_ops
from llmq.engine.memory import available_memory
from llmq.engine.native import NativeEngine
from llmq.engine.reference import ReferenceEngine
from llmq.errors import Cancelled, FormatError, ModelClosedError, OutOfMemoryError, TruncatedError
from llmq.formats import open_checkpoint
from llmq.formats.checkpoint import Checkpoint, Tensor
from llmq.graph.builder import Graph, Param, Value
from llmq.graph.passes import freeze
from llmq.graph.tape import ACTIVATIONS, KINDS, Tape
from llmq.quant.rows import quantize
from llmq.quant.types import QuantType

N_VOCAB = 37


@pytest.fixture(params=_native.isa_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.isa_used()
    use_isa(request.param)
    yield request.param
    use_isa(before)


class Builder:
    """A Graph whose weights are made up, seeded, on first use."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}
        self.g = Graph(self.tensors)

    def w(self, name: str, *shape: int, spread: float = 1.0, qtype: QuantType = QuantType.F32) -> Param:
        values = self.rng.standard_normal(shape) * (shape[-1] ** -0.5 if len(shape) > 1 else 1) * spread
        data = quantize(values.astype(np.float32), qtype)
        self.tensors[name] = Tensor(name, shape, qtype, lambda: data.reshape(-1))
        return self.g.w(name, shape)

    def embed(self, width: int) -> Value:
        return self.g.embed(self.w("embed", N_VOCAB, width, spread=4.0), 0.5)

    def tape(self, x: Value) -> Tape:
        logits = self.g.matmul(x, self.w("out", N_VOCAB, x.width))
        return freeze(self.g, logits, arch="made", n_vocab=N_VOCAB, n_embd=x.width, n_layer=1, n_ctx_train=1024)


def tokens(n: int, seed: int = 1) -> npt.NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, N_VOCAB, n).astype(np.int32)


def both(made: Builder, tape: Tape, parts: list[int], *, n_threads: int = 2, kv_type: str = "f32", n_batch: int = 512) -> float:
    """The largest difference to the float64 reference, for one sequence in parts, relative to the largest logit."""
    exact = ReferenceEngine(tape, made.tensors, dtype=np.float64)
    fast = NativeEngine(tape, made.tensors, n_threads=n_threads, kv_type=kv_type, n_batch=n_batch)
    a, b = exact.new_sequence(), fast.new_sequence()
    ids, at, worst = tokens(sum(parts)), 0, 0.0
    for n in parts:
        want = exact.run(batch((a, at, ids[at : at + n])))
        got = fast.run(batch((b, at, ids[at : at + n])))
        worst = max(worst, float(np.abs(want - got).max() / np.abs(want).max()))
        at += n
    fast.close()
    return worst


def test_every_op(level: str) -> None:
    """All kinds in one tape, at widths that leave tails in every vector, with and without optional weights."""
    m = Builder()
    g, x = m.g, m.embed(60)
    x = g.add(x, g.rmsnorm(x, None, 1e-5))
    x = g.mul(x, g.rmsnorm(x, m.w("group", 15), 1e-5, 15))
    x = g.layernorm(x, m.w("ln", 60), m.w("ln.b", 60), 1e-5)
    x = g.layernorm(x, m.w("ln heads", 4, 15), m.w("ln heads.b", 60), 1e-5, 15)
    x = g.add_bias(g.matmul(x, m.w("w1", 77, 60), m.w("w1.b", 77)), m.w("bias", 77))
    table = g.const("table", np.array([1.0, 0.3, 0.01], np.float32))
    for interleaved in (True, False):
        x = g.rope(x, table, 7, interleaved=interleaved, scale=1.25)
    x = g.layernorm(g.slice(x, 5, 71), m.w("ln2", 71), None, 1e-6)
    for name in ACTIVATIONS:
        x = g.add(g.scale(g.act(g.scale(x, 3.0), name), 0.5, -0.25), g.glu(x, g.scale(x, -1.5), name))
    x = g.softcap(g.scale(x, 4.0), 3.0)
    x = g.softcap(g.add(x, g.attention(x, x, x, heads=1, kv_heads=1, scale=0.1)), 5.0)
    routes = g.route(g.matmul(x, m.w("router", 9, 71)), 4, normalize=True)
    parts = g.clamp(g.experts(x, routes, m.w("experts", 9, 21, 71), m.w("experts.b", 9, 21)), -1.0, 1.5)
    x = g.heads(g.mix(parts, routes, 4), m.w("heads", 3, 11, 7))
    x = g.join(g.join(x, g.slice(x, 2, 5, heads=3), 3, 16), g.slice(x, 0, 6), 3, 22)
    x = g.conv(x, m.w("conv", 66, 3), m.w("conv.b", 66))
    x = g.rmsnorm(x, m.w("group weights", 6, 11), 1e-5, 11)
    decay = g.const("decay", -np.linspace(0.1, 2, 6, dtype=np.float32)[:, None])
    steps = g.act(g.slice(x, 20, 6), "softplus")
    x = g.scan(x, steps, decay, m.w("d", 6), heads=6, width=9, groups=2, states=3)
    rates = g.act(g.slice(x, 40, 12), "sigmoid")
    log_decay = g.const("log decay", -np.linspace(0.1, 2, 6, dtype=np.float32))
    x = g.delta(g.scale(x, 0.3), rates, log_decay, heads=6, width=7, groups=2, states=3, in_turn=False, scale=0.7)
    tape = m.tape(x)
    assert set(KINDS) == {tape.op(n).kind for n in range(len(tape.ops))}
    assert both(m, tape, [1, 2, 9], n_threads=3) < 1e-5


def attention_tape(made: Builder, *, heads: int = 6, kv_heads: int = 2, d: int = 20, d_v: int = 12, causal: bool = True,
                   softcap: float = 0.0, alibi: float = 0.0, window: int = 0, sinks: bool = False,
                   reach: int = 0, chunked: bool = False) -> Tape:  # fmt: skip
    g, x = made.g, made.embed(40)
    q = g.matmul(x, made.w("q", heads * d, 40, spread=1.5))
    k = g.matmul(x, made.w("k", kv_heads * d, 40, spread=1.5))
    v = g.matmul(x, made.w("v", kv_heads * d_v, 40))
    y = g.attention(q, k, v, heads=heads, kv_heads=kv_heads, scale=d**-0.5, softcap=softcap, alibi=alibi, window=window,
                    chunked=chunked, sinks=made.w("sinks", heads, spread=2.0) if sinks else None,
                    bias=made.w("bias", heads, 2 * reach + 1, spread=2.0) if reach else None)  # fmt: skip
    x = g.add(x, g.matmul(y, made.w("o", 40, heads * d_v)))
    if not causal:
        g.ops[:] = [replace(op, i=(*op.i[:5], 1, *op.i[6:])) if op.kind == "ATTN" else op for op in g.ops]
    return made.tape(x)


VARIANTS = {
    "plain": {},
    "one head": {"heads": 1, "kv_heads": 1},
    "one key-value head": {"heads": 5, "kv_heads": 1},
    "many to one": {"heads": 20, "kv_heads": 1, "d": 4},
    "no sharing": {"heads": 3, "kv_heads": 3},
    "odd columns": {"d": 7, "d_v": 9},
    "whole columns": {"d": 32, "d_v": 16},
    "wide heads": {"heads": 9, "kv_heads": 1, "d": 68, "d_v": 84},
    "window": {"window": 70},
    "short window": {"window": 1},
    "window and sinks": {"window": 300, "sinks": True},
    "pieces": {"window": 70, "chunked": True},
    "short pieces": {"window": 3, "chunked": True},
    "pieces and sinks": {"window": 300, "sinks": True, "chunked": True},
    "soft cap": {"softcap": 1.5},
    "alibi": {"alibi": 8.0},
    "biases by distance": {"reach": 40},
    "biases by distance, many heads": {"reach": 1, "heads": 20, "kv_heads": 4, "d": 4},
    "all": {"softcap": 2.0, "alibi": 4.0, "window": 90, "sinks": True, "reach": 3},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_attention(level: str, name: str) -> None:
    """Prefill and decoding across pages (64) and chunks (256), split over keys and not."""
    m = Builder()
    tape = attention_tape(m, **VARIANTS[name])  # type: ignore[arg-type]
    assert both(m, tape, [1, 62, 1, 1, 190, 1, 1, 300, 1], n_threads=3) < 1e-5


@pytest.mark.parametrize(("kv_type", "limit"), [("f16", 2e-3), ("bf16", 1.5e-2), ("q8_0", 1e-2)])
def test_half_keys_and_values(level: str, kv_type: str, limit: float) -> None:
    """Rounding of keys and values alone: 11 or 8 bits each, or the 8 bits that 127 levels of a head's largest are."""
    for d, d_v in ((7, 9), (68, 84)):
        m = Builder()
        assert both(m, attention_tape(m, d=d, d_v=d_v), [1, 62, 1, 1, 300, 1], kv_type=kv_type) < limit


def prompt(made: Builder, tape: Tape, ids: npt.NDArray[np.int32], n_batch: int, n_threads: int = 2) -> npt.NDArray[np.float32]:
    with NativeEngine(tape, made.tensors, n_threads=n_threads, kv_type="bf16", n_batch=n_batch) as engine:
        return engine.run(batch((engine.new_sequence(), 0, ids)))


@pytest.mark.parametrize("name", VARIANTS)
def test_attention_of_prompts(level: str, name: str) -> None:
    """Many tokens of a sequence at once, where products may be of bfloat16: what small batches give, but for the rounding of
    queries and weights, and that is within the op's bound."""
    for n in (32, 95, 333):
        m = Builder()
        tape, ids = attention_tape(m, **VARIANTS[name]), tokens(n)  # type: ignore[arg-type]
        few, many = prompt(m, tape, ids, 31), prompt(m, tape, ids, 512)
        if "attend_tiles" not in _native.kernel_slots():
            assert np.array_equal(few, many)
        assert np.abs(many - few).max() < 6e-3 * np.abs(few).max()
        assert np.array_equal(many, prompt(m, tape, ids, 512, n_threads=7))
    found = compare_ops(
        tape,
        m.tensors,
        ids.tolist(),
        lambda tape, tensors: NativeEngine(tape, tensors, n_threads=2, kv_type="bf16"),
        kv_type=QuantType.BF16,
    )
    assert found.first is None, found


def test_prompts_beside_others(level: str) -> None:
    """Which other sequences a prompt is read with, long or short, changes nothing."""
    m = Builder()
    tape, ids = attention_tape(m), tokens(300)
    alone = prompt(m, tape, ids, 512)
    with NativeEngine(tape, m.tensors, n_threads=3, kv_type="bf16", n_batch=512) as engine:
        a, b, c = (engine.new_sequence() for _ in range(3))
        mixed = batch((b, 0, ids[:9]), (a, 0, ids), (c, 0, ids[:33]))
        assert np.array_equal(engine.run(mixed)[9:309], alone)


def test_what_is_past_the_end_does_not_count(level: str) -> None:
    """Positions that were taken back hold numbers that are not finite, in a block of keys that the next tokens use."""
    m = Builder()
    tape = attention_tape(m)
    table = m.tensors["embed"].numpy().copy()
    table[0] = np.inf
    m.tensors["embed"] = tensor("embed", table)
    ids = np.maximum(tokens(44), 1)
    with NativeEngine(tape, m.tensors, n_threads=1, kv_type="bf16") as engine:
        fresh, used = engine.new_sequence(), engine.new_sequence()
        engine.run(batch((used, 0, np.concatenate([ids[:1], np.zeros(63, np.int32)]))))
        engine.truncate(used, 1)
        engine.run(batch((fresh, 0, ids[:1])))
        want, got = (engine.run(batch((seq, 1, ids[1:]))) for seq in (fresh, used))
        assert np.isfinite(want).all() and np.array_equal(got, want)


def test_broken_numbers_show_in_8_bit_keys(level: str) -> None:
    """A head that overflowed does not become an ordinary number."""
    m = Builder()
    tape = attention_tape(m, heads=2)
    m.tensors["k"] = tensor("k", np.full(m.tensors["k"].shape, 3e38, np.float32))
    with NativeEngine(tape, m.tensors, n_threads=1, kv_type="q8_0") as engine:
        assert np.isnan(engine.run(batch((engine.new_sequence(), 0, tokens(9)), outputs=[8]))).all()


def test_weights_are_read_from_their_file(tmp_path: Path) -> None:
    """As from memory. A file that has become shorter or cannot be read is an error, not a page that is gone."""
    made = checkpoint()
    path = write_gguf(made, tmp_path / "model.gguf")
    with open_checkpoint(path) as file:
        tape = build_tape(file)
        with NativeEngine(tape, file.tensors, n_threads=2) as read, NativeEngine(tape, made.tensors, n_threads=2) as held:
            ids = batch((read.new_sequence(), 0, tokens(5)))
            held.new_sequence()
            assert np.array_equal(read.run(ids), held.run(ids))
        last = max(file.tensors.values(), key=lambda t: t.offset or 0)
        assert len(last.shape) == 2
        assert last.offset is not None
        os.truncate(path, last.offset + 100)
        with pytest.raises(TruncatedError, match="shortened") as caught:
            NativeEngine(tape, file.tensors, n_threads=2)
        assert str(path) in str(caught.value)
        file.sources[0].close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            NativeEngine(tape, file.tensors, n_threads=2)


def test_attention_to_later_tokens(level: str) -> None:
    m = Builder()
    assert both(m, attention_tape(m, causal=False), [300], n_threads=2, n_batch=64) < 1e-5


@pytest.fixture(scope="module")
def llama() -> tuple[Checkpoint, Tape]:
    made = checkpoint({**checkpoint().metadata, "llama.context_length": 2048})
    return made, build_tape(made)


def among_others(
    engine: NativeEngine,
    ids: npt.NDArray[np.int32],
    want: npt.NDArray[np.float32],
    rng: np.random.Generator,
    *,
    others: int = 0,
    most: int = 1000,
) -> None:
    """The very bits of `want`, cut anywhere, in parts of up to `most`, interleaved with a sequence of `others` tokens."""
    a, b, at = engine.new_sequence(), engine.new_sequence(), 0
    if others:
        engine.run(batch((b, 0, ids[:others])))
    while at < len(ids):
        n = min(int(rng.choice([1, 1, 2, 5, 90, 280])), len(ids) - at, most)
        mixed = batch((b, others, ids[at : at + 3]), (a, at, ids[at : at + n]))
        order = np.argsort(rng.random(len(mixed.tokens)), kind="stable")
        order = order[np.argsort(mixed.positions[order], kind="stable")]
        shuffled = Batch(mixed.tokens[order], mixed.positions[order], mixed.sequences[order], mixed.outputs)
        got = engine.run(shuffled)[shuffled.sequences == a]
        assert np.array_equal(got, want[at : at + n]), (at, n)
        at, others = at + n, others + int((mixed.sequences == b).sum())


@pytest.mark.parametrize(("kv_type", "most"), [("f32", 1000), ("bf16", 31)])
def test_any_threads_and_any_batch_give_the_same_bits(
    llama: tuple[Checkpoint, Tape], level: str, kv_type: str, most: int
) -> None:
    """A sequence alone, cut anywhere, among others, with any number of threads: the very same logits; with keys and values in
    bfloat16 where no part is so long that its attention may be in bfloat16 too."""
    made, tape = llama
    ids = tokens(600)
    with NativeEngine(tape, made.tensors, n_threads=1, n_batch=most, kv_type=kv_type) as engine:
        want = engine.run(batch((engine.new_sequence(), 0, ids)))
    rng = np.random.default_rng(5)
    for n_threads, n_batch in ((1, 37), (2, 512), (3, 100), (8, 1)):
        with NativeEngine(tape, made.tensors, n_threads=n_threads, n_batch=n_batch, kv_type=kv_type) as engine:
            among_others(engine, ids, want, rng, others=70, most=most)


def test_few_phases(llama: tuple[Checkpoint, Tape]) -> None:
    """Writing a token, a layer makes its threads wait for each other at most five times: after q k v, attention, the output
    projection, gate and up, and down. What lies between them is done by whoever comes last."""
    made, tape = llama
    with NativeEngine(tape, made.tensors, n_threads=2) as engine:
        seq = engine.new_sequence()
        engine.run(batch((seq, 0, tokens(600)), outputs=[599]))
        prompt = engine._open().phases
        engine.run(batch((seq, 600, [1])))
        one = engine._open().phases
        assert one <= 5 * tape.n_layer + 2  # embedding before, vocabulary after
        assert one < prompt


def test_only_wanted_outputs(llama: tuple[Checkpoint, Tape]) -> None:
    made, tape = llama
    ids = tokens(90)
    with NativeEngine(tape, made.tensors, n_threads=2, n_batch=32) as engine:
        want = engine.run(batch((engine.new_sequence(), 0, ids)))
        for outputs in ([89], [], [0], [3, 31, 32, 64, 89], [40]):
            got = engine.run(batch((engine.new_sequence(), 0, ids), outputs=outputs))
            assert got.shape == (len(outputs), tape.n_vocab) and np.array_equal(got, want[outputs])


def walk(exact: ReferenceEngine, engine: NativeEngine, steps: int) -> list[int]:
    """A random walk of run, fork, truncate and free beside the reference; the engine's sequences at the end."""
    rng = np.random.default_rng(8)
    live = [(exact.new_sequence(), engine.new_sequence())]
    for _ in range(steps):
        n = int(rng.integers(len(live)))
        a, b = live[n]
        assert exact.length(a) == engine.length(b)
        what = rng.choice(["run", "run", "run", "fork", "truncate", "free", "new"])
        if what == "new" and len(live) < 6:
            live.append((exact.new_sequence(), engine.new_sequence()))
        elif what == "free" and len(live) > 1:
            exact.free_sequence(a)
            engine.free_sequence(b)
            del live[n]
        elif what in ("fork", "truncate"):
            length = int(rng.integers(exact.length(a) + 1))
            assert exact.kept(a, length) == engine.kept(b, length)
            if what == "truncate":
                assert exact.truncate(a, length) == engine.truncate(b, length)
            elif len(live) < 6:
                live.append((exact.fork(a, length), engine.fork(b, length)))
        elif what == "run" and exact.length(a) < 500:
            ids = rng.integers(0, exact.n_vocab, int(rng.choice([1, 3, 64, 100])))
            want = exact.run(batch((a, exact.length(a), ids)))
            got = engine.run(batch((b, engine.length(b), ids)))
            assert np.abs(want - got).max() < 1e-5 * np.abs(want).max()
    return [b for _, b in live]


def test_sequences_share_and_part(llama: tuple[Checkpoint, Tape]) -> None:
    """No page is left at the end."""
    made, tape = llama
    engine = NativeEngine(tape, made.tensors, n_threads=2, kv_type="f32")
    live = walk(ReferenceEngine(tape, made.tensors), engine, 120)
    assert engine._core is not None and engine._core.pages > 0
    for seq in live:
        assert engine.kept(seq, engine.length(seq) // 2) == engine.length(seq) // 2  # keys and values can be cut anywhere
        engine.free_sequence(seq)
    assert engine._core.pages == engine._core.records == 0


# -- failures


def test_wrong_arguments(llama: tuple[Checkpoint, Tape]) -> None:
    made, tape = llama
    for wrong in ({"n_threads": 0}, {"n_threads": 65}, {"n_ctx": 0}, {"n_batch": 0}, {"kv_type": "q8"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NativeEngine(tape, made.tensors, **{"n_threads": 1, **wrong})  # type: ignore[arg-type]
    engine = NativeEngine(tape, made.tensors, n_threads=1, n_ctx=8)
    seq = engine.new_sequence()
    engine.run(batch((seq, 0, [1, 2])))
    for broken, message in (
        (batch((seq, 3, [1])), "counting up from 2"),
        (batch((seq, 2, [1]), (seq, 2, [1])), "counting up from 2"),
        (batch((seq + 1, 0, [1])), "no sequence has the id"),
        (batch((seq, 2, [61])), "ids 0..60"),
        (batch((seq, 2, [1] * 7)), "context of 8"),
        (batch((seq, 2, [1]), outputs=[1]), "ascending"),
        (Batch(*(np.zeros(1, np.int64) for _ in range(4))), "int32"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.run(broken)
        assert engine.length(seq) == 2
    for call in (partial(engine.truncate, seq, 3), partial(engine.fork, seq, 3), partial(engine.fork, seq, -1)):
        with pytest.raises(ValueError, match="sequence"):
            call()
    engine.close()
    engine.close()
    with pytest.raises(ModelClosedError):
        engine.new_sequence()
    with pytest.raises(ModelClosedError):
        engine.run(batch((seq, 2, [1])))


@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.2.attn_norm.weight"])
def test_broken_weights_are_named(llama: tuple[Checkpoint, Tape], name: str) -> None:
    made, tape = llama
    values = made.tensors[name].numpy().copy()
    values.reshape(-1)[-1] = np.nan
    with pytest.raises(FormatError, match=name):
        NativeEngine(tape, {**made.tensors, name: tensor(name, values)}, n_threads=2)


def test_progress_counts_up_and_cancels(llama: tuple[Checkpoint, Tape]) -> None:
    made, tape = llama
    seen: list[tuple[str, int, int]] = []
    NativeEngine(tape, made.tensors, n_threads=1, progress=lambda *at: seen.append(at)).close()
    assert [s for s in seen if s[0] != "load"] == [] and seen[-1][1] == seen[-1][2] > 0 and seen == sorted(seen)
    with pytest.raises(Cancelled):
        NativeEngine(tape, made.tensors, n_threads=1, progress=lambda stage, done, total: done == 0)


def test_memory_is_checked_first(llama: tuple[Checkpoint, Tape], monkeypatch: pytest.MonkeyPatch) -> None:
    made, tape = llama
    engine = NativeEngine(tape, made.tensors, n_threads=1)
    seq = engine.new_sequence()
    monkeypatch.setattr(native, "available_memory", lambda: 1000)
    with pytest.raises(OutOfMemoryError, match="does not fit") as caught:
        NativeEngine(tape, made.tensors, n_threads=1)
    assert caught.value.available == 1000 < engine.weight_bytes < caught.value.required
    with pytest.raises(OutOfMemoryError, match="cannot grow"):
        engine.run(batch((seq, 0, [1])))
    monkeypatch.undo()
    assert engine.length(seq) == 0 and np.isfinite(engine.run(batch((seq, 0, [1])))).all()


def test_available_memory_reads_limits(tmp_path: Path) -> None:
    meminfo, cgroup, mount = tmp_path / "meminfo", tmp_path / "cgroup", tmp_path / "fs"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    cgroup.write_text("0::/a/b\n")
    (mount / "a" / "b").mkdir(parents=True)

    def ask() -> int:
        return available_memory(meminfo, cgroup, mount)

    assert ask() == 8000 * 1024
    for folder, limit, used in ((mount / "a" / "b", "max", 1), (mount / "a", str(3 << 20), 2 << 20)):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 1000\nactive_file 7\n")
    assert ask() == (1 << 20) + 1000
    cgroup.write_text("5:cpu,memory:/x\n0::/\n")
    (mount / "memory" / "x").mkdir(parents=True)
    for name, text in (("limit_in_bytes", "5000"), ("usage_in_bytes", "4000")):
        (mount / "memory" / "x" / f"memory.{name}").write_text(text)
    (mount / "memory" / "x" / "memory.stat").write_text("inactive_file 3\n")
    assert ask() == 1003
    cgroup.unlink()
    assert ask() == 8000 * 1024
    assert available_memory() > 0


# -- stopping


@pytest.fixture(scope="module")
def slow() -> tuple[Builder, Tape]:
    """A tape on which a few hundred tokens take a noticeable while."""
    m = Builder()
    x = m.embed(512)
    wide, back = m.w("wide", 2048, 512), m.w("back", 512, 2048)
    for _ in range(8):
        x = m.g.rmsnorm(m.g.matmul(m.g.matmul(x, wide), back), None, 1e-5)
    q = m.g.rmsnorm(x, None, 1e-5)
    return m, m.tape(m.g.attention(q, q, q, heads=8, kv_heads=8, scale=0.1))


def check_usable(engine: NativeEngine, seq: int, want: npt.NDArray[np.float32]) -> None:
    assert engine.length(seq) == 1
    assert np.array_equal(engine.run(batch((seq, 1, tokens(1)))), want)


def test_cancel_from_another_thread(slow: tuple[Builder, Tape]) -> None:
    made, tape = slow
    with NativeEngine(tape, made.tensors, n_threads=2) as engine:
        engine.cancel()  # nothing to cancel: no effect on what follows
        seq, other = engine.new_sequence(), engine.new_sequence()
        engine.run(batch((seq, 0, tokens(1)), (other, 0, tokens(1))))
        want = engine.run(batch((other, 1, tokens(1))))
        raised: list[BaseException] = []

        def work() -> None:
            try:
                engine.run(batch((seq, 1, tokens(500))))
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            engine.cancel()
            thread.join(0.01)
        assert [type(error) for error in raised] == [Cancelled]
        check_usable(engine, seq, want)


def test_weights_that_pass_the_caches(slow: tuple[Builder, Tape], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are prefetched otherwise, and nothing else."""
    made, tape = slow
    logits = []
    for cache in (0, 1 << 60):
        monkeypatch.setattr(native, "largest_cache", lambda cache=cache: cache)
        with NativeEngine(tape, made.tensors, n_threads=2) as engine:
            logits.append(engine.run(batch((engine.new_sequence(), 0, tokens(1)))))
    assert np.array_equal(*logits)


@pytest.mark.parametrize(("long_run", "n"), [(0.0, 100), (float("inf"), 1)])
def test_interrupt(slow: tuple[Builder, Tape], monkeypatch: pytest.MonkeyPatch, long_run: float, n: int) -> None:
    """Ctrl-C in the middle of a long run, or between short ones."""
    made, tape = slow
    monkeypatch.setattr(native, "LONG_RUN", long_run)
    with NativeEngine(tape, made.tensors, n_threads=2) as engine:
        seq, other = engine.new_sequence(), engine.new_sequence()
        engine.run(batch((seq, 0, tokens(1)), (other, 0, tokens(1))))
        want = engine.run(batch((other, 1, tokens(1))))
        timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            while True:
                engine.run(batch((seq, 1, tokens(n))))
                engine.truncate(seq, 1)
        timer.join()
        engine.truncate(seq, 1)
        check_usable(engine, seq, want)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_of_the_process(slow: tuple[Builder, Tape]) -> None:
    """The child goes on with new threads, also when the parent was in the middle of a run."""
    made, tape = slow
    with NativeEngine(tape, made.tensors, n_threads=3) as engine:
        seq = engine.new_sequence()
        engine.run(batch((seq, 0, tokens(5))))
        copy = engine.fork(seq, 5)
        want = engine.run(batch((copy, 5, tokens(1))))
        thread = threading.Thread(target=engine.run, args=(batch((engine.new_sequence(), 0, tokens(50))),))
        thread.start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks in a process with threads
            child = os.fork()
        if child == 0:
            signal.alarm(60)  # a hang ends as a failure
            good = np.array_equal(engine.run(batch((seq, 5, tokens(1)))), want)
            engine.close()
            os._exit(0 if good else 1)
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert np.array_equal(engine.run(batch((seq, 5, tokens(1)))), want)
