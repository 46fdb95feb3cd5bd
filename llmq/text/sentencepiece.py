"""SentencePiece models (tokenizer.model), read as the protobuf messages that they are.

Format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto. Only the fields that a tokenizer
needs are kept; every length is checked against what is left, nothing is allocated by a number in the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmq.errors import FormatError, LimitError, TruncatedError, quoted

__all__ = ["SentencePieceModel", "read_sentencepiece"]

_MAX_BYTES = 256 << 20
_TYPES = {1, 2, 3, 4, 5, 6}  # NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE: as in tokenizer.ggml.token_type


@dataclass
class SentencePieceModel:
    """What a tokenizer.model says; defaults are those of the protobuf definition."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    model_type: int = 1  # 1 unigram, 2 BPE, 3 word, 4 char
    suffix_spaces: bool = False
    ids: dict[str, int] = field(default_factory=lambda: {"unk": 0, "bos": 1, "eos": 2, "pad": -1})
    normalizer: str = ""
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a tokenizer.model. Raises FormatError, TruncatedError, LimitError."""
    data = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else None
    if data is None:
        raise LimitError(f"{path.stat().st_size} bytes; at most {_MAX_BYTES} are allowed", path=path)
    model = SentencePieceModel()
    message = _Message(data, 0, len(data), path)
    for number, value, at in message.fields():
        if number == 1:
            _piece(model, message.inner(value, at))
        elif number == 2:
            _trainer(model, message.inner(value, at))
        elif number == 3:
            _normalizer(model, message.inner(value, at))
    if not model.pieces:
        raise FormatError("no pieces: this is no SentencePiece model", path=path)
    return model


class _Message:
    """The fields of one message in data[start:end]."""

    def __init__(self, data: bytes, start: int, end: int, path: Path) -> None:
        self.data, self.start, self.end, self.path = data, start, end, path

    def fields(self) -> Iterator[tuple[int, int | float | tuple[int, int], int]]:
        """(field number, value, offset): int for varints, float for 32-bit fields, (start, end) for what has a length."""
        at = self.start
        while at < self.end:
            begin = at
            key, at = self._varint(at)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, at = self._varint(at)
                yield number, value, begin
            elif wire == 2:
                size, at = self._varint(at)
                self._need(size, at, begin)
                yield number, (at, at + size), begin
                at += size
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
                self._need(size, at, begin)
                yield number, struct.unpack_from("<d" if wire == 1 else "<f", self.data, at)[0], begin
                at += size
            else:
                raise FormatError(f"wire type {wire} is no protobuf that llmq knows", path=self.path, offset=begin)

    def _need(self, size: int, at: int, begin: int) -> None:
        if size > self.end - at:
            raise TruncatedError(f"a field of {size} bytes where {self.end - at} are left", path=self.path, offset=begin)

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        begin = at
        while True:
            if at >= self.end:
                raise TruncatedError("the file ends inside a number", path=self.path, offset=begin)
            byte = self.data[at]
            value |= (byte & 0x7F) << shift
            at += 1
            shift += 7
            if byte < 0x80:
                return value, at
            if shift > 63:
                raise FormatError("a number of more than 64 bits", path=self.path, offset=begin)

    def inner(self, value: object, at: int) -> _Message:
        start, end = self._span(value, at)
        return _Message(self.data, start, end, self.path)

    def bytes(self, value: object, at: int) -> bytes:
        start, end = self._span(value, at)
        return self.data[start:end]

    def text(self, value: object, at: int) -> str:
        raw = self.bytes(value, at)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise FormatError(f"{quoted(raw)} is not UTF-8", path=self.path, offset=at) from None

    def integer(self, value: object, at: int) -> int:
        """A 32-bit integer; negative ones stand as 64 bits."""
        if not isinstance(value, int):
            raise FormatError("expected an integer", path=self.path, offset=at)
        return value - 2**64 if value >= 2**63 else value

    def number(self, value: object, at: int) -> float:
        if not isinstance(value, float):
            raise FormatError("expected a 32-bit float", path=self.path, offset=at)
        return value

    def _span(self, value: object, at: int) -> tuple[int, int]:
        if not isinstance(value, tuple):
            raise FormatError("expected a message, bytes or text", path=self.path, offset=at)
        return value


def _piece(model: SentencePieceModel, message: _Message) -> None:
    text, score, kind = "", 0.0, 1
    for number, value, at in message.fields():
        if number == 1:
            text = message.text(value, at)
        elif number == 2:
            score = message.number(value, at)
        elif number == 3:
            kind = message.integer(value, at)
            if kind not in _TYPES:
                raise FormatError(f"piece {len(model.pieces)} has type {kind}", path=message.path, offset=at)
    model.pieces.append(text)
    model.scores.append(score)
    model.types.append(kind)


def _trainer(model: SentencePieceModel, message: _Message) -> None:
    ids = {40: "unk", 41: "bos", 42: "eos", 43: "pad"}
    for number, value, at in message.fields():
        if number == 3:
            model.model_type = message.integer(value, at)
        elif number == 24:
            model.suffix_spaces = bool(message.integer(value, at))
        elif number in ids:
            model.ids[ids[number]] = message.integer(value, at)


def _normalizer(model: SentencePieceModel, message: _Message) -> None:
    for number, value, at in message.fields():
        if number == 1:
            model.normalizer = message.text(value, at)
        elif number == 2:
            model.charsmap = message.bytes(value, at)
        elif number == 3:
            model.add_dummy_prefix = bool(message.integer(value, at))
        elif number == 4:
            model.remove_extra_whitespaces = bool(message.integer(value, at))
        elif number == 5:
            model.escape_whitespaces = bool(message.integer(value, at))
