"""How fast a model runs here: prompt reading and writing, against what the memory allows and, side by side, llama.cpp."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from llmq import _native
from llmq.cpu import default_threads
from llmq.engine.base import Batch
from llmq.errors import Cancelled, LlmqError
from llmq.loading import load
from llmq.model import LLM

__all__ = ["BenchReport", "Measure", "Memory", "Peer", "bench", "plot"]

PEER_SCRIPT = Path(__file__).with_name("benchmark_peer.py")
SETTLE = 0.25
"""Seconds before anything else runs after a peer: threads of OpenMP go on spinning for 0.2 s, on cores that are ours then."""


@dataclass(frozen=True)
class Measure:
    """Repetitions of one test. `rates` are tokens per second, `limits` what the memory's bandwidth beside each allowed (empty
    where memory is not the limit: prompts, several sequences), `peer_rates` the peer's."""

    test: str
    tokens: int
    rates: list[float]
    limits: list[float] = field(default_factory=list)
    peer_rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    @property
    def percent(self) -> float | None:
        """Of the limit: the median over the repetitions, since bandwidth that others use comes and goes."""
        return 100 * statistics.median(a / b for a, b in zip(self.rates, self.limits, strict=True)) if self.limits else None

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
    """bandwidth in bytes/s, read by all threads together, the median beside the repetitions; bytes_per_token: weights read to
    write one token; ttft and tpot in seconds, medians."""

    model: str
    n_threads: int
    isa: str
    bandwidth: float
    bytes_per_token: int
    ttft: float
    tpot: float
    measures: list[Measure]

    def as_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def table(self) -> str:
        """A row per test: tokens/s (median), what part of the memory limit that is, and the peer's rate beside it."""
        lines = [
            f"{self.model}, {self.n_threads} threads, {self.isa}; memory reads {self.bandwidth / 1e9:.1f} GB/s, "
            f"a token reads {self.bytes_per_token / 2**20:.0f} MiB",
            f"{'test':<20}{'tokens/s':>10}{'min':>9}{'max':>9}{'of limit':>10}{'llama.cpp':>11}{'ratio':>7}",
        ]
        for m in self.measures:
            limit = "" if m.percent is None else f"{m.percent:.0f} %"
            peer = "" if m.peer_median is None else f"{m.peer_median:.2f}"
            ratio = "" if m.ratio is None else f"{m.ratio:.2f}"
            low, high = min(m.rates), max(m.rates)
            lines.append(f"{m.test:<20}{m.median:>10.2f}{low:>9.2f}{high:>9.2f}{limit:>10}{peer:>11}{ratio:>7}")
        lines.append(f"first token after {1000 * self.ttft:.0f} ms, then {1000 * self.tpot:.1f} ms each")
        return "\n".join(lines)


def plot(report: BenchReport, path: str | os.PathLike[str]) -> None:
    """Draw the report's medians, and the peer's beside them, into a PNG, SVG or PDF file. LlmqError without matplotlib."""
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415
    except ImportError:
        raise LlmqError("drawing needs matplotlib: pip install 'llmq[plot]'") from None
    figure = Figure(figsize=(3 + 2 * len(report.measures), 4), layout="constrained")
    all_axes = figure.subplots(1, len(report.measures), squeeze=False)[0]  # tests differ too much for one scale
    for axes, m in zip(all_axes, report.measures, strict=True):
        rates = {"llmq": m.median} | ({} if m.peer_median is None else {"llama.cpp": m.peer_median})
        axes.bar_label(axes.bar(list(rates), list(rates.values())), fmt="%.1f")
        if m.limits:
            axes.axhline(statistics.median(m.limits), linestyle="--", label="memory's limit")
            axes.legend()
        axes.set_title(m.test)
        axes.set_ylabel("tokens/s")
    figure.suptitle(f"{report.model}, {report.n_threads} threads, {report.isa}")
    figure.savefig(path)


