"""The tokenizer files of a Hugging Face folder as the GGUF metadata that would be written from them (keys tokenizer.*).

tokenizer.json holds vocabulary, merges and the pipeline; tokenizer_config.json (special tokens, chat template),
special_tokens_map.json, generation_config.json and config.json (ids, vocabulary size) complete it. Nothing in them is executed
and no pattern is compiled: a pipeline is recognized by comparison with the published ones (llmq/text/hf_pipelines.py), or
refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmq.errors import FormatError, LimitError, UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.text.hf_pipelines import recognize_bpe

__all__ = ["file_metadata", "vocab_metadata"]

_MAX_JSON = 256 << 20
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_SPECIAL_IDS = {"unk": "unknown", "sep": "seperator", "pad": "padding"} | {name: name for name in ("bos", "eos", "cls", "mask")}


def vocab_metadata(folder: Path) -> dict[str, MetaValue]:
    """Keys tokenizer.* for a model folder, its vocabulary padded to the `vocab_size` of config.json.

    Raises FormatError (broken or contradictory files), UnsupportedError (a pipeline that llmq does not know)."""
    config = _read_json(folder / "config.json") or {}
    text_config = config.get("text_config")
    n_vocab = config.get("vocab_size", text_config.get("vocab_size") if isinstance(text_config, dict) else None)
    if n_vocab is not None and (type(n_vocab) is not int or not 1 <= n_vocab <= 2**24):
        raise FormatError(f"vocab_size is {quoted(n_vocab)}", path=folder / "config.json")
    return _metadata(folder / "tokenizer.json", config, n_vocab)


def file_metadata(path: Path) -> dict[str, MetaValue]:
    """Keys tokenizer.* for a tokenizer.json alone, with what the files beside it say."""
    return _metadata(path, _read_json(path.parent / "config.json") or {}, None)


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, None when there is no such file."""
    if not path.exists():
        return None
    if path.stat().st_size > _MAX_JSON:
        raise LimitError(f"{path.stat().st_size} bytes of JSON; at most {_MAX_JSON} are allowed", path=path)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not usable JSON: {error}", path=path) from None
    if not isinstance(value, dict):
        raise FormatError("expected a JSON object", path=path)
    return value


def _metadata(path: Path, config: Mapping[str, Any], n_vocab: int | None) -> dict[str, MetaValue]:
    source = _read_json(path)
    if source is None:
        raise FormatError("this file is missing: without it there is no vocabulary", path=path)
    files = _Files(path, source, config)
    model = files.source.get("model")
    if not isinstance(model, dict):
        raise FormatError("key 'model' is missing", path=path)
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise UnsupportedError(f"tokenizer model {quoted(kind)}; supported: 'BPE'", path=path)
    metadata = _bpe(files, model)
    metadata |= _tokens(files, model, n_vocab)
    metadata |= _special_ids(files, metadata["tokenizer.ggml.tokens"])  # type: ignore[arg-type]
    metadata |= _chat_templates(files)
    return metadata


class _Files:
    """What lies beside a tokenizer.json."""

    def __init__(self, path: Path, source: dict[str, Any], config: Mapping[str, Any]) -> None:
        self.path = path
        self.source = source
        self.config = config
        self.tokenizer_config = _read_json(path.parent / "tokenizer_config.json") or {}
        self.special_tokens_map = _read_json(path.parent / "special_tokens_map.json") or {}
        self.generation_config = _read_json(path.parent / "generation_config.json") or {}

    def error(self, message: str) -> FormatError:
        return FormatError(message, path=self.path)

    def added_tokens(self) -> dict[int, dict[str, Any]]:
        """id -> {"content", "special", …}"""
        rows = self.source.get("added_tokens") or []
        if not isinstance(rows, list):
            raise self.error("added_tokens is no list")
        added = {}
        for row in rows:
            if not isinstance(row, dict) or type(row.get("id")) is not int or not isinstance(row.get("content"), str):
                raise self.error(f"added token {quoted(row)} has no id and content")
            added[row["id"]] = row
        return added

    def special_token(self, name: str) -> str | None:
        """The text of e.g. "bos", from the configuration or the special tokens map."""
        for source in (self.tokenizer_config, self.special_tokens_map):
            value = source.get(f"{name}_token")
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                return value
        return None


def _bpe(files: _Files, model: Mapping[str, Any]) -> dict[str, MetaValue]:
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise UnsupportedError(f"a BPE model with {key} {quoted(model[key])} is not supported", path=files.path)
    metadata: dict[str, MetaValue] = {"tokenizer.ggml.model": "gpt2"}
    metadata |= recognize_bpe(files.source, ignore_merges=bool(model.get("ignore_merges")), path=files.path)
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise files.error("the BPE model has no merges")
    metadata["tokenizer.ggml.merges"] = [_merge(files, row) for row in merges]
    return metadata


