"""Recognizing the pipelines of tokenizer.json by their definition: normalizer, pre-tokenizer and the model's options, to keys
of GGUF.

A pipeline that is not one of these is refused with its definition, so that it can be added: its steps below, its scanner in
csrc/text/pre.c.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmq import _text
from llmq.errors import FormatError, UnsupportedError
from llmq.formats.checkpoint import MetaValue

__all__ = ["bpe_pre_tokenizers", "recognize_bpe", "recognize_spm", "recognize_unigram", "recognize_wordpiece", "spm_pipelines"]

# Pre-tokenizers as their steps: "split BEHAVIOR REGEX", "bytes" (the byte alphabet alone), "gpt-2 words" (ByteLevel with its
# built-in expression), "digits" and "digit runs". The expressions are compared as text, never compiled; several ways to write
# one pre-tokenizer share a name.
_WORDS = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2 = ("'s|'t|'re|'ve|'m|'ll|'d|" + _WORDS, "'(?:[sdmt]|ll|ve|re)|" + _WORDS)
_FOLDED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _gpt4(digits: str) -> tuple[str, ...]:
    """cl100k, as Hugging Face's converter and as tiktoken write it."""
    return (
        _FOLDED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _END,
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
        + digits
        + r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    )


def _o200k(contraction: str, digits: str) -> str:
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    words = rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{contraction}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{contraction}"
    return words + r"|\p{N}" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _END


_QWEN35 = _FOLDED + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _END
_SEED_CODER = _FOLDED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + _END
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|""" + _END
)
_BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
_CASED = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d"
    "\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-"
    "\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20"
    "-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-"
    "\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d"
    "\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-"
    "\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-"
    "\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb"
    "\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_IDEOGRAPHS = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_IDEOGRAPHS_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_SIGNS = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"


def _split(*expressions: str) -> tuple[str, ...]:
    return (*("split isolated " + expression for expression in expressions), "bytes")


_LLM = ("[\r\n]", rf"\s?[{_CASED}]+", _SIGNS, r"\s+$", _IDEOGRAPHS)
_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _IDEOGRAPHS)

_STEPS: list[tuple[str, tuple[str, ...]]] = [
    *((name, ("gpt-2 words",)) for name in ("gpt-2", "olmo")),
    *(("gpt-2", _split(regex)) for regex in _GPT2),
    *((name, ("digits", "gpt-2 words")) for name in ("starcoder", "command-r")),
    *((name, _split(regex)) for regex in _gpt4("{1,3}") for name in ("llama-bpe", "smaug-bpe")),
    *(("qwen2", _split(regex)) for regex in _gpt4("")),
    ("qwen35", _split(_QWEN35)),
    ("seed-coder", _split(_SEED_CODER)),
    ("gpt-4o", _split(_o200k(_FOLDED + "?", "{1,3}"))),
    ("tekken", _split(_o200k("", ""))),
    # a vocabulary that was trained with digits apart has no merges of digits, so "digit runs" is the same
    *(("deepseek-llm", (*_split(*_LLM)[:-1], digits, "bytes")) for digits in ("digit runs", "digits")),
    ("deepseek-coder", (*_split(*_CODER)[:-1], "digits", "bytes")),
    ("deepseek-v3", _split(r"\p{N}{1,3}", _IDEOGRAPHS_AND_KANA, _DEEPSEEK3)),
    ("falcon", ("punctuation contiguous", "gpt-2 words", "digit runs", "split isolated [0-9][0-9][0-9]")),
    ("bloom", _split(_BLOOM)),
    ("viking", (*_split(_BLOOM)[:-1], "digits", "bytes")),
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


def bpe_pre_tokenizers(name: str) -> list[dict[str, Any]]:
    """The pre-tokenizers of tokenizer.json that `recognize_bpe` may know by this name, the usual one first."""
    return [
        {"type": "Sequence", "pretokenizers": [_json_of_step(step) for step in steps]}
        for known, steps in _STEPS
        if known == name
    ]


def _json_of_step(step: str) -> dict[str, Any]:
    """The inverse of `_pre_steps`."""
    kind, _, rest = step.partition(" ")
    if kind == "split":
        return {"type": "Split", "pattern": {"Regex": rest.removeprefix("isolated ")}, "behavior": "Isolated", "invert": False}
    if kind in ("digits", "digit"):
        return {"type": "Digits", "individual_digits": kind == "digits"}
    if kind == "punctuation":
        return {"type": "Punctuation", "behavior": rest.capitalize()}
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": step == "gpt-2 words"}


def spm_pipelines() -> list[dict[str, Any]]:
    """The pipelines that `recognize_spm` knows: normalizer, pre_tokenizer and decoder of tokenizer.json."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "split": False}
    decoders = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    rows: list[tuple[Any, Any]] = [
        ({"type": "Sequence", "normalizers": [prepend, replace]}, None),
        (replace, None),
        *((None, metaspace | {"prepend_scheme": scheme}) for scheme in ("first", "always")),
    ]
    return [
        {
            "normalizer": normalizer,
            "pre_tokenizer": pre,
            "decoder": {"type": "Sequence", "decoders": [*decoders, strip] if normalizer is not replace else decoders},
        }
        for normalizer, pre in rows
    ]


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


def recognize_unigram(source: Mapping[str, Any], *, path: Path) -> dict[str, MetaValue]:
    """T5 and its kin: a map of characters, then words with a space in front (of several spaces only one counts)."""
    normalizer = source.get("normalizer")
    sequence = isinstance(normalizer, dict) and normalizer.get("type") == "Sequence"
    parts = (source["normalizer"].get("normalizers") or []) if sequence else [normalizer] if normalizer else []
    charsmap, last_space = b"", True
    collapse = {"type": "Replace", "pattern": {"Regex": " {2,}"}}
    for part in parts:
        if charsmap and part == {"type": "Strip", "strip_left": False, "strip_right": True}:
            last_space = False  # and white space is spaces already
            continue
        if isinstance(part, dict) and part.get("type") == "Precompiled" and isinstance(part.get("precompiled_charsmap"), str):
            try:
                charsmap = base64.b64decode(part["precompiled_charsmap"], validate=True)
            except ValueError:
                raise FormatError("precompiled_charsmap is no base64", path=path) from None
        elif not isinstance(part, dict) or part | collapse != part or part.get("content") not in (" ", "\u2581"):
            raise _unknown("normalizer", source, path)
    steps = _pre_steps(source.get("pre_tokenizer"))
    if steps not in (["WhitespaceSplit", "metaspace always words"], ["metaspace always words"]):
        raise _unknown("pre_tokenizer", source, path)
    metadata: dict[str, MetaValue] = {
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
    }
    if len(steps) == 2:
        metadata["tokenizer.llmq.any_space"] = True
    elif last_space:
        metadata["tokenizer.llmq.last_space"] = True
    if charsmap:
        metadata["tokenizer.ggml.precompiled_charsmap"] = np.frombuffer(charsmap, np.uint8)
    return metadata


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
        if kind == "Punctuation":
            return [f"punctuation {str(pre_tokenizer.get('behavior', 'Isolated')).lower()}"]
        if kind == "Digits":
            return ["digits" if pre_tokenizer.get("individual_digits") else "digit runs"]
        if pre_tokenizer.keys() == {"type"}:
            return [str(kind)]
    return [json.dumps(pre_tokenizer)]
