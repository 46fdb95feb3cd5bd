"""Recognizing the pipelines of tokenizer.json by their definition: normalizer, pre-tokenizer and the model's options, to keys
of GGUF.

A pipeline that is not one of these is refused with its definition, so that it can be added: its steps below, its scanner in
csrc/text/pre.c.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmq import _text
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue

__all__ = ["recognize_bpe", "recognize_spm", "recognize_wordpiece"]

# Pre-tokenizers as their steps: "split BEHAVIOR REGEX", "bytes" (the byte alphabet alone), "gpt-2 words" (ByteLevel with its
# built-in expression). Of names with equal steps the one that also says the right thing about merges and NFC is taken.
_GPT4 = (  # cl100k
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_STEPS: list[tuple[str, tuple[str, ...]]] = [
    ("gpt-2", ("gpt-2 words",)),
    ("llama-bpe", ("split isolated " + _GPT4 % "{1,3}", "bytes")),
    ("qwen2", ("split isolated " + _GPT4 % "", "bytes")),
]

_PREPEND = ["prepend \u2581", "replace ' ' \u2581"]


def recognize_bpe(source: Mapping[str, Any], *, ignore_merges: bool, path: Path) -> dict[str, MetaValue]:
    """tokenizer.ggml.pre for a byte-level BPE pipeline. Raises UnsupportedError, showing the definition, for an unknown one."""
    steps = tuple(_pre_steps(source.get("pre_tokenizer")))
    normalizer = _normalizer_steps(source.get("normalizer"))
    if normalizer not in ([], ["NFC"]):
        raise _unknown("normalizer", source, path)
    wanted = {"nfc": normalizer == ["NFC"], "ignore_merges": ignore_merges}
    usual = _text.pre_tokenizers()
    names = [name for name, known in _STEPS if known == steps]
    if not names:
        raise _unknown("pre_tokenizer", source, path)
    name = max(names, key=lambda name: sum(usual[name][key] == value for key, value in wanted.items()))
    metadata: dict[str, MetaValue] = {"tokenizer.ggml.pre": name}
    return metadata | {f"tokenizer.llmq.{key}": value for key, value in wanted.items() if usual[name][key] != value}


def recognize_spm(source: Mapping[str, Any], model: Mapping[str, Any], *, path: Path) -> dict[str, MetaValue]:
    """Where SentencePiece BPE puts a space: Llama 2 (normalizer), Mistral (Metaspace), Gemma (none)."""
    steps = _normalizer_steps(source.get("normalizer")), _pre_steps(source.get("pre_tokenizer"))
    if model.get("ignore_merges"):
        raise UnsupportedError("byte_fallback together with ignore_merges is not supported", path=path)
    known: dict[str, dict[str, MetaValue]] = {
        json.dumps([_PREPEND, []]): {"tokenizer.ggml.add_space_prefix": True},
        json.dumps([[], ["metaspace first whole"]]): {
            "tokenizer.ggml.add_space_prefix": True,
            "tokenizer.llmq.prefix_first": True,
            "tokenizer.llmq.prefix_missing": True,
        },
        json.dumps([[], ["metaspace always whole"]]): {
            "tokenizer.ggml.add_space_prefix": True,
            "tokenizer.llmq.prefix_missing": True,
        },
        json.dumps([[], ["metaspace never whole"]]): {"tokenizer.ggml.add_space_prefix": False},
        json.dumps([_PREPEND[1:], ["split mergedwithprevious ' '"]]): {"tokenizer.ggml.add_space_prefix": False},
        json.dumps([_PREPEND[1:], []]): {"tokenizer.ggml.add_space_prefix": False},
    }
    found = known.get(json.dumps(steps))
    if found is None:
        raise _unknown("pre_tokenizer", source, path)
    return found


def recognize_wordpiece(source: Mapping[str, Any], model: Mapping[str, Any], *, path: Path) -> dict[str, MetaValue]:
    """The options of BERT's normalizer."""
    normalizer = source.get("normalizer")
    usual = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    if any(model.get(key, value) != value for key, value in usual.items()):
        raise UnsupportedError("a WordPiece model with an unusual prefix or length of words is not supported", path=path)
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        raise _unknown("normalizer", source, path)
    if not normalizer.get("clean_text", True) or not normalizer.get("handle_chinese_chars", True):
        raise _unknown("normalizer", source, path)
    if _pre_steps(source.get("pre_tokenizer")) != ["BertPreTokenizer"]:
        raise _unknown("pre_tokenizer", source, path)
    lowercase = bool(normalizer.get("lowercase", True))
    accents = normalizer.get("strip_accents")
    strip = lowercase if accents is None else bool(accents)
    return {"tokenizer.ggml.normalizer.lowercase": lowercase, "tokenizer.ggml.normalizer.strip_accents": strip}


def _unknown(key: str, source: Mapping[str, Any], path: Path) -> UnsupportedError:
    shown = json.dumps(source.get(key), ensure_ascii=False)
    return UnsupportedError(f"llmq does not know this {key}: {shown[:2000]}", path=path)


def _normalizer_steps(normalizer: object) -> list[str]:
    if normalizer is None:
        return []
    if isinstance(normalizer, dict):
        kind = normalizer.get("type")
        if kind == "Sequence" and isinstance(normalizer.get("normalizers"), list):
            return [step for part in normalizer["normalizers"] for step in _normalizer_steps(part)]
        if kind == "Prepend":
            return [f"prepend {normalizer.get('prepend')}"]
        if kind == "Replace" and normalizer.get("pattern") == {"String": " "}:
            return [f"replace ' ' {normalizer.get('content')}"]
        if normalizer.keys() == {"type"}:
            return [str(kind)]
    return [json.dumps(normalizer)]


def _pre_steps(pre_tokenizer: object) -> list[str]:
    if pre_tokenizer is None:
        return []
    if isinstance(pre_tokenizer, dict):
        kind = pre_tokenizer.get("type")
        if kind == "Sequence" and isinstance(pre_tokenizer.get("pretokenizers"), list):
            return [step for part in pre_tokenizer["pretokenizers"] for step in _pre_steps(part)]
        if kind == "ByteLevel":
            prefix = "prefixed " if pre_tokenizer.get("add_prefix_space", True) else ""
            return [prefix + ("gpt-2 words" if pre_tokenizer.get("use_regex", True) else "bytes")]
        if kind == "Metaspace" and pre_tokenizer.get("replacement") == "\u2581":
            prefixed = "always" if pre_tokenizer.get("add_prefix_space", True) else "never"
            where = str(pre_tokenizer.get("prepend_scheme", prefixed)).lower()
            return [f"metaspace {where} {'words' if pre_tokenizer.get('split', True) else 'whole'}"]
        if kind == "Split" and not pre_tokenizer.get("invert"):
            behavior = str(pre_tokenizer.get("behavior")).lower()
            pattern = pre_tokenizer.get("pattern")
            if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
                return [f"split {behavior} {pattern['Regex']}"]
            if isinstance(pattern, dict) and isinstance(pattern.get("String"), str):
                return [f"split {behavior} {pattern['String']!r}"]
        if kind == "Digits":
            return ["digits" if pre_tokenizer.get("individual_digits") else "digit runs"]
        if pre_tokenizer.keys() == {"type"}:
            return [str(kind)]
    return [json.dumps(pre_tokenizer)]
