"""The tokenizer files of a Hugging Face folder: read once, with what they say about added and special tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmq.errors import FormatError, quoted
from llmq.formats.json_file import read_json

__all__ = ["AddedToken", "TokenizerFiles", "read_optional"]


def read_optional(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no such file."""
    return read_json(path) if path.exists() else {}


@dataclass(frozen=True)
class AddedToken:
    """A token beside the model's vocabulary, recognized in texts as it stands."""

    content: str
    special: bool
    lstrip: bool
    rstrip: bool
    whole_word: bool


class TokenizerFiles:
    """tokenizer.json (or tokenizer.model: then `source` is empty) and the files beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = read_optional(path) if path.suffix == ".json" else {}
        folder = path.parent
        self.config = read_optional(folder / "config.json")
        self.tokenizer_config = read_optional(folder / "tokenizer_config.json")
        self.special_tokens_map = read_optional(folder / "special_tokens_map.json")
        self.generation_config = read_optional(folder / "generation_config.json")

    def error(self, message: str) -> FormatError:
        return FormatError(message, path=self.path)

    def n_vocab(self) -> int | None:
        """vocab_size of config.json: the rows of the embedding."""
        text_config = self.config.get("text_config")
        size = self.config.get("vocab_size", text_config.get("vocab_size") if isinstance(text_config, dict) else None)
        if size is not None and (type(size) is not int or not 1 <= size <= 2**24):
            raise FormatError(f"vocab_size is {quoted(size)}", path=self.path.parent / "config.json")
        return size

    def added_tokens(self) -> dict[int, AddedToken]:
        """Added tokens by id: of tokenizer.json, or else of tokenizer_config.json and added_tokens.json."""
        rows: list[tuple[object, object]] = []
        if self.source:
            listed = self.source.get("added_tokens") or []
            if not isinstance(listed, list):
                raise self.error("added_tokens is no list")
            rows = [(row.get("id") if isinstance(row, dict) else None, row) for row in listed]
        else:
            decoder = self.tokenizer_config.get("added_tokens_decoder")
            if isinstance(decoder, dict):
                rows = [(int(key) if key.isascii() and key.isdigit() else key, row) for key, row in decoder.items()]
            known = {row.get("content") for _, row in rows if isinstance(row, dict)}
            for content, id in read_optional(self.path.parent / "added_tokens.json").items():
                if content not in known:
                    rows.append((id, {"content": content}))
        return dict(self._added(id, row) for id, row in rows)

    def _added(self, id: object, row: object) -> tuple[int, AddedToken]:
        if type(id) is not int or not 0 <= id < 2**24 or not isinstance(row, dict) or not isinstance(row.get("content"), str):
            raise self.error(f"added token {quoted(row)} has no id and content")
        flags = [bool(row.get(name)) for name in ("special", "lstrip", "rstrip", "single_word")]
        return id, AddedToken(row["content"], *flags)

    def special_token(self, name: str) -> str | None:
        """The text of e.g. "bos", from the configuration or the special tokens map."""
        for source in (self.tokenizer_config, self.special_tokens_map):
            value = source.get(f"{name}_token")
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                return value
        return None

    def template_ends(self) -> tuple[str | None, str | None]:
        """The special tokens that the post-processor puts before and after a text."""
        processor = self.source.get("post_processor")
        steps = [processor] if isinstance(processor, dict) else []
        if steps and steps[0].get("type") == "Sequence":
            steps = [step for step in steps[0].get("processors", []) if isinstance(step, dict)]
        for step in steps:
            kind = step.get("type")
            if kind == "TemplateProcessing" and isinstance(step.get("single"), list) and step["single"]:
                return _special_of(step["single"][0]), _special_of(step["single"][-1])
            if kind in ("BertProcessing", "RobertaProcessing"):
                cls, sep = step.get("cls"), step.get("sep")
                return (cls[0] if isinstance(cls, list) and cls else None), (sep[0] if isinstance(sep, list) and sep else None)
        return None, None


def _special_of(row: object) -> str | None:
    """The token of one row of a template: {"SpecialToken": {"id": token}}, or {"Sequence": …} for the text."""
    special = row.get("SpecialToken") if isinstance(row, dict) else None
    return special.get("id") if isinstance(special, dict) else None
