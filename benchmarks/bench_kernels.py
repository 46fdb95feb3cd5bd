"""The matmul kernels on the shapes of a 1.1B model, for every type: one to sixteen rows of activations as GB/s of packed
weights and as percent of the read bandwidth measured in the same run, with as many threads; 256 rows as GFLOP/s; see each
benchmark's extra_info. The best round counts, not the median: other programs only ever add time. Every call starts a pool of
its own, tens of microseconds that an engine pays once: the GB/s are lower bounds."""

from __future__ import annotations

import numpy as np
import pytest

from llmq import _native
from llmq.benchmark import Memory
from llmq.cpu import default_threads
from llmq.quant.rows import quantize
from llmq.quant.types import QuantType

SHAPES = [(2048, 2048), (5632, 2048)]
COPIES = 24  # experts in turn, so that the weights of a pass do not stay in the caches


@pytest.fixture(scope="session")
def bandwidth() -> float:
    """GB/s at which all threads together read memory far larger than the caches."""
    return Memory(default_threads()).bandwidth(9) / 1e9


@pytest.mark.parametrize("m", [1, 4, 16, 256])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("qtype", list(QuantType), ids=lambda t: t.name)
def test_matmul(benchmark, bandwidth: float, qtype: QuantType, shape: tuple[int, int], m: int) -> None:  # type: ignore[no-untyped-def]
    n, k = shape
    copies = COPIES if m <= 16 else 1
    rng = np.random.default_rng(0)
    rows = np.tile(quantize(rng.standard_normal((64, k)).astype(np.float32), qtype), (n // 64 * copies, 1))
    w = _native.Packed(int(qtype), n, k, rows.reshape(-1), experts=copies)
    x, out = rng.standard_normal((m, k)).astype(np.float32), np.empty((m, n), np.float32)
    threads = default_threads()
    scratch = np.empty(w.scratch_bytes(m, threads) + 64, np.uint8)
    scratch = scratch[-scratch.ctypes.data % 64 :][: w.scratch_bytes(m, threads)]
    turn = iter(range(10**9))
    benchmark(lambda: _native.matmul(w, x, out, None, next(turn) % copies, threads, scratch))
    info = benchmark.extra_info
    info["isa"], info["threads"], info["bandwidth_GBs"] = _native.isa_used(), threads, round(bandwidth, 1)
    if benchmark.stats is not None:
        seconds = benchmark.stats.stats.min
        info["GBs"] = round(w.data.nbytes / copies / seconds / 1e9, 2)
        info["percent_of_limit"] = round(100 * w.data.nbytes / copies / seconds / 1e9 / bandwidth)
        info["GFLOPs"] = round(2 * n * k * m / seconds / 1e9, 1)
