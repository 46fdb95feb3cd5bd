"""The native engine: a tape run by the C core (csrc/engine.c) on a pool of its own threads."""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType

import numpy as np
import numpy.typing as npt

from llmq import _native
from llmq.cpu import largest_cache
from llmq.engine.base import Batch, check_batch, check_source, check_types
from llmq.engine.memory import available_memory
from llmq.errors import Cancelled, FormatError, ModelClosedError, OutOfMemoryError, TruncatedError, UnsupportedQuantError
from llmq.formats.checkpoint import Tensor
from llmq.graph.tape import ENCODE, Tape, Weight
from llmq.quant.types import QuantType, parse_type

__all__ = ["NativeEngine", "Progress"]

Progress = Callable[[str, int, int], object]
"""Called with (stage, done, total); returning False cancels."""

KV_TYPES = ("bf16", "f16", "f32", "q8_0")
"""What keys and values may be kept in: two bytes, two bytes, four bytes, or one byte with a scale per token and head."""

LONG_RUN = 0.1
"""Seconds that a signal may have to wait: a batch expected to take longer runs in a helper thread, half a millisecond more."""

FIRST_PACE = 1 / 4e9
"""Seconds per token and byte of weights, expected before the first run has shown it."""

POLL_SECONDS = 0.05
"""How long a signal that another thread received may wait for the main thread to notice."""

_engines: weakref.WeakSet[NativeEngine] = weakref.WeakSet()


def _after_fork() -> None:
    # The lock may have been held by a thread that the child does not have. Its run never committed, so the sequences are as
    # before it; the pool starts new threads by itself.
    for engine in _engines:
        engine._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


