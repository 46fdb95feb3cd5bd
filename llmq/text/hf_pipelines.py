"""Recognizing the pipelines of tokenizer.json by their definition: normalizer and pre-tokenizer to a name of
tokenizer.ggml.pre."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue

__all__ = ["recognize_bpe"]

# The published definitions, each as the steps of its pre_tokenizer: "split BEHAVIOR REGEX", "bytes" (the byte alphabet alone),
# "gpt-2 words" (ByteLevel with its built-in expression).
_GPT4 = (  # cl100k
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_STEPS: dict[tuple[str, ...], str] = {
    ("gpt-2 words",): "gpt-2",
    ("split isolated " + _GPT4 % "{1,3}", "bytes"): "llama-bpe",
    ("split isolated " + _GPT4 % "", "bytes"): "qwen2",
}


def recognize_bpe(source: Mapping[str, Any], *, ignore_merges: bool, path: Path) -> dict[str, MetaValue]:
    """tokenizer.ggml.pre for a byte-level BPE pipeline. Raises UnsupportedError, showing the definition, for one that is not
    known."""
    steps = _steps(source.get("pre_tokenizer"))
    name = _STEPS.get(tuple(steps))
    if name is None:
        shown = json.dumps(source.get("pre_tokenizer"), ensure_ascii=False)
        raise UnsupportedError(f"an unknown pre-tokenizer: {shown[:2000]}", path=path)
    return {"tokenizer.ggml.pre": name}


def _steps(pre_tokenizer: object) -> list[str]:
    if not isinstance(pre_tokenizer, dict):
        return ["nothing"]
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        return [step for part in pre_tokenizer.get("pretokenizers", []) for step in _steps(part)]
    if kind == "ByteLevel":
        prefix = "prefixed " if pre_tokenizer.get("add_prefix_space", True) else ""
        return [prefix + ("gpt-2 words" if pre_tokenizer.get("use_regex", True) else "bytes")]
    if kind == "Split" and not pre_tokenizer.get("invert"):
        pattern = pre_tokenizer.get("pattern")
        if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
            return [f"split {str(pre_tokenizer.get('behavior')).lower()} {pattern['Regex']}"]
    return [json.dumps(pre_tokenizer)]
