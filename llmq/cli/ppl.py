"""Measure the perplexity of a model on a text, with its standard error.

The text is cut into chunks of --ctx tokens and the second half of each is scored, as llama-perplexity does.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from llmq.cli import _common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a GGUF file or a Hugging Face folder")
    parser.add_argument("text", help='a UTF-8 text file; "-" reads standard input')
    parser.add_argument("--chunks", type=int, metavar="N", help="at most this many chunks (default: the whole text)")
    parser.add_argument("--stride", type=int, metavar="N", help="tokens from one chunk to the next (default: --ctx)")
    _common.add_load_arguments(parser, chunk=512)


def run(args: argparse.Namespace) -> int:
    text = _common.read_text(args.text)
    with _common.open_model(args, args.model) as llm, _common.progress_bar() as progress:
        result = llm.perplexity(text, n_ctx=args.ctx, stride=args.stride, max_chunks=args.chunks, progress=progress)
    sys.stdout.write((json.dumps(asdict(result)) if args.json else str(result)) + "\n")
    return 0
