"""The other side of `llmq bench --compare llama-cpp-python`: run by the interpreter that has llama-cpp-python.

Arguments: model, context, threads. Prints 0 when loaded; then answers each JSON line of standard input, {"prompt": ids} or
{"depth": ids, "write": n}, with the seconds it took.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    from llama_cpp import Llama  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    path, n_ctx, n_threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    model: Any = Llama(
        path, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads, n_batch=512, n_ubatch=512, verbose=False
    )
    sys.stdout.write("0\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        model.reset()
        if "prompt" in request:
            start = time.perf_counter()
            model.eval(request["prompt"])
        else:
            model.eval(request["depth"])
            start = time.perf_counter()
            for i in range(request["write"]):
                model.eval([300 + i % 1000])
        sys.stdout.write(f"{time.perf_counter() - start}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
