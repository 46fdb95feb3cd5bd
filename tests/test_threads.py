"""The thread pool through the engine: every number of threads, many engines and callers at once, nothing left behind."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny import batch, checkpoint

from llmq.arch import build_tape
from llmq.engine.native import NativeEngine

MADE = checkpoint()
TAPE = build_tape(MADE)
IDS = np.arange(20) % TAPE.n_vocab


def run(engine: NativeEngine, n: int = 20) -> bytes:
    """The logits of a prompt and of one more token, of a sequence of its own."""
    seq = engine.new_sequence()
    first = engine.run(batch((seq, 0, IDS[:n])))
    second = engine.run(batch((seq, n, [3])))
    engine.free_sequence(seq)
    return first.tobytes() + second.tobytes()


@pytest.fixture(scope="module")
def want() -> dict[int, bytes]:
    with NativeEngine(TAPE, MADE.tensors, n_threads=1) as engine:
        return {n: run(engine, n) for n in range(1, 20)}


@pytest.mark.parametrize("n_threads", [2, 3, 4, 5, 8, 13, 31, 64])
def test_any_number_of_threads(want: dict[int, bytes], n_threads: int) -> None:
    """More threads than cores, than tokens, than rows of any matrix."""
    with NativeEngine(TAPE, MADE.tensors, n_threads=n_threads) as engine:
        for n in (1, 2, 19):
            assert run(engine, n) == want[n]


def test_many_callers_of_one_engine(want: dict[int, bytes]) -> None:
    with NativeEngine(TAPE, MADE.tensors, n_threads=2) as engine, ThreadPoolExecutor(8) as callers:
        lengths = [1 + i % 19 for i in range(64)]
        assert list(callers.map(lambda n: run(engine, n), lengths)) == [want[n] for n in lengths]


def test_many_engines_at_once(want: dict[int, bytes]) -> None:
    def work(n: int) -> bool:
        with NativeEngine(TAPE, MADE.tensors, n_threads=3) as engine:
            return all(run(engine, m) == want[m] for m in (n, 1, n))

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(work, range(1, 20)))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc here")
def test_workers_end_with_the_engine() -> None:
    before = set(os.listdir("/proc/self/task"))
    engines = [NativeEngine(TAPE, MADE.tensors, n_threads=9) for _ in range(3)]
    workers = set(os.listdir("/proc/self/task")) - before
    assert len(workers) == 24
    for engine in engines:
        engine.close()
    for _ in range(1000):  # a joined thread's entry may outlive it for a moment
        if not workers & set(os.listdir("/proc/self/task")):
            return
        time.sleep(0.01)
    raise AssertionError("workers are still there")


def test_floating_point_mode_is_kept() -> None:
    """The workers flush denormals; the caller's own arithmetic does not."""
    with NativeEngine(TAPE, MADE.tensors, n_threads=2) as engine:
        run(engine)
        tiny = np.full(4, 1e-40, np.float32)
        assert (tiny * np.float32(2) > 0).all()


def test_engines_of_threads_that_ended(want: dict[int, bytes]) -> None:
    """The caller need not be the thread that made the engine."""
    made: list[NativeEngine] = []
    maker = threading.Thread(target=lambda: made.append(NativeEngine(TAPE, MADE.tensors, n_threads=2)))
    maker.start()
    maker.join()
    assert run(made[0], 7) == want[7]
    closer = threading.Thread(target=made[0].close)
    closer.start()
    closer.join()


def test_closing_right_after_a_run(want: dict[int, bytes]) -> None:
    """A worker that hears of the last job only now, or not yet of the end, still ends."""
    for _ in range(200):
        with NativeEngine(TAPE, MADE.tensors, n_threads=4) as engine:
            assert run(engine, 1) == want[1]
