"""Reading GGUF version 1 to 3, little-endian. Version 1 has 32 bits where this says u64, but for the offsets.

    "GGUF" | u32 version | u64 n_tensors | u64 n_kv
    n_kv times       string key | u32 type | value              string: u64 length, bytes;  array: u32 type, u64 count, values
    n_tensors times  string name | u32 n_dims | u64 dims[n_dims] (innermost first) | u32 ggml type | u64 offset
    padding to general.alignment (32 when absent)
    tensor data, each at its offset from here, padded to the alignment, in the order of the infos

The header is parsed once, from a private copy; every count, string, product and sum is checked before it is used. Source: the
GGUF specification, ggml/docs/gguf.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Container
from pathlib import Path

import numpy as np

from llmq.errors import FormatError, LimitError, TruncatedError, UnsupportedError, UnsupportedQuantError, quoted
from llmq.formats.checkpoint import Checkpoint, MetaValue, Tensor
from llmq.formats.cursor import Cursor
from llmq.formats.source import Source, refuse_lookalike
from llmq.formats.values import DTYPES, ValueType, check_key_type
from llmq.quant.types import QuantType

__all__ = ["DEFAULT_ALIGNMENT", "MAX_NAME", "read_gguf", "tensor_type"]

DEFAULT_ALIGNMENT = 32
MAX_NAME = 63  # GGML_MAX_NAME without its NUL
_MAX_COUNT = 65_536
_MAX_ARRAY = 1 << 24
_MAX_KEY = 65_535
_MAX_STRING = 16 << 20
_MAX_TOKEN = 64 << 10
_MIN_KV, _MIN_INFO = 9, 24  # bytes of the smallest key-value pair and tensor info, of any version
_REMOVED_TYPES = frozenset({4, 5, 31, 32, 33, 36, 37, 38})


def read_gguf(path: str | os.PathLike[str]) -> Checkpoint:
    """Map a GGUF file. `metadata` and `types` are as in the file; a vocabulary-only file has no tensors.

    Raises ModelFileError (FormatError, TruncatedError, LimitError, UnsupportedError, UnsupportedQuantError, UnsafeFileError)
    and OSError.
    """
    source = Source(path)
    try:
        cursor = Cursor(source)
        n_tensors, n_kv = _preamble(cursor)
        metadata, types = _metadata(cursor, n_kv)
        tensors = _tensors(cursor, n_tensors, _alignment(metadata, source))
    except BaseException:
        source.close()
        raise
    return Checkpoint(source.path, metadata, tensors, types, sources=[source])


def _preamble(cursor: Cursor) -> tuple[int, int]:
    """Magic, version and the two counts."""
    path, size = cursor.path, cursor.source.size
    head = cursor.source.read(0, 512)
    if head[:4] != b"GGUF" or size < 8:
        refuse_lookalike(head, size, path, "a GGUF file")
    cursor.offset = 4
    version = cursor.u32("the version")
    cursor.wide = version != 1
    if version not in (1, 2, 3):
        if version != 0 and version & 0xFFFF == 0:
            raise UnsupportedError(
                "this is a big-endian GGUF; llmq reads little-endian files only, so convert the model again",
                path=path,
                offset=4,
            )
        raise UnsupportedError(f"GGUF version {version} is unknown; llmq reads versions 1 to 3", path=path, offset=4)
    n_tensors = cursor.size("the number of tensors")
    n_kv = cursor.size("the number of metadata entries")
    for count, least, what, at in ((n_tensors, _MIN_INFO, "tensors", 8), (n_kv, _MIN_KV, "metadata entries", 16)):
        if count > _MAX_COUNT or count * least > cursor.remaining:
            raise LimitError(
                f"{count} {what} announced; at most {min(_MAX_COUNT, cursor.remaining // least)} fit in this file",
                path=path,
                offset=at,
            )
    return n_tensors, n_kv


def _metadata(cursor: Cursor, n_kv: int) -> tuple[dict[str, MetaValue], dict[str, int]]:
    """The key-value pairs and the value type of each (ARRAY for arrays, whose element type the value itself tells)."""
    path = cursor.path
    metadata: dict[str, MetaValue] = {}
    types: dict[str, int] = {}
    where: dict[str, tuple[int, ValueType, bool]] = {}
    for i in range(n_kv):
        key = _new_name(cursor, metadata, _MAX_KEY, f"key {i} of {n_kv}")
        at = cursor.offset
        kind = _value_type(cursor, key)
        if kind is ValueType.ARRAY:
            kind, metadata[key] = _array(cursor, key)
            types[key] = ValueType.ARRAY
        else:
            metadata[key] = _scalar(cursor, key, kind)
            types[key] = kind
        where[key] = (at, kind, types[key] == ValueType.ARRAY)
    architecture = metadata.get("general.architecture")
    for key, (at, kind, array) in where.items():
        wrong = check_key_type(key, architecture if isinstance(architecture, str) else None, kind, array)
        if wrong:
            raise FormatError(f"key {quoted(key)}: {wrong}", path=path, offset=at)
    return metadata, types


def _new_name(cursor: Cursor, known: Container[str], limit: int, what: str) -> str:
    """A name that is not empty and none of those known."""
    at = cursor.offset
    name = cursor.string(limit, what)
    if not name:
        raise FormatError(f"{what} is empty", path=cursor.path, offset=at)
    if name in known:
        raise FormatError(f"{what}: {quoted(name)} appears twice", path=cursor.path, offset=at)
    return name


def _value_type(cursor: Cursor, key: str) -> ValueType:
    at = cursor.offset
    number = cursor.u32(f"the type of key {quoted(key)}")
    try:
        return ValueType(number)
    except ValueError:
        raise FormatError(f"key {quoted(key)} has the unknown value type {number}", path=cursor.path, offset=at) from None


def _scalar(cursor: Cursor, key: str, kind: ValueType) -> MetaValue:
    what = f"the value of key {quoted(key)}"
    if kind is ValueType.STRING:
        return cursor.string(_MAX_STRING, what)
    at = cursor.offset
    if kind is ValueType.BOOL:
        value = int(cursor.numbers(np.dtype("u1"), 1, what)[0])
        if value > 1:
            raise FormatError(f"{what} is a bool of value {value}; expected 0 or 1", path=cursor.path, offset=at)
        return bool(value)
    return cursor.numbers(DTYPES[kind], 1, what)[0].item()  # type: ignore[no-any-return]


def _array(cursor: Cursor, key: str) -> tuple[ValueType, MetaValue]:
    what, path = f"the array {quoted(key)}", cursor.path
    kind = _value_type(cursor, key)
    if kind is ValueType.ARRAY:
        raise FormatError(f"{what} holds arrays; nested arrays are not allowed", path=path, offset=cursor.offset - 4)
    at = cursor.offset
    n = cursor.size(f"the length of {what}")
    least = 4 if kind is ValueType.STRING else DTYPES[kind].itemsize
    if n > _MAX_ARRAY:
        raise LimitError(f"{what} has {n} elements; at most {_MAX_ARRAY} are allowed", path=path, offset=at)
    if n * least > cursor.remaining:
        raise TruncatedError(f"{what} announces {n} elements, but {cursor.remaining} bytes are left", path=path, offset=at)
    if kind is ValueType.STRING:
        return kind, cursor.strings(n, _MAX_TOKEN if key == "tokenizer.ggml.tokens" else _MAX_STRING, what)
    if kind is ValueType.BOOL:
        start = cursor.offset
        octets = cursor.numbers(np.dtype("u1"), n, what)
        wrong = np.flatnonzero(octets > 1)  # type: ignore[operator]
        if len(wrong):
            raise FormatError(f"{what} has a bool that is neither 0 nor 1", path=path, offset=start + int(wrong[0]))
        return kind, octets.astype(np.bool_)
    return kind, cursor.numbers(DTYPES[kind], n, what)


def _alignment(metadata: dict[str, MetaValue], source: Source) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    assert isinstance(alignment, int)  # check_key_type
    if alignment & (alignment - 1) or not 8 <= alignment <= 65_536:
        raise FormatError(f"general.alignment is {alignment}; expected a power of two from 8 to 65536", path=source.path)
    return alignment


def _tensors(cursor: Cursor, n_tensors: int, alignment: int) -> dict[str, Tensor]:
    """Tensor infos and, by their sizes, where each tensor lies."""
    path, source = cursor.path, cursor.source
    infos: dict[str, tuple[tuple[int, ...], QuantType, int, int]] = {}
    expected = 0
    for i in range(n_tensors):
        name = _new_name(cursor, infos, MAX_NAME, f"the name of tensor {i} of {n_tensors}")
        shape = _shape(cursor, name)
        at = cursor.offset
        qtype = tensor_type(cursor.u32(f"the type of tensor {quoted(name)}"), name, path, at)
        if shape[-1] % qtype.block:
            raise FormatError(
                f"tensor {quoted(name)}: rows of {shape[-1]} are not whole blocks of {qtype.name} ({qtype.block})",
                path=path,
                offset=at,
            )
        at = cursor.offset
        offset = cursor.u64(f"the offset of tensor {quoted(name)}")
        if offset != expected:
            raise FormatError(
                f"tensor {quoted(name)} is announced at offset {offset}; the tensors before it end at {expected}",
                path=path,
                offset=at,
            )
        nbytes = qtype.nbytes(math.prod(shape))
        infos[name] = (shape, qtype, offset, nbytes)
        expected = offset + -(-nbytes // alignment) * alignment
        if expected >= 1 << 63:
            raise FormatError(f"tensor {quoted(name)} of shape {shape} ends beyond 2^63 bytes", path=path, offset=at)
    start = -(-cursor.offset // alignment) * alignment
    tensors = {}
    for name, (shape, qtype, offset, nbytes) in infos.items():
        begin = start + offset
        if begin + nbytes > source.size:
            raise TruncatedError(
                f"tensor {quoted(name)} ends at byte {begin + nbytes}, but the file has {source.size}; download it again",
                path=path,
                offset=source.size,
            )
        tensors[name] = Tensor.stored(name, shape, qtype, source, begin)
    return tensors


def _shape(cursor: Cursor, name: str) -> tuple[int, ...]:
    at = cursor.offset
    n_dims = cursor.u32(f"the number of dimensions of tensor {quoted(name)}")
    if not 1 <= n_dims <= 4:
        raise FormatError(f"tensor {quoted(name)} has {n_dims} dimensions; expected 1 to 4", path=cursor.path, offset=at)
    dims = [cursor.size(f"the dimensions of tensor {quoted(name)}") for _ in range(n_dims)]
    if min(dims) < 1 or math.prod(dims) >= 1 << 62:
        raise FormatError(
            f"tensor {quoted(name)} has dimensions {dims}; expected each at least 1 and fewer than 2^62 weights",
            path=cursor.path,
            offset=at,
        )
    return tuple(reversed(dims))


def tensor_type(number: int, name: str, path: Path, at: int) -> QuantType:
    """The type of that ggml number, which tensor `name` has at byte `at`. Raises FormatError and UnsupportedQuantError."""
    if number in QuantType._value2member_map_:
        return QuantType(number)
    if number in _REMOVED_TYPES:
        raise FormatError(
            f"tensor {quoted(name)} has type id {number}, which was removed from the format", path=path, offset=at
        )
    from gguf.constants import GGMLQuantizationType  # noqa: PLC0415 - only to name a type that llmq does not have

    try:
        known = GGMLQuantizationType(number).name
    except ValueError:
        raise FormatError(f"tensor {quoted(name)} has the unknown type id {number}", path=path, offset=at) from None
    raise UnsupportedQuantError(
        f"tensor {quoted(name)} is {known}; llmq reads {', '.join(QuantType.__members__)}", path=path, offset=at
    )
