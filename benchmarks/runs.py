"""What the rows of benchmarks/table.py are made of: options, models, runs in processes of their own, and the row itself."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synthetic import SHAPES, write_model

import llmq
from llmq.benchmark import Measure
from llmq.cpu import cpu_info

TIMEOUT = 900  # seconds for one run of `llmq bench`


class RunFailedError(Exception):
    """A run that gave no figures; the message says why."""


@dataclass(frozen=True)
class Target:
    """What a row is to reach: `least` or `most` of its ratio or of its percentage. One for AMX is judged with AMX alone."""

    text: str
    of: str = "ratio"
    least: float = 0.0
    most: float = float("inf")
    amx: bool = False


@dataclass(frozen=True)
class Row:
    """A line of the table: medians, the median ratio over the pairs of alternated runs (above 1: llmq is better), and a
    percentage with what it is of."""

    what: str
    ours: float | None = None
    unit: str = "t/s"
    peer: float | None = None
    peer_name: str = "llama.cpp"
    ratio: float | None = None
    percent: float | None = None
    percent_of: str = "of the limit"
    targets: tuple[Target, ...] = ()
    notes: list[str] = field(default_factory=list)

    def verdict(self, target: Target) -> str:
        """yes, no, or why it cannot be said."""
        figure = self.ratio if target.of == "ratio" else self.percent
        if target.amx and "amx" not in cpu_info()["levels"]:
            return "needs AMX"
        if figure is None:
            return "no peer" if target.of == "ratio" else "not measured"
        return "yes" if target.least <= figure <= target.most else "no"

    def markdown(self) -> str:
        ours = "failed" if self.ours is None else f"{self.ours:.1f} {self.unit}"
        if self.percent is not None:
            ours += f" ({self.percent:.{0 if self.percent >= 1 else 1}f} % {self.percent_of})"
        peer = "" if self.peer is None else f"{self.peer:.1f} {self.unit}"
        if self.peer_name != "llama.cpp":
            peer = f"{peer} {self.peer_name}".strip()
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        targets = "; ".join(target.text for target in self.targets)
        verdicts = "; ".join(self.verdict(target) for target in self.targets)
        return f"| {self.what} | {ours} | {peer} | {ratio} | {targets} | {verdicts} | {'; '.join(self.notes)} |"

    def as_dict(self) -> dict[str, Any]:
        targets = [{"target": target.text, "met": self.verdict(target)} for target in self.targets]
        return {**{name: value for name, value in vars(self).items() if name != "targets"}, "targets": targets}


@dataclass(frozen=True)
class Runs:
    """peers: interpreter of each peer, "llama.cpp" and perhaps "llama.cpp-avx2", "openvino", "transformers"."""

    folder: Path
    shape: str
    repetitions: int
    peers: dict[str, str]

    def model(self, type_: str, shape: str | None = None) -> Path:
        """That model in that type, made when it is not there. "F16-bytes": with a byte-level vocabulary."""
        shape = shape or self.shape
        path = self.folder / f"{shape}-{type_}.gguf"
        if not path.exists():
            sys.stderr.write(f"making {path}\n")
            if type_.startswith("F16"):
                write_model(shape, path, byte_level=type_ == "F16-bytes")
            else:
                llmq.quantize_model(self.model("F16", shape), path, type_)
        return path

    def bench(self, type_: str, *options: str, shape: str | None = None, isa: str = "", peer: str = "llama.cpp") -> BenchRun:
        """`llmq bench` on a model, against that peer when there is one; without it when it fails."""
        command = ["-m", "llmq.bench", str(self.model(type_, shape)), "--json", *options]
        command += ["--repetitions", str(self.repetitions)]
        env = {"LLMQ_ISA": isa} if isa else {}
        if peer in self.peers:
            try:
                return BenchRun(child([*command, "--compare", "llama-cpp-python", "--peer-python", self.peers[peer]], env), [])
            except RunFailedError as error:
                return BenchRun(child(command, env), [str(error)])
        return BenchRun(child(command, env), [])

    def kv_bytes(self, n_ctx: int, shape: str | None = None) -> int:
        """Of the keys and values of a full context, in 16 bits."""
        s = SHAPES[shape or self.shape]
        return 2 * s.layers * s.kv_heads * (s.width // s.heads) * 2 * n_ctx


class BenchRun:
    """The single measure of a run of `llmq bench`."""

    def __init__(self, report: dict[str, Any], notes: list[str]) -> None:
        self.measure = Measure(**report["measures"][0])
        self.notes = notes

    def row(self, what: str, *targets: Target) -> Row:
        m = self.measure
        return Row(what, m.median, peer=m.peer_median, ratio=m.ratio, percent=m.percent, targets=targets, notes=self.notes)


def child(arguments: list[str], env: dict[str, str], python: str = sys.executable) -> dict[str, Any]:
    """What a program prints as JSON. RunFailedError with the last line it wrote when it fails."""
    try:
        done = subprocess.run(
            [python, *arguments], env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunFailedError(str(error)) from None
    if done.returncode != 0:
        raise RunFailedError(_reason(done.stderr) or f"ended with code {done.returncode}")
    return dict(json.loads(done.stdout))


def _reason(stderr: str) -> str:
    last = (stderr.strip().splitlines() or [""])[-1]
    try:
        return str(json.loads(last)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return last[-200:].replace("|", "/")


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(what: str, unit: str, scale: float, ours: list[float], peers: list[float], *targets: Target, **more: Any) -> Row:
    """A row of costs (less is better) of alternated runs; without `peers` the ratio stays open."""
    ratio = statistics.median(p / o for o, p in zip(ours, peers, strict=True)) if peers else None
    peer = scale * statistics.median(peers) if peers else None
    return Row(what, scale * statistics.median(ours), unit, peer, ratio=ratio, targets=targets, **more)
