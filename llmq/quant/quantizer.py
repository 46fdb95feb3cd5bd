"""Quantizing a model: a folder or GGUF in, a GGUF out, tensor by tensor, on all cores, in bounded memory.

Every tensor is cut into pieces of whole rows, at most `_PIECE` weights. Workers read, convert (one C call each, without the
GIL) and write them, each to its slot of the file; the calling thread hands pieces out a few ahead. A piece depends on nothing
but its rows, so the file is the same for any number of threads.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmq import _native
from llmq.cpu import usable_cores
from llmq.errors import Cancelled, FormatError, OutOfMemoryError, UnsupportedQuantError, quoted
from llmq.formats import open_checkpoint
from llmq.formats.checkpoint import Checkpoint, MetaValue, Packed, Tensor
from llmq.formats.gguf_writer import GGUFWriter, Slot, TensorInfo
from llmq.formats.huggingface import tensor_order
from llmq.formats.split import SplitLimit, SplitWriter, open_writer
from llmq.quant.imatrix import Imatrix, read_imatrix
from llmq.quant.recipes import COPY, Facts, Place, Recipe, find_recipe, places, usable
from llmq.quant.report import QuantReport, TensorReport
from llmq.quant.rows import dequantize
from llmq.quant.types import QuantType, parse_type

__all__ = ["Progress", "quantize_model"]

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], object]
"""Called with (stage, done, total), here ("quantize", bytes read, bytes in all); returning False cancels."""

_PIECE = 1 << 20  # weights: handing out costs little beside them, and a cancel still acts soon
_AHEAD = 4  # pieces per thread that are handed out: none waits for the thread that hands them out
_QUANTIZATION_VERSION = 2


@dataclass(frozen=True)
class _Job:
    """A tensor and what becomes of it."""

    tensor: Tensor
    type: QuantType
    importance: npt.NDArray[np.float32] | None  # (matrices, columns)

    @property
    def info(self) -> TensorInfo:
        return TensorInfo(self.tensor.name, self.tensor.shape, self.type)


@dataclass(frozen=True)
class _Piece:
    """Rows of a tensor: its bytes begin to end, how many they become, and the call that converts them."""

    job: _Job
    begin: int
    end: int
    nbytes: int
    convert: Callable[[], _Converted]

    def write(self, slot: Slot) -> _Converted:
        """Convert and write them; what is left to know."""
        converted = self.convert()
        slot.write(converted.data)
        return replace(converted, data=_NOTHING)


@dataclass(frozen=True)
class _Converted:
    """The bytes, perhaps in memory that the worker uses again, and the sums of which a report is made."""

    data: npt.NDArray[np.uint8]
    error: float
    square: float


def quantize_model(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    qtype: str = "Q4_K_M",
    *,
    imatrix: str | os.PathLike[str] | None = None,
    tensor_types: Mapping[str, str] | None = None,
    output_type: str | None = None,
    embedding_type: str | None = None,
    pure: bool = False,
    allow_requantize: bool = False,
    n_threads: int | None = None,
    max_memory: int | None = None,
    split_max_size: str | int | None = None,
    split_max_tensors: int | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> QuantReport:
    """Write the model `src` (a GGUF file or a Hugging Face folder, one of GPTQ, AWQ, … too) as the GGUF file `dst` of recipe
    `qtype`.

    qtype           a recipe or type of llama-quantize, in any case: Q4_K_M, Q8_0, F16, …; COPY keeps every tensor in the type
                    it has, a packed matrix (GPTQ, AWQ, …) in the one that keeps most of it; it takes no options about types
    imatrix         importance matrix of llama-imatrix (GGUF or .dat): weighs the error that quantizing minimizes
    tensor_types    regular expression -> type, for the tensors whose name it is found in; the first that fits decides
    output_type, embedding_type    types of output.weight and token_embd.weight
    pure            every matrix gets the recipe's base type
    allow_requantize    take weights that are quantized already (the errors add up); needed neither for float types nor for
                    the types that take a packed matrix as it is
    n_threads       default: the cores this process may use
    max_memory      bytes for buffers; default: what n_threads need, about 8 MiB each
    split_max_size, split_max_tensors    write NAME-00001-of-0000N.gguf and so on, each with at most so many bytes of tensors
                    (a number, or such as "2G": powers of 1000) or so many tensors; without them one file, of split ones too
    dry_run         plan and report, write nothing
    progress        see `Progress`

    The same arguments give the same bytes, for any number of threads. The destination appears whole or not at all.
    Raises ModelFileError (FormatError names the tensor with NaN or infinity; UnsupportedQuantError an unknown type), Cancelled,
    OutOfMemoryError, ValueError for arguments out of range, OSError from the disk.
    """
    started = time.perf_counter()
    recipe = find_recipe(qtype)
    if n_threads is not None and n_threads < 1:
        raise ValueError(f"n_threads is {n_threads}; expected at least 1")
    wishes = _Wishes(
        [(_pattern(pattern), parse_type(name)) for pattern, name in (tensor_types or {}).items()],
        None if output_type is None else parse_type(output_type),
        None if embedding_type is None else parse_type(embedding_type),
        pure,
        allow_requantize,
    )
    if recipe is COPY and (imatrix is not None or wishes != _Wishes([], None, None, False, False)):
        raise ValueError(
            "COPY keeps every type: it takes none of imatrix, tensor_types, output_type, embedding_type, pure, allow_requantize"
        )
    limit = SplitLimit.of(split_max_size, split_max_tensors)
    weights, kept = None, []
    if imatrix is not None:
        weights, status = read_imatrix(imatrix), os.stat(imatrix)
        kept.append((status.st_dev, status.st_ino))
    with open_checkpoint(src) as model:
        jobs = _plan(model, recipe, weights, wishes)
        metadata = _metadata(model, recipe, weights)
        infos, inputs = [job.info for job in jobs], kept + [source.identity for source in model.sources]
        writer = open_writer(dst, metadata, infos, model.types, inputs, limit=limit)
        reports = [_report(job, None) for job in jobs]
        if not dry_run:
            _check_space(dst, writer.total_bytes)
            run = _Run(jobs, n_threads or usable_cores(), max_memory, progress)
            with writer:
                reports = run.write_all(writer)
    files = (os.fspath(dst),) if len(writer.paths) == 1 else tuple(map(str, writer.paths))
    seconds = time.perf_counter() - started
    return QuantReport(os.fspath(src), files, recipe.name, dry_run, tuple(reports), writer.total_bytes, seconds)


def _pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"tensor type pattern {pattern!r} is no regular expression: {error}") from None


def _facts(model: Checkpoint, imatrix: bool) -> Facts:
    architecture = model.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise FormatError("general.architecture is missing: this is no model", path=model.path)

    def first(key: str, default: int) -> int:
        value = model.metadata.get(f"{architecture}.{key}", default)
        if isinstance(value, list | np.ndarray):
            value = int(value[0]) if len(value) else default
        return value if isinstance(value, int) else default

    heads, heads_kv = first("attention.head_count", 1), first("attention.head_count_kv", 0)
    gqa = heads // (heads_kv or heads or 1)
    return Facts(
        architecture, first("block_count", 1), gqa, first("expert_count", 0), imatrix, "output.weight" not in model.tensors
    )


@dataclass(frozen=True)
class _Wishes:
    """What the caller wants otherwise than the recipe."""

    overrides: list[tuple[re.Pattern[str], QuantType]]
    output: QuantType | None
    embedding: QuantType | None
    pure: bool
    allow_requantize: bool

    def kind(self, recipe: Recipe, place: Place) -> str:
        """The name of the type for a tensor, before the fallback for rows that do not divide."""
        given = next((kind for pattern, kind in self.overrides if pattern.search(place.name)), None)
        if given is None and place.role == "token_embd":
            given = self.embedding or (self.output if place.facts.tied else None)
        if given is None and place.role == "output":
            given = self.output
        if given is not None:
            return given.name
        return recipe.base if self.pure else recipe.choose(place)


def _plan(model: Checkpoint, recipe: Recipe, imatrix: Imatrix | None, wishes: _Wishes) -> list[_Job]:
    """What every tensor becomes, in the order of the file."""
    ordered = {name: model.tensors[name] for name in sorted(model.tensors, key=tensor_order)}
    where = places({name: tensor.shape for name, tensor in ordered.items()}, _facts(model, imatrix is not None))
    for pattern, kind in wishes.overrides:
        if not any(pattern.search(name) for name in where):
            log.warning("%s=%s: no matrix has a name in which this is found", pattern.pattern, kind.name)
    jobs = []
    for name, tensor in ordered.items():
        wanted, importance = tensor.type, None
        place = where.get(name)
        if place is not None and recipe is not COPY:
            wanted = usable(wishes.kind(recipe, place), place.columns)
            importance = imatrix.of(name, tensor.shape) if imatrix is not None else None
            if importance is None and recipe.needs_imatrix(place, wanted.name):
                raise UnsupportedQuantError(
                    f"{recipe.name} makes {name} {wanted.name}, which needs an importance matrix: measure one with "
                    "`llmq imatrix MODEL TEXT OUT` and pass it, imatrix=OUT (--imatrix OUT)"
                )
        if _requantizes(tensor, wanted) and not wishes.allow_requantize:
            raise UnsupportedQuantError(
                f"tensor {quoted(name)} is {_source_type(tensor)} already, and quantizing it again adds to its error; start "
                "from F16, BF16 or F32 weights, or allow it with allow_requantize (--allow-requantize)",
                path=model.path,
            )
        jobs.append(_Job(tensor, wanted, importance))
    return jobs


def _requantizes(tensor: Tensor, wanted: QuantType) -> bool:
    """Whether `wanted` would round weights a second time, each to few levels."""
    if tensor.packed is None:
        return not tensor.type.is_float and wanted is not tensor.type
    return not (tensor.packed.is_float or wanted.is_float or wanted in tensor.packed.forms)


def _source_type(tensor: Tensor) -> str:
    return tensor.type.name if tensor.packed is None else tensor.packed.kind


def _metadata(model: Checkpoint, recipe: Recipe, imatrix: Imatrix | None) -> dict[str, MetaValue]:
    out = dict(model.metadata)
    if recipe is not COPY:
        out["general.file_type"] = recipe.file_type
    out["general.quantization_version"] = _QUANTIZATION_VERSION
    return out | (imatrix.metadata() if imatrix is not None else {})


def _check_space(dst: str | os.PathLike[str], needed: int) -> None:
    """Refuse before the work what the disk cannot hold after it."""
    folder = Path(os.path.realpath(dst)).parent
    while not folder.exists():
        folder = folder.parent
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise OSError(
            errno.ENOSPC, f"the file needs {needed / 2**20:.0f} MiB, but {free / 2**20:.0f} MiB are free", os.fspath(dst)
        )


def _report(job: _Job, pieces: list[_Converted] | None) -> TensorReport:
    tensor = job.tensor
    source_bytes = tensor.nbytes if tensor.packed is None else tensor.packed.nbytes
    report = TensorReport(tensor.name, tensor.shape, _source_type(tensor), job.type.name, source_bytes, job.info.nbytes)
    if job.type is tensor.type and tensor.packed is None:
        return replace(report, exact=True)
    if not pieces:
        return report
    error, square = math.fsum(p.error for p in pieces), math.fsum(p.square for p in pieces)
    relative = math.sqrt(error / square) if square > 0 else 0.0
    return replace(report, rmse=math.sqrt(error / report.weights), relative_rmse=relative, exact=error == 0)


class _Run:
    """The conversion of all jobs: pieces out to the workers, results to their places in the file."""

    def __init__(self, jobs: list[_Job], n_threads: int, max_memory: int | None, progress: Progress | None) -> None:
        self.jobs = jobs
        self.progress = progress
        self.total = sum(job.tensor.nbytes for job in jobs)
        self.ahead = _AHEAD * n_threads
        self.n_threads = n_threads
        self.piece = _PIECE
        if max_memory is not None:
            self._fit(max_memory)

    def _fit(self, max_memory: int) -> None:
        # A thread holds a piece in the old and the new type, each at most 4 bytes per weight, and two rows of float32.
        columns = max((job.tensor.shape[-1] for job in self.jobs), default=1)
        rows = self.n_threads * columns * 8
        while self.piece > columns and self.n_threads * self.piece * 8 + rows > max_memory:
            self.piece //= 2
        least = self.n_threads * columns * 8 + rows
        if least > max_memory:
            raise OutOfMemoryError("quantizing with max_memory", required=least, available=max_memory)

    def write_all(self, writer: GGUFWriter | SplitWriter) -> list[TensorReport]:
        """Convert and write every tensor; what became of each."""
        reports = []
        done = 0
        self._tell(0)
        with ThreadPoolExecutor(self.n_threads, "llmq-quantize") as pool:
            waiting: deque[tuple[_Piece, Slot, Future[_Converted]]] = deque()
            converted: list[_Converted] = []

            def finish_next() -> None:
                nonlocal done, converted
                piece, slot, future = waiting.popleft()
                converted.append(future.result())
                slot.done()
                tensor = piece.job.tensor
                tensor.release(piece.begin, piece.end)
                done += piece.end - piece.begin
                if piece.end == tensor.nbytes:
                    reports.append(_report(piece.job, converted))
                    converted = []
                self._tell(done)

            try:
                for piece in self._pieces():
                    while len(waiting) >= self.ahead:
                        finish_next()
                    slot = writer.slot(piece.nbytes)
                    waiting.append((piece, slot, pool.submit(piece.write, slot)))
                while waiting:
                    finish_next()
            except BaseException:
                for *_, future in waiting:
                    future.cancel()
                raise
        return reports

    def _pieces(self) -> Iterator[_Piece]:
        for job in self.jobs:
            tensor = job.tensor
            read = tensor.fill if job.type is not tensor.type and tensor.packed is None and tensor.source is not None else None
            raw = tensor.raw() if tensor.packed is None and read is None else _NOTHING
            columns = tensor.shape[-1]
            row_bytes = tensor.type.nbytes(columns)
            rows = tensor.shape[-2] if len(tensor.shape) > 1 else 1  # of one matrix: a piece stays within it
            step = max(1, self.piece // columns)
            for matrix in range(math.prod(tensor.shape[:-2])):
                importance = None if job.importance is None else job.importance[matrix]
                for row in range(0, rows, step):
                    first, last = matrix * rows + row, matrix * rows + min(row + step, rows)
                    begin, end = first * row_bytes, last * row_bytes
                    if read is not None:
                        convert = partial(_read_and_encode, job, read, slice(begin, end), first, importance)
                    elif tensor.packed is None:
                        convert = partial(_convert, job, raw[begin:end], first, importance)
                    else:
                        convert = partial(_convert_packed, job, tensor.packed, first, last, importance)
                    yield _Piece(job, begin, end, (last - first) * job.type.nbytes(columns), convert)

    def _tell(self, done: int) -> None:
        if self.progress is not None and self.progress("quantize", done, self.total) is False:
            raise Cancelled("quantizing was cancelled; nothing was written")


_NOTHING = np.zeros(0, np.uint8)


def _convert(job: _Job, raw: npt.NDArray[np.uint8], first: int, importance: npt.NDArray[np.float32] | None) -> _Converted:
    """Convert the rows in `raw`, which begin at row `first` of the tensor."""
    tensor = job.tensor
    if job.type is tensor.type:
        if not _native.check_blocks(int(tensor.type), raw):
            raise FormatError(f"tensor {quoted(tensor.name)} holds NaN or infinity", path=tensor.path, offset=tensor.offset)
        return _Converted(raw, 0.0, 0.0)
    return _encode(job, tensor.type, raw, first, importance)


_mine = threading.local()  # old, new: bytes of the worker, used again and again


def _room(which: str, size: int) -> npt.NDArray[np.uint8]:
    """`size` bytes of the worker's own: still in its cache, and without the page faults of new memory."""
    room: npt.NDArray[np.uint8] = getattr(_mine, which, _NOTHING)
    if room.size < size:
        room = np.empty(size, np.uint8)
        setattr(_mine, which, room)
    return room[:size]


