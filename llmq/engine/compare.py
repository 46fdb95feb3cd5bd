"""Which op is wrong: every op of a model run alone by the native engine, on the inputs that the reference gives it.

Each op becomes a tape of its own whose inputs are looked up from tables (EMBED), so that what runs is the engine as it is,
with its choice of kernels. The exact output is the same tape in float64 NumPy; the difference may not exceed what rounding
allows (llmq/engine/bounds.py). Every tape runs once with all tokens together and once with the last token alone, because
engines choose their kernels by the number of rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmq.arch import build_tape
from llmq.engine.base import Batch, Engine
from llmq.engine.bounds import Case, bound
from llmq.engine.native import NativeEngine
from llmq.engine.ops import Array
from llmq.engine.reference import ReferenceEngine
from llmq.formats import open_checkpoint
from llmq.formats.checkpoint import Checkpoint, Tensor
from llmq.graph.builder import Graph, Param, Value
from llmq.graph.passes import freeze
from llmq.graph.tape import Op, Slot, State, Tape
from llmq.quant.types import QuantType, parse_type

__all__ = ["Comparison", "OpDifference", "compare", "compare_ops"]

MakeEngine = Callable[[Tape, Mapping[str, Tensor]], Engine]


@dataclass(frozen=True)
class OpDifference:
    """What an op run alone came to: the largest difference from the exact output, and at its worst element the difference and
    the bound there. `ratio` above 1, or a number that is not finite, is wrong."""

    n: int
    kind: str
    label: str
    rows: int
    largest: float
    difference: float
    bound: float

    @property
    def ratio(self) -> float:
        if self.difference == 0:
            return 0.0
        return self.difference / self.bound if self.bound > 0 else np.inf

    @property
    def ok(self) -> bool:
        return self.ratio <= 1

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "WRONG"
        return (
            f"{self.n:>5}  {self.kind:<9} {self.label:<24} {self.rows:>5} rows  largest {self.largest:.2e}"
            f"  worst {self.difference:.2e} of {self.bound:.2e} allowed  {verdict}"
        )


@dataclass(frozen=True)
class Comparison:
    """The outcome for every op in the order of the tape; `first` is the first that is wrong, None when all are right."""

    ops: tuple[OpDifference, ...]

    @property
    def first(self) -> OpDifference | None:
        return next((op for op in self.ops if not op.ok), None)

    def __str__(self) -> str:
        first = self.first
        head = "no op differs" if first is None else f"the first op that differs is {first.n}, {first.kind} {first.label}"
        return "\n".join([head, *map(str, self.ops)])


def compare(
    model: str | os.PathLike[str] | Checkpoint,
    tokens: Sequence[int],
    *,
    kv_type: str = "bf16",
    n_threads: int = 2,
) -> Comparison:
    """Compare the native engine with the reference on `tokens` (of an encoder–decoder: for both halves), op by op;
    `kv_type` (bf16, f16, f32) is the type of the cache.

    Raises ModelFileError for a model that cannot be used, ValueError for tokens that it does not have."""
    if not isinstance(model, Checkpoint):
        with open_checkpoint(model) as opened:
            return compare(opened, tokens, kv_type=kv_type, n_threads=n_threads)

    def native(tape: Tape, tensors: Mapping[str, Tensor]) -> Engine:
        return NativeEngine(tape, tensors, n_threads=n_threads, kv_type=kv_type, n_batch=max(len(tokens), 1))

    return compare_ops(build_tape(model), model.tensors, tokens, native, kv_type=parse_type(kv_type))


def compare_ops(
    tape: Tape, tensors: Mapping[str, Tensor], tokens: Sequence[int], make: MakeEngine, *, kv_type: QuantType = QuantType.F32
) -> Comparison:
    """`compare` for any engine: `make` builds it for a tape and its tensors."""
    ids = np.asarray(tokens, np.int32)
    found: list[OpDifference] = []
    puts: dict[int, list[Array]] = {}

    def watch(n: int, op: Op, inputs: list[Array], output: Array | None) -> None:
        if op.kind == "KV_PUT":
            puts[op.slot] = inputs
        elif op.kind != "ROWS":
            single = _Single(tape, tensors, n, inputs=inputs, put=puts.get(op.slot, []), ids=ids)
            found.extend(single.run(make, kv_type))

    with ReferenceEngine(tape, tensors) as reference:
        seq = reference.new_sequence()
        if tape.has_encoder:
            reference.encode(seq, ids, watch)
        reference.run(_batch(seq, ids, 0, ids), watch)
    return Comparison(tuple(found))


def _batch(seq: int, tokens: npt.NDArray[np.int32], start: int, wanted: npt.NDArray[np.int32]) -> Batch:
    # tokens at positions start, start+1, … of a sequence; all outputs, or none when `wanted` is empty
    n = len(tokens)
    outputs = np.arange(n if len(wanted) else 0, dtype=np.int32)
    return Batch(tokens, np.arange(start, start + n, dtype=np.int32), np.full(n, seq, np.int32), outputs)


class _Single:
    """Op n of a tape as a tape of its own: token t reads row t of every input."""

    def __init__(
        self,
        tape: Tape,
        tensors: Mapping[str, Tensor],
        n: int,
        *,
        inputs: list[Array],
        put: list[Array],
        ids: npt.NDArray[np.int32],
    ) -> None:
        op = tape.op(n)
        if op.kind == "ATTN" and op.i[5] == 2:  # the source has as many tokens, so here they are those of the sequence itself
            op = replace(op, i=(*op.i[:5], 1, *op.i[6:]))
        self.n, self.op = n, op
        self.inputs, self.put = inputs, put
        self.tokens = np.arange(len(ids), dtype=np.int32)
        self.tensors: dict[str, Tensor] = {}
        graph = Graph(self.tensors)
        first, second = (
            self._weight(graph, tape, tensors, w, ids) if w >= 0 else None for w in (self.op.w0, self.op.w1)
        )
        self.weights = [param.id for param in (first, second) if param is not None]
        uses = {"EMBED": "rows", **dict.fromkeys(("MATMUL", "EXPERTS", "HEADS"), "matmul"), "CONV": "lanes", "SCAN": "lanes"}
        use = "f32" if self.op.kind == "SCAN" and self.op.i[4] else uses.get(self.op.kind, "f32")
        w0, w1 = graph.use(first, use), graph.use(second, "f32")
        a, b = [*(self._input(graph, f"input.{name}", x) for name, x in zip("ab", inputs, strict=False)), None, None][:2]
        slot = self._history(graph, tape.slots[self.op.slot]) if self.op.slot >= 0 else -1
        width = int(tape.values["width"][self.op.out])
        result = graph.emit(self.op.kind, width, a, b, self.op.label, w0=w0, w1=w1, slot=slot, i=self.op.i, f=self.op.f)
        self.tape = freeze(graph, result, arch=tape.arch, n_vocab=len(ids), n_embd=width, n_layer=1, n_ctx_train=len(ids))

    def _weight(self, graph: Graph, tape: Tape, tensors: Mapping[str, Tensor], w: int, ids: npt.NDArray[np.int32]) -> Param:
        weight = tape.weights[w]
        if weight.data is not None:
            return graph.const(weight.name, weight.data)
        tensor = tensors[weight.name]
        if self.op.kind == "EMBED":  # the rows of the batch, so that token t reads row t here as everywhere
            ids = (ids, np.arange(len(ids), dtype=np.int32), np.zeros_like(ids))[self.op.i[0]]
            rows = np.ascontiguousarray(tensor.raw().reshape(tensor.shape[0], -1)[ids])
            tensor = Tensor(weight.name, (len(ids), tensor.shape[1]), tensor.type, lambda: rows.reshape(-1))
        self.tensors[weight.name] = tensor
        return graph.w(weight.name, tensor.shape if self.op.kind == "EMBED" else weight.shape)

    def _input(self, graph: Graph, name: str, x: Array) -> Value:
        table = np.ascontiguousarray(x, np.float32)
        self.tensors[name] = Tensor(name, table.shape, QuantType.F32, lambda: table.reshape(-1).view(np.uint8))
        return graph.embed(graph.w(name, table.shape))

    def _history(self, graph: Graph, slot: Slot | State) -> int:
        if isinstance(slot, State):  # which the op itself fills, from the start of the sequence
            graph.slots.append(slot)
            return 0
        keys, values = (self._input(graph, f"input.{name}", x) for name, x in zip(("keys", "values"), self.put, strict=True))
        graph.slots.append(slot)
        graph.emit("KV_PUT", 0, keys, values, slot=0, i=(slot.heads, slot.k_dim, slot.v_dim))
        return 0

    def run(self, make: MakeEngine, kv_type: QuantType) -> list[OpDifference]:
        with ReferenceEngine(self.tape, self.tensors, dtype=np.float64) as exact, make(self.tape, self.tensors) as engine:
            weights = [exact.weight(w) for w in self.weights]
            expected, found = self._outputs(exact), self._outputs(engine)
        return [
            self._judge(start, exact_out, out, weights, kv_type)
            for start, exact_out, out in zip((0, len(self.tokens) - 1), expected, found, strict=True)
        ]

    def _outputs(self, engine: Engine) -> list[Array]:
        # all tokens at once; then, in a new sequence, all but the last and the last alone
        tokens, none = self.tokens, np.empty(0, np.int32)
        whole = engine.run(_batch(engine.new_sequence(), tokens, 0, tokens))
        seq = engine.new_sequence()
        if len(tokens) > 1:
            engine.run(_batch(seq, tokens[:-1], 0, none))
        return [whole, engine.run(_batch(seq, tokens[-1:], len(tokens) - 1, tokens))]

    def _judge(self, start: int, expected: Array, found: Array, weights: list[Array], kv_type: QuantType) -> OpDifference:
        # the outputs of tokens start, start+1, …, which ran together
        exact = expected.astype(np.float64)
        keys, values = self.put or (None, None)
        case = Case(
            op=self.op,
            inputs=[x[start:].astype(np.float64) for x in self.inputs],
            history=[x.astype(np.float64) for x in self.inputs],
            exact=exact,
            weights=weights,
            type=self.tape.weights[self.weights[0]].type if weights else QuantType.F32,
            keys=keys,
            values=values,
            positions=self.tokens[start:],
            kv_type=kv_type,
        )
        allowed = bound(case)
        difference = abs(found.astype(np.float64) - exact)
        difference[~np.isfinite(found)] = np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(difference == 0, 0.0, difference / allowed)
        worst = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
        return OpDifference(
            self.n,
            self.op.kind,
            self.op.label,
            rows=len(exact),
            largest=float(difference.max()),
            difference=float(difference[worst]),
            bound=float(allowed[worst]),
        )
