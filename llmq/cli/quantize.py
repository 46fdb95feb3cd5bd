"""`llmq quantize SRC DST TYPE [NTHREADS]`: llama-quantize's order of arguments and names of types."""

from __future__ import annotations

import argparse
import json

from llmq.cli.terminal import ProgressBar, byte_size
from llmq.quant.quantizer import quantize_model
from llmq.quant.recipes import RECIPES

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Quantize a model: a Hugging Face folder or a GGUF file in, a GGUF file out, which appears whole or not at all. "
        f"Types: {', '.join(RECIPES)}."
    )
    parser.add_argument("src", metavar="SRC", help="GGUF file or Hugging Face folder")
    parser.add_argument("dst", metavar="DST", help="GGUF file to write")
    parser.add_argument("type", metavar="TYPE", help="type or recipe, in any case (Q4_K_M, Q8_0, F16, ...)")
    parser.add_argument(
        "n_threads", metavar="NTHREADS", nargs="?", type=int, help="threads (default: the cores this process may use)"
    )
    parser.add_argument("--threads", "-t", dest="threads", type=int, metavar="N", help="the same as NTHREADS")
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix of llama-imatrix (GGUF or .dat)")
    parser.add_argument(
        "--tensor-type", action="append", default=[], type=_override, metavar="NAME=TYPE",
        help="type for tensors in whose name the regular expression NAME is found; repeatable, the first that fits decides",
    )  # fmt: skip
    parser.add_argument("--output-type", "--output-tensor-type", metavar="TYPE", help="type of output.weight")
    parser.add_argument("--embedding-type", "--token-embedding-type", metavar="TYPE", help="type of token_embd.weight")
    parser.add_argument("--pure", action="store_true", help="the base type for every matrix, no exceptions")
    parser.add_argument("--allow-requantize", action="store_true", help="take a quantized model; its errors add up")
    parser.add_argument("--max-memory", type=byte_size, metavar="SIZE", help="memory for buffers, such as 500M")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")
    parser.add_argument("--json", action="store_true", help="the report as JSON")


def _override(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not equals or not name or not kind:
        raise argparse.ArgumentTypeError(f"expected NAME=TYPE, found {text!r}")
    return name, kind


def run(args: argparse.Namespace) -> int:
    bar = ProgressBar()
    try:
        report = quantize_model(
            args.src,
            args.dst,
            args.type,
            imatrix=args.imatrix,
            tensor_types=dict(args.tensor_type),
            output_type=args.output_type,
            embedding_type=args.embedding_type,
            pure=args.pure,
            allow_requantize=args.allow_requantize,
            n_threads=args.threads if args.threads is not None else args.n_threads,
            max_memory=args.max_memory,
            dry_run=args.dry_run,
            progress=bar,
        )
    finally:
        bar.close()
    print(json.dumps(report.to_dict(), indent=2) if args.json else report.table())  # noqa: T201
    return 0
