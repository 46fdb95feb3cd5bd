"""Show what a model file holds: its metadata and a table of its tensors.

Reads GGUF files (models, vocabularies, adapters, importance matrices), safetensors files, PyTorch checkpoints and Hugging Face
folders.
"""

from __future__ import annotations

import argparse
import json
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a GGUF, safetensors or PyTorch file, or a Hugging Face folder")


def run(args: argparse.Namespace) -> int:
    from llmq.inspection import inspect  # noqa: PLC0415 - `llmq --help` stays fast

    found = inspect(args.file)
    text = json.dumps(found.to_dict(), indent=1) if args.json else found.table()
    sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")
    return 0
