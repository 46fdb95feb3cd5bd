"""The reference engine: a tape in NumPy, op by op, with float weights and float state. It is slow and it is the
specification."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from llmq._native import keeps_record
from llmq.engine.base import Batch, check_batch, check_source, check_types
from llmq.engine.ops import OPS, Array, Run
from llmq.errors import ModelClosedError
from llmq.formats.checkpoint import Tensor
from llmq.graph.tape import ENCODE, Op, Slot, State, Tape
from llmq.quant.rows import dequantize

__all__ = ["ReferenceEngine"]

CACHE_BYTES = 2 << 30

Watch = Callable[[int, Op, list[Array], Array | None], None]
"""Called with (number of the op, op, inputs, output)."""


class _Rows:
    """The keys and values of one slot of one sequence, growing by doubling."""

    def __init__(self, slot: Slot, dtype: np.dtype[Any]) -> None:
        self.keys: Array = np.empty((0, slot.heads * slot.k_dim), dtype)
        self.values: Array = np.empty((0, slot.heads * slot.v_dim), dtype)

    def put(self, start: int, keys: Array, values: Array) -> None:
        end = start + len(keys)
        if end > len(self.keys):
            self.keys, self.values = self._grown(self.keys, start, end), self._grown(self.values, start, end)
        self.keys[start:end], self.values[start:end] = keys, values

    @staticmethod
    def _grown(old: Array, start: int, end: int) -> Array:
        bigger = np.empty((max(end, 2 * len(old)), old.shape[1]), old.dtype)
        bigger[:start] = old[:start]
        return bigger

    def get(self, end: int) -> tuple[Array, Array]:
        return self.keys[:end], self.values[:end]


class _States:
    """The recurrent state of one slot of one sequence: `kept` by position, the checkpoints and the last. What a run puts comes
    into place when it has ended well."""

    def __init__(self, slot: State, dtype: np.dtype[Any]) -> None:
        self.kept: dict[int, Array] = {0: np.zeros((slot.channels, slot.columns), dtype)}
        self.pending: dict[int, Array] = {}
        self.end = 0  # where the run under way will end

    def get(self) -> Array:
        return self.kept[max(self.kept)]

    def put(self, position: int, state: Array) -> None:
        if position == self.end or keeps_record(position, self.end):
            self.pending[position] = state

    def before(self, length: int) -> int:
        return max(position for position in self.kept if position <= length)

    def commit(self) -> None:
        self.kept |= self.pending
        self.cut(self.end)

    def cut(self, length: int) -> None:
        self.kept = {p: s for p, s in self.kept.items() if p in (0, length) or (p < length and keeps_record(p, max(self.kept)))}


class ReferenceEngine:
    """Runs `tape` on the tensors it names (see `Engine` in base.py). `dtype` float64 shows what rounding does to float32;
    dequantized weights are kept up to `cache_bytes`, the least recently used leaving first."""

    def __init__(
        self,
        tape: Tape,
        tensors: Mapping[str, Tensor],
        *,
        n_ctx: int | None = None,
        dtype: npt.DTypeLike = np.float32,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.tape = tape
        self.n_vocab = tape.n_vocab
        self.n_ctx = tape.n_ctx_train if n_ctx is None else n_ctx
        if not 1 <= self.n_ctx <= tape.max_positions:
            raise ValueError(f"n_ctx: 1 to {tape.max_positions} expected, found {self.n_ctx}")
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._tensors: Mapping[str, Tensor] | None = tensors
        self._cache: OrderedDict[int, Array] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._ops = [tape.op(n) for n in range(len(tape.ops))]
        self._lengths: dict[int, int] = {}
        self._state: dict[int, list[_Rows | _States]] = {}
        self._sources: dict[int, int] = {}  # sequence -> the one that its encoder filled
        self._next = 0

    # -- sequences

    def new_sequence(self) -> int:
        self._open()
        seq, self._next = self._next, self._next + 1
        self._lengths[seq] = 0
        self._state[seq] = [
            _States(slot, self.dtype) if isinstance(slot, State) else _Rows(slot, self.dtype) for slot in self.tape.slots
        ]
        return seq

    def length(self, seq: int) -> int:
        self._open()
        if seq not in self._lengths:
            raise ValueError(f"no sequence has the id {seq}")
        return self._lengths[seq]

    def kept(self, seq: int, length: int) -> int:
        if not 0 <= length <= self.length(seq):
            raise ValueError(f"sequence {seq} holds {self.length(seq)} tokens, not {length}")
        return min((state.before(length) for state in self._state[seq] if isinstance(state, _States)), default=length)

    def truncate(self, seq: int, length: int) -> int:
        if not 0 <= length <= self.length(seq):
            raise ValueError(f"sequence {seq} holds {self.length(seq)} tokens and cannot be cut to {length}")
        self._lengths[seq] = length = self.kept(seq, length)
        for state in self._state[seq]:
            if isinstance(state, _States):
                state.cut(length)
        return length

    def fork(self, seq: int, length: int) -> int:
        if not 0 <= length <= self.length(seq):
            raise ValueError(f"sequence {seq} holds {self.length(seq)} tokens and cannot be forked at {length}")
        new = self.new_sequence()
        self._lengths[new] = length = self.kept(seq, length)
        for old, copy in zip(self._state[seq], self._state[new], strict=True):
            if isinstance(old, _States) and isinstance(copy, _States):
                copy.kept = dict(old.kept)
                copy.cut(length)
            elif isinstance(old, _Rows) and isinstance(copy, _Rows) and length:
                copy.put(0, *old.get(length))
        if seq in self._sources:
            self._sources[new] = self.fork(self._sources[seq], self.length(self._sources[seq]))
        return new

    def free_sequence(self, seq: int) -> None:
        self.length(seq)
        if seq in self._sources:
            self.free_sequence(self._sources.pop(seq))
        del self._lengths[seq], self._state[seq]

    def encode(self, seq: int, tokens: npt.NDArray[np.int32], watch: Watch | None = None) -> None:
        """See `Engine.encode`."""
        if not self.tape.has_encoder or self.length(seq):
            raise ValueError(f"encode: an empty sequence of an encoder–decoder expected; {seq} holds {self.length(seq)} tokens")
        n = len(tokens)
        source = self.new_sequence()
        try:
            numbers = np.full(n, source, np.int32)
            batch = Batch(tokens, np.arange(n, dtype=np.int32), numbers, np.empty(0, np.int32))
            check_batch(batch, self._lengths, self.n_vocab, self.n_ctx)
            self._execute(batch, (ENCODE,), watch)
        except BaseException:
            self.free_sequence(source)
            raise
        if seq in self._sources:
            self.free_sequence(self._sources[seq])
        self._sources[seq] = source

    def source_length(self, seq: int) -> int:
        """See `Engine.source_length`."""
        self.length(seq)
        return self._lengths[self._sources[seq]] if seq in self._sources else 0

    # -- running

    def run(
        self,
        batch: Batch,
        watch: Watch | None = None,
        *,
        hidden: bool = False,
    ) -> npt.NDArray[np.float32]:
        """See `Engine.run`. `watch(n, op, inputs, output)` is called after every op."""
        self._open()
        check_batch(batch, self._lengths, self.n_vocab, self.n_ctx)
        check_types(batch, self.tape.n_types)
        if self.tape.has_encoder:
            check_source({seq: self.source_length(seq) for seq in self._lengths}, batch)
        parts, wanted = self.tape.asked(hidden=hidden)
        return np.ascontiguousarray(self._execute(batch, parts, watch)[wanted], np.float32)

    def _execute(
        self,
        batch: Batch,
        parts: tuple[int, ...],
        watch: Watch | None,
    ) -> dict[int, Array]:
        """Run parts of the tape on a good batch; the values that nothing read afterwards."""
        for seq, state in self._recurrent(batch):
            state.pending, state.end = {}, self._lengths[seq] + int((batch.sequences == seq).sum())
        run = Run(
            batch,
            lambda value: int(self.tape.values["width"][value]),
            self.weight,
            self._look_up,
            lambda seq, slot: cast(_Rows, self._state[seq][slot]),
            lambda seq, slot: cast(_States, self._state[seq][slot]),
            lambda seq: (self._sources[seq], self._lengths[self._sources[seq]]),
        )
        last = {v: n for n, op in enumerate(self._ops) for v in op.inputs}
        values: dict[int, Array] = {}
        for n, op in enumerate(self._ops):
            if op.part not in parts:
                continue
            inputs = [values[v] for v in op.inputs]
            out = OPS[op.kind](op, run, inputs)
            if watch is not None:
                watch(n, op, inputs, out)
            for v in op.inputs:
                if last[v] == n:
                    values.pop(v, None)
            if out is not None:
                values[op.out] = out
        for seq, rows in run.rows.items():
            self._lengths[seq] += len(rows)
        for _, state in self._recurrent(batch):
            state.commit()
        return values

    def _recurrent(self, batch: Batch) -> Iterator[tuple[int, _States]]:
        for seq in np.unique(batch.sequences).tolist():
            yield from ((seq, state) for state in self._state[seq] if isinstance(state, _States))

    def close(self) -> None:
        self._tensors = None
        self._cache.clear()
        self._state.clear()
        self._sources.clear()
        self._lengths.clear()

    def __enter__(self) -> ReferenceEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open(self) -> Mapping[str, Tensor]:
        if self._tensors is None:
            raise ModelClosedError("the engine was closed")
        return self._tensors

    # -- weights

    def weight(self, n: int) -> Array:
        """Weight n of the tape, dequantized."""
        if n in self._cache:
            self._cache.move_to_end(n)
            return self._cache[n]
        weight = self.tape.weights[n]
        values = weight.data if weight.data is not None else self._open()[weight.name].numpy()
        self._cache[n] = values.reshape(weight.shape).astype(self.dtype, copy=False)
        while len(self._cache) > 1 and sum(w.nbytes for w in self._cache.values()) > self._cache_bytes:
            self._cache.popitem(last=False)
        return self._cache[n]

    def _look_up(self, n: int, ids: npt.NDArray[np.int32]) -> Array:
        data = self.tape.weights[n].data
        if data is not None:
            return data[ids].astype(self.dtype, copy=False)
        tensor = self._open()[self.tape.weights[n].name]
        rows, width = tensor.shape
        picked = tensor.raw().reshape(rows, -1)[ids]
        return dequantize(picked, tensor.type, (len(ids), width)).astype(self.dtype, copy=False)
