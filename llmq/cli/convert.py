"""Convert a model to a GGUF file: a Hugging Face folder or a GGUF file in, weights in F16, BF16 or F32, or as they are.

Without TYPE every tensor keeps its type, which merges a split model. Quantized weights become floats when TYPE is one.
"""

from __future__ import annotations

import argparse
import json
import sys

from llmq.cli import _common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="a Hugging Face folder or a GGUF file (of a split one any part)")
    parser.add_argument("dst", metavar="DST", help="the GGUF file to write")
    parser.add_argument("type", metavar="TYPE", nargs="?", default="AUTO", help="F16, BF16, F32 or AUTO (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: the cores this process may use")
    _common.add_split_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from llmq.conversion import convert_model  # noqa: PLC0415 - `llmq --help` stays fast

    with _common.progress_bar() as progress:
        report = convert_model(
            args.src,
            args.dst,
            args.type,
            n_threads=args.threads,
            split_max_size=args.split_max_size,
            split_max_tensors=args.split_max_tensors,
            progress=progress,
        )
    sys.stdout.write((json.dumps(report.to_dict(), indent=1) if args.json else report.table()) + "\n")
    return 0
