"""The whole table of docs/performance.md, measured here and printed as Markdown, row by row.

    python benchmarks/table.py --peer-python PYTHON [--folder out/bench] [--repetitions 3] [--only PART]

PYTHON is an interpreter that has llama-cpp-python, and the `tokenizers` package for the row on tokenizing; without it only our
side runs. Models are made once in the folder, with the shapes of TinyLlama 1.1B. Runs of both sides alternate, a ratio is the
median over pairs. It takes about a quarter of an hour on two cores and 7 GB of disk.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from synthetic import write_model

import llmq
from llmq.benchmark import BenchReport, Measure, Peer, bench
from llmq.cpu import usable_cores
from llmq.sampling import Sampling

PROMPT_TYPES = {"Q4_0": 6, "Q4_K_M": 6, "Q5_K_M": 6, "Q8_0": 6, "Q6_K": 9, "IQ4_XS": 9, "F16": 12, "BF16": 12}
DECODE_TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K")
QUANTIZE_TYPES = ("Q4_K_M", "Q4_0", "Q8_0", "Q6_K")
ROOT = Path(__file__).parent.parent
TOKENIZER = ROOT / "models" / "storyteller" / "tokenizer.json"


class Row(NamedTuple):
    """A line of the table; empty strings where there is nothing to say."""

    what: str
    ours: str
    peer: str
    ratio: str
    target: str


class Bench:
    """The options, and the models made so far."""

    def __init__(self, folder: Path, peer_python: str | None, repetitions: int) -> None:
        self.folder, self.peer_python, self.repetitions = folder, peer_python, repetitions
        folder.mkdir(parents=True, exist_ok=True)

    def model(self, shape: str, type_: str) -> Path:
        """That model in that type, made when it is not there."""
        path = self.folder / f"{shape}-{type_}.gguf"
        if not path.exists():
            if type_ == "F16":
                write_model(shape, path)
            else:
                llmq.quantize_model(self.model(shape, "F16"), path, type_)
        return path

    def run(self, type_: str, n_prompt: int, n_gen: int, shape: str = "1.1b", **options: int) -> BenchReport:
        path = self.model(shape, type_)
        return bench(path, n_prompt, n_gen, self.repetitions, peer_python=self.peer_python, **options)


def row(what: str, m: Measure, target: str) -> Row:
    limit = "" if m.limit is None else f" ({100 * m.median / m.limit:.0f} % of the limit)"
    peer = "" if m.peer_median is None else f"{m.peer_median:.1f} t/s"
    return Row(what, f"{m.median:.1f} t/s{limit}", peer, "" if m.ratio is None else f"{m.ratio:.2f}", target)


def prompts(b: Bench) -> Iterator[Row]:
    for type_, target in PROMPT_TYPES.items():
        yield row(f"prompt of 512, {type_}", b.run(type_, 512, 0).measures[0], f"{target} x llama.cpp with AMX")


def long_prompt(b: Bench) -> Iterator[Row]:
    short, long = (b.run("Q4_0", n, 0).measures[0] for n in (512, 1536))
    yield row("prompt of 1,536, Q4_0", long, "")
    yield Row("prompt of 1,536 against 512, Q4_0", f"{100 * long.median / short.median:.0f} %", "", "", "85 %")


def decode(b: Bench) -> Iterator[Row]:
    for type_ in DECODE_TYPES:
        yield row(f"decode, {type_}", b.run(type_, 0, 32).measures[0], "90 % of the limit")


def depth(b: Bench) -> Iterator[Row]:
    flat, deep = (b.run("Q4_0", 0, 32, depth=n).measures[0] for n in (0, 1024))
    yield row("decode at depth 1,024, Q4_0", deep, "")
    yield Row("depth 1,024 against 0, Q4_0", f"{100 * deep.median / flat.median:.0f} %",
              "" if not deep.peer_median or not flat.peer_median else f"{100 * deep.peer_median / flat.peer_median:.0f} %",
              "", "90 %")  # fmt: skip


def together(b: Bench) -> Iterator[Row]:
    yield row("16 sequences together, Q4_0", b.run("Q4_0", 0, 16, sequences=16).measures[0], "4 x")


def small(b: Bench) -> Iterator[Row]:
    yield row("decode, 58M, Q4_0", b.run("Q4_0", 0, 128, shape="58m").measures[0], "1.3 x")


def pairs(what: str, ours: list[float], peers: list[float], target: str) -> Row:
    """Seconds of alternated runs."""
    peer = f"{1000 * statistics.median(peers):.1f} ms" if peers else ""
    ratio = f"{statistics.median(p / o for o, p in zip(ours, peers, strict=True)):.2f}" if peers else ""
    return Row(what, f"{1000 * statistics.median(ours):.1f} ms", peer, ratio, target)


def loading(b: Bench) -> Iterator[Row]:
    for type_ in ("Q4_0", "Q4_K_M"):
        path, ours, peers = b.model("1.1b", type_), [], []
        for turn in range(b.repetitions + 1):  # the first warms the file cache
            start = time.perf_counter()
            with llmq.load(path, n_ctx=512) as llm:
                llm.generate([1], max_tokens=1, temperature=0)
            taken = time.perf_counter() - start
            peer = Peer(path, 512, usable_cores(), b.peer_python) if b.peer_python else None
            if peer is not None:
                peer.close()
            if turn:
                ours.append(taken)
                peers += [] if peer is None else [peer.loading]
        yield pairs(f"load to first token, {type_}", ours, peers, "1 x")


def quantizing(b: Bench) -> Iterator[Row]:
    source, out = b.model("1.1b", "F16"), b.folder / "written.gguf"
    peer = Peer(b.model("58m", "Q4_0"), 64, usable_cores(), b.peer_python) if b.peer_python else None
    for type_ in QUANTIZE_TYPES:
        start = time.perf_counter()
        llmq.quantize_model(source, out, type_)
        ours = time.perf_counter() - start
        peers = [] if peer is None else [peer.ask({"quantize": [str(source), str(out), type_]})]
        yield pairs(f"quantize F16 > {type_}", [ours], peers, "4 x")
    out.unlink()
    if peer is not None:
        peer.close()


def sampling(b: Bench) -> Iterator[Row]:
    n = 128_000
    logits = np.random.default_rng(0).standard_normal(n).astype(np.float32) * 3
    chain = Sampling(seed=1, repeat_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1, typical_p=0.95)
    history = np.arange(64, dtype=np.int32)
    sampler = chain.sampler(n)
    taken = []
    for step in range(50):
        start = time.perf_counter()
        sampler.sample(logits, history, step)
        taken.append(time.perf_counter() - start)
    token = 1 / b.run("Q4_0", 0, 16).measures[0].median
    share = 100 * statistics.median(taken) / token
    ours = f"{1e6 * statistics.median(taken):.0f} us, {share:.1f} % of a token"
    yield Row("sampling of 128,000, full chain", ours, "", "", "3 %")


TOKENIZE = """
import sys, time
from tokenizers import Tokenizer
t = Tokenizer.from_file(sys.argv[1]); text = open(sys.argv[2], encoding="utf-8").read()
best = 1e9
for _ in range(5):
    start = time.perf_counter(); t.encode(text); best = min(best, time.perf_counter() - start)
