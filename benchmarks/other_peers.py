"""The other side of the rows on OpenVINO GenAI and transformers: run by the interpreter that has them, with the arguments and
the protocol of llmq/benchmark_peer.py, of which it answers {"prompt": ids}; a last argument names the peer.

MODEL is a GGUF file for OpenVINO GenAI, and for transformers a JSON file with the fields of a LlamaConfig, from which a model
with random weights in bfloat16 is made."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path


def transformers(model: str, n_threads: int) -> Callable[[list[int]], object]:
    import torch  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    torch.set_num_threads(n_threads)
    torch.set_default_dtype(torch.bfloat16)
    llama = LlamaForCausalLM(LlamaConfig(**json.loads(Path(model).read_text(encoding="utf-8")))).eval()

    def read(ids: list[int]) -> object:
        with torch.inference_mode():
            return llama(torch.tensor([ids]), logits_to_keep=1).logits

    return read


def openvino(model: str, n_threads: int) -> Callable[[list[int]], object]:
    import numpy as np  # noqa: PLC0415
    import openvino  # noqa: PLC0415
    import openvino_genai  # noqa: PLC0415

    pipeline = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=n_threads)
    config = openvino_genai.GenerationConfig(max_new_tokens=1, ignore_eos=True)
    return lambda ids: pipeline.generate(openvino.Tensor(np.array([ids], np.int64)), config)


def main() -> None:
    makers = {"transformers": transformers, "openvino": openvino}
    model, n_threads, name = sys.argv[1], int(sys.argv[3]), sys.argv[5]
    start = time.perf_counter()
    read = makers[name](model, n_threads)
    sys.stdout.write(f"{time.perf_counter() - start}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        ids = json.loads(line)["prompt"]
        start = time.perf_counter()
        read(ids)
        sys.stdout.write(f"{time.perf_counter() - start}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
