"""Quantize a model: a GGUF file or Hugging Face folder in, a GGUF file out, which appears whole or not at all.

Arguments stand in llama-quantize's order and types have its names. The report ends with size, bits per weight and error per
tensor. COPY keeps every tensor's type; a folder of GPTQ, AWQ, compressed-tensors, fp8 or bitsandbytes becomes the GGUF types
that lose least (docs/packed.md).
"""

from __future__ import annotations

import argparse
import json
import sys

from llmq.cli import _common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="a GGUF file (of a split one any part) or a Hugging Face folder")
    parser.add_argument("dst", metavar="DST", help="the GGUF file to write")
    parser.add_argument("type", metavar="TYPE", help="type or recipe, in any case: Q4_K_M, Q8_0, F16, ..., or COPY")
    parser.add_argument("n_threads", metavar="NTHREADS", nargs="?", type=int, help="default: the cores this process may use")
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix of llama-imatrix (GGUF or .dat)")
    parser.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        type=_override,
        metavar="NAME=TYPE",
        help="type of tensors in whose name the regular expression NAME is found; repeatable, the first that fits decides",
    )
    parser.add_argument("--output-type", "--output-tensor-type", metavar="TYPE", help="type of output.weight")
    parser.add_argument("--embedding-type", "--token-embedding-type", metavar="TYPE", help="type of token_embd.weight")
    parser.add_argument("--pure", action="store_true", help="the base type for every matrix, no exceptions")
    parser.add_argument("--allow-requantize", action="store_true", help="take a quantized model; its errors add up")
    parser.add_argument("--max-memory", type=_size, metavar="SIZE", help="memory for buffers, such as 500M")
    _common.add_split_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")


def _override(text: str) -> tuple[str, str]:
    name, _, kind = text.rpartition("=")
    if not name or not kind:
        raise argparse.ArgumentTypeError(f"expected NAME=TYPE, found {text!r}")
    return name, kind


def _size(text: str) -> int:
    """Bytes as people write them: 800M, 1.5G (powers of 1024)."""
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    scale = {"K": 2**10, "M": 2**20, "G": 2**30}.get(number[-1:], 1)
    try:
        size = int(float(number.rstrip("KMG")) * scale)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 800M or 1.5G, found {text!r}")
    return size


def run(args: argparse.Namespace) -> int:
    from llmq.quant.quantizer import quantize_model  # noqa: PLC0415 - `llmq --help` stays fast

    with _common.progress_bar() as progress:
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
            n_threads=args.n_threads,
            max_memory=args.max_memory,
            split_max_size=args.split_max_size,
            split_max_tensors=args.split_max_tensors,
            dry_run=args.dry_run,
            progress=progress,
        )
    sys.stdout.write((json.dumps(report.to_dict(), indent=1) if args.json else report.table()) + "\n")
    return 0
