"""Show the tokens of a text, or the text of tokens.

MODEL is a GGUF file (a vocabulary alone is enough), a Hugging Face folder, a tokenizer.json or a tokenizer.model. Without
--json or --ids every token stands on a line of its own, its id first.
"""

from __future__ import annotations

import argparse
import json
import sys

from llmq.cli import _common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="where the vocabulary is")
    parser.add_argument("text", help='the text; "-" reads standard input')
    parser.add_argument("--no-special", action="store_true", help="do not add BOS, EOS and SEP")
    parser.add_argument("--parse-special", action="store_true", help="recognize control tokens such as <|im_end|> in the text")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--ids", action="store_true", help="print the ids alone, on one line")
    what.add_argument("--count", action="store_true", help="print the number of tokens alone")
    what.add_argument("--decode", action="store_true", help="TEXT is token ids: print their text")


def run(args: argparse.Namespace) -> int:
    from llmq.text.tokenizer import Tokenizer  # noqa: PLC0415 - `llmq --help` stays fast

    if args.decode and (args.no_special or args.parse_special):
        raise ValueError("--no-special and --parse-special are for texts; --decode takes token ids")
    tokenizer = Tokenizer.from_file(args.model)
    text = _common.read_text("-") if args.text == "-" else _common.given_text(args.text)
    if args.decode:
        ids = _ids(text, tokenizer.n_vocab)
        decoded = tokenizer.decode(ids, skip_special=False)
        sys.stdout.write((json.dumps({"text": decoded, "ids": ids}) if args.json else decoded) + "\n")
        return 0
    ids = tokenizer.encode(text, add_special=not args.no_special, parse_special=args.parse_special)
    if args.json:
        tokens = [tokenizer.token(id) for id in ids]
        sys.stdout.write(json.dumps({"count": len(ids), "ids": ids, "tokens": tokens}) + "\n")
    elif args.count:
        sys.stdout.write(f"{len(ids)}\n")
    elif args.ids:
        sys.stdout.write(" ".join(map(str, ids)) + "\n")
    else:
        sys.stdout.writelines(f"{id:>7} {_shown(tokenizer.token_bytes(id))}\n" for id in ids)
    return 0


def _shown(piece: bytes) -> str:
    try:
        return repr(piece.decode())
    except UnicodeDecodeError:  # part of a character
        return repr(piece)


def _ids(text: str, n_vocab: int) -> list[int]:
    words = text.replace(",", " ").replace("[", " ").replace("]", " ").split()
    try:
        ids = [int(word) for word in words]
    except ValueError:
        raise ValueError(f"--decode takes token ids, not {text[:80]!r}") from None
    bad = next((i for i in ids if not 0 <= i < n_vocab), None)
    if bad is not None:
        raise ValueError(f"token ids 0..{n_vocab - 1} expected, found {bad}")
    return ids
