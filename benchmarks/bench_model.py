"""Whole models: loading, writing 64 tokens, reading a prompt of 512, quantizing, on a model of 58M parameters with random
weights; rates stand in each benchmark's extra_info. `benchmarks/table.py` has the large models and the peers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import write_model

import llmq
from llmq import _native
from llmq.cpu import default_threads
from llmq.quant.rows import quantize
from llmq.quant.types import QuantType

TYPES = ("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "IQ4_XS")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    write_model("58m", made / "F16.gguf")
    return made


def _model(folder: Path, type_: str) -> Path:
    path = folder / f"{type_}.gguf"
    if not path.exists():
        llmq.quantize_model(folder / "F16.gguf", path, type_)
    return path


def _note(benchmark, **rates: float) -> None:  # type: ignore[no-untyped-def]
    """Rates are amounts in one round, divided by the best."""
    best = benchmark.stats.stats.min if benchmark.stats is not None else float("inf")
    info = {name: round(amount / best, 2) for name, amount in rates.items()}
    benchmark.extra_info.update(isa=_native.isa_used(), threads=default_threads(), **info)


@pytest.mark.parametrize("type_", TYPES)
def test_load(benchmark, folder: Path, type_: str) -> None:  # type: ignore[no-untyped-def]
    path = _model(folder, type_)
    benchmark(lambda: llmq.load(path, n_ctx=64).close())
    _note(benchmark, file_GBs=path.stat().st_size / 1e9)


@pytest.mark.parametrize("n", [1, 512])
@pytest.mark.parametrize("type_", TYPES)
def test_model(benchmark, folder: Path, type_: str, n: int) -> None:  # type: ignore[no-untyped-def]
    with llmq.load(_model(folder, type_), n_ctx=600) as llm:
        prompts = iter(np.random.default_rng(0).integers(300, 30_000, (10**4, 1 if n == 1 else n)).tolist())
        amount = {"max_tokens": 64} if n == 1 else {"max_tokens": 1}
        benchmark.pedantic(
            lambda: llm.generate(next(prompts), temperature=0, ignore_eos=True, **amount), rounds=7, warmup_rounds=1
        )
    _note(benchmark, tokens_per_second=64 if n == 1 else n)


@pytest.mark.parametrize("qtype", [t for t in QuantType if not t.is_float and not t.name.startswith(("IQ1", "IQ2"))])
def test_quantize(benchmark, qtype: QuantType) -> None:  # type: ignore[no-untyped-def]
    rows = np.random.default_rng(0).standard_normal((64, 2048)).astype(np.float32)
    benchmark(lambda: quantize(rows, qtype))
    _note(benchmark, million_weights_per_second=rows.size / 1e6)
