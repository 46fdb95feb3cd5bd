"""Builder, placement, memory plan and verifier: what they accept is right, what is wrong they refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LLAMA, batch, checkpoint, llama_shapes, tensor

from llmq.arch import build_tape, families, family_of_config
from llmq.engine.ops import OPS
from llmq.engine.reference import ReferenceEngine
from llmq.errors import FormatError, ModelClosedError, TapeError, UnsupportedArchError, UnsupportedError
from llmq.formats.checkpoint import Checkpoint
from llmq.graph import verify as verifier
from llmq.graph.explain import explain, ops_markdown
from llmq.graph.tape import ACTIVATIONS, ENCODE, HEAD, KINDS, OP_DTYPE, VALUE_DTYPE, Tape

RNG = np.random.default_rng(11)


@pytest.fixture(scope="module")
def tape() -> Tape:
    return build_tape(checkpoint())


def test_every_kind_has_a_meaning_and_a_check() -> None:
    assert set(OPS) == set(KINDS) == set(verifier._SHAPES)
    assert OP_DTYPE.itemsize == 80 and VALUE_DTYPE.itemsize == 16


def test_tape_is_immutable_and_tied(tape: Tape) -> None:
    with pytest.raises(ValueError, match="read-only"):
        tape.ops["kind"][0] = 1
    embedding = tape.weights[tape.op(0).w0]
    assert embedding.name == "token_embd.weight" and embedding.uses == {"rows", "matmul"}


def test_rows_are_dropped_right_after_the_last_attention(tape: Tape) -> None:
    kinds = [tape.op(n).kind for n in range(len(tape.ops))]
    last = max(n for n, kind in enumerate(kinds) if kind == "ATTN")
    assert "ROWS" not in kinds[:last] and kinds.count("ROWS") == 2
    for n in range(last + 1, len(kinds)):
        assert tape.values["tail"][tape.op(n).out] == 1


def test_memory_plan_reuses_the_arena(tape: Tape) -> None:
    assert tape.arena < tape.values["width"].sum() / 4


# Each breaks one rule of a good tape; the verifier must say so, whatever the rest looks like.
def first(tape: Tape, kind: str) -> int:
    return next(n for n in range(len(tape.ops)) if tape.op(n).kind == kind)


def with_op(tape: Tape, kind: str, /, **fields: Any) -> Tape:
    ops = tape.ops.copy()
    n = first(tape, kind)
    for name, value in fields.items():
        if name in ("i", "f"):
            ops[name][n][value[0]] = value[1]
        else:
            ops[name][n] = value
    ops.flags.writeable = False
    return replace(tape, ops=ops)


def with_values(tape: Tape, change: Callable[[Any], None]) -> Tape:
    values = tape.values.copy()
    change(values)
    values.flags.writeable = False
    return replace(tape, values=values)


def overlap(values: Any) -> None:
    values["offset"] = 0


def misalign(values: Any) -> None:
    values["offset"][1] += 1


def outside(values: Any) -> None:
    values["offset"][0] += 1 << 20


def widen(values: Any) -> None:
    values["width"][2] += 16


def no_tail(values: Any) -> None:
    values["tail"][:] = 0


BROKEN: dict[str, Callable[[Tape], Tape]] = {
    "unknown kind": lambda t: with_op(t, "ADD", kind=99),
    "negative kind": lambda t: with_op(t, "ADD", kind=-1),
    "future value": lambda t: with_op(t, "RMSNORM", a=len(t.values) - 1),
    "value out of range": lambda t: with_op(t, "ADD", b=10_000),
    "value below -1": lambda t: with_op(t, "ADD", a=-7),
    "missing input": lambda t: with_op(t, "ADD", b=-1),
    "needless input": lambda t: with_op(t, "RMSNORM", b=0),
    "written twice": lambda t: with_op(t, "RMSNORM", out=0),
    "weight out of range": lambda t: with_op(t, "MATMUL", w0=len(t.weights)),
    "weight below -1": lambda t: with_op(t, "MATMUL", w1=-2),
    "no weight": lambda t: with_op(t, "MATMUL", w0=-1),
    "weight of another shape": lambda t: with_op(t, "MATMUL", w0=t.op(first(t, "EMBED")).w0),
    "weight of another use": lambda t: with_op(t, "EMBED", w0=t.op(first(t, "MATMUL")).w0),
    "second weight of a kind with one": lambda t: with_op(t, "RMSNORM", w1=0),
    "slot out of range": lambda t: with_op(t, "KV_PUT", slot=len(t.slots)),
    "slot written twice": lambda t: with_op(t, "KV_PUT", slot=1),
    "slot read before": lambda t: with_op(t, "ATTN", slot=1),
    "slot where none belongs": lambda t: with_op(t, "ADD", slot=0),
    "heads that do not divide": lambda t: with_op(t, "ATTN", i=(0, 3)),
    "kv heads": lambda t: with_op(t, "ATTN", i=(2, 4)),
    "value columns": lambda t: with_op(t, "ATTN", i=(3, 13)),
    "chunks of no length": lambda t: with_op(t, "ATTN", i=(7, 1)),
    "negative window": lambda t: with_op(t, "ATTN", i=(4, -1)),
    "odd rotation": lambda t: with_op(t, "ROPE", i=(2, 7)),
    "rotation beyond the head": lambda t: with_op(t, "ROPE", i=(2, 64)),
    "heads of rope": lambda t: with_op(t, "ROPE", i=(0, 5)),
    "zero heads": lambda t: with_op(t, "ROPE", i=(0, 0)),
    "norm group": lambda t: with_op(t, "RMSNORM", i=(0, 7)),
    "negative norm group": lambda t: with_op(t, "RMSNORM", i=(0, -48)),
    "epsilon": lambda t: with_op(t, "RMSNORM", f=(0, 0.0)),
    "NaN": lambda t: with_op(t, "ATTN", f=(0, np.nan)),
    "activation": lambda t: with_op(t, "GLU", i=(0, len(ACTIVATIONS))),
    "part": lambda t: with_op(t, "ADD", part=3),
    "parts out of order": lambda t: with_op(t, "ADD", part=HEAD),
    "a value of another part": lambda t: with_op(t, "EMBED", part=ENCODE),
    "hidden state": lambda t: replace(t, hidden=len(t.values)),
    "a hidden state for every token": lambda t: replace(t, hidden=0),
    "a hidden state that HEAD does not read": lambda t: replace(t, hidden=t.hidden - 1),
    "a result that is hidden": lambda t: replace(t, output="hidden"),
    "output of a put": lambda t: with_op(t, "KV_PUT", out=0),
    "result": lambda t: replace(t, result=len(t.values)),
    "result for every token": lambda t: replace(t, result=0),
    "vocabulary": lambda t: replace(t, n_vocab=60),
    "labels": lambda t: replace(t, labels=t.labels[1:]),
    "arena": lambda t: replace(t, arena=t.arena - 1),
    "slot of another shape": lambda t: replace(t, slots=(replace(t.slots[0], k_dim=6), *t.slots[1:])),
    "unused slot": lambda t: replace(t, slots=(*t.slots, t.slots[0])),
    "overlapping values": lambda t: with_values(t, overlap),
    "unaligned value": lambda t: with_values(t, misalign),
    "value outside": lambda t: with_values(t, outside),
    "wider value": lambda t: with_values(t, widen),
    "all rows everywhere": lambda t: with_values(t, no_tail),
    "writable": lambda t: replace(t, ops=t.ops.copy()),
    "another dtype": lambda t: replace(t, values=t.values["offset"]),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_verify_refuses(tape: Tape, what: str) -> None:
    verifier.verify(tape)
    with pytest.raises(TapeError):
        verifier.verify(BROKEN[what](tape))


METADATA = {
    "block_count": [0, -1, 1025, "3", 3.0, True, None],
    "embedding_length": [0, 49, 2**40],
    "attention.head_count": [0, 5, 2**20],
    "attention.head_count_kv": [0, 3, 8],
    "attention.key_length": [0, 13, -12],
    "attention.layer_norm_rms_epsilon": [0.0, -1e-5, float("nan"), float("inf"), 2.0, "1e-5", None],
    "rope.dimension_count": [0, 7, 14, -2],
    "rope.freq_base": [0.0, -10.0, float("nan"), float("inf"), 1.0],
    "rope.scaling.factor": [0.0, -2.0, float("inf")],
    "context_length": [0, 2**40, None],
    "feed_forward_length": [0, None, [80, 80, 96]],
    "vocab_size": [0, 62, None],
    "attention.sliding_window": [-1],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in METADATA.items() for value in values])
def test_hyper_parameters_are_checked(key: str, value: Any) -> None:
    changed: dict[str, Any] = {**LLAMA, "llama.rope.scaling.type": "linear", f"llama.{key}": value}
    with pytest.raises(FormatError, match=r"llama\.|token_embd|blk\.0\.attn|blk.0.ffn"):
        build_tape(checkpoint({k: v for k, v in changed.items() if v is not None}))


@pytest.mark.parametrize(
    ("arch", "key", "where"), [("llama", "rope.scaling.factor", r"rope\.0"), ("granite", "logit_scale", "scale")]
)
def test_numbers_that_float32_does_not_hold_are_refused(arch: str, key: str, where: str) -> None:
    model = {name.replace("llama.", f"{arch}."): value for name, value in LLAMA.items()}
    model |= {"general.architecture": arch, f"{arch}.rope.scaling.type": "linear", f"{arch}.{key}": 1e-45}
    with pytest.raises(FormatError, match=rf"^tiny: {where}: the hyper-parameters give (inf|1e\+45), which float32"):
        build_tape(checkpoint(model))


def test_tensors_are_checked() -> None:
    def refused(change: Callable[[dict[str, tuple[int, ...]]], Any], error: type[Exception], words: str) -> None:
        shapes = llama_shapes()
        change(shapes)
        with pytest.raises(error, match=words):
            build_tape(checkpoint(shapes=shapes))

    refused(lambda s: s.pop("blk.1.ffn_up.weight"), FormatError, r"no tensor 'blk\.1\.ffn_up\.weight'.*\(80, 48\)")
    refused(lambda s: s.update({"blk.0.attn_k.weight": (48, 48)}), FormatError, r"attn_k.*shape \(24, 48\).*\(48, 48\)")
    refused(lambda s: s.update({"blk.0.attn_norm.weight": (48, 1)}), FormatError, r"attn_norm.*\(48,\).*\(48, 1\)")
    refused(
        lambda s: s.update({"blk.0.attn_q_norm.weight": (12,)}), UnsupportedError, "does not know: 'blk.0.attn_q_norm.weight'"
    )
    refused(lambda s: s.update({"rope": (4,)}), UnsupportedError, "does not know: 'rope'")
    refused(lambda s: [s.pop(k) for k in list(s) if k.startswith("blk.2.")], FormatError, r"block_count is 3, but.*blk\.2")


def test_bad_frequency_factors_are_refused() -> None:
    model = checkpoint()
    for bad in (0.0, -1.0, np.nan, np.inf):
        model.tensors["rope_freqs.weight"] = tensor("rope_freqs.weight", np.array([1, 1, bad, 1, 1, 1], np.float32))
        with pytest.raises(FormatError, match="rope_freqs"):
            build_tape(model)


def test_factors_of_tensors() -> None:
    """X.scale beside X.weight multiplies the product, before a bias; powers of two leave every bit alone."""
    def logits(model: Checkpoint) -> np.ndarray:
        with ReferenceEngine(build_tape(model), model.tensors) as engine:
            return engine.run(batch((engine.new_sequence(), 0, [1, 2, 3])))

    shapes = {**llama_shapes(), "output.weight": (61, 48), "blk.0.attn_q.bias": (48,)}
    plain, scaled = checkpoint(shapes=shapes), checkpoint(shapes=shapes)
    for stem in ("output", "blk.0.attn_q", "blk.2.ffn_down"):
        weight = scaled.tensors[f"{stem}.weight"]
        scaled.tensors[weight.name] = tensor(weight.name, weight.numpy() * np.float32(0.25))
        scaled.tensors[f"{stem}.scale"] = tensor(f"{stem}.scale", np.array([4.0]))
        scaled.tensors[f"{stem}.input_scale"] = tensor(f"{stem}.input_scale", np.array([0.01]))
    np.testing.assert_array_equal(logits(scaled), logits(plain))
    for values, words in (([0.0], "above 0"), ([np.nan], "above 0"), ([1.0, 1.0], r"shape \(1,\)")):
        scaled.tensors["blk.0.attn_q.scale"] = tensor("blk.0.attn_q.scale", np.array(values))
        with pytest.raises(FormatError, match=rf"blk\.0\.attn_q\.scale.*{words}"):
            build_tape(scaled)
    with pytest.raises(UnsupportedError, match=r"does not know: 'blk\.0\.attn_norm\.scale'"):
        build_tape(checkpoint(shapes={**shapes, "blk.0.attn_norm.scale": (1,)}))


def test_unknown_architectures_name_the_nearest() -> None:
    with pytest.raises(UnsupportedArchError, match=r"'lama' is not supported; the nearest is llama. Supported: .*llama"):
        build_tape(checkpoint({**LLAMA, "general.architecture": "lama"}))
    with pytest.raises(UnsupportedArchError, match="the nearest is mistral"):
        family_of_config({"model_type": "mistral9"})
    with pytest.raises(FormatError, match="model_type: missing"):
        family_of_config({})
    assert all(name == family.name for name, family in families().items())


def test_reference_prefill_steps_and_batches_agree(tape: Tape) -> None:
    model = checkpoint()
    with ReferenceEngine(tape, model.tensors) as engine:
        one, two, many = (RNG.integers(0, tape.n_vocab, n) for n in (17, 5, 9))
        a, b, c = engine.new_sequence(), engine.new_sequence(), engine.new_sequence()
        whole = engine.run(batch((a, 0, one)))
        steps = np.concatenate([engine.run(batch((b, p, one[p : p + 1]))) for p in range(len(one))])
        np.testing.assert_allclose(steps, whole, rtol=0, atol=2e-5)
        d, e = engine.new_sequence(), engine.new_sequence()
        alone = [engine.run(batch((s, 0, ids)))[-1] for s, ids in ((d, two), (e, many))]
        f = engine.fork(a, 10)
        mixed = engine.run(batch((f, 10, one[10:]), (c, 0, two), (engine.new_sequence(), 0, many), outputs=[6, 11, 20]))
        np.testing.assert_allclose(mixed, np.stack([whole[-1], *alone]), rtol=0, atol=2e-5)
        assert engine.run(batch((c, 5, [1, 2]), outputs=[])).shape == (0, tape.n_vocab)
        engine.truncate(c, 5)
        np.testing.assert_allclose(
            engine.run(batch((c, 5, many)))[-1:], engine.run(batch((d, 5, many)))[-1:], rtol=0, atol=2e-5
        )
        assert [engine.length(s) for s in (a, b, c, f)] == [17, 17, 14, 17]
        engine.free_sequence(a)
        with pytest.raises(ValueError, match="no sequence"):
            engine.length(a)
    with pytest.raises(ModelClosedError):
        engine.new_sequence()


def test_explain_shows_every_weight_once_and_folds_equal_blocks(tape: Tape) -> None:
    text = explain(tape)
    assert "llama: 3 layers, width 48, vocabulary 61, trained context 64" in text
    assert "blk.1, as the block before" in text and "blk.1.attn_q.weight" not in text
    full = explain(tape, full=True)
    assert all(f" {w.name} " in full for w in tape.weights) and full.count("\n") == text.count("\n") + 15
    assert f"v{tape.result} [outputs, 61] @{tape.values['offset'][tape.result]}" in text


def test_ops_document_is_current() -> None:
    path = Path(__file__).parents[1] / "docs" / "ops.md"
    assert path.read_text() == ops_markdown(), "python -m llmq.graph.explain > docs/ops.md"