def _merge(files: _Files, row: object) -> str:
    """ "left right", from either of the two forms that tokenizer.json has had."""
    if isinstance(row, str):
        return row
    if isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) and " " not in part for part in row):
        return f"{row[0]} {row[1]}"
    raise files.error(f"merge {quoted(row)} is not two tokens without spaces")


def _tokens(files: _Files, model: Mapping[str, Any], n_vocab: int | None) -> dict[str, MetaValue]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(id) is int and 0 <= id < 2**24 for id in vocab.values()):
        raise files.error("the model's vocab must give each token its id")
    by_id = {id: token for token, id in vocab.items()}
    if len(by_id) != len(vocab):
        raise files.error("the model's vocab gives two tokens one id")
    added = files.added_tokens()
    for id, row in added.items():
        if by_id.setdefault(id, row["content"]) != row["content"]:
            raise files.error(f"token {id} is {quoted(by_id[id])} in the vocab and {quoted(row['content'])} in added_tokens")
    n = max(by_id) + 1 if by_id else 0
    if n_vocab is not None and n > n_vocab:
        raise files.error(f"token {n - 1} is {quoted(by_id[n - 1])}, but vocab_size in config.json is {n_vocab}")
    n = n_vocab or n
    types = np.full(n, _NORMAL, np.int32)
    for id in range(n):
        if id not in by_id:
            types[id] = _UNUSED
            by_id[id] = f"[PAD{id}]"
        elif id in added:
            types[id] = _CONTROL if added[id].get("special") else _USER_DEFINED
    return {"tokenizer.ggml.tokens": [by_id[id] for id in range(n)], "tokenizer.ggml.token_type": types}


def _special_ids(files: _Files, tokens: list[str]) -> dict[str, MetaValue]:
    """Ids of the special tokens and which of them encoding adds."""
    id_of = {token: id for id, token in enumerate(tokens)}
    ids: dict[str, int] = {}
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
    metadata: dict[str, MetaValue] = {f"tokenizer.ggml.{_SPECIAL_IDS[name]}_token_id": id for name, id in ids.items()}
    first, last = _template_ends(files)
    for name, end in (("bos", first), ("eos", last)):
        added = files.tokenizer_config.get(f"add_{name}_token")
        if not isinstance(added, bool):
            added = end is not None and name in ids and tokens[ids[name]] == end
        metadata[f"tokenizer.ggml.add_{name}_token"] = added
    stops = files.generation_config.get("eos_token_id", files.config.get("eos_token_id"))
    if isinstance(stops, list):
        extra = sorted({id for id in stops if type(id) is int and 0 <= id < len(tokens)} - {ids.get("eos")})
        if extra:
            metadata["tokenizer.llmq.stop_token_ids"] = np.array(extra, np.int32)
    return metadata


def _template_ends(files: _Files) -> tuple[str | None, str | None]:
    """The special tokens that the post-processor puts before and after a text."""
    processor = files.source.get("post_processor")
    steps = [processor] if isinstance(processor, dict) else []
    if steps and steps[0].get("type") == "Sequence":
        steps = [step for step in steps[0].get("processors", []) if isinstance(step, dict)]
    for step in steps:
        if step.get("type") == "TemplateProcessing" and isinstance(step.get("single"), list):
            single = [row for row in step["single"] if isinstance(row, dict)]
            named = [row["SpecialToken"].get("id") if isinstance(row.get("SpecialToken"), dict) else None for row in single]
            if named:
                return named[0], named[-1]
    return None, None


def _chat_templates(files: _Files) -> dict[str, MetaValue]:
    """tokenizer.chat_template, and tokenizer.chat_template.NAME for those beside the default."""
    path = files.path.parent / "chat_template.jinja"
    if path.exists():
        return {"tokenizer.chat_template": path.read_text(encoding="utf-8")}
    template = files.tokenizer_config.get("chat_template")
    if template is None:
        template = (_read_json(files.path.parent / "chat_template.json") or {}).get("chat_template")
    if isinstance(template, str):
        return {"tokenizer.chat_template": template}
    rows = template if isinstance(template, list) else []
    named = {row["name"]: row["template"] for row in rows if isinstance(row, dict) and row.keys() >= {"name", "template"}}
    metadata: dict[str, MetaValue] = {}
    for name, source in named.items():
        if isinstance(name, str) and isinstance(source, str):
            metadata["tokenizer.chat_template" if name == "default" else f"tokenizer.chat_template.{name}"] = source
    others = sorted(name for name in named if isinstance(name, str) and name != "default")
    if others:
        metadata["tokenizer.chat_templates"] = others
    return metadata
