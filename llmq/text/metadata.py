"""The keys tokenizer.* of GGUF metadata, read and checked.

llmq writes, and reads, a few keys of its own where GGUF has none for what a Hugging Face tokenizer says; other programs skip
them: tokenizer.llmq.stop_token_ids (the end tokens of generation_config.json), .lstrip, .rstrip and .whole_word (ids of special
tokens that take the white space beside them or stand only as words), .nfc and .ignore_merges (where they differ from what the
pre-tokenizer's name says), .prefix_first and .prefix_missing (the space before a text: only at its beginning, only where there
is none), .any_space (all white space is a space), .last_space (one stays at the end).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from llmq import _text
from llmq.errors import FormatError, UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue

__all__ = ["MODELS", "VocabMetadata"]

log = logging.getLogger(__name__)

MODELS = ("bert", "gpt2", "llama", "t5", "gemma4")
"""Values of tokenizer.ggml.model: WordPiece, byte-level BPE, SentencePiece BPE, SentencePiece unigram; and the third with
merges instead of scores and no space before a text."""

_DEFAULT_IDS = {  # of files that do not say, as llama.cpp has them
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "t5": {"eos": 1, "unknown": 2, "padding": 0},
    "bert": {"bos": 101, "unknown": 100, "seperator": 102, "padding": 0},
}
_STRIPS = {"lstrip": 1, "rstrip": 2, "whole_word": 4}  # bits of text_spec.strips in csrc/text/text.h


class VocabMetadata:
    """Typed access; whatever breaks a rule is a FormatError that names the key, and `path`."""

    def __init__(self, metadata: Mapping[str, MetaValue], path: str | os.PathLike[str] | None) -> None:
        self.metadata = metadata
        self.path = path
        self.kind = self.text("tokenizer.ggml.model") or ""
        if not self.kind:
            raise self.error("tokenizer.ggml.model is missing: this file holds no vocabulary")
        if self.kind not in MODELS:
            known = ", ".join(MODELS)
            raise UnsupportedError(f"tokenizer.ggml.model is {quoted(self.kind)}; supported: {known}", path=path)
        self.model = "llama" if self.kind == "gemma4" else self.kind
        self.pre = self._pre() if self.model == "gpt2" else ""
        other = {"nfc": False, "ignore_merges": False, "add_bos": self.model != "t5", "add_sep": self.model == "bert"}
        self.usual = _text.pre_tokenizers().get(self.pre, other)
        self.tokens = self.strings("tokens")
        if not 1 <= len(self.tokens) <= 2**24:
            raise self.error(f"tokenizer.ggml.tokens has {len(self.tokens)} tokens; expected 1 to {2**24}")

    def error(self, message: str) -> FormatError:
        return FormatError(message, path=self.path)

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(f"{key} must be a string, not {quoted(value)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.metadata.get(f"tokenizer.{key}", default)
        if not isinstance(value, bool | np.bool_):
            raise self.error(f"tokenizer.{key} must be a bool, not {quoted(value)}")
        return bool(value)

    def strings(self, name: str) -> list[str]:
        value = self.metadata.get(f"tokenizer.ggml.{name}", [])
        if not isinstance(value, list):
            raise self.error(f"tokenizer.ggml.{name} must be an array of strings")
        return value  # type: ignore[return-value]  # the elements are checked where they are read, in C

    def types(self) -> npt.NDArray[np.uint8]:
        """tokenizer.ggml.token_type, uint8 (n_tokens,)."""
        types = self._per_token("token_type")
        if types is None:
            return np.full(len(self.tokens), 1, np.uint8)
        bad = np.flatnonzero((types < 0) | (types > 6))
        if bad.size:
            raise self.error(f"tokenizer.ggml.token_type[{bad[0]}] is {types[bad[0]]}; expected 0 to 6")
        result = types.astype(np.uint8)
        result[result == 0] = 1  # "undefined": as normal
        return result

    def scores(self) -> npt.NDArray[np.float32] | None:
        """tokenizer.ggml.scores, float32 (n_tokens,), finite."""
        scores = self._per_token("scores")
        if scores is None:
            return None
        result = np.ascontiguousarray(scores, np.float32)
        bad = np.flatnonzero(~np.isfinite(result))
        if bad.size:
            raise self.error(f"tokenizer.ggml.scores[{bad[0]}] is {result[bad[0]]}; expected a finite number")
        return result

    def charsmap(self) -> bytes:
        """tokenizer.ggml.precompiled_charsmap, empty when there is none."""
        value = np.asarray(self.metadata.get("tokenizer.ggml.precompiled_charsmap", np.zeros(0, np.uint8)))
        if value.ndim != 1 or value.dtype.kind not in "iu" or ((value < -128) | (value > 255)).any():
            raise self.error("tokenizer.ggml.precompiled_charsmap must be bytes")
        return value.astype(np.uint8).tobytes()

    def strips(self) -> npt.NDArray[np.uint8] | None:
        """What special tokens do with the text beside them, uint8 (n_tokens,), or None when none does anything."""
        result = np.zeros(len(self.tokens), np.uint8)
        for name, bit in _STRIPS.items():
            result[self.ids(name)] |= bit
        return result if result.any() else None

    def ids(self, name: str) -> list[int]:
        """tokenizer.llmq.NAME: token ids."""
        value = np.asarray(self.metadata.get(f"tokenizer.llmq.{name}", np.zeros(0, np.int32)))
        if value.ndim != 1 or value.dtype.kind not in "iu" or ((value < 0) | (value >= len(self.tokens))).any():
            raise self.error(f"tokenizer.llmq.{name} must be token ids below {len(self.tokens)}")
        return [int(id) for id in value]

    def id(self, name: str) -> int | None:
        """tokenizer.ggml.NAME_token_id, None when the file names none."""
        key = f"tokenizer.ggml.{name}_token_id"
        n = len(self.tokens)
        value = self.metadata.get(key)
        if value is None:
            default = _DEFAULT_IDS.get(self.kind, {}).get(name)
            return default if default is not None and default < n else None
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise self.error(f"{key} must be a token id, not {quoted(value)}")
        if 0 <= value < n:
            return int(value)
        if name in ("bos", "eos", "unknown"):
            raise self.error(f"{key} is {value}, but the vocabulary has {n} tokens")
        log.warning("%s is %s, but the vocabulary has %d tokens; it is not used", key, value, n)
        return None

    def _pre(self) -> str:
        pre = self.text("tokenizer.ggml.pre")
        if pre is None:
            log.warning("tokenizer.ggml.pre is missing; taken as 'default', which may differ from the original tokenizer")
            return "default"
        known = _text.pre_tokenizers()
        if pre not in known:
            names = ", ".join(sorted(known))
            raise UnsupportedError(f"tokenizer.ggml.pre is {quoted(pre)}; supported: {names}", path=self.path)
        return pre

    def _per_token(self, name: str) -> npt.NDArray[np.float64] | None:
        value = self.metadata.get(f"tokenizer.ggml.{name}")
        if value is None:
            return None
        n = len(self.tokens)
        array: npt.NDArray[np.float64] = np.asarray(value)
        if array.dtype.kind not in "iuf" or array.shape != (n,):
            found = f"shape {array.shape} of {array.dtype}"
            raise self.error(f"tokenizer.ggml.{name} must be {n} numbers, one per token; found {found}")
        return array
