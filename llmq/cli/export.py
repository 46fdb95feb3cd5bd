"""Write a GGUF model as a Hugging Face folder: config.json, the tokenizer's files and safetensors.

Floats stay as they are, quantized weights become F16, unless TYPE says otherwise. What transformers cannot express is refused.
"""

from __future__ import annotations

import argparse
import json
import sys

from llmq.cli import _common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", metavar="SRC", help="a GGUF file (of a split one any part) or a Hugging Face folder")
    parser.add_argument("folder", metavar="FOLDER", help="the folder to write: a new or an empty one")
    parser.add_argument("type", metavar="TYPE", nargs="?", default="AUTO", help="F16, BF16, F32 or AUTO (default: AUTO)")


def run(args: argparse.Namespace) -> int:
    from llmq.exporting import export_model  # noqa: PLC0415 - `llmq --help` stays fast

    with _common.progress_bar() as progress:
        report = export_model(args.src, args.folder, args.type, progress=progress)
    text = f"{report.folder}: {report.tensors} tensors, {report.bytes / 2**20:.1f} MiB ({', '.join(report.files)})"
    sys.stdout.write((json.dumps(report.to_dict(), indent=1) if args.json else text) + "\n")
    return 0
