"""Recurrent state: what every op computes, and that cutting, forking, sharing, cancelling and failing never show in what comes
after."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from goldens import load, weight, write_folder
from kernel_cases import level  # noqa: F401
from test_engine_native import Builder, among_others, both, tokens, walk
from tiny import batch, tensor

import llmq
from llmq._native import keeps_record
from llmq.arch import build_tape, family_of_config
from llmq.engine import native
from llmq.engine.base import Engine
from llmq.engine.compare import compare, compare_ops
from llmq.engine.native import NativeEngine
from llmq.engine.ops import OPS
from llmq.engine.reference import ReferenceEngine
from llmq.errors import Cancelled, ModelFileError, OutOfMemoryError, TapeError
from llmq.formats import open_checkpoint
from llmq.formats.checkpoint import Checkpoint
from llmq.graph.tape import KIND_NAMES, Tape
from llmq.graph.verify import verify
from llmq.quant.types import QuantType

Logits = npt.NDArray[np.float32]


def mixer(made: Builder, *, heads: int = 7, width: int = 5, groups: int = 1, states: int = 6, shared: bool = True,
          taps: int = 4, optional: bool = True, attention: bool = False) -> Tape:  # fmt: skip
    """A convolution and a scan, with attention beside them if asked for."""
    m, g, x = made, made.g, made.embed(24)
    n = heads * width + 2 * groups * states
    y = g.matmul(x, m.w("in", n, 24))
    y = g.act(g.conv(y, m.w("conv", n, taps), m.w("conv bias", n) if optional else None), "silu")
    dt = g.act(g.slice(y, 0, heads), "softplus")
    a = m.w("a", heads, 1 if shared else states)
    m.tensors["a"] = tensor("a", -np.exp(2 * m.tensors["a"].numpy() - 2))
    y = g.scan(y, dt, a, m.w("d", heads) if optional else None, heads=heads, width=width, groups=groups, states=states)
    y = g.matmul(y, m.w("mixed", 24, heads * width))
    if attention:
        y = g.add(y, g.attention(x, x, g.add(x, y), heads=2, kv_heads=2, scale=0.3))
    return m.tape(g.add(x, y))


def delta_mixer(made: Builder, *, heads: int = 6, width: int = 5, groups: int = 2, states: int = 7, in_turn: bool = False,
                attention: bool = False) -> Tape:  # fmt: skip
    """A convolution and a gated delta rule, its keys of length 1."""
    m, g, x = made, made.g, made.embed(24)
    keys = 2 * groups * states
    y = g.matmul(x, m.w("in", keys + heads * width, 24))
    y = g.act(g.conv(y, m.w("conv", y.width, 4)), "silu")
    qk = g.rmsnorm(g.slice(y, 0, keys), g.const("short", np.full(states, states**-0.5, np.float32)), 1e-6, states)
    y = g.join(qk, g.slice(y, keys, heads * width), 1, y.width)
    both = g.matmul(x, m.w("rates", 2 * heads, 24))
    rates = g.join(g.act(g.slice(both, 0, heads), "softplus"), g.act(g.slice(both, heads, heads), "sigmoid"), 1, 2 * heads)
    a = m.w("a", heads)
    m.tensors["a"] = tensor("a", -np.exp(m.tensors["a"].numpy() - 2))
    y = g.delta(y, rates, a, heads=heads, width=width, groups=groups, states=states, in_turn=in_turn, scale=1.3)
    y = g.matmul(y, m.w("mixed", 24, heads * width))
    if attention:
        y = g.add(y, g.attention(x, x, g.add(x, y), heads=2, kv_heads=2, scale=0.3))
    return m.tape(g.add(x, y))


DELTAS = {
    "groups of neighbours": {},
    "groups in turn": {"in_turn": True},
    "as published": {"heads": 4, "width": 128, "states": 128},
    "one group, one lane past a vector": {"heads": 3, "groups": 1, "width": 17, "states": 33},
    "one group per head": {"heads": 3, "groups": 3, "width": 15, "states": 4, "in_turn": True},
    "fewer states than sums": {"heads": 2, "width": 33, "states": 3},
    "one of everything": {"heads": 1, "width": 1, "groups": 1, "states": 1},
    "beside attention": {"attention": True},
}
SHAPES = {
    "one decay per head": {},
    "heads of a whole vector": {"heads": 6, "width": 16},
    "heads of many": {"heads": 2, "width": 40, "groups": 2, "states": 128},
    "groups": {"heads": 6, "width": 7, "groups": 3, "states": 9},
    "one decay per state": {"heads": 35, "width": 1, "shared": False, "states": 16},
    "odd states": {"heads": 16, "width": 1, "shared": False, "states": 5},
    "one of everything": {"heads": 1, "width": 1, "states": 1},
    "nothing optional, two taps": {"taps": 2, "optional": False},
    "most taps": {"taps": 16},
    "beside attention": {"attention": True},
}


@pytest.mark.parametrize("name", SHAPES)
def test_ops_mean_what_the_reference_says(name: str, level: str) -> None:  # noqa: F811
    """Prompts and single tokens across checkpoints, in parts that the engine cuts once more."""
    made = Builder()
    tape = mixer(made, **SHAPES[name])  # type: ignore[arg-type]
    assert both(made, tape, [1, 62, 1, 1, 190, 1, 2], n_threads=3, n_batch=90) < 1e-5


@pytest.mark.parametrize("name", DELTAS)
def test_the_delta_rule_means_what_the_reference_says(name: str, level: str) -> None:  # noqa: F811
    made = Builder()
    tape = delta_mixer(made, **DELTAS[name])  # type: ignore[arg-type]
    assert both(made, tape, [1, 62, 1, 1, 190, 1, 2], n_threads=3, n_batch=90) < 1e-5


@pytest.fixture(scope="module", params=["scan", "scan beside attention", "delta", "delta beside attention"])
def made(request: pytest.FixtureRequest) -> tuple[Builder, Tape]:
    built = Builder()
    rule, _, attention = request.param.partition(" ")
    return built, (mixer if rule == "scan" else delta_mixer)(built, attention=bool(attention))


def test_any_threads_and_any_batch_give_the_same_bits(made: tuple[Builder, Tape], level: str) -> None:  # noqa: F811
    built, tape = made
    ids = tokens(600)
    with NativeEngine(tape, built.tensors, kv_type="f32", n_threads=1, n_batch=1000) as engine:
        want = engine.run(batch((engine.new_sequence(), 0, ids)))
    rng = np.random.default_rng(5)
    for n_threads, n_batch in ((1, 37), (2, 512), (8, 1)):
        with NativeEngine(tape, built.tensors, kv_type="f32", n_threads=n_threads, n_batch=n_batch) as engine:
            among_others(engine, ids, want, rng)


# -- cutting and forking


@pytest.fixture(scope="module")
def fresh(made: tuple[Builder, Tape]) -> Logits:
    """The logits of tokens(1300) in one go."""
    built, tape = made
    with NativeEngine(tape, built.tensors, kv_type="f32", n_threads=2, n_ctx=2000) as engine:
        return engine.run(batch((engine.new_sequence(), 0, tokens(1300))))


def go_on(engine: Engine, seq: int, until: int) -> Logits:
    """Run what is missing of tokens(1300)[:until]; its logits."""
    return engine.run(batch((seq, engine.length(seq), tokens(1300)[engine.length(seq) : until])))


@pytest.mark.parametrize("pieces", ["one run", "single tokens"])
def test_cut_to_every_length(made: tuple[Builder, Tape], fresh: Logits, pieces: str) -> None:
    """What is kept is never more than asked for, little less, and goes on as if nothing had happened, bit for bit."""
    built, tape = made
    n = 200
    with NativeEngine(tape, built.tensors, kv_type="f32", n_threads=2) as engine:
        whole = engine.new_sequence()
        for until in [n] if pieces == "one run" else range(1, n + 1):
            go_on(engine, whole, until)
        assert engine.kept(whole, n) == n
        for length in range(n):
            seq = engine.fork(whole, n)
            kept = engine.kept(seq, length)
            assert engine.truncate(seq, length) == engine.length(seq) == kept
            assert kept % 64 == 0 and length - 128 - 16 * (n - length) < kept <= length
            end = min(length + 3, n)
            assert np.array_equal(go_on(engine, seq, end), fresh[kept:end])
            engine.free_sequence(seq)
        assert np.array_equal(go_on(engine, whole, n + 1), fresh[n : n + 1])  # untouched by all that


def test_long_sequences_keep_few_records(made: tuple[Builder, Tape], fresh: Logits) -> None:
    built, tape = made
    with NativeEngine(tape, built.tensors, kv_type="f32", n_threads=2, n_batch=100, n_ctx=2000) as engine:
        seq = engine.new_sequence()
        core = engine._open()
        while engine.length(seq) < 1300:
            go_on(engine, seq, min(1300, engine.length(seq) + 170))
            assert core.records <= 8
        for length in range(1299, 0, -37):
            copy = engine.fork(seq, length)
            kept = engine.length(copy)
            assert length - 128 - 16 * (1300 - length) < kept <= length
            assert np.array_equal(go_on(engine, copy, length), fresh[kept:length])
            engine.free_sequence(copy)
        engine.free_sequence(seq)
        assert core.records == core.pages == 0


def test_checkpoints_leave_once_and_for_all() -> None:
    """A position that is outdated stays so as the sequence grows, and few are kept at any length."""
    positions = range(1, 20000)
    for p in (64, 128, 512, 1024, 4096, 8192):
        kept = [keeps_record(p, n) for n in positions if n >= p]
        assert kept[0] and kept == sorted(kept, reverse=True)
    assert not any(keeps_record(p, p) for p in (1, 63, 65, 100))
    assert max(sum(keeps_record(p, n) for p in range(64, n + 1, 64)) for n in range(64, 20000, 321)) <= 8


def test_sequences_share_and_part(made: tuple[Builder, Tape]) -> None:
    """As the reference has it; nothing is left at the end."""
    built, tape = made
    engine = NativeEngine(tape, built.tensors, n_threads=2, kv_type="f32")
    live = walk(ReferenceEngine(tape, built.tensors), engine, 150)
    core = engine._open()
    assert core.records > 0
    for seq in live:
        engine.free_sequence(seq)
    assert core.records == core.pages == 0


# -- runs that end badly


def run_all(engine: NativeEngine, seq: int, ids: npt.NDArray[np.int32], raised: list[BaseException]) -> None:
    try:
        engine.run(batch((seq, engine.length(seq), ids[engine.length(seq) :])))
    except BaseException as error:
        raised.append(error)


def test_cancelled_runs_change_nothing(made: tuple[Builder, Tape]) -> None:
    built, tape = made
    ids = tokens(9000)
    with NativeEngine(tape, built.tensors, kv_type="f32", n_threads=2, n_batch=64, n_ctx=len(ids)) as engine:
        seq = engine.new_sequence()
        engine.run(batch((seq, 0, ids[:70])))
        copy = engine.fork(seq, 70)
        want = engine.run(batch((copy, 70, ids[70:75])))
        records = engine._open().records
        cancelled = 0
        for _ in range(20):
            raised: list[BaseException] = []

            thread = threading.Thread(target=run_all, args=(engine, seq, ids, raised))
            thread.start()
            while thread.is_alive():
                engine.cancel()
                thread.join(0.002)
            cancelled += [type(error) for error in raised] == [Cancelled]
            assert engine.truncate(seq, 70) == (70 if raised else 0)
            if not raised:
                engine.run(batch((seq, 0, ids[:70])))
                records = engine._open().records  # computed anew, no longer those of the copy
        assert cancelled and engine._open().records == records
        assert np.array_equal(engine.run(batch((seq, 70, ids[70:75]))), want)


def test_memory_is_counted_and_refusals_change_nothing(made: tuple[Builder, Tape], monkeypatch: pytest.MonkeyPatch) -> None:
    built, tape = made
    with NativeEngine(tape, built.tensors, kv_type="f32", n_threads=1) as engine:
        core = engine._open()
        one = core.growth_bytes(0, 1)
        assert one > 4 * sum(slot.channels * slot.columns for slot in tape.slots if hasattr(slot, "columns"))
        assert core.growth_bytes(0, 200) == 3 * one  # at 128, 192 and 200
        seq = engine.new_sequence()
        engine.run(batch((seq, 0, tokens(63))))
        copy = engine.fork(seq, 63)
        monkeypatch.setattr(native, "available_memory", lambda: one // 2)
        with pytest.raises(OutOfMemoryError, match="cannot grow"):
            engine.run(batch((seq, 63, tokens(3))))
        monkeypatch.undo()
        assert engine.length(seq) == 63
        assert np.array_equal(engine.run(batch((seq, 63, tokens(3)))), engine.run(batch((copy, 63, tokens(3)))))
    monkeypatch.setattr(native, "available_memory", lambda: 10)
    required = []
    for states in (1, 1000):
        other = Builder()
        with pytest.raises(OutOfMemoryError, match="does not fit") as caught:
            NativeEngine(mixer(other, width=16, states=states, optional=False), other.tensors, n_threads=1)
        required.append(caught.value.required)
    assert required[1] - required[0] > 3 * 4 * 7 * 16 * 999  # more than the weights, which grow by 2 * 999 * 25 numbers


def test_an_op_that_fails_leaves_the_reference_as_it_was(made: tuple[Builder, Tape], monkeypatch: pytest.MonkeyPatch) -> None:
    built, tape = made
    with ReferenceEngine(tape, built.tensors) as engine:
        seq = engine.new_sequence()
        engine.run(batch((seq, 0, tokens(70))))
        want = engine.run(batch((engine.fork(seq, 70), 70, tokens(5))))
        with monkeypatch.context() as patch:
            patch.setitem(OPS, "ROWS", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                engine.run(batch((seq, 70, tokens(90))))
        assert engine.length(seq) == 70 and np.array_equal(engine.run(batch((seq, 70, tokens(5)))), want)


# -- the scheduler


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(load("mamba"), tmp_path_factory.mktemp("mamba"))


@pytest.fixture(params=["native", "reference"])
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def generate(folder: Path, prompt: list[int], n: int, engine: str, **options: object) -> list[int]:
    """The tokens of a model that has done nothing before."""
    with llmq.load(folder, engine=engine, n_ctx=512) as llm:
        return llm.generate(prompt, max_tokens=n, temperature=0, ignore_eos=True, **options).tokens


def test_reuse_never_shows(folder: Path, engine_name: str) -> None:
    """Conversations that go on, are edited, asked again, and run beside each other get what each gets alone."""
    rng = np.random.default_rng(2)
    base = rng.integers(0, 71, 190).tolist()
    prompts = [base, base, base[:150], [*base, 7, 8, 9], base[:129], base[:128], [*base[:100], *base[:30]], base[:40], base[:3]]
    with llmq.load(folder, engine=engine_name, n_ctx=512) as llm:
        reused = 0
        for prompt in prompts:
            found = llm.generate(prompt, max_tokens=6, temperature=0, ignore_eos=True)
            assert list(found.tokens) == list(generate(folder, prompt, 6, engine_name))
            reused += found.usage.cached_tokens
        assert reused > 500
        together = llm.generate_batch(prompts, max_tokens=6, temperature=0, ignore_eos=True)
        assert [list(r.tokens) for r in together] == [list(generate(folder, p, 6, engine_name)) for p in prompts]


def test_streams_that_are_cancelled_leave_their_prefix(folder: Path) -> None:
    prompt = tokens(150, 9).tolist()
    with llmq.load(folder, n_ctx=512) as llm:
        for chunk in llm.stream(prompt, max_tokens=200, temperature=0, ignore_eos=True):
            if chunk.tokens:
                break
        found = llm.generate([*prompt[:140], 1, 2], max_tokens=6, temperature=0, ignore_eos=True)
        assert found.usage.cached_tokens == 128
        assert list(found.tokens) == list(generate(folder, [*prompt[:140], 1, 2], 6, "native"))


def test_a_shifted_context_is_computed_again(folder: Path) -> None:
    """The tokens that stay have other tokens before them now, and so another state."""
    prompt = tokens(30, 4).tolist()
    with llmq.load(folder, n_ctx=40) as llm:
        found = llm.generate(prompt, max_tokens=40, temperature=0, ignore_eos=True, overflow="shift").tokens
    context, want = list(prompt), []
    with llmq.load(folder, n_ctx=512) as llm:
        while len(want) < 40:
            want.append(int(llm.logits(context)[-1].argmax()))
            context.append(want[-1])
            if len(context) > 40:
                context = context[(len(context) + 1) // 2 :]
    assert list(found) == want


# -- files and the bounds of the ops


@pytest.fixture
def mamba2(tmp_path: Path) -> Iterator[Checkpoint]:
    with open_checkpoint(write_folder(load("mamba2-groups"), tmp_path / "mamba2")) as model:
        yield model


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("conv_kernel", 0, "conv_kernel"),
        ("conv_kernel", 1, "conv_kernel"),
        ("conv_kernel", 17, "conv_kernel"),
        ("conv_kernel", 4, "ssm_conv1d"),
        ("inner_size", 0, "inner_size"),
        ("inner_size", 2**31 - 1, "inner_size"),
        ("inner_size", 136, "ssm_in"),
        ("inner_size", 129, "divisor of the inner size"),
        ("state_size", 0, "state_size"),
        ("state_size", 2**20, "state_size"),
        ("state_size", 33, "ssm_in"),
        ("time_step_rank", 0, "time_step_rank"),
        ("time_step_rank", 3, "time_step_rank"),
        ("time_step_rank", 16, "ssm_in"),
        ("group_count", 3, "group_count"),
        ("group_count", 2**31 - 1, "group_count"),
        ("group_count", 4, "ssm_in"),
        ("state_size", "32", "integer"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(mamba2: Checkpoint, key: str, value: object, words: str) -> None:
    broken = Checkpoint(mamba2.path, {**mamba2.metadata, f"mamba2.ssm.{key}": value}, mamba2.tensors)  # type: ignore[dict-item]
    with pytest.raises(ModelFileError, match=words):
        build_tape(broken)


def test_broken_decays_are_refused(mamba2: Checkpoint) -> None:
    name = "blk.1.ssm_a"
    values = np.full((8, 1), np.nan, np.float32)
    with pytest.raises(ModelFileError, match=name):
        NativeEngine(build_tape(mamba2), {**mamba2.tensors, name: tensor(name, values)}, n_threads=1)
    missing = Checkpoint(mamba2.path, mamba2.metadata, {k: t for k, t in mamba2.tensors.items() if k != name})
    with pytest.raises(ModelFileError, match=name):
        build_tape(missing)


def test_limited_steps_are_refused(tmp_path: Path) -> None:
    config = load("mamba2").config
    for limit in ([0.001, float("inf")], [0.0, 0.1], "none"):
        folder = write_folder(load("mamba2"), tmp_path, {**config, "time_step_limit": limit})
        with pytest.raises(ModelFileError, match="time_step_limit"):
            open_checkpoint(folder)
    version_4 = {**config, "time_step_limit": [0.0, float("inf")]}
    open_checkpoint(write_folder(load("mamba2"), tmp_path, version_4)).close()


def test_constants_are_multiplied_into_tensors_of_any_float_type(tmp_path: Path) -> None:
    golden = load("falcon-h1")
    folder = write_folder(golden, tmp_path)
    stored = {name: weight(name, shape).view(np.uint32) >> 16 for name, shape in golden.shapes.items()}  # to bfloat16
    header, offset = {}, 0
    for name, bits in stored.items():
        end = offset + 2 * bits.size
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    data = b"".join(bits.astype("<u2").tobytes() for bits in stored.values())
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    half = {name: (bits << 16).view(np.float32) for name, bits in stored.items()}
    with open_checkpoint(folder) as model:
        keys, steps = model.tensors["blk.0.attn_k.weight"], model.tensors["blk.1.ssm_in.weight"]
        decays = model.tensors["blk.0.ssm_a"]
        assert (keys.type, steps.type, decays.type) == (QuantType.BF16, QuantType.BF16, QuantType.F32)
        want = half["model.layers.0.self_attn.k_proj.weight"] * np.float32(1.1 * 0.6)
        assert abs(keys.numpy() - want).max() <= 2**-8 * abs(want).max() and not np.array_equal(keys.numpy(), want)
        want = half["model.layers.1.mamba.in_proj.weight"][-6:] * np.float32(1.4 * 0.7)  # the rows of the steps
        assert abs(steps.numpy()[-6:] - want).max() <= 2**-8 * abs(want).max()
        assert np.array_equal(decays.numpy()[:, 0], -np.exp(half["model.layers.0.mamba.A_log"]))


@pytest.mark.parametrize("counts", [[0, 2], [0, 2, True], [0, 2, 4], ["0", 2, 0], [0, -2, 0]])
def test_layers_that_are_not_told_apart_are_refused(counts: list[object], tmp_path: Path) -> None:
    with open_checkpoint(write_folder(load("granite4-experts"), tmp_path)) as model:
        broken = {**model.metadata, "granitehybrid.attention.head_count_kv": counts}
        with pytest.raises(ModelFileError, match="head_count_kv"):
            build_tape(Checkpoint(model.path, broken, model.tensors))  # type: ignore[arg-type]


def test_configs_of_bamba_are_read_as_granites(tmp_path: Path) -> None:
    golden = load("bamba")
    for changes, words in (
        ({"attn_layer_indices": 1}, "attn_layer_indices"),
        ({"attn_layer_indices": None}, "blk.1.ssm_in"),
        ({"rope_parameters": {"partial_rotary_factor": 0.3125}}, "an even number"),
        ({"num_attention_heads": 3}, "num_attention_heads|attn_q|head"),
        ({"intermediate_size": "x"}, "shared_intermediate_size"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ):
        folder = write_folder(golden, tmp_path, {**golden.config, **changes})
        with pytest.raises(ModelFileError, match=words), open_checkpoint(folder) as model:
            build_tape(model)
    few = {"model_type": "bamba", "hidden_size": 4096, "vocab_size": 9, "num_attention_heads": 32, "num_hidden_layers": 2}
    said = family_of_config(few).hf_metadata(few)
    assert said["granitehybrid.rope.dimension_count"] == 64 and said["granitehybrid.attention.scale"] == 128**-0.5
    assert said["granitehybrid.attention.head_count_kv"] == [0, 0] and said["granitehybrid.ssm.inner_size"] == 8192


def test_layers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    golden = load("granite4-experts")
    for kinds in (["attention"], None, [1, 2, 3]):
        folder = write_folder(golden, tmp_path, {**golden.config, "layer_types": kinds})
        with pytest.raises(ModelFileError, match="layer_types"):
            open_checkpoint(folder)
    golden = load("nemotron-h")
    folder = write_folder(golden, tmp_path, {**golden.config, "layers_block_type": None, "hybrid_override_pattern": "M-?M"})
    with pytest.raises(ModelFileError, match="a layer of kind"):
        open_checkpoint(folder)
    old = {**golden.config, "layers_block_type": None, "hybrid_override_pattern": "M-*M"}
    assert family_of_config(old).hf_metadata(old) == family_of_config(golden.config).hf_metadata(golden.config)


@pytest.mark.parametrize(
    ("field", "index", "value", "words"),
    [
        ("i", 0, 0, "0 heads"),
        ("i", 0, 5, "5 heads in 2 groups"),
        ("i", 1, 6, "in rows of 58"),
        ("i", 2, 0, "in 0 groups"),
        ("i", 2, 3, "in rows of 58"),
        ("i", 3, 8, "in rows of 58"),
        ("i", 3, -1, "sizes"),
        ("i", 4, 2, "flags"),
        ("f", 0, 0.0, "scale 0"),
        ("b", None, 0, "rates or output of another width"),
        ("w0", None, -1, "weight -1"),
        ("w0", None, 0, "not declared for use as 'f32'"),
        ("slot", None, 0, "slot 0 is written twice"),
    ],
)
def test_broken_delta_rules_are_refused(field: str, index: int | None, value: float, words: str) -> None:
    tape = delta_mixer(Builder())
    ops = tape.ops.copy()
    (n,) = np.flatnonzero(ops["kind"] == KIND_NAMES.index("DELTA"))
    if index is None:
        ops[field][n] = value
    else:
        ops[field][n, index] = value
    ops.flags.writeable = False
    with pytest.raises(TapeError, match=words):
        verify(replace(tape, ops=ops))


@pytest.mark.parametrize(("name", "n"), [("mamba", 90), ("mamba2-groups", 90), ("qwen35", 90)])
def test_compare_bounds_the_ops(name: str, n: int, tmp_path: Path, level: str) -> None:  # noqa: F811
    ids = tokens(n, 3).tolist()
    with open_checkpoint(write_folder(load(name), tmp_path)) as model:
        assert compare(model, ids).first is None


@pytest.mark.parametrize(("kind", "name"), [("CONV", "mamba"), ("SCAN", "mamba"), ("DELTA", "qwen35")])
def test_compare_finds_a_broken_op(kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ReferenceEngine):
        def run(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            with monkeypatch.context() as patch:
                meaning = OPS[kind]
                patch.setitem(OPS, kind, lambda op, run, inputs: meaning(op, run, inputs) * np.float32(1 + 2**-14))
                return super().run(*args, **kwargs)

    with open_checkpoint(write_folder(load(name), tmp_path)) as model:
        first = compare_ops(build_tape(model), model.tensors, tokens(40, 3).tolist(), Broken).first
        assert first is not None and first.kind == kind
