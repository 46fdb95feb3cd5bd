"""Matrices that read one input, in the native engine: multiplied as one, gated before they are written, in any pages."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import level  # noqa: F401
from test_engine_native import Builder, both, tokens
from tiny import batch

from llmq.engine import native
from llmq.engine.native import NativeEngine
from llmq.graph.tape import Tape
from llmq.quant.types import QuantType

GATES = [
    (QuantType.Q4_0, QuantType.Q8_0),
    (QuantType.Q4_K, QuantType.Q6_K),
    (QuantType.F16, QuantType.BF16),
    (QuantType.Q4_0, QuantType.F32),
]


def test_matrices_of_one_input_and_many_types(level: str) -> None:  # noqa: F811
    """They are multiplied as one where their types let them be: any number of threads gives the same bits."""
    m = Builder()
    x = m.embed(256)
    types = (QuantType.Q4_0, QuantType.Q8_0, QuantType.F16, QuantType.Q4_K, QuantType.Q6_K, QuantType.F32, QuantType.Q4_0)
    rows = (1, 300, 33, 16, 500, 47, 260)
    y = None
    for i, (qtype, n) in enumerate(zip(types, rows, strict=True)):
        z = m.g.matmul(x, m.w(f"w{i}", n, 256, qtype=qtype))
        y = z if y is None else m.g.join(y, z, 1, y.width + n)
    assert y is not None
    tape = m.tape(y)
    assert both(m, tape, [1, 3, 40]) < 0.02
    for n in (1, 5, 40):
        results = []
        for n_threads in (1, 2, 3, 16):
            with NativeEngine(tape, m.tensors, n_threads=n_threads) as engine:
                results.append(engine.run(batch((engine.new_sequence(), 0, tokens(n)))).tobytes())
        assert len(set(results)) == 1


def gated(types: tuple[QuantType, QuantType], *, again: bool = False) -> tuple[Builder, Tape]:
    """A GLU of two matmuls; `again`: something else reads the gate too."""
    m, n, width = Builder(), 300, 256
    x = m.embed(width)
    other = m.g.matmul(x, m.w("other", 40, width))
    gate, up = (m.g.matmul(x, m.w(name, n, width, qtype=qtype)) for name, qtype in zip(("gate", "up"), types, strict=True))
    y = m.g.glu(gate, up, "silu")
    y = m.g.add(y, gate) if again else y
    return m, m.tape(m.g.join(m.g.matmul(y, m.w("down", width, n)), other, 1, width + 40))


@pytest.mark.parametrize("types", GATES)
def test_a_gate_is_a_part_of_its_matmuls(level: str, types: tuple[QuantType, QuantType]) -> None:  # noqa: F811
    """From 32 rows on, where the types let it; the bits are those of a phase of its own."""
    m, tape = gated(types)
    assert both(m, tape, [1, 31, 40, 200]) < 0.02
    alike = types[1] != QuantType.F32
    ids, results = tokens(32), []
    for n_threads in (2, 1, 3):
        with NativeEngine(tape, m.tensors, n_threads=n_threads) as engine:
            results.append(engine.run(batch((engine.new_sequence(), 0, ids))))
            at_once = engine._open().phases
            seq = engine.new_sequence()
            parts = [engine.run(batch((seq, at, ids[at : at + n]))) for at, n in ((0, 20), (20, 12))]
            seq = engine.new_sequence()
            engine.run(batch((seq, 0, ids[:31])))
            if n_threads == 2:
                assert engine._open().phases - at_once == alike
        assert np.array_equal(results[-1], results[0])
    if level != "amx" and types[0] != QuantType.F16:  # a row does not depend on its batch
        assert np.array_equal(results[0], np.concatenate(parts))


def test_a_gate_that_is_read_again_is_written() -> None:
    m, tape = gated((QuantType.Q4_0, QuantType.Q4_0), again=True)
    assert both(m, tape, [40, 64]) < 0.02


def test_huge_pages_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, refused, or taken as they are found to cost: then the first matrix has small ones, the second tries one."""
    monkeypatch.setattr(native, "largest_cache", lambda: 0)  # so that weights are too large for it
    monkeypatch.delenv("LLMQ_HUGE_PAGES", raising=False)
    m = Builder()
    x = m.embed(800)
    for i in range(3):
        x = m.g.matmul(x, m.w(f"w{i}", 800, 800))  # over 2 MB
    tape, results = m.tape(x), []
    for huge in (False, True, None):
        with NativeEngine(tape, m.tensors, n_threads=2, huge_pages=huge) as engine:
            results.append(engine.run(batch((engine.new_sequence(), 0, tokens(4)))).tobytes())
    assert len(set(results)) == 1