class NativeEngine:
    """Runs `tape` on the tensors it names (see `Engine` in base.py).

    tensors: by GGUF name, float vectors and matrices of any type; read once, what MATMUL uses is packed into memory of the
    engine, and only the embedding rows stay views of the file (with tied embeddings nothing does). n_threads: 1 to 64; the
    result does not depend on it. n_ctx: positions of each sequence, default the trained limit; keys and values take memory as
    sequences grow, in `kv_type` (KV_TYPES). n_batch: tokens computed at once; longer batches are cut. huge_pages: ask for
    weights to lie in huge pages or not (default: 1 or 0 of the environment variable LLMQ_HUGE_PAGES); None: if the caches do
    not hold them, and while huge pages cost no more than small ones as it loads, which is measured. progress: called with
    ("load", bytes done, bytes in all).

    Raises FormatError for a tensor with a scale that is NaN or infinite, UnsupportedQuantError for one that has no kernel,
    OutOfMemoryError when weights, scratch and the first n_batch positions would not fit, Cancelled when progress returns False.

    Callers may be many threads; they take turns. `cancel` stops the run under way, and so does a signal handler that raises
    (Ctrl-C) in the main thread. After a fork the child's copy works, with threads of its own."""

    def __init__(
        self,
        tape: Tape,
        tensors: Mapping[str, Tensor],
        *,
        n_threads: int,
        n_ctx: int | None = None,
        kv_type: str = "bf16",
        n_batch: int = 512,
        huge_pages: bool | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.tape = tape
        self.n_vocab = tape.n_vocab
        self.n_ctx = tape.n_ctx_train if n_ctx is None else n_ctx
        _check_range("n_threads", n_threads, _native.MAX_THREADS)
        _check_range("n_ctx", self.n_ctx, tape.max_positions)
        _check_range("n_batch", n_batch, 1 << 20)
        if kv_type.lower() not in KV_TYPES:
            raise ValueError(f"kv_type: one of {', '.join(KV_TYPES)} expected, found {kv_type!r}")
        self.n_threads, self.n_batch, self.kv_type = n_threads, n_batch, parse_type(kv_type)
        asked = {"1": True, "0": False}.get(os.environ.get("LLMQ_HUGE_PAGES", ""))
        self._huge_pages = asked if huge_pages is None else huge_pages
        self._lock = threading.RLock()
        self._core: _native.EngineCore | None = None
        self._ids: dict[int, int] = {}  # sequence -> its number in the core
        self._next = 0
        shape = (len(tape.weights), tape.result, tape.n_vocab)
        core = _native.EngineCore(tape.ops, tape.values, *shape, self.kv_type, n_batch, n_threads)
        self.weight_bytes = sum(_loaded_bytes(w, tensors) for w in tape.weights)
        self._passing = self.weight_bytes > 2 * largest_cache()  # of anything less it may hold a part
        if self._huge_pages is None and not self._passing:
            self._huge_pages = False
        self._pace = FIRST_PACE  # of the last run
        self._check_memory(core)
        self._load(core, tensors, progress)
        self._core = core
        _engines.add(self)

    # -- loading

    def _check_memory(self, core: _native.EngineCore) -> None:
        positions = min(self.n_ctx, self.n_batch)
        pages = -(-positions // _native.PAGE) * core.page_bytes
        states = core.growth_bytes(0, positions) + core.growth_bytes(positions, positions + 1)
        required = self.weight_bytes + pages + states + core.scratch_bytes(positions)
        available = available_memory()
        if required > available:
            raise OutOfMemoryError("the model does not fit into memory", required=required, available=available)

    def _load(self, core: _native.EngineCore, tensors: Mapping[str, Tensor], progress: Progress | None) -> None:
        total = sum(w.nbytes for w in self.tape.weights)
        done = 0
        for i, weight in enumerate(self.tape.weights):
            if progress is not None and progress("load", done, total) is False:
                raise Cancelled("loading was cancelled")
            tensor = tensors[weight.name] if weight.data is None else None
            for use in sorted(weight.uses):
                _LOADERS[use](self, core, i, weight, tensor)
            done += weight.nbytes
        if progress is not None:
            progress("load", done, total)

    def _load_matrix(self, core: _native.EngineCore, i: int, weight: Weight, tensor: Tensor | None) -> None:
        assert tensor is not None
        *experts, n, k = weight.shape
        shape = (n, k, int(np.prod(experts, dtype=np.int64)))
        if tensor.source is None or tensor.offset is None:
            rows, fd, offset = tensor.raw(), -1, 0
        else:
            rows, fd, offset = None, tensor.source.fd, tensor.offset  # past the mapping: weights are held once
        try:
            good = core.pack(i, tensor.type, *shape, rows, fd, offset, self._huge_pages, self._passing)
        except EOFError:
            raise TruncatedError("the file was shortened while it was read", path=tensor.path, offset=tensor.offset) from None
        if not good:
            raise FormatError(f"tensor {tensor.name!r} holds NaN or infinity", path=tensor.path or None, offset=tensor.offset)
        tensor.release(0, tensor.nbytes)  # what was mapped with a neighbour

    def _load_rows(self, core: _native.EngineCore, i: int, weight: Weight, tensor: Tensor | None) -> None:
        n, k = weight.shape
        if weight.data is not None:
            core.set_rows(i, weight.type, n, k, weight.data.reshape(-1).view(np.uint8))
        elif "matmul" not in weight.uses:  # rows of a packed matrix are taken from there
            assert tensor is not None
            core.set_rows(i, tensor.type, n, k, tensor.raw())

    @staticmethod
    def _floats(weight: Weight, tensor: Tensor | None) -> npt.NDArray[np.float32]:
        values = weight.data if tensor is None else tensor.numpy()
        assert values is not None
        if tensor is not None and not np.isfinite(values).all():
            raise FormatError(f"tensor {tensor.name!r} holds NaN or infinity", path=tensor.path or None, offset=tensor.offset)
        return values

    def _load_vector(self, core: _native.EngineCore, i: int, weight: Weight, tensor: Tensor | None) -> None:
        core.set_vector(i, np.ascontiguousarray(self._floats(weight, tensor), np.float32).reshape(-1))

    def _load_lanes(self, core: _native.EngineCore, i: int, weight: Weight, tensor: Tensor | None) -> None:
        """Rows as lanes: (rows / 16, columns, 16), zeros past the last row."""
        values = self._floats(weight, tensor)
        rows, columns = weight.shape
        padded = np.zeros((-(-rows // _native.CHANNELS) * _native.CHANNELS, columns), np.float32)
        padded[:rows] = values.reshape(rows, columns)
        lanes = padded.reshape(-1, _native.CHANNELS, columns).transpose(0, 2, 1)
        core.set_vector(i, np.ascontiguousarray(lanes).reshape(-1))

    # -- sequences

    def new_sequence(self) -> int:
        with self._lock:
            return self._name(self._open().open())

    def length(self, seq: int) -> int:
        with self._lock:
            return self._open().length(self._number(seq))

    def kept(self, seq: int, length: int) -> int:
        with self._lock:
            held = self.length(seq)
            if not 0 <= length <= held:
                raise ValueError(f"sequence {seq} holds {held} tokens, not {length}")
            return self._open().kept(self._number(seq), length)

    def truncate(self, seq: int, length: int) -> int:
        with self._lock:
            held = self.length(seq)
            if not 0 <= length <= held:
                raise ValueError(f"sequence {seq} holds {held} tokens and cannot be cut to {length}")
            self._open().truncate(self._number(seq), length)
            return self.length(seq)

    def fork(self, seq: int, length: int) -> int:
        with self._lock:
            held = self.length(seq)
            if not 0 <= length <= held:
                raise ValueError(f"sequence {seq} holds {held} tokens and cannot be forked at {length}")
            return self._name(self._open().fork(self._number(seq), length))

    def free_sequence(self, seq: int) -> None:
        with self._lock:
            self._open().free(self._number(seq))
            del self._ids[seq]

    def _name(self, number: int) -> int:
        seq, self._next = self._next, self._next + 1
        self._ids[seq] = number
        return seq

    def _number(self, seq: int) -> int:
        if seq not in self._ids:
            raise ValueError(f"no sequence has the id {seq}")
        return self._ids[seq]

    def _open(self) -> _native.EngineCore:
        if self._core is None:
            raise ModelClosedError("the engine was closed")
        return self._core

    # -- running

    def run(self, batch: Batch, *, hidden: bool = False) -> npt.NDArray[np.float32]:
        """See `Engine.run`."""
        with self._lock:
            self._open()
            check_types(batch, self.tape.n_types)
            if self.tape.has_encoder:
                check_source({seq: self.source_length(seq) for seq in self._ids}, batch)
            return self._run(batch, *self.tape.asked(hidden=hidden))

    def encode(self, seq: int, tokens: npt.NDArray[np.int32]) -> None:
        """See `Engine.encode`."""
        with self._lock:
            if not self.tape.has_encoder or self.length(seq):
                raise ValueError(
                    f"encode: an empty sequence of an encoder–decoder expected; {seq} holds {self.length(seq)} tokens"
                )
            source, n = self.new_sequence(), len(tokens)
            try:
                numbers = np.full(n, source, np.int32)
                self._run(Batch(tokens, np.arange(n, dtype=np.int32), numbers, np.empty(0, np.int32)), (ENCODE,), -1)
                self._open().attach(self._number(seq), self._number(source))
            except BaseException:
                self.free_sequence(source)
                raise
            del self._ids[source]  # it goes with seq

    def source_length(self, seq: int) -> int:
        """See `Engine.source_length`."""
        with self._lock:
            return self._open().source_length(self._number(seq))

    def _run(self, batch: Batch, parts: tuple[int, ...], wanted: int) -> npt.NDArray[np.float32]:
        """Parts of the tape; the output rows of value `wanted` (-1: none)."""
        core = self._open()
        growth, numbers = -1, np.empty(0, np.int32)
        if batch.sequences.dtype == np.int32 and all(seq in self._ids for seq in batch.sequences.tolist()):
            numbers = np.array([self._ids[seq] for seq in batch.sequences.tolist()], np.int32)
            growth = self._growth(core, batch, numbers)
        if growth < 0:
            check_batch(batch, {seq: core.length(number) for seq, number in self._ids.items()}, self.n_vocab, self.n_ctx)
            raise ValueError("batch: one-dimensional contiguous int32 arrays expected")
        if growth > 0:
            available = available_memory()
            if growth > available:
                raise OutOfMemoryError("the sequences cannot grow", required=growth, available=available)
        rows = np.empty((len(batch.outputs), int(self.tape.values["width"][wanted])), np.float32)
        bits = sum(1 << part for part in parts)
        core.arm()
        call = partial(core.run, batch.tokens, batch.positions, numbers, batch.outputs, bits, wanted, rows, batch.types)
        size = len(batch.tokens) * max(1, self.weight_bytes)
        is_long = size * self._pace > LONG_RUN and threading.current_thread() is threading.main_thread()
        start = time.perf_counter()
        if not (_interruptible(call, core.cancel) if is_long else call()):
            raise Cancelled("the run was cancelled")
        self._pace = (time.perf_counter() - start) / size
        return rows

    def _growth(self, core: _native.EngineCore, batch: Batch, numbers: npt.NDArray[np.int32]) -> int:
        if len(batch.positions) and int(batch.positions.max()) >= self.n_ctx:
            return -1
        try:
            return core.growth(batch.tokens, batch.positions, numbers, batch.outputs)
        except ValueError:  # not an int32 vector
            return -1

    def cancel(self) -> None:
        """Make the run under way, if there is one, raise Cancelled within a fraction of a second. From any thread."""
        core = self._core
        if core is not None:
            core.cancel()

    def close(self) -> None:
        """See `Engine.close`; waits for a run under way."""
        with self._lock:
            self._core = None
            self._ids.clear()

    def __enter__(self) -> NativeEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _check_range(name: str, given: int, most: int) -> None:
    if not 1 <= given <= most:
        raise ValueError(f"{name}: 1 to {most} expected, found {given}")


_LOADERS = {
    "matmul": NativeEngine._load_matrix,
    "rows": NativeEngine._load_rows,
    "f32": NativeEngine._load_vector,
    "lanes": NativeEngine._load_lanes,
}


def _loaded_bytes(weight: Weight, tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the engine's own memory that a weight takes."""
    n = 0
    if "matmul" in weight.uses:
        *experts, rows, columns = weight.shape
        try:
            n += _native.packed_bytes(weight.type, rows, columns, int(np.prod(experts, dtype=np.int64)))
        except RuntimeError:
            tensor = tensors[weight.name]
            raise UnsupportedQuantError(
                f"tensor {weight.name!r}: type {QuantType(weight.type).name} cannot be multiplied by", path=tensor.path or None,
                offset=tensor.offset,
            ) from None  # fmt: skip
    if weight.uses & {"f32", "lanes"} and weight.data is None:
        n += 4 * int(np.prod(weight.shape))
    return n


def _interruptible(run: Callable[[], bool], cancel: Callable[[], None]) -> bool:
    """`run` in a helper thread, so that this one, the main thread, runs signal handlers meanwhile: waiting for a lock is
    interruptible, the C core is not. What a handler raises (KeyboardInterrupt) cancels the run and goes on from here once it
    has ended."""
    outcome: list[bool | BaseException] = []
    entered: list[bool] = []
    abandoned: list[bool] = []
    finished = threading.Event()

    def work() -> None:
        entered.append(True)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the main thread
        try:
            outcome.append(False if abandoned else run())
        except BaseException as error:  # handed over to the caller's thread
            outcome.append(error)
        finished.set()

    raised: BaseException | None = None
    try:
        threading.Thread(target=work, name="llmq-run", daemon=True).start()
    except BaseException as error:  # raised below; the thread may have begun nevertheless
        raised = error
        abandoned.append(True)
        cancel()
    while not finished.is_set() and (raised is None or entered):
        try:
            finished.wait(POLL_SECONDS)
        except BaseException as error:  # raised below, when the helper has let go of the engine
            raised = error
            cancel()
    if raised is not None:
        raise raised
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
