"""Show what llmq found: the CPU, the kernels in use, threads, memory, and with --families the supported models."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from typing import Any

from llmq import __version__
from llmq.cpu import cpu_info, default_threads
from llmq.engine.memory import available_memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--families", action="store_true", help="list the architectures and tensor types that are supported")


def run(args: argparse.Namespace) -> int:
    facts = _facts(args.families)
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=1) + "\n")
        return 0
    cpu = facts["cpu"]
    quota = "none" if cpu["quota"] is None else f"{cpu['quota']:g} cores"
    rows = [
        ("llmq", f"{facts['llmq']} on Python {facts['python']}, {facts['system']}"),
        ("cpu", f"{cpu['model']} ({cpu['machine']})"),
        ("extensions", " ".join(cpu["flags"]) or "none that llmq uses"),
        ("levels", " ".join(cpu["levels"])),
        ("in use", cpu["isa"]),
        ("threads", f"{default_threads()} (affinity {cpu['affinity']}, container quota {quota})"),
        ("caches", ", ".join(f"{name} {size // 1024} KiB" for name, size in cpu["caches"].items()) or "unknown"),
        ("memory", f"{facts['memory_available'] / 2**30:.1f} GiB available"),
        *(("kernel" if i == 0 else "", f"{slot:<24} {level}") for i, (slot, level) in enumerate(cpu["slots"].items())),
    ]
    if args.families:
        listed = (f"{name:<15} {', '.join(types)}" for name, types in facts["families"].items())
        rows += [("family" if i == 0 else "", line) for i, line in enumerate(listed)]
        rows.append(("types", " ".join(facts["types"])))
    sys.stdout.writelines(f"{name:<11} {value}\n" for name, value in rows)
    return 0


def _facts(families: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "llmq": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_info(),
        "memory_available": available_memory(),
    }
    if families:
        from llmq.arch import families as known  # noqa: PLC0415 - the list is not always wanted
        from llmq.quant.types import QuantType  # noqa: PLC0415

        facts["families"] = {name: list(family.hf_model_types) for name, family in sorted(known().items())}
        facts["types"] = list(QuantType.__members__)
    return facts
