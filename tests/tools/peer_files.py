"""Files of every type and recipe, written by llmq, in llama.cpp: the perplexity of a text must be that which llmq finds.

    python tests/tools/peer_files.py write FOLDER TEXT    with llmq: a GGUF per recipe, and what llmq makes of it
    python tests/tools/peer_files.py check FOLDER         with llama-cpp-python and NumPy, in an environment of its own

The model is models/storyteller, importances are of the text; chunks of 256 tokens, the second half scored. Types that are no
recipe are written over all matrices of an F16 file. Prints a line per file; the exit status of `check` is 1 when a file does
not load or differs by more than 0.5 %."""

# ruff: noqa: PLC0415, T201 - a tool, half of which runs in another environment

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

CHUNKS, N_CTX, TOLERANCE = 10, 256, 5e-3
ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str) -> int:
    import llmq
    from llmq.quant.recipes import RECIPES
    from llmq.quant.types import QuantType

    folder.mkdir(parents=True, exist_ok=True)
    source, importances = ROOT / "models" / "storyteller", folder / "imatrix.gguf"
    llmq.imatrix(source, text, importances, n_ctx=N_CTX, max_chunks=20)
    jobs: list[tuple[str, str, dict[str, str]]] = [(name, name, {}) for name in RECIPES]
    jobs += [(t.name, "F16", {".*": t.name}) for t in QuantType if t.name not in RECIPES and t.name != "F32"]
    for name, recipe, types in jobs:
        path = folder / f"{name}.gguf"
        try:
            llmq.quantize_model(source, path, recipe, imatrix=importances, tensor_types=types)
        except ValueError as error:  # a recipe for experts
            print(f"{name:12} not written: {error}")
            continue
        with llmq.load(path) as llm:
            ids = llm.tokenize(text, add_special=False)
            windows = [[llm.tokenizer.bos_id, *ids[i * N_CTX : (i + 1) * N_CTX - 1]] for i in range(CHUNKS)]
            nll = [nll_of(np.array(llm.logits(window)), window) for window in windows]
        path.with_suffix(".json").write_text(json.dumps({"windows": windows, "perplexity": float(np.exp(np.mean(nll)))}))
        print(f"{name:12} {np.exp(np.mean(nll)):9.4f}", flush=True)
    return 0


def nll_of(logits: np.ndarray, window: list[int]) -> float:
    """Of the second half of the window, in nats per token."""
    x = logits[N_CTX // 2 - 1 : -1].astype(np.float64)
    top = x.max(axis=1)
    lse = top + np.log(np.exp(x - top[:, None]).sum(axis=1))
    return float((lse - x[np.arange(len(x)), window[N_CTX // 2 :]]).mean())


def check(folder: Path) -> int:
    import llama_cpp

    bad = 0
    for path in sorted(folder.glob("*.json")):
        expected = json.loads(path.read_text())
        try:
            model = llama_cpp.Llama(str(path.with_suffix(".gguf")), n_ctx=N_CTX, logits_all=True, verbose=False, n_threads=2)
        except ValueError as error:
            print(f"{path.stem:12} WRONG: {error}")
            bad += 1
            continue
        nll = []
        for window in expected["windows"]:
            model.reset()
            model.eval(window)
            nll.append(nll_of(np.array(model.scores[: len(window)]), window))
        found = float(np.exp(np.mean(nll)))
        change = found / expected["perplexity"] - 1
        wrong = not abs(change) <= TOLERANCE
        bad += wrong
        print(f"{path.stem:12} {expected['perplexity']:9.4f} {found:9.4f} {change:+.3%}{' WRONG' * wrong}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "write":
        sys.exit(write(Path(sys.argv[2]), Path(sys.argv[3]).read_text()))
    if len(sys.argv) != 3 or sys.argv[1] != "check":
        sys.exit(__doc__)
    sys.exit(check(Path(sys.argv[2])))