print(best)
"""


def tokenizing(b: Bench) -> Iterator[Row]:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("**/*.md")) if "out" not in path.parts)
    with llmq.load(TOKENIZER.parent, n_ctx=64) as llm:
        ours = min(_timed(lambda: llm.tokenize(text)) for _ in range(5))
    peers = []
    if b.peer_python:
        file = b.folder / "text.txt"
        file.write_text(text, encoding="utf-8")
        command = [b.peer_python, "-c", TOKENIZE, str(TOKENIZER), str(file)]
        done = subprocess.run(command, env={"RAYON_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
        peers = [float(done.stdout)] if done.returncode == 0 else []
    yield pairs(f"tokenize {len(text) >> 10} KiB of English (peer: tokenizers)", [ours], peers, "1 x")


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


PARTS: tuple[Callable[[Bench], Iterator[Row]], ...] = (
    prompts, long_prompt, decode, depth, together, small, loading, quantizing, sampling, tokenizing,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("out/bench"))
    parser.add_argument("--peer-python", metavar="PYTHON")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", choices=[part.__name__ for part in PARTS])
    arguments = parser.parse_args()
    b = Bench(arguments.folder, arguments.peer_python, arguments.repetitions)
    sys.stdout.write("| what | llmq | llama.cpp | ratio | target |\n|---|---|---|---|---|\n")
    for part in PARTS:
        if arguments.only in (None, part.__name__):
            for line in part(b):
                sys.stdout.write(f"| {' | '.join(line)} |\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
