"""JSON from a model's files, which is untrusted: strict, and limited in size and depth."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from llmq.errors import FormatError, LimitError, ModelFileError, quoted
from llmq.formats.source import Source, refuse_lookalike

__all__ = ["read_json", "read_json_value", "strict_json"]

_MAX_FILE = 256 << 20
_MAX_DEPTH = 64
_BEGIN = re.compile(rb'(?:\xef\xbb\xbf)?[ \t\r\n]*[{["\-0-9tfnNI]')
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def read_json(path: Path, limit: int = _MAX_FILE) -> dict[str, Any]:
    """The JSON object that the file is, of at most `limit` bytes; NaN and Infinity are allowed. Raises ModelFileError and
    OSError."""
    value = read_json_value(path, limit)
    if not isinstance(value, dict):
        raise FormatError("expected a JSON object", path=path)
    return value


def read_json_value(path: Path, limit: int = _MAX_FILE) -> Any:
    """As `read_json`, for a file that may be anything but an object too."""
    source = Source(path)
    try:
        if source.size > limit:
            raise LimitError(f"{source.size} bytes of JSON; at most {limit} are allowed", path=path)
        data = source.read(0, source.size)
        if not _BEGIN.match(data):
            refuse_lookalike(data[:512], source.size, path, "JSON")
        return strict_json(data, path, "the file", depth=_MAX_DEPTH, constants=True)
    finally:
        source.close()


def strict_json(data: bytes, path: Path, what: str, at: int = 0, *, depth: int, constants: bool = False) -> Any:
    """Parse JSON from a model file: UTF-8, no NUL, no duplicate keys, at most `depth` levels, NaN and Infinity only with
    `constants`. Raises FormatError; `at` is the offset of `data` in the file."""

    def refuse(problem: str, offset: int | None = None) -> NoReturn:
        raise FormatError(f"{what}: {problem}", path=path, offset=at if offset is None else at + offset) from None

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            refuse(f"key {quoted(twice)} appears twice")
        return result

    if b"\0" in data:
        refuse("a NUL byte in the JSON", data.index(b"\0"))
    outside = np.frombuffer(_STRING.sub(b"", data), np.uint8)
    steps = np.isin(outside, list(b"[{")).astype(np.int32) - np.isin(outside, list(b"]}"))
    if len(steps) and int(np.cumsum(steps).max()) > depth:
        refuse(f"the JSON is more than {depth} levels deep")
    constant = float if constants else lambda name: refuse(f"{name} is not JSON")
    try:
        return json.loads(data.decode(), object_pairs_hook=unique, parse_constant=constant)
    except UnicodeDecodeError as error:
        refuse("not UTF-8", error.start)
    except json.JSONDecodeError as error:
        refuse(f"not JSON ({error.msg})", error.pos)
    except (RecursionError, ValueError) as error:  # an integer of thousands of digits
        if isinstance(error, ModelFileError):
            raise
        refuse(f"not usable JSON ({error})")
