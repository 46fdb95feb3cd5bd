"""Reading a safetensors file.

    u64 n | n bytes of JSON: {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, .., "__metadata__": {..}}
    tensor data; the offsets are relative to its start

The header is untrusted: it is checked here, strictly, before any byte of data is looked at. Every byte of data belongs to
exactly one tensor. Source: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
import os
import struct
from typing import Any, NoReturn

from llmq.errors import FormatError, LimitError, TruncatedError, quoted
from llmq.formats.json_file import strict_json
from llmq.formats.source import Source, refuse_lookalike
from llmq.formats.stored import DTYPES, Opened, StoredTensor

__all__ = ["open_safetensors"]

_MAX_HEADER = 100_000_000
_MAX_DEPTH = 8


def open_safetensors(path: str | os.PathLike[str]) -> Opened:
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
        header = strict_json(source.read(8, n), source.path, "the header", 8, depth=_MAX_DEPTH)
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
    if not isinstance(dtype, str) or dtype not in DTYPES:
        refuse(f"unknown dtype {quoted(dtype)}; known are {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(is_size(n) for n in shape):
        refuse(f"shape {quoted(shape)} is not a list of at most 8 sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_size(n) for n in offsets) or offsets[0] > offsets[1]:
        refuse(f"data_offsets {quoted(offsets)} are not two offsets in order")
    nbytes = math.prod(shape) * DTYPES[dtype].itemsize
    if nbytes != offsets[1] - offsets[0]:
        refuse(f"{offsets[1] - offsets[0]} bytes stored, but shape {quoted(shape)} of {dtype} is {nbytes}")
    return StoredTensor(name, dtype, tuple(shape), source, start + offsets[0], nbytes)
