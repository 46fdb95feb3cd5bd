"""The other side of `llmq bench --compare llama-cpp-python`: run by the interpreter that has llama-cpp-python.

Arguments: model, context, threads, sequences. Prints the seconds that loading and reading one token took; then answers each
JSON line of standard input, {"prompt": ids}, {"depth": ids, "write": n}, {"sequences": count, "write": n} or
{"quantize": [source, destination, type]}, with the seconds it took, and {"peak": true} with the most bytes of memory so far.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any


class Together:
    """A context of several sequences, and a batch with one token of each."""

    def __init__(self, model: Any, n_ctx: int, n_threads: int, sequences: int) -> None:
        import llama_cpp  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

        self.lib: Any = llama_cpp
        params = self.lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = n_ctx * sequences, sequences
        params.n_threads = params.n_threads_batch = n_threads
        self.context = self.lib.llama_init_from_model(model._model.model, params)
        self.batch = self.lib.llama_batch_init(sequences, 0, 1)
        self.batch.n_tokens = self.sequences = sequences

    def step(self, position: int) -> None:
        """One more token for every sequence; position 0 begins anew."""
        if position == 0:
            self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        for i in range(self.sequences):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = 300 + (7 * i + position) % 1000, position, 1
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, i
        if self.lib.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")
        self.lib.llama_synchronize(self.context)


def quantize(source: str, destination: str, type_: str, n_threads: int) -> None:
    import llama_cpp  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    lib: Any = llama_cpp
    params = lib.llama_model_quantize_default_params()
    params.nthread, params.ftype = n_threads, getattr(lib, f"LLAMA_FTYPE_MOSTLY_{type_}")
    if lib.llama_model_quantize(source.encode(), destination.encode(), params) != 0:
        raise RuntimeError("llama_model_quantize failed")


def peak_bytes() -> int:
    """The most memory that this program has held. Not what getrusage says on Linux: that begins with what the caller held."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    from llama_cpp import Llama  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415

    path, n_ctx, n_threads, sequences = sys.argv[1], *map(int, sys.argv[2:5])
    start = time.perf_counter()
    model: Any = Llama(
        path, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads, n_batch=512, n_ubatch=512, verbose=False
    )
    model.eval([1])
    together = Together(model, n_ctx, n_threads, sequences) if sequences > 1 else None
    sys.stdout.write(f"{time.perf_counter() - start}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        if "peak" in request:
            sys.stdout.write(f"{peak_bytes()}\n")
            sys.stdout.flush()
            continue
        model.reset()
        start = time.perf_counter()
        if "prompt" in request:
            model.eval(request["prompt"])
        elif "sequences" in request:
            assert together is not None
            together.step(0)
            start = time.perf_counter()
            for position in range(1, request["write"] + 1):
                together.step(position)
        elif "quantize" in request:
            source, destination, type_ = request["quantize"]
            quantize(source, destination, type_, n_threads)
        else:
            model.eval(request["depth"])
            start = time.perf_counter()
            for i in range(request["write"]):
                model.eval([300 + i % 1000])
        sys.stdout.write(f"{time.perf_counter() - start}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
