"""GGUF in parts, as llama.cpp names and marks them: NAME-00001-of-00003.gguf, …

Every part is a GGUF file of its own with split.no (from 0), split.count and split.tensors.count (of all parts); the first also
has the model's metadata. Read as one from any of them, written all or none. Source: llama.cpp's gguf-split.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from llmq.errors import FormatError, TruncatedError, quoted, some_of
from llmq.formats.checkpoint import Checkpoint, MetaValue
from llmq.formats.gguf_reader import read_gguf
from llmq.formats.gguf_writer import GGUFWriter, Slot, TensorInfo

__all__ = ["SplitLimit", "open_gguf", "open_writer"]

_PART = re.compile(r"(?P<stem>.+)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_KEYS = ("split.no", "split.count", "split.tensors.count")
_MAX_PARTS = 512  # written at once; each is an open file


def open_gguf(path: Path) -> Checkpoint:
    """Map a GGUF file, or all the parts of which it is one; their metadata comes without the keys split.*. Raises
    ModelFileError (TruncatedError names parts that are missing) and OSError."""
    given = read_gguf(path)
    count = given.metadata.get("split.count", 0)
    if not isinstance(count, int) or count < 2:
        return given
    parts = [given]
    try:
        names = _part_names(given, count)
        missing = [name for name in names if not (path.parent / name).exists()]
        if missing:
            raise TruncatedError(
                f"{len(missing)} of the {count} parts of this model are missing: {some_of(missing)}", path=path
            )
        given.close()
        parts.clear()
        for no, name in enumerate(names):
            parts.append(read_gguf(path.parent / name))
            _check_part(parts[-1], no, parts[0])
        return _joined(parts)
    except BaseException:
        for part in parts:
            part.close()
        raise


def _part_names(given: Checkpoint, count: int) -> list[str]:
    """The file names of all parts, from that of one, which must say the same as its metadata."""
    no = given.metadata.get("split.no")
    name = _PART.fullmatch(given.path.name)
    if name is None or not isinstance(no, int) or (int(name["no"]), int(name["count"])) != (no + 1, count):
        wanted = f"-{no + 1:05d}-of-{count:05d}.gguf" if isinstance(no, int) else f"-NUMBER-of-{count:05d}.gguf"
        raise FormatError(f"this is one of {count} parts of a model: its name must end with {wanted}", path=given.path)
    return [part_name(name["stem"], i, count) for i in range(count)]


def part_name(stem: str, no: int, count: int) -> str:
    """The name of part `no`, counted from 0."""
    return f"{stem}-{no + 1:05d}-of-{count:05d}.gguf"


def _check_part(part: Checkpoint, no: int, first: Checkpoint) -> None:
    for key, expected in zip(
        _KEYS, (no, first.metadata["split.count"], first.metadata.get("split.tensors.count")), strict=True
    ):
        found = part.metadata.get(key)
        if found != expected:
            raise FormatError(
                f"{key} is {quoted(found)} where {quoted(expected)} is expected; is it of another model?", path=part.path
            )


def _joined(parts: list[Checkpoint]) -> Checkpoint:
    first = parts[0]
    tensors = {}
    for part in parts:
        for name, tensor in part.tensors.items():
            if name in tensors:
                raise FormatError(f"tensor {quoted(name)} is in an earlier part already", path=part.path)
            tensors[name] = tensor
    announced = first.metadata.get("split.tensors.count", len(tensors))
    if len(tensors) != announced:
        raise FormatError(f"split.tensors.count is {announced}, but the parts have {len(tensors)}", path=first.path)
    kept = {key: value for key, value in first.metadata.items() if key not in _KEYS}
    types = {key: kind for key, kind in first.types.items() if key in kept}
    return Checkpoint(first.path, kept, tensors, types, [source for part in parts for source in part.sources])


@dataclass(frozen=True)
class SplitLimit:
    """The most bytes of tensors, and the most tensors, that a part may have; None is no limit. A tensor larger than the limit
    is a part by itself."""

    size: int | None = None
    tensors: int | None = None

    @classmethod
    def of(cls, size: str | int | None, tensors: int | None) -> SplitLimit | None:
        """From "500M" or "2G" (powers of 1000, as in llama.cpp) or a number of bytes; None when nothing is limited. Raises
        ValueError."""
        if size is None and tensors is None:
            return None
        if isinstance(size, str):
            written = re.fullmatch(r"\s*(\d+)\s*([KMG])B?\s*", size.upper())
            if written is None:
                raise ValueError(f"split_max_size is {size!r}; expected a size such as 500M or 2G")
            factor: int = 1000 ** ("KMG".index(written[2]) + 1)
            size = int(written[1]) * factor
        limit = cls(size, tensors)
        for name, value in (("split_max_size", limit.size), ("split_max_tensors", limit.tensors)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        return limit

    def cut(self, infos: Sequence[TensorInfo]) -> list[list[TensorInfo]]:
        """The tensors of each part, in order."""
        parts: list[list[TensorInfo]] = [[]]
        size = 0
        for info in infos:
            size += info.nbytes
            full = self.tensors is not None and len(parts[-1]) >= self.tensors
            if parts[-1] and (full or (self.size is not None and size > self.size)):
                parts.append([])
                size = info.nbytes
            parts[-1].append(info)
        return parts


def open_writer(
    path: str | os.PathLike[str],
    metadata: Mapping[str, MetaValue],
    infos: Sequence[TensorInfo],
    types: Mapping[str, int],
    inputs: Iterable[tuple[int, int]],
    *,
    limit: SplitLimit | None = None,
) -> GGUFWriter | SplitWriter:
    """A GGUFWriter, or with a limit that one file would exceed a SplitWriter, which is used alike."""
    parts = [list(infos)] if limit is None else limit.cut(infos)
    if len(parts) == 1:
        return GGUFWriter(path, metadata, infos, types, inputs)
    return SplitWriter(Path(path), metadata, parts, types, list(inputs))


class SplitWriter:
    """`GGUFWriter` for several parts. They take their names when all are complete, the first, without which none is read, as
    the last; an error leaves none of them."""

    def __init__(
        self,
        path: Path,
        metadata: Mapping[str, MetaValue],
        parts: Sequence[Sequence[TensorInfo]],
        types: Mapping[str, int],
        inputs: list[tuple[int, int]],
    ) -> None:
        if len(parts) > _MAX_PARTS:
            raise ValueError(f"{path}: {len(parts)} parts would be written; at most {_MAX_PARTS} are, so allow larger ones")
        stem = path.name.removesuffix(".gguf")
        total = sum(map(len, parts))
        self.paths = [path.with_name(part_name(stem, no, len(parts))) for no in range(len(parts))]
        self._writers = []
        for no, infos in enumerate(parts):
            marks: dict[str, MetaValue] = dict(zip(_KEYS, (no, len(parts), total), strict=True))
            alignment = {key: metadata[key] for key in ("general.alignment",) if key in metadata}
            whole = {**metadata, **marks} if no == 0 else {**alignment, **marks}
            self._writers.append(GGUFWriter(self.paths[no], whole, infos, types, inputs))
        self._index = 0

    @property
    def total_bytes(self) -> int:
        """Size of all finished files."""
        return sum(writer.total_bytes for writer in self._writers)

    def __enter__(self) -> SplitWriter:
        entered: list[GGUFWriter] = []
        try:
            for writer in self._writers:
                entered.append(writer.__enter__())
        except BaseException as error:
            for writer in entered:
                writer.__exit__(type(error), error, None)
            raise
        return self

    def slot(self, n: int) -> Slot:
        """Where the next n bytes of the current tensor go."""
        while self._writers[self._index].full and self._index + 1 < len(self._writers):
            self._index += 1
        return self._writers[self._index].slot(n)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        published: list[Path] = []
        failed = error
        for writer, path in reversed(list(zip(self._writers, self.paths, strict=True))):
            try:
                writer.__exit__(None if failed is None else type(failed), failed, trace)
                if failed is None:
                    published.append(path)
            except BaseException as problem:  # raised again when every part is gone
                failed = problem
        if failed is not None:
            for path in published:
                with suppress(OSError):
                    path.unlink()
            if failed is not error:
                raise failed
