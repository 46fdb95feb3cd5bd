"""Time a model: reading a prompt, writing tokens, against the memory's limit and llama.cpp.

Random tokens are read and written several times after a warm-up; the table shows medians. With --compare the same file is
run by llama-cpp-python in a process of its own, run for run in turns, and the ratio is the median over the pairs.
"""

from __future__ import annotations

import argparse
import json
import sys

from llmq.cli import _common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="a GGUF file or a Hugging Face folder (default: the embedded model)")
    parser.add_argument("--prompt", type=int, metavar="N", default=512, help="prompt tokens, 0: none (default: 512)")
    parser.add_argument("--gen", type=int, metavar="N", default=128, help="tokens to write, 0: none (default: 128)")
    parser.add_argument("--depth", type=int, metavar="N", default=0, help="tokens in the context before writing (default: 0)")
    parser.add_argument("--sequences", type=int, metavar="N", default=1, help="sequences written together (default: 1)")
    parser.add_argument("--plot", metavar="FILE", help="draw the medians into a PNG, SVG or PDF (needs matplotlib)")
    parser.add_argument("--repetitions", type=int, metavar="N", default=5, help="runs of each test (default: 5)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: the cores this process may use)")
    parser.add_argument("--compare", choices=("llama-cpp-python",), help="run this peer in turns")
    help_ = "the interpreter that the peer of --compare is installed for (default: this one)"
    parser.add_argument("--peer-python", metavar="PYTHON", help=help_)


def run(args: argparse.Namespace) -> int:
    from llmq.benchmark import bench, plot  # noqa: PLC0415 - `llmq --help` stays fast

    if args.peer_python is not None and args.compare is None:
        raise ValueError("--peer-python says where the peer of --compare is; give that too")
    with _common.progress_bar() as progress:
        report = bench(
            args.model or _common.embedded_model(),
            args.prompt,
            args.gen,
            args.repetitions,
            depth=args.depth,
            sequences=args.sequences,
            n_threads=args.threads,
            peer_python=(args.peer_python or sys.executable) if args.compare else None,
            progress=progress,
        )
    if args.plot:
        plot(report, args.plot)
    sys.stdout.write((json.dumps(report.as_dict()) if args.json else report.table()) + "\n")
    return 0
