"""Load llmq's GGUF of every golden model in llama.cpp and compare its logits with transformers'.

    python tests/tools/peer_families.py write FOLDER      with llmq: one GGUF and one npz per golden
    python tests/tools/peer_families.py check FOLDER      with llama-cpp-python and NumPy, in an environment of its own

Prints a line per model; the exit status of `check` is 1 when a model that loads differs beyond the known limits. What llama.cpp
does not know it refuses, which is shown and does not count."""

# ruff: noqa: PLC0415, T201 - a tool, half of which runs in another environment

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np

TOLERANCE = 2e-3  # of the largest logit; llama.cpp computes some products in half precision
WINDOW, SCALE = "takes no window for this family", "takes the scale of attention from the width of a head"
LIMITS = {  # of llama.cpp: what it cannot say of a model that it loads
    "deepseek2-groups": "ranks groups by their best two experts, as DeepSeek-V3 does and V2 does not",
    "gemma2": SCALE,
    "gemma2-uncapped": "always caps",
    "gemma3": SCALE,
    "gemma3-plain": SCALE,
    "gptoss": "rounds YaRN's range of columns, and takes beta_fast and beta_slow from its caller, not from the file",
    "llama-yarn-betas": "takes beta_fast and beta_slow from its caller, not from the file",
    "mistral-window": WINDOW,
    "mixtral-window": WINDOW,
    "phi3": WINDOW,
    "phi3-short": "has no contexts below 256, so it takes the long factors",
    "qwen2-windows": WINDOW,
    "qwen2moe-normalized": "never normalizes the weights of this family's experts",
    "qwen3moe-plain": "always normalizes the weights of this family's experts",
    "starcoder2": WINDOW,
}


def write(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from goldens import load, names, write_folder

    from llmq.quant.quantizer import quantize_model

    folder.mkdir(parents=True, exist_ok=True)
    for name in names("logits"):
        golden = load(name)
        quantize_model(write_folder(golden, folder / name), folder / f"{name}.gguf", "F32")
        arrays = {f"tokens{i}": tokens for i, (tokens, _) in enumerate(golden.sequences)}
        arrays |= {f"logits{i}": logits for i, (_, logits) in enumerate(golden.sequences)}
        np.savez(folder / f"{name}.npz", n_ctx=golden.n_ctx or 64, **arrays)


def differences(path: Path) -> np.ndarray:
    """Per position the largest difference of any logit, relative to the largest logit of all."""
    import llama_cpp

    with np.load(path.with_suffix(".npz")) as arrays:
        n_ctx, tokens, expected = int(arrays["n_ctx"]), arrays["tokens0"], arrays["logits0"]
    model = llama_cpp.Llama(
        str(path), n_ctx=n_ctx, logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=1, flash_attn=False,
        yarn_beta_fast=-1.0, yarn_beta_slow=-1.0,
    )  # fmt: skip
    model.eval(tokens.tolist())
    found = np.array(model.scores[: len(tokens)])
    return abs(found[:, : expected.shape[1]] - expected).max(axis=1) / abs(expected).max()


def check(folder: Path) -> int:
    import llama_cpp

    messages: list[str] = []
    keep = llama_cpp.llama_log_callback(lambda _level, text, _data: messages.append(text.decode(errors="replace")))
    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    bad = 0
    for path in sorted(folder.glob("*.gguf")):
        messages.clear()
        try:
            found = differences(path)
        except ValueError:
            why = next((text.strip() for text in messages if "error" in text), "refused")
            print(f"{path.stem:28} {why}")
            continue
        wrong = np.flatnonzero(~(found <= TOLERANCE))
        limit = LIMITS.get(path.stem)
        bad += len(wrong) > 0 and limit is None
        where = f"  different from position {wrong[0]}: {limit or 'WRONG'}" if len(wrong) else ""
        print(f"{path.stem:28} {found.max():.1e}{where}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "check"):
        sys.exit(__doc__)
    where = Path(sys.argv[2])
    sys.exit(write(where) if sys.argv[1] == "write" else check(where))
