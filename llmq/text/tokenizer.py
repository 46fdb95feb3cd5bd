"""The tokenizer of a model: text to token ids and back, from GGUF metadata.

The work is done in C (csrc/text); here special tokens are added. Ids equal those of llama.cpp and of Hugging Face
`tokenizers` for the same vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmq import _text
from llmq.errors import FormatError
from llmq.formats.checkpoint import MetaValue
from llmq.text.metadata import VocabMetadata
from llmq.text.specials import end_of_generation

__all__ = ["Tokenizer"]

_HIDDEN = 1 << 2 | 1 << 3  # the token types that a text does not show: unknown and control
_SPACE_PREFIX, _PREFIX_FIRST, _PREFIX_MISSING, _COLLAPSE_SPACES = 1, 2, 4, 8  # as in csrc/text/text.h
_LOWER_CASE, _STRIP_ACCENTS, _ANY_SPACE, _LAST_SPACE = 16, 32, 64, 128


class Tokenizer:
    """Text to token ids and back. Immutable; one may be used from many threads, and the GIL is free while it encodes.

    model, pre: tokenizer.ggml.model and .pre. n_vocab: number of tokens (the rows of the embedding). bos_id, eos_id, eot_id,
    unk_id, sep_id, pad_id: ids or None. add_bos, add_eos, add_sep: what `encode(add_special=True)` adds. stop_ids: the tokens
    that end a generation. chat_template: the source of the model's own chat template, or None; chat_templates: others it
    brings, by name. leading_space: a text's first token brings a space that is no part of the text.
    """

    def __init__(self, metadata: Mapping[str, MetaValue], *, path: str | os.PathLike[str] | None = None) -> None:
        read = VocabMetadata(metadata, path)
        self.model, self.pre = read.model, read.pre
        self.n_vocab = len(read.tokens)
        self.bos_id, self.eos_id, self.eot_id = read.id("bos"), read.id("eos"), read.id("eot")
        self.unk_id, self.sep_id, self.pad_id = read.id("unknown"), read.id("seperator"), read.id("padding")
        if self.model == "bert" and "tokenizer.ggml.bos_token_id" not in metadata:
            self.bos_id = read.id("cls") or self.bos_id
        named = {"eos": self.eos_id, "eot": self.eot_id, "eom": read.id("eom")}
        types, ends = end_of_generation(read.tokens, read.types(), named)
        self.stop_ids = ends.union(read.ids("stop_token_ids"))
        self._types = types.tobytes()
        bert, spm = self.model == "bert", self.model in ("llama", "t5")
        self.add_bos = read.flag("ggml.add_bos_token", read.usual["add_bos"]) and self.bos_id is not None
        self.add_eos = read.flag("ggml.add_eos_token", self.model == "t5") and self.eos_id is not None
        self.add_sep = read.flag("ggml.add_sep_token", read.usual["add_sep"]) and self.sep_id is not None
        space_prefix = spm and read.flag("ggml.add_space_prefix", read.kind == "llama")
        self.leading_space = bert or space_prefix
        lower = bert and read.flag("ggml.normalizer.lowercase", True)
        chosen = {
            _SPACE_PREFIX: space_prefix,
            _PREFIX_FIRST: read.flag("llmq.prefix_first", False),
            _PREFIX_MISSING: read.flag("llmq.prefix_missing", False),
            _COLLAPSE_SPACES: spm and read.flag("ggml.remove_extra_whitespaces", False),
            _ANY_SPACE: read.flag("llmq.any_space", False),
            _LAST_SPACE: read.flag("llmq.last_space", False),
            _LOWER_CASE: lower,
            _STRIP_ACCENTS: bert and read.flag("ggml.normalizer.strip_accents", lower),
        }
        scores = read.scores() if spm and read.kind != "gemma4" else None
        merges = read.strings("merges") if self.model in ("gpt2", "llama") else []
        if spm and scores is None and not merges:
            raise read.error("tokenizer.ggml.scores is missing: a SentencePiece vocabulary needs them")
        try:
            self._vocab = _text.Vocab(
                self.model,
                read.tokens,
                types,
                strips=read.strips(),
                scores=scores,
                charsmap=read.charsmap() if spm else b"",
                merges=merges,
                pre=self.pre,
                nfc=read.flag("llmq.nfc", read.usual["nfc"]),
                ignore_merges=read.flag("llmq.ignore_merges", read.usual["ignore_merges"]),
                flags=sum(bit for bit, on in chosen.items() if on),
                unk=-1 if self.unk_id is None else self.unk_id,
            )
        except _text.VocabError as error:
            raise FormatError(str(error), path=path) from None
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
        """From a Hugging Face tokenizer.json or a SentencePiece tokenizer.model (special tokens are read from the files beside
        them, where there are any), a model folder, or a GGUF file."""
        from llmq.text.hf_vocab import file_metadata, vocab_metadata  # noqa: PLC0415

        path = Path(path)
        if path.suffix == ".gguf":
            return cls.from_gguf(path)
        return cls(vocab_metadata(path) if path.is_dir() else file_metadata(path), path=path)

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`. `add_special` adds BOS, EOS and SEP where the model wants them, never a second one.
        `parse_special` recognizes control tokens such as <|im_end|> in the text; leave it False for text that users write.

        Surrogates, which no UTF-8 has, are taken as tiktoken takes them: two that belong together are their character, a lone
        one is U+FFFD. Raises TypeError for what is no text, ValueError beyond 2 GiB, MemoryError."""
        if not isinstance(text, str):
            raise TypeError(f"a text expected, found {type(text).__name__}")
        text = str.__str__(text)  # of a subclass (NumPy's, an enumeration's) the text itself
        try:
            ids = self._vocab.encode(text, parse_special)
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
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
        return text.removeprefix(" ") if self.leading_space else text

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
