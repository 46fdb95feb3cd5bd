"""How long a fresh process takes from the call of `load` to the first token, and the most memory it has held when a prompt has
filled the context:

    python benchmarks/first_token.py MODEL N_CTX

Prints {"seconds": …, "peak": bytes} as JSON."""

from __future__ import annotations

import json
import sys
import time

import llmq
from llmq.benchmark_peer import peak_bytes


def main() -> None:
    path, n_ctx = sys.argv[1], int(sys.argv[2])
    load = llmq.load  # imports NumPy; the peer is imported before its clock starts too
    start = time.perf_counter()
    with load(path, n_ctx=n_ctx) as llm:
        llm.generate([1], max_tokens=1, temperature=0, ignore_eos=True)
        seconds = time.perf_counter() - start
        llm.generate(list(range(300, 299 + n_ctx)), max_tokens=1, temperature=0, ignore_eos=True)
    sys.stdout.write(json.dumps({"seconds": seconds, "peak": peak_bytes()}) + "\n")


if __name__ == "__main__":
    main()
