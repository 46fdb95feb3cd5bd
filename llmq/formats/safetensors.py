"""Reading safetensors: one file, or the shards that model.safetensors.index.json names.

    u64 n | n bytes of JSON: {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, .., "__metadata__": {..}}
    tensor data; the offsets are relative to its start

The header is untrusted: it is checked here, strictly, before any byte of data is looked at. Every byte of data belongs to
exactly one tensor. Source: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from llmq.errors import FormatError, LimitError, ModelFileError, TruncatedError, UnsafeFileError, quoted
from llmq.formats.source import Source, refuse_lookalike

__all__ = ["ITEM_BYTES", "StoredTensor", "open_safetensors", "open_shards", "strict_json"]

# bytes per element of each dtype name
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "C64": 8,
}  # fmt: skip
_MAX_HEADER = 100_000_000
_MAX_INDEX = 100_000_000
_MAX_DEPTH = 8
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file stores it: `nbytes` at `offset` of `source`, row-major, of the file's own dtype name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Source
    offset: int
    nbytes: int


def strict_json(data: bytes, path: Path, what: str, at: int = 0, *, depth: int = _MAX_DEPTH, constants: bool = False) -> Any:
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


def open_safetensors(path: str | os.PathLike[str]) -> tuple[Source, dict[str, StoredTensor], dict[str, str]]:
    """Open one file: its source, its tensors in the order of their data, and its `__metadata__`. Raises ModelFileError and
    OSError."""
    source = Source(path)
    try:
        head = source.read(0, 512)
        (n,) = struct.unpack("<Q", head[:8]) if len(head) >= 8 else (0,)
        if head[8:9] != b"{" and not (len(head) > 8 and n < _MAX_HEADER and head[8:].lstrip()[:1] == b"{"):
            refuse_lookalike(head, source.size, source.path, "a safetensors file")
        if n > _MAX_HEADER:
            raise LimitError(f"the header has {n} bytes; at most {_MAX_HEADER} are allowed", path=source.path, offset=0)
        if n > source.size - 8:
            raise TruncatedError(
                f"the header has {n} bytes, but {source.size - 8} are left; download the file again", path=source.path, offset=8
            )
        header = strict_json(source.read(8, n), source.path, "the header", 8)
        tensors, metadata = _tensors(header, source, 8 + n)
    except BaseException:
        source.close()
        raise
    return source, tensors, metadata


def _tensors(header: Any, source: Source, start: int) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    path = source.path
    if not isinstance(header, dict):
        raise FormatError("the header is not a JSON object", path=path, offset=8)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError("__metadata__ is not an object of strings", path=path, offset=8)
    found = sorted((_entry(name, entry, source, start) for name, entry in header.items()), key=lambda t: (t.offset, t.nbytes))
    end = start
    for tensor in found:
        if tensor.offset != end:
            kind = "overlaps the tensor before it" if tensor.offset < end else "leaves a hole before it"
            raise FormatError(
                f"tensor {quoted(tensor.name)} begins at {tensor.offset - start} and {kind} (expected {end - start})",
                path=path,
                offset=tensor.offset,
            )
        end += tensor.nbytes
        if end > source.size:
            raise TruncatedError(
                f"tensor {quoted(tensor.name)} ends at byte {end}, but the file has {source.size}; download it again",
                path=path,
                offset=source.size,
            )
    if end != source.size:
        raise FormatError(f"{source.size - end} bytes after the last tensor belong to none", path=path, offset=end)
    return {tensor.name: tensor for tensor in found}, metadata


def _entry(name: str, entry: Any, source: Source, start: int) -> StoredTensor:
    def refuse(problem: str) -> NoReturn:
        raise FormatError(f"tensor {quoted(name)}: {problem}", path=source.path, offset=8)

    def is_size(value: object) -> bool:
        return type(value) is int and 0 <= value < 1 << 62  # bool is an int, but no size

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        refuse("expected an object of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        refuse(f"unknown dtype {quoted(dtype)}; known are {', '.join(ITEM_BYTES)}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(is_size(n) for n in shape):
        refuse(f"shape {quoted(shape)} is not a list of at most 8 sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_size(n) for n in offsets) or offsets[0] > offsets[1]:
        refuse(f"data_offsets {quoted(offsets)} are not two offsets in order")
    nbytes = math.prod(shape) * ITEM_BYTES[dtype]
    if nbytes != offsets[1] - offsets[0]:
        refuse(f"{offsets[1] - offsets[0]} bytes stored, but shape {quoted(shape)} of {dtype} is {nbytes}")
    return StoredTensor(name, dtype, tuple(shape), source, start + offsets[0], nbytes)


def open_shards(folder: Path, index_name: str = INDEX_NAME) -> tuple[list[Source], dict[str, StoredTensor]]:
    """Open the shards of an index: the sources, and the tensors in the order of the shards' names. The index and the shards
    must name the same tensors. Raises ModelFileError and OSError."""
    index_path = folder / index_name
    with_index = Source(index_path)
    try:
        if with_index.size > _MAX_INDEX:
            raise LimitError(f"the index has {with_index.size} bytes; at most {_MAX_INDEX} are allowed", path=index_path)
        index = strict_json(with_index.read(0, with_index.size), index_path, "the index")
    finally:
        with_index.close()
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict) or not where or not all(isinstance(shard, str) for shard in where.values()):
        raise FormatError("the index has no weight_map of tensor names to file names", path=index_path)
    sources: list[Source] = []
    tensors: dict[str, StoredTensor] = {}
    try:
        for shard in sorted(set(where.values())):
            if shard in ("", ".", "..") or "/" in shard or "\\" in shard or "\0" in shard:
                raise UnsafeFileError(
                    f"the index names the shard {quoted(shard)}; only bare file names are allowed", path=index_path
                )
            source, found, _ = open_safetensors(folder / shard)
            sources.append(source)
            for name, tensor in found.items():
                if where.get(name) != shard:
                    raise FormatError(
                        f"tensor {quoted(name)} is in {quoted(shard)}, but the index says {quoted(where.get(name))}",
                        path=index_path,
                    )
                tensors[name] = tensor
        missing = next((name for name in where if name not in tensors), None)
        if missing is not None:
            raise FormatError(
                f"tensor {quoted(missing)} is not in {quoted(where[missing])}, where the index says it is", path=index_path
            )
    except BaseException:
        for source in sources:
            source.close()
        raise
    return sources, tensors
