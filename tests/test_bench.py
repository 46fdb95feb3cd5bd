"""The benchmark runs and its report adds up; what it times decides nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import llmq
from llmq import _native
from llmq.benchmark import BenchReport, Measure, plot
from llmq.cli import main

MODEL = Path(__file__).parent.parent / "models" / "storyteller"


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(MODEL), "--prompt", "16", "--gen", "4", "--repetitions", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(m["test"], m["tokens"], len(m["rates"])) for m in report["measures"]] == [("prompt 16", 16, 2), ("write 4", 4, 2)]
    assert all(rate > 0 for m in report["measures"] for rate in m["rates"])
    assert report["bytes_per_token"] == 2 * (4096 * 256 + 8 * (256 * 256 * 3 + 3 * 256 * 768))  # bf16, tied embeddings
    assert main(["bench", str(MODEL), "--prompt", "0", "--gen", "3", "--repetitions", "1", "--depth", "9"]) == 0
    assert "write 3 at 9" in capsys.readouterr().out
    assert main(["bench", str(MODEL), "--prompt", "0", "--gen", "3", "--repetitions", "1", "--sequences", "4"]) == 0
    assert "write 3 x 4" in capsys.readouterr().out


def test_ratio_is_of_pairs() -> None:
    assert Measure("x", 1, [10.0, 1.0, 30.0], peer_rates=[5.0, 1.0, 10.0]).ratio == 2.0
    assert Measure("x", 1, [10.0]).ratio is None


def test_percent_is_of_the_limit_beside_each_run() -> None:
    assert Measure("x", 1, [10.0, 1.0, 30.0], limits=[20.0, 1.0, 40.0]).percent == 75.0
    assert Measure("x", 1, [10.0]).percent is None


def test_sum_of_memory() -> None:
    """Every number is read, whatever the length."""
    for n in (0, 1, 7, 31, 32, 33, 100, 1000):
        numbers = np.random.default_rng(n).integers(0, 2**64, n, np.uint64)
        assert _native.sum_words(numbers) == sum(numbers.tolist()) % 2**64


def test_peer_protocol(tmp_path: Path) -> None:
    """The peer's side runs by an interpreter that knows nothing of llmq, with a stand-in for llama-cpp-python."""
    (tmp_path / "llama_cpp.py").write_text(
        "import tokenize\nassert hasattr(tokenize, 'TokenInfo')\n"
        "class Llama:\n    def __init__(self, *a, **k): pass\n    def reset(self): pass\n    def eval(self, ids): assert ids\n"
    )
    python = tmp_path / "python"
    start = "import sys, runpy; sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[3:]; "
    start += "runpy.run_path(sys.argv[0], None, '__main__')"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -c "{start}" "{tmp_path}" "$@"\n')
    python.chmod(0o755)
    report = llmq.bench(MODEL, 8, 2, 1, peer_python=str(python))
    assert [len(m.peer_rates) for m in report.measures] == [1, 1]
    assert all(m.ratio is not None and m.ratio > 0 for m in report.measures)


def test_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is drawn, by a stand-in for matplotlib; and what is said where there is none."""
    drawn: list[object] = []

    class Axes:
        def bar(self, names: list[str], rates: list[float]) -> None:
            drawn.append(dict(zip(names, rates, strict=True)))

        def __getattr__(self, name: str) -> object:
            return lambda *a, **k: None

    class Figure:
        def __init__(self, **options: object) -> None:
            self.savefig, self.suptitle = drawn.append, drawn.append

        def subplots(self, rows: int, columns: int, squeeze: bool) -> list[list[Axes]]:
            return [[Axes() for _ in range(columns)] for _ in range(rows)]

    measures = [Measure("prompt 4", 4, [2.0], peer_rates=[1.0]), Measure("write 4", 4, [3.0], [9.0])]
    report = BenchReport("m", 1, "scalar", 1.0, 1, 1.0, 1.0, measures)
    monkeypatch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))
    figure = ModuleType("matplotlib.figure")
    monkeypatch.setattr(figure, "Figure", Figure, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", figure)
    plot(report, tmp_path / "x.svg")
    assert drawn == [{"llmq": 2.0, "llama.cpp": 1.0}, {"llmq": 3.0}, "m, 1 threads, scalar", tmp_path / "x.svg"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = ["bench", str(MODEL), "--prompt", "2", "--gen", "0", "--repetitions", "1", "--plot", str(tmp_path / "x.svg")]
    assert main(arguments) == 1
    assert "pip install 'llmq[plot]'" in capsys.readouterr().err


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from 1 expected"):
        llmq.bench(MODEL, 0, 0)
    with pytest.raises(ValueError, match="no depth with more than one"):
        llmq.bench(MODEL, 0, 4, depth=3, sequences=2)
    with pytest.raises(llmq.LlmqError, match="llama-cpp-python could not run this model"):
        broken = tmp_path / "python"
        broken.write_text("#!/bin/sh\necho no such module >&2\nexit 1\n")
        broken.chmod(0o755)
        llmq.bench(MODEL, 4, 0, 1, peer_python=str(broken))