def _read_and_encode(
    job: _Job,
    read: Callable[[int, npt.NDArray[np.uint8]], None],
    part: slice,
    first: int,
    importance: npt.NDArray[np.float32] | None,
) -> _Converted:
    """Convert these bytes of the tensor, read past the mapping, through which each page costs a fault."""
    raw = _room("old", part.stop - part.start)
    read(part.start, raw)
    return _encode(job, job.tensor.type, raw, first, importance)


def _convert_packed(
    job: _Job, packed: Packed, first: int, last: int, importance: npt.NDArray[np.float32] | None
) -> _Converted:
    """Convert the rows first to last of a packed matrix: as they are where the type takes them, else from their values."""
    values = packed.values(first, last)
    if job.type not in packed.forms:
        return _encode(job, QuantType.F32, values.reshape(-1).view(np.uint8), first, importance)
    data = packed.blocks(job.type, first, last)
    difference = values - dequantize(data, job.type, values.shape)
    squares = [float(np.square(x, dtype=np.float64).sum()) for x in (difference, values)]
    return _Converted(data, *squares)


def _encode(
    job: _Job, source: QuantType, raw: npt.NDArray[np.uint8], first: int, importance: npt.NDArray[np.float32] | None
) -> _Converted:
    """Convert rows of type `source`, the first of which is row `first` of the tensor."""
    tensor, columns = job.tensor, job.tensor.shape[-1]
    n = raw.size // source.block_bytes * source.block
    out = _room("new", job.type.nbytes(n))
    error, square, bad = _native.convert_rows(int(source), raw, int(job.type), out, columns, importance)
    if bad >= 0:
        where = tuple(map(int, np.unravel_index(first * columns + bad, tensor.shape)))
        raise FormatError(
            f"tensor {quoted(tensor.name)} holds NaN or infinity at {where}", path=tensor.path, offset=tensor.offset
        )
    return _Converted(out, error, square)