class Memory:
    """Something to read, far larger than the caches."""

    def __init__(self, n_threads: int, size: int = 512 << 20) -> None:
        self._parts = np.array_split(np.ones(size // 8, np.uint64), n_threads)

    def bandwidth(self, repetitions: int = 3) -> float:
        """Bytes per second that the threads read together: the median of some passes."""
        seconds: list[float] = []
        with ThreadPoolExecutor(len(self._parts)) as threads:
            for _ in range(repetitions + 1):  # the first starts the threads
                start = time.perf_counter()
                list(threads.map(_native.sum_words, self._parts))
                seconds.append(time.perf_counter() - start)
        return sum(part.nbytes for part in self._parts) / statistics.median(seconds[1:])


class Peer:
    """llama-cpp-python on the same file, in a process of its own, or what another script runs that keeps the protocol of
    benchmark_peer.py. `python` is the interpreter it is installed for, `more` are further arguments of the script."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        n_ctx: int,
        n_threads: int,
        python: str = sys.executable,
        sequences: int = 1,
        *,
        name: str = "llama-cpp-python",
        script: Path = PEER_SCRIPT,
        more: Sequence[str] = (),
    ) -> None:
        self.name = name
        # -I: not from the script's own folder, whose modules have names of the standard library (tokenize, inspect)
        command = [python, "-I", os.fspath(script), os.fspath(model), str(n_ctx), str(n_threads), str(sequences), *more]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        try:
            self.loading = self.ask(None)
        except BaseException:
            self.close()
            raise

    def ask(self, request: object) -> float:
        """The answer to a request of benchmark_peer.py, mostly seconds; None waits for the model to be loaded."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if request is not None:
            with contextlib.suppress(BrokenPipeError):  # it ended; its last words follow
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:]
            raise LlmqError(f"{self.name} could not run this model: {last[0] if last else 'it gave no message'}")
        time.sleep(SETTLE)
        return float(json.loads(line))

    def prompt(self, tokens: list[int]) -> float:
        """Tokens per second of reading `tokens`."""
        return len(tokens) / self.ask({"prompt": tokens})

    def write(self, depth: list[int], n: int) -> float:
        """Tokens per second of writing n tokens after `depth`."""
        return n / self.ask({"depth": depth, "write": n})

    def write_together(self, sequences: int, n: int) -> float:
        """Tokens per second, all in all, of writing n tokens to each of so many sequences."""
        return sequences * n / self.ask({"sequences": sequences, "write": n})

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def bench(
    model: str | os.PathLike[str],
    n_prompt: int = 512,
    n_gen: int = 128,
    repetitions: int = 5,
    *,
    depth: int = 0,
    sequences: int = 1,
    n_threads: int | None = None,
    peer_python: str | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> BenchReport:
    """Time reading n_prompt random tokens and writing n_gen after `depth` more, `repetitions` times each, after a warm-up.
    With several `sequences` (and depth 0) all of them are written together, and rates count the tokens of all.

    peer_python: the interpreter of an environment that has llama-cpp-python; its runs alternate with ours on the same file.
    Raises what `load` raises, ValueError for counts below 1 (n_prompt or n_gen may be 0 to leave that test out)."""
    if min(n_prompt, n_gen, depth) < 0 or repetitions < 1 or n_prompt + n_gen == 0:
        raise ValueError("n_prompt, n_gen and depth from 0, one of the first two and repetitions from 1 expected")
    if sequences < 1 or (sequences > 1 and depth > 0):
        raise ValueError("sequences from 1 expected, and no depth with more than one")
    threads = n_threads or default_threads()
    n_ctx = max(n_prompt, max(1, depth) + n_gen) + 8
    peer = None if peer_python is None else Peer(model, n_ctx, threads, peer_python, sequences)
    try:
        with load(model, n_ctx=n_ctx, n_threads=threads) as llm:
            options = {"depth": depth, "sequences": sequences, "n_threads": threads}
            return _bench(llm, n_prompt, n_gen, repetitions, **options, peer=peer, progress=progress)
    finally:
        if peer is not None:
            peer.close()


def _bench(
    llm: LLM,
    n_prompt: int,
    n_gen: int,
    repetitions: int,
    *,
    depth: int,
    sequences: int,
    n_threads: int,
    peer: Peer | None,
    progress: Callable[[str, int, int], object] | None,
) -> BenchReport:
    random = np.random.default_rng(0)
    memory = Memory(n_threads)
    bandwidths: list[float] = []
    reading = Measure(f"prompt {n_prompt}", n_prompt, [])
    where = f" at {depth}" if depth else f" x {sequences}" if sequences > 1 else ""
    writing = Measure(f"write {n_gen}{where}", n_gen, [])
    first: list[float] = []
    for turn in range(repetitions + 1):  # the first warms up
        if n_prompt:
            tokens = _tokens(random, llm.n_vocab, n_prompt)
            done = llm.generate(tokens, max_tokens=1, temperature=0, ignore_eos=True)
            _note(reading, turn, done.timings.prompt_tps, None if peer is None else peer.prompt(tokens))
            first.append(done.timings.ttft)
        if n_gen and sequences > 1:
            rate = _write_together(llm, sequences, n_gen)
            _note(writing, turn, rate, None if peer is None else peer.write_together(sequences, n_gen))
        elif n_gen:
            start = _tokens(random, llm.n_vocab, max(1, depth))
            before = memory.bandwidth()
            rate = llm.generate(start, max_tokens=n_gen, temperature=0, ignore_eos=True).timings.gen_tps
            bandwidths.append((before + memory.bandwidth()) / 2)
            _note(writing, turn, rate, None if peer is None else peer.write(start, n_gen), bandwidths[-1] / llm.bytes_per_token)
        if progress is not None and progress("bench", turn, repetitions) is False:
            raise Cancelled("the benchmark was cancelled")
    return BenchReport(
        model=llm.name,
        n_threads=n_threads,
        isa=_native.isa_used(),
        bandwidth=statistics.median(bandwidths[1:] or [memory.bandwidth()]),
        bytes_per_token=llm.bytes_per_token,
        ttft=statistics.median(first[1:]) if n_prompt else 0.0,
        tpot=sequences / writing.median if n_gen else 0.0,
        measures=[measure for measure in (reading, writing) if measure.rates],
    )


def _write_together(llm: LLM, sequences: int, n: int) -> float:
    with llm._scheduler.alone() as engine:
        ids = np.array([engine.new_sequence() for _ in range(sequences)], np.int32)
        tokens, outputs = np.arange(1, sequences + 1, dtype=np.int32), np.arange(sequences, dtype=np.int32)
        try:
            for position in range(n + 1):
                if position == 1:  # the first reads the prompts
                    start = time.perf_counter()
                logits = engine.run(Batch(tokens, np.full(sequences, position, np.int32), ids, outputs))
                tokens = logits.argmax(axis=1).astype(np.int32)
            return sequences * n / (time.perf_counter() - start)
        finally:
            for seq in ids.tolist():
                engine.free_sequence(seq)


def _note(measure: Measure, turn: int, rate: float, peer_rate: float | None, limit: float | None = None) -> None:
    if turn > 0:
        measure.rates.append(rate)
        if limit is not None:
            measure.limits.append(limit)
        if peer_rate is not None:
            measure.peer_rates.append(peer_rate)


def _tokens(random: np.random.Generator, n_vocab: int, n: int) -> list[int]:
    return [int(i) for i in random.integers(min(300, n_vocab // 2), min(n_vocab, 30_000), n)]
