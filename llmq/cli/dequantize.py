"""Turn the quantized weights of a model into floats: a GGUF file in F16 (or F32, BF16), as `llmq convert` writes it.

The result is as exact as the quantized model was, not more; programs that do not know a quantized type can read it.
"""

from __future__ import annotations

import argparse

from llmq.cli import convert
from llmq.cli.convert import run

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    convert.add_arguments(parser)
    parser.set_defaults(type="F16")
