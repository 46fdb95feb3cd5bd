"""`python -m llmq.quantize SRC DST TYPE [NTHREADS]`."""

from __future__ import annotations

import argparse
import sys

from llmq.cli import quantize
from llmq.cli.terminal import guarded

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser("llmq.quantize", allow_abbrev=False)
    quantize.add_arguments(parser)
    args = parser.parse_args(argv)
    return guarded(lambda: quantize.run(args))


if __name__ == "__main__":
    sys.exit(main())
