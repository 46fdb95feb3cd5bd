"""Measure which columns of the weights matter, for `llmq quantize --imatrix`: an importance matrix as llama-imatrix writes it.

The model reads the text in chunks of --ctx tokens. Take text of the kind that the model is to be used for, some ten thousand
tokens or more, and the unquantized model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from llmq.cli import _common
from llmq.formats.atomic import check_destination


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a GGUF file or a Hugging Face folder")
    parser.add_argument("text", metavar="TEXT", help='a UTF-8 text file; "-" reads standard input')
    parser.add_argument("out", metavar="OUT", help="the GGUF file to write")
    parser.add_argument("--ctx", type=int, metavar="N", default=512, help="tokens of a chunk (default: 512)")
    parser.add_argument("--chunks", type=int, metavar="N", help="at most this many chunks (default: the whole text)")


def run(args: argparse.Namespace) -> int:
    from llmq.importance import imatrix  # noqa: PLC0415 - `llmq --help` stays fast

    text = _common.read_text(args.text)
    if args.text != "-":
        status = os.stat(args.text)
        check_destination(args.out, [(status.st_dev, status.st_ino)])
    name = "" if args.text == "-" else Path(args.text).name
    with _common.progress_bar() as progress:
        found = imatrix(
            args.model, text, args.out, n_ctx=args.ctx, max_chunks=args.chunks, dataset=name, progress=progress
        )
    report = {"path": args.out, "matrices": len(found.entries), "chunks": found.chunks}
    text = json.dumps(report) if args.json else "{path}: {matrices} matrices, {chunks} chunks".format(**report)
    sys.stdout.write(text + "\n")
    return 0
