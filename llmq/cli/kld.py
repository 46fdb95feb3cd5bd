"""Measure how far a model's predictions are from another's: KL divergence, agreement, percentiles.

REF is the model before quantizing, MODEL after it. The text is cut into chunks of --ctx tokens and the second half of each is
scored, as llama-perplexity --kl-divergence does.
"""

from __future__ import annotations

import argparse
import json
import sys

from llmq.cli import _common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ref", metavar="REF", help="the reference: a GGUF file or a Hugging Face folder")
    parser.add_argument("model", metavar="MODEL", help="the model to compare with it, of the same vocabulary")
    parser.add_argument("text", metavar="TEXT", help='a UTF-8 text file; "-" reads standard input')
    parser.add_argument("--chunks", type=int, metavar="N", help="at most this many chunks (default: the whole text)")
    parser.add_argument("--stride", type=int, metavar="N", help="tokens from one chunk to the next (default: --ctx)")
    _common.add_load_arguments(parser, chunk=512)


def run(args: argparse.Namespace) -> int:
    from llmq.divergence import kl_divergence  # noqa: PLC0415 - `llmq --help` stays fast

    text = _common.read_text(args.text)
    with (
        _common.open_model(args, args.ref) as ref,
        _common.open_model(args, args.model) as model,
        _common.progress_bar() as progress,
    ):
        result = kl_divergence(
            ref, model, text, n_ctx=args.ctx, stride=args.stride, max_chunks=args.chunks, progress=progress
        )
    sys.stdout.write((json.dumps(result.to_dict()) if args.json else str(result)) + "\n")
    return 0
