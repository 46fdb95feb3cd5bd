"""Turn texts into vectors, or score documents against a query.

One line per text: its vector, as numbers separated by spaces. With --rerank QUERY the texts are documents, and each line is
a document's score and the document, the best first; this needs a reranking model. "-" reads standard input, a text per line.
"""

from __future__ import annotations

import argparse
import json
import sys

from llmq.cli._common import add_load_arguments, given_text, open_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a GGUF file or a Hugging Face folder")
    parser.add_argument("text", nargs="+", help='a text; "-" reads texts from standard input, one per line')
    parser.add_argument("--pooling", choices=("mean", "cls", "last"), help="tokens to one vector (default: as the file says)")
    parser.add_argument("--raw", action="store_true", help="leave the vectors as long as they are, not of length 1")
    parser.add_argument("--rerank", metavar="QUERY", help="score the texts as answers to this")
    add_load_arguments(parser)


def run(args: argparse.Namespace) -> int:
    texts = [line.rstrip("\n") for t in args.text for line in (sys.stdin if t == "-" else [given_text(t)])]
    with open_model(args, args.model) as llm:
        if args.rerank is not None:
            scores = llm.rerank(given_text(args.rerank), texts).tolist()
            order = sorted(range(len(texts)), key=lambda i: -scores[i])
            if args.json:
                rows = [{"index": i, "score": scores[i], "text": texts[i]} for i in order]
                sys.stdout.write(json.dumps({"query": args.rerank, "results": rows}) + "\n")
            else:
                sys.stdout.writelines(f"{scores[i]:.6f} {texts[i]}\n" for i in order)
            return 0
        vectors = llm.embed(texts, pooling=args.pooling, normalize=not args.raw)
        if args.json:
            out = {"pooling": args.pooling or llm.pooling, "embeddings": [vector.tolist() for vector in vectors]}
            sys.stdout.write(json.dumps(out) + "\n")
        else:
            sys.stdout.writelines(" ".join(f"{x:.7g}" for x in vector) + "\n" for vector in vectors)
    return 0
