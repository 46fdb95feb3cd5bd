"""What this machine offers: instruction set levels and the one in use, cores that may be used, caches.

The environment variable LLMQ_ISA names the level to use (scalar, neon, neoni8mm, avx2, avx512, avx512vnni, avx512bf16, amx);
without it the best one that CPU and operating system offer is taken. It is read once, when llmq is imported.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TypedDict

from llmq import _native
from llmq.errors import LlmqError

__all__ = ["CpuInfo", "cpu_info", "default_threads", "largest_cache", "usable_cores", "use_isa"]


class CpuInfo(TypedDict):
    """What `cpu_info` returns; plain values, ready for JSON."""

    model: str
    machine: str
    flags: list[str]
    """instruction set extensions that llmq asks for, that the CPU has and the operating system grants"""
    levels: list[str]
    """levels of the ladder that can be used here, lowest first"""
    isa: str
    """the level in use"""
    slots: dict[str, str]
    """kernel -> level of the body in use"""
    cores: int
    """cores this process may use: `usable_cores()`"""
    affinity: int
    quota: float | None
    """cores' worth of time that the control group allows, None when it sets no limit"""
    caches: dict[str, int]
    """bytes: L1d, L2, L3 as the first core sees them; empty where the system does not tell"""


def use_isa(name: str) -> None:
    """Use the kernels of a level. `LlmqError` when llmq does not know it or this machine does not have it. Not to be called
    while a model runs: the kernel table belongs to the process."""
    known, here = _native.all_isa_levels(), _native.isa_levels()
    if name not in known:
        raise LlmqError(f"unknown instruction set level {name!r}; the levels are {', '.join(known)}")
    if name not in here:
        raise LlmqError(f"instruction set level {name!r} is not available here; this machine and build have {', '.join(here)}")
    _native.use_isa(name)


def cpu_info() -> CpuInfo:
    """What was found and what is in use; `llmq doctor` prints it."""
    return {
        "model": _model_name(),
        "machine": platform.machine(),
        "flags": _native.cpu_flags(),
        "levels": _native.isa_levels(),
        "isa": _native.isa_used(),
        "slots": _native.kernel_slots(),
        "cores": usable_cores(),
        "affinity": _affinity(),
        "quota": cgroup_quota(),
        "caches": _caches(),
    }


def usable_cores() -> int:
    """Cores this process may use at once: the affinity mask, limited by the control group's CPU quota (rounded down, at least
    1)."""
    quota = cgroup_quota()
    return _affinity() if quota is None else max(1, min(_affinity(), int(quota)))


def default_threads() -> int:
    """Threads of an engine unless something else is asked for: one for each usable core, and no more than its pool may have."""
    return min(usable_cores(), _native.MAX_THREADS)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_quota(membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The smallest CPU quota, in cores, of this process' control group and its ancestors; None without one. Version 2 keeps
    "quota period" in cpu.max, version 1 has cpu.cfs_quota_us (-1: none) and cpu.cfs_period_us below the controller's folder.
    In a container the path in the membership file may lie outside of what is mounted; the mount's root is then the group."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            roots = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [mount / controllers, mount / "cpu"]
        else:
            continue
        group = Path(path.lstrip("/"))
        for root in roots:
            quotas += [quota for folder in (group, *group.parents) if (quota := _folder_quota(root / folder)) is not None]
    return min(quotas, default=None)


def _folder_quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _model_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def largest_cache() -> int:
    """Bytes of the outermost cache, 32 MiB where the system does not tell."""
    return max(_caches().values(), default=32 << 20)


def _caches() -> dict[str, int]:
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                found[f"L{level}{'d' if kind == 'Data' else ''}"] = int(size[:-1]) * units[size[-1]]
        except (OSError, ValueError, KeyError):
            continue
    return found


if wanted := os.environ.get("LLMQ_ISA"):
    use_isa(wanted)
