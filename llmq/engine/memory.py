"""How much memory is left: what the machine has available, what the control group still allows."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["available_memory"]


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/proc/self/cgroup"),
                     mount: Path = Path("/sys/fs/cgroup")) -> int:  # fmt: skip
    """Bytes that can be allocated without swapping and without breaking a memory limit of the control group (v1 or v2) or one
    of its parents; page cache that can be dropped counts as available. Where the system does not tell (macOS), the physical
    memory."""
    return min([_system(meminfo), *_control_groups(cgroup, mount)])


def _system(meminfo: Path) -> int:
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _control_groups(cgroup: Path, mount: Path) -> list[int]:
    try:
        lines = cgroup.read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage = mount, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, usage = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        for group in [folder, *folder.parents]:
            if not group.is_relative_to(root):
                break
            room = _room(group, limit, usage)
            if room is not None:
                left.append(room)
    return left


def _room(group: Path, limit: str, usage: str) -> int | None:
    try:
        most = (group / limit).read_text().strip()
        if most == "max":
            return None
        used = int((group / usage).read_text())
        cache = re.search(r"^(?:total_)?inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return max(0, int(most) - used + (int(cache[1]) if cache else 0))
