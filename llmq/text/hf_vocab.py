"""The tokenizer files of a Hugging Face folder as the GGUF metadata that would be written from them (keys tokenizer.*).

tokenizer.json holds vocabulary, merges and the pipeline, tokenizer.model the same as SentencePiece; the files beside them
complete it. Nothing in them is executed and no pattern is compiled: a pipeline is recognized by comparison with the published
ones (llmq/text/hf_pipelines.py), or refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmq.errors import FormatError, UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.text.hf_files import TokenizerFiles, read_optional
from llmq.text.hf_pipelines import recognize_bpe, recognize_spm, recognize_unigram, recognize_wordpiece
from llmq.text.sentencepiece import read_sentencepiece

__all__ = ["file_metadata", "vocab_metadata"]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_SPECIAL_IDS = {"unk": "unknown", "sep": "seperator", "pad": "padding"} | {name: name for name in ("bos", "eos", "cls", "mask")}
_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_SPACE = "\u2581"


def vocab_metadata(folder: Path, n_rows: int | None = None) -> dict[str, MetaValue]:
    """Keys tokenizer.* for a model folder, its vocabulary padded to the `vocab_size` of config.json, or else to the n_rows of
    its embeddings.

    Raises FormatError (broken or contradictory files), UnsupportedError (a pipeline that llmq does not know)."""
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).exists():
            files = TokenizerFiles(folder / name)
            n_vocab = files.n_vocab()
            if n_vocab is not None and n_rows is not None and n_vocab > n_rows:
                raise FormatError(f"vocab_size is {n_vocab}, the embeddings have {n_rows} rows", path=folder / "config.json")
            return _metadata(files, n_vocab or n_rows)
    raise FormatError("neither tokenizer.json nor tokenizer.model is there, so there is no vocabulary", path=folder)


def file_metadata(path: Path) -> dict[str, MetaValue]:
    """Keys tokenizer.* for a tokenizer.json or tokenizer.model, with what the files beside it say."""
    if not path.exists():
        raise FileNotFoundError(2, "no such file", str(path))
    if path.suffix not in (".json", ".model"):
        raise UnsupportedError("expected a tokenizer.json or a tokenizer.model", path=path)
    return _metadata(TokenizerFiles(path), None)


@dataclass
class _Vocab:
    """A vocabulary on the way: id -> token, its type and score, the keys that the model adds, and the default ids it
    implies."""

    tokens: dict[int, str]
    types: dict[int, int]
    scores: dict[int, float] | None
    metadata: dict[str, MetaValue]
    merges: list[str] | None = None
    ids: Mapping[str, int] | None = None


def _metadata(files: TokenizerFiles, n_vocab: int | None) -> dict[str, MetaValue]:
    vocab = _of_json(files) if files.path.suffix == ".json" else _of_sentencepiece(files)
    strips = _add_tokens(files, vocab)
    n = max(vocab.tokens, default=-1) + 1
    if n_vocab is not None and n > n_vocab:
        raise files.error(f"token {n - 1} is {quoted(vocab.tokens[n - 1])}, but vocab_size in config.json is {n_vocab}")
    n = n_vocab or n
    for id in range(n):
        if id not in vocab.tokens:
            vocab.tokens[id], vocab.types[id] = f"[PAD{id}]", _UNUSED
    tokens = [vocab.tokens[id] for id in range(n)]
    metadata = dict(vocab.metadata)
    metadata["tokenizer.ggml.tokens"] = [*tokens]
    if vocab.scores is not None:
        metadata["tokenizer.ggml.scores"] = np.array([vocab.scores.get(id, -1000.0) for id in range(n)], np.float32)
    metadata["tokenizer.ggml.token_type"] = np.array([vocab.types[id] for id in range(n)], np.int32)
    if vocab.merges is not None:
        metadata["tokenizer.ggml.merges"] = [*vocab.merges]
    metadata |= _special_ids(files, tokens, vocab)
    metadata |= {f"tokenizer.llmq.{name}": np.array(ids, np.int32) for name, ids in strips.items() if ids}
    return metadata | _chat_templates(files)


# ---- vocabularies
# ---------------------------------------------------------------------------------------------------------------


def _of_json(files: TokenizerFiles) -> _Vocab:
    model = files.source.get("model")
    if not isinstance(model, dict):
        raise files.error("key 'model' is missing")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind == "WordPiece":
        return _wordpiece(files, model)
    if kind == "Unigram":
        return _unigram(files, model)
    if kind != "BPE":
        raise UnsupportedError(f"tokenizer model {quoted(kind)}; supported: BPE, Unigram, WordPiece", path=files.path)
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise UnsupportedError(f"a BPE model with {key} {quoted(model[key])} is not supported", path=files.path)
    tokens = _tokens_by_id(files, model)
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise files.error("the BPE model has no merges")
    rows = [_merge(files, row) for row in merges]
    if model.get("byte_fallback"):
        return _spm(files, model, tokens, rows)
    metadata: dict[str, MetaValue] = {"tokenizer.ggml.model": "gpt2"}
    metadata |= recognize_bpe(files.source, ignore_merges=bool(model.get("ignore_merges")), path=files.path)
    return _Vocab(tokens, dict.fromkeys(tokens, _NORMAL), None, metadata, rows)


def _tokens_by_id(files: TokenizerFiles, model: Mapping[str, Any]) -> dict[int, str]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(id) is int and 0 <= id < 2**24 for id in vocab.values()):
        raise files.error("the model's vocab must give each token its id")
    tokens = {id: token for token, id in vocab.items()}
    if len(tokens) != len(vocab):
        raise files.error("the model's vocab gives two tokens one id")
    return tokens


def _merge(files: TokenizerFiles, row: object) -> str:
    """ "left right", from either of the two forms that tokenizer.json has had."""
    if isinstance(row, str):
        return row
    if isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) and " " not in part for part in row):
        return f"{row[0]} {row[1]}"
    raise files.error(f"merge {quoted(row)} is not two tokens without spaces")


def _spm(files: TokenizerFiles, model: Mapping[str, Any], tokens: dict[int, str], merges: list[str]) -> _Vocab:
    """SentencePiece BPE written as tokenizer.json: the merges give the scores that programs without merges go by."""
    metadata: dict[str, MetaValue] = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
    metadata |= recognize_spm(files.source, model, path=files.path)
    types = {id: _BYTE if token in _BYTE_TOKENS else _NORMAL for id, token in tokens.items()}
    unk = next((id for id, token in tokens.items() if token == model.get("unk_token")), None)
    if unk is not None:
        types[unk] = _UNKNOWN
    rank: dict[str, int] = {}
    for row in merges:
        left, _, right = row.partition(" ")
        rank.setdefault(left + right, len(rank))
    scores = {id: -float(rank.get(token, len(rank))) for id, token in tokens.items()}
    return _Vocab(tokens, types, scores, metadata, merges, {} if unk is None else {"unk": unk})


def _wordpiece(files: TokenizerFiles, model: Mapping[str, Any]) -> _Vocab:
    """Tokens that begin a word get U+2581 in front, those that continue one lose their "##"."""
    metadata: dict[str, MetaValue] = {"tokenizer.ggml.model": "bert", "tokenizer.ggml.pre": "default"}
    metadata |= recognize_wordpiece(files.source, model, path=files.path)
    tokens = _tokens_by_id(files, model)
    unk = next((id for id, token in tokens.items() if token == model.get("unk_token", "[UNK]")), None)
    special = {added.content for added in files.added_tokens().values() if added.special}
    for id, token in tokens.items():
        if token not in special:
            tokens[id] = token[2:] if token.startswith("##") and len(token) > 2 else _SPACE + token
    return _Vocab(tokens, dict.fromkeys(tokens, _NORMAL), None, metadata, None, {} if unk is None else {"unk": unk})


def _unigram(files: TokenizerFiles, model: Mapping[str, Any]) -> _Vocab:
    """SentencePiece unigram written as tokenizer.json: [token, score] by id, and the map of characters in base64."""
    metadata: dict[str, MetaValue] = {"tokenizer.ggml.model": "t5", "tokenizer.ggml.pre": "default"}
    metadata |= recognize_unigram(files.source, path=files.path)
    rows, unk = model.get("vocab"), model.get("unk_id")
    if not isinstance(rows, list) or not rows:
        raise files.error("the unigram model has no vocab")
    for row in rows:
        numbers = isinstance(row, list) and len(row) == 2 and isinstance(row[1], int | float) and not isinstance(row[1], bool)
        if not numbers or not isinstance(row[0], str):
            raise files.error(f"{quoted(row)} in the vocab is not a token and its score")
    if type(unk) is not int or not 0 <= unk < len(rows):
        raise files.error(f"unk_id {quoted(unk)} is no token")
    tokens = {id: str(token) for id, (token, _) in enumerate(rows)}
    fallback = bool(model.get("byte_fallback"))
    types = {id: _BYTE if fallback and token in _BYTE_TOKENS else _NORMAL for id, token in tokens.items()}
    types[unk] = _UNKNOWN
    return _Vocab(tokens, types, {id: float(score) for id, (_, score) in enumerate(rows)}, metadata, None, {"unk": unk})


def _of_sentencepiece(files: TokenizerFiles) -> _Vocab:
    model = read_sentencepiece(files.path)
    if model.model_type not in (1, 2):
        raise UnsupportedError(
            f"a SentencePiece model of type {model.model_type}; supported: 1 (unigram), 2 (BPE)", path=files.path
        )
    if model.suffix_spaces or not model.escape_whitespaces:
        raise UnsupportedError("a SentencePiece model that does not write spaces in front of words", path=files.path)
    metadata: dict[str, MetaValue] = {
        "tokenizer.ggml.model": "t5" if model.model_type == 1 else "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.add_space_prefix": model.add_dummy_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": model.remove_extra_whitespaces,
    }
    if model.charsmap:
        metadata["tokenizer.ggml.precompiled_charsmap"] = np.frombuffer(model.charsmap, np.uint8)
    ids = {name: id for name, id in model.ids.items() if 0 <= id < len(model.pieces)}
    return _Vocab(
        dict(enumerate(model.pieces)), dict(enumerate(model.types)), dict(enumerate(model.scores)), metadata, None, ids
    )


def _add_tokens(files: TokenizerFiles, vocab: _Vocab) -> dict[str, list[int]]:
    """Puts the added tokens in; returns the ids of those that strip white space or stand only as words."""
    strips: dict[str, list[int]] = {"lstrip": [], "rstrip": [], "whole_word": []}
    for id, added in files.added_tokens().items():
        have = vocab.tokens.setdefault(id, added.content)
        if have not in (added.content, _SPACE + added.content):
            raise files.error(f"token {id} is {quoted(have)} in the vocab and {quoted(added.content)} in added_tokens")
        vocab.tokens[id] = added.content
        if vocab.types.get(id) != _UNKNOWN:
            vocab.types[id] = _CONTROL if added.special else _USER_DEFINED
        for name, ids in strips.items():
            if getattr(added, name):
                ids.append(id)
    return strips


# ---- special tokens
# ---------------------------------------------------------------------------------------------------------------


def _special_ids(files: TokenizerFiles, tokens: list[str], vocab: _Vocab) -> dict[str, MetaValue]:
    """Ids of the special tokens and which of them encoding adds."""
    id_of = {token: id for id, token in enumerate(tokens)}
    ids = dict(vocab.ids or {})
    for name in _SPECIAL_IDS:
        token = files.special_token(name)
        if token in id_of:
            ids[name] = id_of[token]
            continue
        value = files.config.get(f"{name}_token_id")
        if isinstance(value, list):
            value = value[0] if value else None
        if type(value) is int and 0 <= value < len(tokens):
            ids[name] = value
    bert = vocab.metadata["tokenizer.ggml.model"] == "bert"
    if bert and "cls" in ids:
        ids["bos"] = ids["cls"]
    metadata: dict[str, MetaValue] = {f"tokenizer.ggml.{_SPECIAL_IDS[name]}_token_id": id for name, id in ids.items()}
    first, last = files.template_ends()
    for name, end in (("bos", first), ("eos", last), ("sep", last)):
        added = files.tokenizer_config.get(f"add_{name}_token")
        if not isinstance(added, bool) and (files.source or name == "sep"):
            added = end is not None and name in ids and tokens[ids[name]] == end
        if isinstance(added, bool) and (name != "sep" or bert):
            metadata[f"tokenizer.ggml.add_{name}_token"] = added
    stops = files.generation_config.get("eos_token_id", files.config.get("eos_token_id"))
    if isinstance(stops, list):
        extra = sorted({id for id in stops if type(id) is int and 0 <= id < len(tokens)} - {ids.get("eos")})
        if extra:
            metadata["tokenizer.llmq.stop_token_ids"] = np.array(extra, np.int32)
    return metadata


def _chat_templates(files: TokenizerFiles) -> dict[str, MetaValue]:
    """tokenizer.chat_template, and tokenizer.chat_template.NAME for those beside the default."""
    folder = files.path.parent
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return {"tokenizer.chat_template": path.read_text(encoding="utf-8")}
        except UnicodeDecodeError as error:
            raise FormatError("not UTF-8", path=path, offset=error.start) from None
    template = files.tokenizer_config.get("chat_template")
    if template is None:
        template = read_optional(folder / "chat_template.json").get("chat_template")
    if isinstance(template, str):
        return {"tokenizer.chat_template": template}
    rows = template if isinstance(template, list) else []
    named = {
        row["name"]: row["template"]
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("name"), str) and isinstance(row.get("template"), str)
    }
    metadata: dict[str, MetaValue] = {}
    for name, source in named.items():
        metadata["tokenizer.chat_template" if name == "default" else f"tokenizer.chat_template.{name}"] = source
    others = sorted(named.keys() - {"default"})
    if others:
        metadata["tokenizer.chat_templates"] = [*others]
    return metadata
