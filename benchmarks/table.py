"""The whole table of docs/performance.md, measured here and printed as Markdown, row by row.

    python benchmarks/table.py --peer-python PYTHON [--peer-avx2 PYTHON] [--openvino PYTHON] [--transformers PYTHON]

Each PYTHON is an interpreter whose environment has that peer: llama-cpp-python built for this machine, the same built for AVX2
alone, openvino-genai, or torch and transformers (with them `tokenizers`). A peer that is not given leaves its column empty, one
that fails leaves its message in the last column. Runs of both sides alternate and a ratio is the median over the pairs; above
1, llmq is better. "met" says whether a target is reached, or why it cannot be said here.

Models are made once in the folder, with random weights in the shapes of TinyLlama 1.1B. With all peers the table takes about
half an hour on two cores, and 16 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rows import PARTS
from runs import Row, RunFailedError, Runs
from synthetic import SHAPES

from llmq.cpu import cpu_info
from llmq.errors import LlmqError


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--folder", type=Path, default=Path("out/bench"), help="where the models are made (default: out/bench)")
    out.add_argument("--peer-python", metavar="PYTHON", help="has llama-cpp-python, built for this machine")
    out.add_argument("--peer-avx512vnni", metavar="PYTHON", help="has it without AMX (where there is none: --peer-python)")
    out.add_argument("--peer-avx2", metavar="PYTHON", help="has it built for AVX2 alone")
    out.add_argument("--openvino", metavar="PYTHON", help="has openvino-genai")
    out.add_argument("--transformers", metavar="PYTHON", help="has torch and transformers")
    out.add_argument("--repetitions", type=int, metavar="N", default=3, help="pairs of runs after a warm-up (default: 3)")
    out.add_argument("--shape", choices=SHAPES, default="1.1b", help="of the models; the targets are for 1.1b (default)")
    names = [part.__name__ for part in PARTS]
    out.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help=f"of {', '.join(names)}")
    out.add_argument("--json", action="store_true", help="print the rows as JSON, and the table to standard error")
    return out


def main() -> int:
    arguments = parser().parse_args()
    given = {
        "llama.cpp": arguments.peer_python,
        "llama.cpp-avx512vnni": arguments.peer_avx512vnni,
        "llama.cpp-avx2": arguments.peer_avx2,
        "openvino": arguments.openvino,
        "transformers": arguments.transformers,
    }
    peers = {name: python for name, python in given.items() if python}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    runs = Runs(arguments.folder, arguments.shape, arguments.repetitions, peers)
    out = sys.stderr if arguments.json else sys.stdout
    cpu = cpu_info()
    out.write(f"{cpu['model']}, {cpu['cores']} cores, {cpu['isa']}, shapes of {arguments.shape}\n\n")
    out.write("| what | llmq | peer | ratio | target | met | notes |\n|---|---|---|---|---|---|---|\n")
    rows: list[Row] = []
    start = time.perf_counter()
    for part in PARTS:
        if part.__name__ not in arguments.only:
            continue
        try:
            for row in part(runs):
                rows.append(row)
                out.write(row.markdown() + "\n")
                out.flush()
        except (RunFailedError, LlmqError, OSError) as error:
            rows.append(Row(part.__name__, notes=[str(error)]))
            out.write(rows[-1].markdown() + "\n")
    verdicts = [row.verdict(target) for row in rows for target in row.targets]
    counts = ", ".join(f"{word}: {verdicts.count(word)}" for word in dict.fromkeys(verdicts))
    out.write(f"\ntargets met: {counts or 'none'}; {time.perf_counter() - start:.0f} s in all\n")
    if arguments.json:
        sys.stdout.write(json.dumps([row.as_dict() for row in rows], indent=1) + "\n")
    return 1 if any(row.ours is None for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
