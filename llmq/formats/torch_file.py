"""Reading PyTorch checkpoints (.bin, .pt, .pth) without PyTorch and without running what is in them.

Since 1.6 a zip archive, members stored:  NAME/data.pkl (a pickle of the tensors), NAME/data/KEY (the bytes of each storage)
Before, one stream:  pickles of a magic number, 1001, facts about the machine, the tensors, the list of storage keys;
                     then for each key  i64 elements | the bytes
In the pickle a storage is a persistent id ("storage", type, key, device, elements), and a tensor a call of
torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, ...). Every tensor is a view of its storage, checked to lie
within it. Sources: torch/serialization.py and torch/_utils.py of PyTorch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmq.errors import FormatError, LimitError, TruncatedError, UnsupportedError, quoted
from llmq.formats.pickles import MAX_PICKLE, Builder, Vocabulary, read_pickle
from llmq.formats.source import Source, refuse_lookalike
from llmq.formats.stored import DTYPES, Opened, StoredTensor
from llmq.formats.zip_file import MAGIC as ZIP_MAGIC
from llmq.formats.zip_file import read_members

__all__ = ["is_torch_file", "open_torch"]

_STREAM_MAGIC, _STREAM_VERSION = 0x1950A86A20F9469CFC6C, 1001
_MAX_DIMS, _MAX_DEPTH, _MAX_VALUES, _MAX_TENSORS, _MAX_NAME = 8, 16, 1 << 18, 1 << 16, 512
_KINDS = {  # of torch: storage types, and dtypes that have none
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip


def is_torch_file(head: bytes) -> bool:
    """Whether a file that begins so may be a checkpoint: a zip archive, or a pickle of protocol 2 and up."""
    return head.startswith(ZIP_MAGIC) or (len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5)


def open_torch(path: str | os.PathLike[str]) -> Opened:
    """Open a checkpoint: its source and its tensors, those in dicts and lists under names joined with dots. Raises
    ModelFileError (UnsafeFileError for whatever asks for more than tensors) and OSError."""
    source = Source(path)
    try:
        head = source.read(0, 512)
        if not is_torch_file(head):
            refuse_lookalike(head, source.size, source.path, "a PyTorch checkpoint")
        value = _from_archive(source) if head.startswith(ZIP_MAGIC) else _from_stream(source)
        tensors: dict[str, StoredTensor] = {}
        for name, tensor in _named(value, source.path):
            if name in tensors:
                raise FormatError(f"two tensors are named {quoted(name)}", path=source.path)
            tensors[name] = tensor.stored(name)
    except BaseException:
        source.close()
        raise
    return source, tensors, {}


def _from_archive(source: Source) -> object:
    members = read_members(source)
    path = source.path
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise FormatError("a zip archive without one NAME/data.pkl is no PyTorch checkpoint", path=path)
    folder = pickles[0].removesuffix("data.pkl")
    order = members.get(folder + "byteorder")
    if order is not None and source.read(order.offset, min(order.size, 16)) != b"little":
        raise UnsupportedError("a checkpoint of a big-endian machine; save it again", path=path, offset=order.offset)
    main = members[pickles[0]]
    if main.size > MAX_PICKLE:
        raise LimitError(f"member {quoted(main.name)} has {main.size} bytes; at most {MAX_PICKLE} are allowed", path=path)
    reader = _Reader(source)
    for name, member in members.items():
        if name.startswith(folder + "data/"):
            reader.where[name.removeprefix(folder + "data/")] = member.offset, member.size
    what = f"member {quoted(main.name)}"
    data = source.read(main.offset, main.size)
    return read_pickle(data, 0, reader.vocabulary(), path=path, what=what, at=main.offset)[0]


def _from_stream(source: Source) -> object:
    path = source.path
    data = source.read(0, MAX_PICKLE)
    reader = _Reader(source)
    at = 0

    def following(what: str) -> object:
        nonlocal at
        value, at = read_pickle(data, at, reader.vocabulary(), path=path, what=what)
        return value

    if following("the first pickle") != _STREAM_MAGIC or following("the second pickle") != _STREAM_VERSION:
        raise FormatError("this pickle is no PyTorch checkpoint: it does not begin with PyTorch's magic number", path=path)
    facts = following("the pickle of machine facts")
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise UnsupportedError("a checkpoint of a big-endian machine; save it again", path=path)
    value = following("the pickle of tensors")
    keys = following("the pickle of storage keys")
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in reader.items for key in keys):
        raise FormatError("the storage keys are not those of the tensors", path=path, offset=at)
    for key in keys:
        count = int.from_bytes(source.read(at, 8), "little")
        nbytes = count * reader.items[key]
        if at + 8 + nbytes > source.size:
            raise TruncatedError(
                f"storage {quoted(key)} ends at byte {at + 8 + nbytes}, but the file has {source.size}; download it again",
                path=path,
                offset=min(at, source.size),
            )
        reader.where[key] = at + 8, nbytes
        at += 8 + nbytes
    return value


def _named(value: object, path: Path) -> Iterator[tuple[str, _View]]:
    """The tensors in nested dicts and lists, by their keys joined with dots; other values are left out."""
    seen = found = 0
    waiting: list[tuple[str, object, int]] = [("", value, 0)]
    while waiting:
        name, item, depth = waiting.pop()
        if isinstance(item, _View):
            found += 1
            yield name or "tensor", item
        children: list[tuple[object, object]] = []
        if isinstance(item, dict):
            children = list(item.items())
        elif isinstance(item, list | tuple):
            children = list(enumerate(item))
        seen += 1 + len(children)
        if depth > _MAX_DEPTH or seen > _MAX_VALUES or found > _MAX_TENSORS:
            limits = f"{_MAX_TENSORS} tensors, {_MAX_VALUES} values or {_MAX_DEPTH} levels of them"
            raise LimitError(f"more than {limits}", path=path)
        waiting += [(_joined(name, key, path), child, depth + 1) for key, child in children][::-1]


def _joined(name: str, key: object, path: Path) -> str:
    if len(name) + (len(key) if isinstance(key, str | bytes) else 32) > _MAX_NAME:
        raise LimitError(f"a tensor's name of more than {_MAX_NAME} characters", path=path)
    return f"{name}.{key}" if name else f"{key}"


@dataclass(frozen=True)
class _Kind:
    """A storage type or a dtype, which is only named. "" is bytes, whose type the tensor tells."""

    dtype: str

    @property
    def item(self) -> int:
        return DTYPES[self.dtype].itemsize if self.dtype else 1

    def __call__(self, *_: object) -> object:
        raise ValueError("a storage that is made, not read")


@dataclass(frozen=True)
class _Storage:
    """`size` elements from `begin` on of the run of elements `key`."""

    key: str
    kind: _Kind
    begin: int
    size: int
    where: Mapping[str, tuple[int, int]] = field(repr=False)  # key: offset in the file and bytes


@dataclass(frozen=True)
class _View:
    """A tensor of a storage."""

    source: Source
    storage: _Storage
    dtype: str
    begin: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def stored(self, name: str) -> StoredTensor:
        """Where it lies; FormatError when that is not within its storage."""
        path, item = self.source.path, DTYPES[self.dtype].itemsize
        offset, nbytes = self.storage.where.get(self.storage.key, (0, -1))
        end = (self.storage.begin + self.storage.size) * self.storage.kind.item
        if end > nbytes:
            raise FormatError(
                f"tensor {quoted(name)}: {end} bytes of storage {quoted(self.storage.key)} announced, "
                + ("but it is missing" if nbytes < 0 else f"but it has {nbytes}"),
                path=path,
            )
        held = self.storage.size * self.storage.kind.item // item
        n = math.prod(self.shape)
        last = self.begin + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True)) if n else -1
        if last >= held or n > held:
            raise FormatError(
                f"tensor {quoted(name)} of {n} elements reaches to element {last} of a storage of {held}",
                path=path,
                offset=offset,
            )
        usual = [math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        dense = not n or all(a == b or size == 1 for a, b, size in zip(self.strides, usual, self.shape, strict=True))
        begin = offset + self.storage.begin * self.storage.kind.item + (self.begin * item if n else 0)
        used = (last + 1 - self.begin) * item if n else 0
        return StoredTensor(name, self.dtype, self.shape, self.source, begin, used, None if dense else self.strides)


class _Reader:
    """The functions that stand for PyTorch's. Each raises ValueError for arguments that PyTorch never writes."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.where: dict[str, tuple[int, int]] = {}  # of each storage: offset and bytes
        self.items: dict[str, int] = {}  # bytes per element

    def vocabulary(self) -> Vocabulary:
        names: dict[tuple[str, str], Builder] = {
            ("collections", "OrderedDict"): _ordered_dict,
            ("torch", "Size"): lambda sizes=(): tuple(sizes),
            ("torch._utils", "_rebuild_tensor"): self.tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self.typed_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch.storage", "UntypedStorage"): _Kind(""),
        }
        return Vocabulary(names | {("torch", name): _Kind(dtype) for name, dtype in _KINDS.items()}, self.storage)

    def storage(self, id: object) -> _Storage:
        if not isinstance(id, tuple) or len(id) not in (5, 6) or id[0] != "storage":
            raise ValueError("a persistent id that is no storage")
        _, kind, key, _, size, *part = id
        begin = 0
        if part and isinstance(part[0], tuple) and len(part[0]) == 3:  # of before PyTorch 0.4: a part of another storage
            _, begin, size = part[0]
        if not isinstance(kind, _Kind) or not isinstance(key, str) or not _is_size(size) or not _is_size(begin):
            raise ValueError("a storage without type, key and size")
        if self.items.setdefault(key, kind.item) != kind.item:
            raise ValueError(f"storage {quoted(key)} with elements of {self.items[key]} and of {kind.item} bytes")
        return _Storage(key, kind, begin, size, self.where)

    def tensor(self, storage: object, begin: object, shape: object, strides: object, *_: object) -> _View:
        return self._view(storage, None, begin, shape, strides)

    def typed_tensor(self, storage: object, begin: object, shape: object, strides: object, *more: object) -> _View:
        return self._view(storage, more[2] if len(more) > 2 else None, begin, shape, strides)

    def _view(self, storage: object, kind: object, begin: object, shape: object, strides: object) -> _View:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        kind = storage.kind if kind is None else kind
        if not isinstance(kind, _Kind) or not kind.dtype:
            raise ValueError("a tensor without a type")
        if not isinstance(shape, tuple) or not isinstance(strides, tuple) or not len(shape) == len(strides) <= _MAX_DIMS:
            raise ValueError(f"a tensor whose shape and strides are not tuples of at most {_MAX_DIMS} sizes")
        if not all(map(_is_size, (begin, *shape, *strides))):
            raise ValueError("a tensor whose shape, strides or offset are no sizes")
        return _View(self.source, storage, kind.dtype, begin, shape, strides)  # type: ignore[arg-type]  # _is_size


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _ordered_dict(pairs: object = ()) -> dict[object, object]:
    if not isinstance(pairs, list | tuple):
        raise ValueError("an OrderedDict of what is no list")
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise ValueError("an OrderedDict of what are no pairs")
    return {pair[0]: pair[1] for pair in pairs}
