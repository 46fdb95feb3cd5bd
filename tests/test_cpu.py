"""What the machine offers, and LLMQ_ISA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import llmq
from llmq import _native, cpu
from llmq.cpu import cgroup_quota, usable_cores, use_isa
from llmq.errors import LlmqError

QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


def test_cpu_info_is_whole() -> None:
    info = llmq.cpu_info()
    assert json.loads(json.dumps(info)) == info
    assert info["isa"] in info["levels"] and info["levels"][0] == "scalar"
    assert set(info["slots"].values()) <= set(info["levels"])
    assert 1 <= info["cores"] <= info["affinity"]
    assert info["isa"] == os.environ.get("LLMQ_ISA", info["levels"][-1])


def test_levels_by_name() -> None:
    now = _native.isa_used()
    try:
        for name in _native.isa_levels():
            use_isa(name)
            assert _native.isa_used() == llmq.cpu_info()["isa"] == name
    finally:
        use_isa(now)
    with pytest.raises(LlmqError, match=r"unknown .*'sse9'.*scalar, neon, neoni8mm, avx2"):
        use_isa("sse9")
    for name in set(_native.all_isa_levels()) - set(_native.isa_levels()):
        with pytest.raises(LlmqError, match="not available here"):
            use_isa(name)
    assert _native.isa_used() == now


@pytest.mark.parametrize("name", ["scalar", "sse9"])
def test_the_environment_chooses(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import llmq; print(llmq.cpu_info()['isa'], set(llmq.cpu_info()['slots'].values()))"],
        env={**os.environ, "LLMQ_ISA": name},
        capture_output=True,
        text=True,
        check=False,
    )
    if name == "scalar":
        assert (done.returncode, done.stdout) == (0, "scalar {'scalar'}\n")
    else:
        assert done.returncode != 0 and "unknown instruction set level 'sse9'" in done.stderr


def test_affinity_limits_the_cores() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity masks on this system")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_more_cores_than_the_pool_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_affinity", lambda: 96)
    monkeypatch.setattr(cpu, "cgroup_quota", lambda: None)
    with llmq.load(Path(__file__).parent.parent / "models" / "storyteller") as llm:
        assert llm.n_threads == 64
        assert llm.generate("The door", max_tokens=2, temperature=0).tokens


@pytest.mark.parametrize(
    ("lines", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/a/b\n", {"cpu.max": "50000 100000"}, 0.5),
        ("4:cpu,cpuacct:/c\n1:name=systemd:/\n", {f"cpu,cpuacct/c/{QUOTA}": "30000", f"cpu,cpuacct/c/{PERIOD}": "10000"}, 3.0),
        ("4:cpu:/gone\n", {f"cpu/{QUOTA}": "-1", f"cpu/{PERIOD}": "100000"}, None),
        ("4:cpu:/gone\n", {f"cpu/{QUOTA}": "250000", f"cpu/{PERIOD}": "100000"}, 2.5),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
    ],
)
def test_cgroup_quota(tmp_path: Path, lines: str, files: dict[str, str], quota: float | None) -> None:
    (tmp_path / "cgroup").write_text(lines)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    assert cgroup_quota(tmp_path / "cgroup", tmp_path / "fs") == quota
    assert cgroup_quota(tmp_path / "absent") is None
