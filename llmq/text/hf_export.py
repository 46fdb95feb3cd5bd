"""The tokenizer files of a Hugging Face folder from GGUF metadata: the inverse of llmq/text/hf_vocab.py.

Byte-level BPE and SentencePiece BPE become a tokenizer.json; its pipeline is the one that llmq itself recognizes by the same
metadata, so that the folder says what the GGUF said. The other tokenizers are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmq.errors import UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.text.hf_pipelines import bpe_pre_tokenizers, recognize_spm, spm_pipelines
from llmq.text.metadata import VocabMetadata
from llmq.text.tokenizer import Tokenizer

__all__ = ["tokenizer_files"]

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5
_IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "sep": "seperator", "cls": "cls", "mask": "mask"}
_SPM_FLAGS = ("tokenizer.ggml.add_space_prefix", "tokenizer.llmq.prefix_first", "tokenizer.llmq.prefix_missing")


def tokenizer_files(metadata: Mapping[str, MetaValue], path: Path) -> dict[str, dict[str, Any]]:
    """tokenizer.json and tokenizer_config.json by name, for the keys tokenizer.* of a GGUF. `path` is for messages.

    Raises FormatError for a vocabulary that breaks a rule, UnsupportedError for one that cannot be written so."""
    read = VocabMetadata(metadata, path)
    tokenizer = Tokenizer(metadata, path=path)
    types = read.types().tolist()
    if read.model == "gpt2":
        pipeline = _byte_level(read, tokenizer)
        model = _bpe(read, types, read.strings("merges"))
        model["ignore_merges"] = read.flag("llmq.ignore_merges", read.usual["ignore_merges"])
    elif read.model == "llama":
        pipeline = _spm(read)
        model = _bpe(read, types, read.strings("merges") or _merges(read))
        model |= {"byte_fallback": True, "fuse_unk": True}
        if tokenizer.unk_id is not None:
            model["unk_token"] = read.tokens[tokenizer.unk_id]
    else:
        raise UnsupportedError(
            f"a tokenizer.json of kind {quoted(read.model)} cannot be written; byte-level and SentencePiece BPE can",
            path=path,
        )
    source = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(read, types), **pipeline}
    source |= {"post_processor": _template(read, tokenizer), "model": model}
    return {"tokenizer.json": source, "tokenizer_config.json": _config(read, tokenizer)}


def _bpe(read: VocabMetadata, types: list[int], merges: list[str]) -> dict[str, Any]:
    vocab = {token: id for id, token in enumerate(read.tokens) if not (types[id] == _UNUSED and token == f"[PAD{id}]")}
    return {"type": "BPE", "vocab": vocab, "merges": merges, "dropout": None, "unk_token": None}


def _byte_level(read: VocabMetadata, tokenizer: Tokenizer) -> dict[str, Any]:
    known = bpe_pre_tokenizers(read.pre)
    if not known:
        raise UnsupportedError(f"no tokenizer.json is known for the pre-tokenizer {quoted(read.pre)}", path=read.path)
    return {
        "normalizer": {"type": "NFC"} if read.flag("llmq.nfc", read.usual["nfc"]) else None,
        "pre_tokenizer": known[0],
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }


def _spm(read: VocabMetadata) -> dict[str, Any]:
    wanted = [read.flag(key.removeprefix("tokenizer."), key == _SPM_FLAGS[0]) for key in _SPM_FLAGS]
    if not read.flag("ggml.remove_extra_whitespaces", False):
        for pipeline in spm_pipelines():
            found = recognize_spm(pipeline, {}, path=Path())
            if [found.get(key, False) for key in _SPM_FLAGS] == wanted:
                return pipeline
    raise UnsupportedError("no tokenizer.json is known that treats spaces as this vocabulary does", path=read.path)


def _merges(read: VocabMetadata) -> list[str]:
    """SentencePiece goes by scores, tokenizer.json by an order of merges: all ways to cut a token in two, best tokens first."""
    scores = read.scores()
    if scores is None:
        return []
    score = dict(zip(read.tokens, scores.tolist(), strict=True))
    rows = [
        (value, len(token[:cut]), len(token[cut:]), f"{token[:cut]} {token[cut:]}")
        for token, value in score.items()
        for cut in range(1, len(token))
        if token[:cut] in score and token[cut:] in score
    ]
    return [row[3] for row in sorted(rows, key=lambda row: row[:3], reverse=True)]


def _added(read: VocabMetadata, types: list[int]) -> list[dict[str, Any]]:
    sides = {name: set(read.ids(name)) for name in ("lstrip", "rstrip", "whole_word")}
    return [
        {
            "id": id,
            "content": token,
            "single_word": id in sides["whole_word"],
            "lstrip": id in sides["lstrip"],
            "rstrip": id in sides["rstrip"],
            "normalized": False,
            "special": types[id] != _USER_DEFINED,
        }
        for id, token in enumerate(read.tokens)
        if types[id] in (_UNKNOWN, _CONTROL, _USER_DEFINED) and token
    ]


def _template(read: VocabMetadata, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """BOS before and EOS after a text, where encoding adds them."""
    before = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    after = [tokenizer.eos_id] if tokenizer.add_eos and tokenizer.eos_id is not None else []
    if not before and not after:
        return None

    def part(text: str, side: int) -> list[dict[str, Any]]:
        first, last = ([{"SpecialToken": {"id": read.tokens[id], "type_id": side}} for id in ids] for ids in (before, after))
        return [*first, {"Sequence": {"id": text, "type_id": side}}, *last]

    special = {read.tokens[id]: {"id": read.tokens[id], "ids": [id], "tokens": [read.tokens[id]]} for id in before + after}
    return {
        "type": "TemplateProcessing",
        "single": part("A", 0),
        "pair": part("A", 0) + part("B", 1),
        "special_tokens": special,
    }


def _config(read: VocabMetadata, tokenizer: Tokenizer) -> dict[str, Any]:
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {"add_bos_token": tokenizer.add_bos, "add_eos_token": tokenizer.add_eos}
    for name, key in _IDS.items():
        id = read.id(key)
        if id is not None:
            config[f"{name}_token"] = read.tokens[id]
    named = [{"name": name, "template": source} for name, source in tokenizer.chat_templates.items()]
    if tokenizer.chat_template is not None:
        default = {"name": "default", "template": tokenizer.chat_template}
        config["chat_template"] = [default, *named] if named else tokenizer.chat_template
    elif named:
        config["chat_template"] = named
    return config
