"""How long converting a folder takes against copying its bytes, both down to the disk:

    python benchmarks/convert_speed.py 1.1b out/          # a random model of 2.2 GB; takes some 7 GB in out/

Prints seconds per round, in alternation, with the source in the page cache, and the median ratio."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from runs import timed
from synthetic import SHAPES, write_model

import llmq


def copied(source: Path, target: Path) -> float:
    """Seconds of a copy with its sync."""

    def copy() -> None:
        shutil.copyfile(source, target)
        fd = os.open(target, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    return timed(copy)


def converted(source: Path, target: Path) -> float:
    """Seconds of a conversion, which syncs by itself."""
    return timed(lambda: llmq.convert_model(source, target, "F16"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
        folder = Path(made)
        write_model(arguments.shape, folder / "model.gguf")
        llmq.export_model(folder / "model.gguf", folder / "bf16", "BF16")
        (folder / "model.gguf").unlink()
        weights = folder / "bf16" / "model.safetensors"
        ratios = []
        for _ in range(arguments.rounds):
            copy = copied(weights, folder / "copy")
            (folder / "copy").unlink()
            conversion = converted(folder / "bf16", folder / "out.gguf")
            (folder / "out.gguf").unlink()
            ratios.append(conversion / copy)
            sys.stdout.write(f"copy {copy:.2f} s, conversion {conversion:.2f} s, ratio {ratios[-1]:.2f}\n")
        sys.stdout.write(f"median ratio {statistics.median(ratios):.2f} for {weights.stat().st_size / 1e9:.2f} GB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
