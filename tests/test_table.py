"""The benchmarks run, and the table says of every target whether it is met; what is timed decides nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from runs import Row, Target, paired  # type: ignore[import-not-found]  # noqa: E402


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    twice, share = Target("2 x", least=2), Target("3 %", "percent", most=3)
    row = Row("a", 10.0, peer=5.0, ratio=2.0, percent=3.1, percent_of="of b", targets=(twice, share))
    assert [row.verdict(t) for t in row.targets] == ["yes", "no"]
    assert row.markdown() == "| a | 10.0 t/s (3 % of b) | 5.0 t/s | 2.00 | 2 x; 3 % | yes; no |  |"
    assert row.as_dict()["targets"] == [{"target": "2 x", "met": "yes"}, {"target": "3 %", "met": "no"}]
    assert Row("a", 1.0).verdict(twice) == "no peer" and Row("a", 1.0).verdict(share) == "not measured"
    fast = Target("6 x", least=6, amx=True)
    for levels, verdict in ((["scalar"], "needs AMX"), (["scalar", "amx"], "no")):
        monkeypatch.setattr("runs.cpu_info", lambda levels=levels: {"levels": levels})
        assert row.verdict(fast) == verdict
    assert paired("a", "ms", 1e3, [1.0, 2.0, 4.0], [2.0, 6.0, 4.0]).ratio == 2.0  # more time of the peer is better


def test_a_row_without_its_peer(tmp_path: Path) -> None:
    """A peer that fails is a note beside llmq's own figure, a part that fails is a row, and the rest goes on."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such module >&2\nexit 1\n")
    broken.chmod(0o755)
    options = ["--folder", str(tmp_path / "models"), "--shape", "2m", "--repetitions", "1", "--json"]
    options += ["--peer-python", str(broken), "--transformers", str(broken)]
    options += ["--only", "together", "others", "loading", "tokenizing"]
    done = subprocess.run([sys.executable, BENCHMARKS / "table.py", *options], capture_output=True, text=True, check=False)
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 1, done.stderr  # the rows of transformers have no figure
    decode = rows["16 sequences together, Q4_0"]
    assert decode["ours"] > 0 and decode["peer"] is None
    assert decode["targets"] == [{"target": "4 x llama.cpp", "met": "no peer"}]
    assert decode["notes"] == ["llama-cpp-python could not run this model: no such module"]
    memory = rows["peak memory, context of 512 full, Q4_0"]
    assert memory["ours"] * 1e6 > (tmp_path / "models" / "2m-Q4_0.gguf").stat().st_size
    assert rows["prompt of 512, Q4_0; transformers in 16 bits"]["ours"] is None
    assert any(name.startswith("tokenize") and row["ours"] > 0 for name, row in rows.items())
    assert "targets met:" in done.stderr


def test_benchmarks_print_their_figures() -> None:
    picked = {"bench_kernels.py::test_matmul[Q4_K-2048x2048-4]": "GBs ", "bench_ops.py::test_op[attention-1-1024]": "us "}
    picked["bench_model.py::test_model[Q4_0-1]"] = "tokens_per_second "
    command = [sys.executable, "-m", "pytest", "-o", "addopts=-q", "--benchmark-max-time=0.01", "--benchmark-min-rounds=1"]
    command += [str(BENCHMARKS / name) for name in picked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert all(figure in done.stdout for figure in picked.values()) and "isa " in done.stdout
