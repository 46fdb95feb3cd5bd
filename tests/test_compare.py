"""llmq.compare: an engine that is right passes on every op, one with a single broken op is found out by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from kernel_cases import level  # noqa: F401
from tiny import LLAMA, checkpoint, llama_shapes, quantized

from llmq.arch import build_tape
from llmq.engine import ops
from llmq.engine.base import Engine
from llmq.engine.compare import compare, compare_ops
from llmq.engine.ops import OPS, Array
from llmq.engine.reference import ReferenceEngine
from llmq.formats.checkpoint import Checkpoint, Tensor
from llmq.graph.tape import Tape
from llmq.quant.types import QuantType

TOKENS = np.random.default_rng(8).integers(0, 61, 40).tolist()


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    shapes = llama_shapes() | {f"blk.{i}.attn_{x}.bias": (n,) for i in range(3) for x, n in (("q", 48), ("v", 24))}
    return checkpoint({**LLAMA, "llama.attention.sliding_window": 11}, shapes)


def single(tape: Tape, tensors: Mapping[str, Tensor]) -> Engine:
    return ReferenceEngine(tape, tensors)


def test_float32_is_within_the_bounds(model: Checkpoint) -> None:
    found = compare_ops(build_tape(model), model.tensors, TOKENS, single)
    assert found.first is None, found
    assert {op.kind for op in found.ops} == {"EMBED", "RMSNORM", "MATMUL", "ROPE", "ATTN", "ADD", "GLU"}
    assert {op.rows for op in found.ops} == {40, 1}
    assert "no op differs" in str(found)


def off(factor: float) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    return lambda meaning: lambda op, run, inputs: meaning(op, run, inputs) * np.float32(factor)


def one_element(meaning: Callable[..., Array]) -> Callable[..., Array]:
    def wrong(op: ops.Op, run: ops.Run, inputs: list[Array]) -> Array:
        out = meaning(op, run, inputs).copy()
        out[-1:, -1] = np.nan
        return out

    return wrong


@pytest.mark.parametrize(
    ("kind", "broken", "label"),
    [
        ("EMBED", off(1 + 2**-20), "token_embd"),
        ("RMSNORM", off(1 + 2**-12), "blk.0.attn_norm"),
        ("MATMUL", off(1 + 2**-10), "blk.0.attn_q"),
        ("ROPE", off(1 - 2**-12), "blk.0.rope_q"),
        ("ATTN", off(1 + 2**-8), "blk.0.attn"),
        ("ADD", one_element, "blk.0.add"),
        ("GLU", off(1 - 2**-15), "blk.0.silu_glu"),
    ],
)
def test_one_broken_op_is_named(
    model: Checkpoint, kind: str, broken: Callable[..., Callable[..., Array]], label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(ReferenceEngine):
        def run(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            with monkeypatch.context() as patch:
                patch.setitem(OPS, kind, broken(OPS[kind]))
                return super().run(*args, **kwargs)

    found = compare_ops(build_tape(model), model.tensors, TOKENS, Broken)
    first = found.first
    assert first is not None and (first.kind, first.label) == (kind, label), found


@pytest.mark.parametrize("qtype", [QuantType.Q8_0, QuantType.Q4_0])
def test_quantized_activations_are_within_the_bounds(qtype: QuantType, monkeypatch: pytest.MonkeyPatch) -> None:
    # an engine that rounds activations as the kernels do, in NumPy
    def rounding(op: ops.Op, run: ops.Run, inputs: list[Array]) -> Array:
        grouped = inputs[0].reshape(len(inputs[0]), inputs[0].shape[1] // 32, 32)
        step = abs(grouped).max(axis=2, keepdims=True) / 127
        rounded = np.rint(grouped / np.where(step == 0, 1, step)) * step
        return meaning(op, run, [rounded.reshape(inputs[0].shape)])

    class Rounding(ReferenceEngine):
        def run(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            with monkeypatch.context() as patch:
                patch.setitem(OPS, "MATMUL", rounding)
                return super().run(*args, **kwargs)

    meaning = OPS["MATMUL"]
    metadata = {**LLAMA, "llama.embedding_length": 64, "llama.feed_forward_length": 96}
    model = quantized(checkpoint(metadata, llama_shapes(d=64, ff=96, kv=32)), qtype)
    tape = build_tape(model)
    assert compare_ops(tape, model.tensors, TOKENS, Rounding).first is None
    assert compare_ops(tape, model.tensors, TOKENS, single).first is None


@pytest.mark.parametrize(
    ("qtype", "kv_type"), [*((t, "bf16") for t in QuantType), (QuantType.Q4_K, "f16"), (QuantType.Q4_K, "f32")]
)
def test_native_engine_agrees_at_every_level(level: str, qtype: QuantType, kv_type: str) -> None:  # noqa: F811
    metadata = {
        **LLAMA,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 512,
        "llama.block_count": 1,
        "llama.attention.sliding_window": 21,
    }
    model = quantized(checkpoint(metadata, llama_shapes(d=256, layers=1, ff=512, kv=128)), qtype)
    found = compare(model, TOKENS, kv_type=kv_type)
    assert found.first is None, found
    assert {op.rows for op in found.ops} == {len(TOKENS), 1}
