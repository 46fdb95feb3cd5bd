"""The tokenizer of a model: text to token ids and back, from GGUF metadata.

The work is done in C (csrc/text); here the metadata is read and checked, and special tokens are added. Byte-level BPE follows
Radford et al. 2019; ids equal those of llama.cpp and of Hugging Face `tokenizers` for the same vocabulary.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmq import _text
from llmq.errors import FormatError, UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.text.specials import end_of_generation

__all__ = ["Tokenizer"]

log = logging.getLogger(__name__)

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_HIDDEN = 1 << _UNKNOWN | 1 << _CONTROL  # token types that a text does not show


class Tokenizer:
    """Text to token ids and back. Immutable; one may be used from many threads, and the GIL is free while it encodes.

    n_vocab: number of tokens (equal to the rows of the embedding). bos_id, eos_id, unk_id, sep_id, pad_id: ids or None.
    add_bos, add_eos,
    add_sep: what `encode(add_special=True)` adds. stop_ids: the tokens that end a generation. chat_template: the source of
    the model's own chat template, or None; chat_templates: others it brings, by name.
    """

    def __init__(self, metadata: Mapping[str, MetaValue], *, path: str | os.PathLike[str] | None = None) -> None:
        read = _Metadata(metadata, path)
        self.model = read.model()
        tokens = read.tokens()
        self.n_vocab = len(tokens)
        self.bos_id, self.eos_id = read.id("bos", self.n_vocab), read.id("eos", self.n_vocab)
        self.unk_id = read.id("unknown", self.n_vocab)
        self.sep_id, self.pad_id = read.id("seperator", self.n_vocab), read.id("padding", self.n_vocab)
        self.eot_id = read.id("eot", self.n_vocab)
        named = {"eos": self.eos_id, "eot": self.eot_id, "eom": read.id("eom", self.n_vocab)}
        types, ends = end_of_generation(tokens, read.types(self.n_vocab), named)
        self.stop_ids = ends | read.extra_stops(self.n_vocab)
        self.pre = read.pre()
        try:
            self._vocab = _text.Vocab(
                self.model,
                tokens,
                types,
                merges=read.strings("merges"),
                pre=self.pre,
                unk=-1 if self.unk_id is None else self.unk_id,
            )
        except _text.VocabError as error:
            raise FormatError(str(error), path=path) from None
        self._types = types.tobytes()
        self.add_bos = read.flag("add_bos_token", _text.pre_tokenizers()[self.pre]) and self.bos_id is not None
        self.add_eos = read.flag("add_eos_token", False) and self.eos_id is not None
        self.add_sep = read.flag("add_sep_token", False) and self.sep_id is not None
        self.add_space_prefix = False
        self.chat_template = read.text("tokenizer.chat_template")
        others = [key for key in metadata if key.startswith("tokenizer.chat_template.")]
        self.chat_templates = {key.removeprefix("tokenizer.chat_template."): read.text(key) or "" for key in others}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, MetaValue], *, path: str | os.PathLike[str] | None = None) -> Tokenizer:
        """From GGUF metadata (the keys tokenizer.*); `path` only stands in errors.

        Raises FormatError when a rule is broken, UnsupportedError for a model or pre-tokenizer that is not supported,
        MemoryError."""
        return cls(metadata, path=path)

    @classmethod
    def from_gguf(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """From a GGUF file, a vocabulary-only one too."""
        from llmq.formats import open_checkpoint  # noqa: PLC0415 - the formats read folders with this room

        with open_checkpoint(Path(path)) as checkpoint:
            return cls(checkpoint.metadata, path=path)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """From a Hugging Face tokenizer.json; special tokens are read from the files beside it, where there are any."""
        from llmq.text.hf_vocab import file_metadata  # noqa: PLC0415

        return cls(file_metadata(Path(path)), path=path)

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`. `add_special` adds BOS, EOS and SEP where the model wants them, never a second one.
        `parse_special` recognizes control tokens such as <|im_end|> in the text; leave it False for text that users write.

        Raises UnicodeEncodeError for lone surrogates, ValueError beyond 2 GiB, MemoryError."""
        ids = self._vocab.encode(text, parse_special)
        if add_special:
            if self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
                ids.insert(0, self.bos_id)
            if self.add_eos and self.eos_id is not None and ids[-1:] != [self.eos_id]:
                ids.append(self.eos_id)
            if self.add_sep and self.sep_id is not None and ids[-1:] != [self.sep_id]:
                ids.append(self.sep_id)
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids; control tokens give none, or their names with skip_special=False. Bytes that are no UTF-8 become
        U+FFFD.

        Raises IndexError for an id outside the vocabulary."""
        data = self._vocab.decode(list(ids), _HIDDEN if skip_special else 0)
        text = data.decode("utf-8", "replace")
        return text.removeprefix(" ") if self.add_space_prefix else text

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one token stands for; no whole character, perhaps. IndexError outside the vocabulary."""
        return self._vocab.token_bytes(id)

    def token(self, id: int) -> str:
        """A token as the vocabulary writes it ("<|im_end|>", "Ġthe"). IndexError outside the vocabulary."""
        return self._vocab.token(id)

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it ("<|im_end|>", "Ġthe"), or None."""
        id = self._vocab.find(token)
        return None if id < 0 else id

    def is_special(self, id: int) -> bool:
        """True for control tokens, which a text does not show. IndexError outside the vocabulary."""
        if id < 0:
            raise IndexError(f"token id {id} is negative")
        return bool(_HIDDEN >> self._types[id] & 1)


class _Metadata:
    """The keys tokenizer.* with the checks that RELIABILITY asks for; whatever is wrong is a FormatError that names the key."""

    def __init__(self, metadata: Mapping[str, MetaValue], path: str | os.PathLike[str] | None) -> None:
        self.metadata = metadata
        self.path = path

    def error(self, message: str) -> FormatError:
        return FormatError(message, path=self.path)

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(f"{key} must be a string, not {quoted(value)}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, bool | np.bool_):
            raise self.error(f"tokenizer.ggml.{name} must be a bool, not {quoted(value)}")
        return bool(value)

    def model(self) -> str:
        model = self.text("tokenizer.ggml.model")
        if model is None:
            raise self.error("tokenizer.ggml.model is missing: this file holds no vocabulary")
        if model != "gpt2":
            raise UnsupportedError(f"tokenizer.ggml.model is {quoted(model)}; supported: 'gpt2'", path=self.path)
        return model

    def pre(self) -> str:
        pre = self.text("tokenizer.ggml.pre")
        if pre is None:
            log.warning("tokenizer.ggml.pre is missing; taken as 'default', which may differ from the original tokenizer")
            pre = "default"
        known = _text.pre_tokenizers()
        if pre not in known:
            names = ", ".join(sorted(known))
            raise UnsupportedError(f"tokenizer.ggml.pre is {quoted(pre)}; supported: {names}", path=self.path)
        return pre

    def strings(self, name: str) -> list[str]:
        value = self.metadata.get(f"tokenizer.ggml.{name}", [])
        if not isinstance(value, list):
            raise self.error(f"tokenizer.ggml.{name} must be an array of strings")
        return value  # type: ignore[return-value]  # the elements are checked where they are read, in C

    def tokens(self) -> list[str]:
        tokens = self.strings("tokens")
        if not 1 <= len(tokens) <= 2**24:
            raise self.error(f"tokenizer.ggml.tokens has {len(tokens)} tokens; expected 1 to {2**24}")
        return tokens

    def numbers(self, name: str, n: int) -> npt.NDArray[np.float64] | None:
        value = self.metadata.get(f"tokenizer.ggml.{name}")
        if value is None:
            return None
        array: npt.NDArray[np.float64] = np.asarray(value)
        if array.dtype.kind not in "iuf" or array.shape != (n,):
            found = f"shape {array.shape} of {array.dtype}"
            raise self.error(f"tokenizer.ggml.{name} must be {n} numbers, one per token; found {found}")
        return array

    def types(self, n: int) -> npt.NDArray[np.uint8]:
        types = self.numbers("token_type", n)
        if types is None:
            return np.full(n, _NORMAL, np.uint8)
        bad = np.flatnonzero((types < 0) | (types > 6))
        if bad.size:
            raise self.error(f"tokenizer.ggml.token_type[{bad[0]}] is {types[bad[0]]}; expected 0 to 6")
        result = types.astype(np.uint8)
        result[result == 0] = _NORMAL  # 0 is "undefined"
        return result

    def id(self, name: str, n: int) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        value = self.metadata.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise self.error(f"{key} must be a token id, not {quoted(value)}")
        if 0 <= value < n:
            return int(value)
        if name in ("bos", "eos", "unknown"):
            raise self.error(f"{key} is {value}, but the vocabulary has {n} tokens")
        log.warning("%s is %s, but the vocabulary has %d tokens; it is not used", key, value, n)
        return None

    def extra_stops(self, n: int) -> frozenset[int]:
        """tokenizer.llmq.stop_token_ids: the end tokens of generation_config.json, which GGUF has no key for."""
        value = np.asarray(self.metadata.get("tokenizer.llmq.stop_token_ids", np.zeros(0, np.int32)))
        if value.ndim != 1 or value.dtype.kind not in "iu" or ((value < 0) | (value >= n)).any():
            raise self.error(f"tokenizer.llmq.stop_token_ids must be token ids below {n}")
        return frozenset(value.tolist())
