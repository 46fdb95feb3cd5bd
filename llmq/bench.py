"""How fast a model runs here: prompt reading and writing, against what the memory allows and, side by side, llama.cpp."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from llmq.errors import LlmqError
from llmq.model import LLM, load

__all__ = ["BenchReport", "Measure", "Peer", "bench", "memory_bandwidth"]

PEER_SCRIPT = Path(__file__).with_name("bench_peer.py")


@dataclass(frozen=True)
class Measure:
    """Repetitions of one test. `rates` are tokens per second; `limit` is what the memory bandwidth allows, None for prompts."""

    test: str
    tokens: int
    rates: list[float]
    limit: float | None = None
    peer_rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    @property
    def peer_median(self) -> float | None:
        return statistics.median(self.peer_rates) if self.peer_rates else None

    @property
    def ratio(self) -> float | None:
        """Median of the ratios of runs made one after the other, which a machine's slow moments touch alike."""
        if not self.peer_rates:
            return None
        return statistics.median(a / b for a, b in zip(self.rates, self.peer_rates, strict=True))


@dataclass(frozen=True)
class BenchReport:
    """bandwidth in bytes/s, read by all threads together; bytes_per_token: weights read to write one token; ttft and tpot in
    seconds, medians."""

    model: str
    n_threads: int
    isa: str
    bandwidth: float
    bytes_per_token: int
    ttft: float
    tpot: float
    measures: list[Measure]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def memory_bandwidth(n_threads: int, *, size: int = 256 << 20, repetitions: int = 5) -> float:
    """Bytes per second that `n_threads` threads read together from memory: the best of `repetitions` sums over `size` bytes."""
    data = np.ones(size // 8, np.uint64)
    parts = np.array_split(data, n_threads)
    best = float("inf")
    for _ in range(repetitions):
        threads = [threading.Thread(target=part.sum) for part in parts]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, time.perf_counter() - start)
    return size / best


class Peer:
    """llama-cpp-python on the same file, in a process of its own. `python` is the interpreter it is installed for."""

    def __init__(self, model: str | os.PathLike[str], n_ctx: int, n_threads: int, python: str = sys.executable) -> None:
        command = [python, os.fspath(PEER_SCRIPT), os.fspath(model), str(n_ctx), str(n_threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._ask(None)

    def _ask(self, request: object) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        if request is not None:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate()
            raise LlmqError(f"llama-cpp-python could not run this model: {errors.strip().splitlines()[-1:] or 'no message'}")
        return float(json.loads(line))

    def prompt(self, tokens: list[int]) -> float:
        """Tokens per second of reading `tokens`."""
        return len(tokens) / self._ask({"prompt": tokens})

    def write(self, depth: list[int], n: int) -> float:
        """Tokens per second of writing n tokens after `depth`."""
        return n / self._ask({"depth": depth, "write": n})

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


def bench(
    model: str | os.PathLike[str],
    n_prompt: int = 512,
    n_gen: int = 128,
    repetitions: int = 5,
    *,
    depth: int = 0,
    n_threads: int | None = None,
    peer_python: str | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> BenchReport:
    """Time reading n_prompt random tokens and writing n_gen after `depth` more, `repetitions` times each, after a warm-up.

    peer_python: the interpreter of an environment that has llama-cpp-python; its runs alternate with ours on the same file.
    Raises what `load` raises, ValueError for counts below 1 (n_prompt or n_gen may be 0 to leave that test out)."""
    if min(n_prompt, n_gen, depth) < 0 or repetitions < 1 or n_prompt + n_gen == 0:
        raise ValueError("bench: n_prompt, n_gen and depth from 0, one of the first two and repetitions from 1 expected")
    with load(model, n_ctx=max(n_prompt, depth + n_gen) + 8, n_threads=n_threads) as llm:
        peer = None if peer_python is None else Peer(model, llm.n_ctx, llm.n_threads, peer_python)
        try:
            return _bench(llm, os.fspath(model), (n_prompt, n_gen, depth), repetitions, peer, progress)
        finally:
            if peer is not None:
                peer.__exit__(None, None, None)


def _bench(
    llm: LLM,
    name: str,
    sizes: tuple[int, int, int],
    repetitions: int,
    peer: Peer | None,
    progress: Callable[[str, int, int], object] | None,
) -> BenchReport:
    n_prompt, n_gen, depth = sizes
    random = np.random.default_rng(0)
    bandwidth = memory_bandwidth(llm.n_threads)
    reading = Measure(f"prompt {n_prompt}", n_prompt, [])
    writing = Measure(f"write {n_gen}" + (f" at {depth}" if depth else ""), n_gen, [], bandwidth / llm.bytes_per_token)
    first: list[float] = []
    for round_ in range(-1, repetitions):  # round -1 warms up
        if n_prompt:
            tokens = _tokens(random, llm.n_vocab, n_prompt)
            done = llm.generate(tokens, max_tokens=1, temperature=0, ignore_eos=True)
            rate = done.timings.prompt_tps
            _note(reading, round_, rate, None if peer is None else peer.prompt(tokens))
            first.append(done.timings.ttft)
        if n_gen:
            start = _tokens(random, llm.n_vocab, max(1, depth))
            rate = llm.generate(start, max_tokens=n_gen, temperature=0, ignore_eos=True).timings.gen_tps
            _note(writing, round_, rate, None if peer is None else peer.write(start, n_gen))
        if progress is not None:
            progress("bench", round_ + 1, repetitions)
    return BenchReport(
        model=name,
        n_threads=llm.n_threads,
        isa=llm.isa,
        bandwidth=bandwidth,
        bytes_per_token=llm.bytes_per_token,
        ttft=statistics.median(first[1:]) if n_prompt else 0.0,
        tpot=1 / writing.median if n_gen else 0.0,
        measures=[m for m in (reading, writing) if m.rates],
    )


def _note(measure: Measure, round_: int, rate: float, peer_rate: float | None) -> None:
    if round_ >= 0:
        measure.rates.append(rate)
        if peer_rate is not None:
            measure.peer_rates.append(peer_rate)


def _tokens(random: np.random.Generator, n_vocab: int, n: int) -> list[int]:
    ids: npt.NDArray[np.int64] = random.integers(min(300, n_vocab // 2), min(n_vocab, 30_000), n)
    return ids.tolist()
