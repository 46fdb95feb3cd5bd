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
from typing import Any

import numpy as np

TOLERANCE = 2e-3  # of the largest logit; llama.cpp computes some products in half precision
WINDOW, SCALE = "takes no window for this family", "takes the scale of attention from the width of a head"
ONE_TYPE, TIED = "has one type of token", "does not scale the logits of tied embeddings"
LIMITS = {  # of llama.cpp: what it cannot say of a model that it loads
    "bert-labels": ONE_TYPE,
    "bert-rank": ONE_TYPE,
    "deepseek2-groups": "ranks groups by their best two experts, as DeepSeek-V3 does and V2 does not",
    "exaone4-windows": "has windows in models of 64 blocks alone",
    "falcon-mamba": "takes one epsilon for all norms",
    "gemma2": SCALE,
    "gemma2-uncapped": "always caps",
    "gemma3": SCALE,
    "gemma3-plain": SCALE,
    "gptoss": "rounds YaRN's range of columns, and takes beta_fast and beta_slow from its caller, not from the file",
    "llama4": "knows the chunks and the growth of the published models alone",
    "llama-dynamic": "knows no dynamic scaling",
    "llama-yarn-betas": "takes beta_fast and beta_slow from its caller, not from the file",
    "ministral": WINDOW,
    "mistral-window": WINDOW,
    "mixtral-window": WINDOW,
    "phi3": WINDOW,
    "phi3-short": "has no contexts below 256, so it takes the long factors",
    "qwen2-windows": WINDOW,
    "qwen2moe-normalized": "never normalizes the weights of this family's experts",
    "qwen3moe-plain": "always normalizes the weights of this family's experts",
    "starcoder2": WINDOW,
    "t5": TIED,
    "umt5": TIED,
}


def write(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from goldens import load, names, write_folder

    from llmq.quant.quantizer import quantize_model

    folder.mkdir(parents=True, exist_ok=True)
    for name in names("logits", "hidden", "scores", "seq2seq"):
        golden = load(name)
        quantize_model(write_folder(golden, folder / name), folder / f"{name}.gguf", "F32")
        arrays = {f"tokens{i}": tokens for i, (tokens, _) in enumerate(golden.sequences)}
        arrays |= {f"logits{i}": logits for i, (_, logits) in enumerate(golden.sequences)}
        if golden.sources:
            arrays["source0"] = golden.sources[0]
        np.savez(folder / f"{name}.npz", n_ctx=golden.n_ctx or 64, kind=golden.kind, **arrays)


def differences(path: Path) -> np.ndarray:
    """Per position the largest difference of any logit, relative to the largest logit of all."""
    import llama_cpp

    with np.load(path.with_suffix(".npz")) as arrays:
        n_ctx, tokens, expected = int(arrays["n_ctx"]), arrays["tokens0"], arrays["logits0"]
        kind, source = str(arrays["kind"]), arrays.get("source0")
    if kind != "logits":
        found = low_level(path, kind, tokens, source, expected.shape)
        return abs(found - expected).max(axis=1) / abs(expected).max()
    model = llama_cpp.Llama(
        str(path), n_ctx=n_ctx, logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=1, flash_attn=False,
        yarn_beta_fast=-1.0, yarn_beta_slow=-1.0,
    )  # fmt: skip
    model.eval(tokens.tolist())
    found = np.array(model.scores[: len(tokens)])
    return abs(found[:, : expected.shape[1]] - expected).max(axis=1) / abs(expected).max()


def low_level(path: Path, kind: str, tokens: np.ndarray, source: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """The final states, the scores of the whole text, or with a source the logits of an encoder–decoder; ValueError for a
    model that does not load."""
    import llama_cpp.llama_cpp as lib

    def batch(ids: np.ndarray) -> Any:
        made = lib.llama_batch_init(len(ids), 0, 1)
        made.n_tokens = len(ids)
        for i, token in enumerate(ids.tolist()):
            made.token[i], made.pos[i], made.n_seq_id[i], made.logits[i] = token, i, 1, 1
            made.seq_id[i][0] = 0
        return made

    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    if not model:
        raise ValueError(path)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 64
    params.n_threads, params.type_k, params.type_v, params.flash_attn_type = 1, 0, 0, 0
    params.embeddings, params.pooling_type = source is None, lib.LLAMA_POOLING_TYPE_RANK if kind == "scores" else 0
    context = lib.llama_init_from_model(model, params)
    if source is not None and lib.llama_encode(context, batch(source)):
        raise RuntimeError(f"{path.stem}: llama_encode failed")
    run = lib.llama_encode if lib.llama_model_has_encoder(model) and source is None else lib.llama_decode
    if run(context, batch(tokens)):
        raise RuntimeError(f"{path.stem}: llama_decode failed")
    if kind == "scores":
        return np.ctypeslib.as_array(lib.llama_get_embeddings_seq(context, 0), shape[1:]).copy()[None]
    row = lib.llama_get_embeddings_ith if source is None else lib.llama_get_logits_ith
    return np.array([np.ctypeslib.as_array(row(context, i), shape[1:]).copy() for i in range(shape[0])])


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
