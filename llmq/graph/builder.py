"""`Graph`: what a family writes its model on.

Every weight is declared where it is used, with the shape that the hyper-parameters ask for; the declaration checks it
against the file. Ops are appended in order and return the value they write. `freeze` (llmq/graph/passes.py) turns the
result into a `Tape`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llmq.errors import FormatError, UnsupportedError, UnsupportedQuantError, quoted
from llmq.formats.checkpoint import Tensor
from llmq.graph.tape import ACTIVATIONS, BODY, ENCODE, HEAD, Op, Output, Slot, State, Weight
from llmq.quant.types import QuantType

__all__ = ["Graph", "Param", "Value"]


class Value(NamedTuple):
    """The output of an op: its id and its number of columns."""

    id: int
    width: int


class Param(NamedTuple):
    """A declared weight."""

    id: int
    shape: tuple[int, ...]


class Graph:
    """A model under construction over `tensors`, the checkpoint's tensors by GGUF name; `path` is the file that errors name."""

    def __init__(self, tensors: Mapping[str, Tensor], path: str | None = None) -> None:
        self.tensors = tensors
        self.path = path
        self.ops: list[Op] = []
        self.widths: list[int] = []
        self.weights: list[Weight] = []
        self.slots: list[Slot | State] = []
        self.hidden: Value | None = None
        self.output: Output = "logits"
        self._weight_ids: dict[str, int] = {}
        self._read: set[str] = set()
        self._prefix = ""
        self._part = BODY

    # -- names and weights

    @contextmanager
    def scope(self, prefix: str) -> Iterator[None]:
        """Names inside are `prefix.name`."""
        outer, self._prefix = self._prefix, f"{self._prefix}{prefix}."
        try:
            yield
        finally:
            self._prefix = outer

    def blocks(self, n: int, prefix: str = "blk") -> Iterator[int]:
        """0 .. n-1, each in the scope of its block: `for i in g.blocks(n): g.w("attn_q.weight", …)`."""
        for i in range(n):
            with self.scope(f"{prefix}.{i}"):
                yield i

    def has(self, name: str) -> bool:
        """Whether the file has this tensor."""
        return self._prefix + name in self.tensors

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The file's tensor of that name. FormatError when it is missing or has another shape; a matrix of one row may be a
        vector, and the other way round."""
        full = self._prefix + name
        found = self.tensors.get(full)
        if found is None:
            raise FormatError(f"no tensor {full!r}; the hyper-parameters ask for one of shape {shape}", path=self.path)
        if found.shape not in (shape, (1, *shape), shape[1:] if shape[:-1] == (1,) else shape):
            raise FormatError(
                f"tensor {full!r}: the hyper-parameters ask for shape {shape}, the file has {found.shape}",
                path=self.path,
                offset=found.offset,
            )
        return found

    def w(self, name: str, shape: tuple[int, ...]) -> Param:
        """Declare a weight, row-major (outputs, inputs) for matrices. A weight declared twice (tied embeddings) is one
        weight."""
        found = self.tensor(name, shape)
        if found.name not in self._weight_ids:
            self._weight_ids[found.name] = len(self.weights)
            self.weights.append(Weight(found.name, shape, found.type, frozenset()))
        return Param(self._weight_ids[found.name], shape)

    def maybe(self, name: str, shape: tuple[int, ...]) -> Param | None:
        """`w` for a tensor that a file may leave out."""
        return self.w(name, shape) if self.has(name) else None

    def const(self, name: str, data: npt.NDArray[np.float32]) -> Param:
        """A float32 table that the graph computed. FormatError when the model's numbers make one that is not finite."""
        self._check_numbers(name, data)
        self.weights.append(Weight(name, data.shape, QuantType.F32, frozenset(), data))
        return Param(len(self.weights) - 1, data.shape)

    def positive(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """`finite` for values that must be above 0."""
        return self.finite(name, shape, above=0.0)

    def finite(self, name: str, shape: tuple[int, ...], above: float = -np.inf) -> npt.NDArray[np.float32]:
        """The values of a tensor that goes into a table, not onto the tape. FormatError unless all are finite and `above`."""
        found = self.tensor(name, shape)
        values = found.numpy()
        if not (np.isfinite(values).all() and (values > above).all()):
            expected = "finite numbers" if above == -np.inf else f"finite numbers above {above:g}"
            raise FormatError(f"tensor {found.name!r}: {expected} expected", path=self.path, offset=found.offset)
        self._read.add(found.name)
        return values

    def leave(self, names: Iterable[str]) -> None:
        """Tensors that a file may have for nothing."""
        self._read |= {self._prefix + name for name in names}

    def use(self, param: Param | None, use: str) -> int:
        """The id of a weight (-1 for None), which an op reads as "matmul", "rows", "f32" or "lanes". UnsupportedQuantError when
        the file's type does not serve."""
        if param is None:
            return -1
        weight = self.weights[param.id]
        if use in ("f32", "lanes") and not weight.type.is_float:
            raise UnsupportedQuantError(
                f"tensor {weight.name!r}: a float type (F32, F16, BF16) is needed here, the file has {weight.type.name}",
                path=self.path,
            )
        self.weights[param.id] = replace(weight, uses=weight.uses | {use})
        return param.id

    def check_all_read(self, ignored: tuple[str, ...] = (), skipped: tuple[str, ...] = ()) -> None:
        """UnsupportedError when the file has tensors that the graph did not declare: running without them would be another
        model. `ignored` are endings of names that carry nothing, `skipped` beginnings of what the model does without."""
        known = self._read | self._weight_ids.keys()
        unread = [
            name for name in self.tensors if name not in known and not (name.endswith(ignored) or name.startswith(skipped))
        ]
        if unread:
            shown = ", ".join(quoted(name) for name in unread[:4]) + (f" and {len(unread) - 4} more" if len(unread) > 4 else "")
            raise UnsupportedError(f"tensors that this architecture does not know: {shown}", path=self.path)

    # -- ops

    def emit(
        self,
        kind: str,
        width: int,
        a: Value | None = None,
        b: Value | None = None,
        label: str = "",
        *,
        w0: int = -1,
        w1: int = -1,
        slot: int = -1,
        i: tuple[int, ...] = (),
        f: tuple[float, ...] = (),
    ) -> Value:
        """Append an op as csrc/ops.def describes it; `width` 0 for one without an output. The weights are ids that `use`
        gave. FormatError for numbers that float32 does not hold, which hyper-parameters, each in its range, may give."""
        out = Value(-1, 0)
        if width:
            out = Value(len(self.widths), width)
            self.widths.append(width)
        a_id, b_id = (a.id if a else -1), (b.id if b else -1)
        if not label:
            named = w0 >= 0 and self.weights[w0].data is None
            label = self.weights[w0].name.removesuffix(".weight") if named else self._prefix + kind.lower()
        self._check_numbers(label, np.array(f))
        self.ops.append(Op(kind, out.id, a_id, b_id, w0, w1, slot, i, f, label, self._part))
        return out

    def _check_numbers(self, what: str, numbers: npt.NDArray[np.floating[Any]]) -> None:
        with np.errstate(over="ignore", under="ignore"):
            held = numbers.astype(np.float32)
        bad = numbers[~np.isfinite(held) | ((held == 0) & (numbers != 0))]
        if len(bad):
            raise FormatError(f"{what}: the hyper-parameters give {bad[0]:g}, which float32 does not hold", path=self.path)

    @contextmanager
    def encoder(self) -> Iterator[None]:
        """Ops inside are the encoder's; before all others, in a model that has a decoder too."""
        outer, self._part = self._part, ENCODE
        try:
            yield
        finally:
            self._part = outer

    def final(self, x: Value, then: Output = "logits") -> Value:
        """x, marked as the final hidden state; what follows makes `then` of it ("hidden": nothing follows)."""
        self.hidden, self.output, self._part = x, then, HEAD
        return x

    def embed(self, table: Param, scale: float = 1.0) -> Value:
        """One row of table (n_vocab, width) per token, times scale."""
        return self.emit("EMBED", table.shape[1], w0=self.use(table, "rows"), f=(scale,))

    def embed_positions(self, table: Param) -> Value:
        """One row of table (positions, width) per token, by its position."""
        return self.emit("EMBED", table.shape[1], w0=self.use(table, "rows"), i=(1,), f=(1.0,))

    def embed_types(self, table: Param) -> Value:
        """One row of table (types, width) per token, by its type."""
        return self.emit("EMBED", table.shape[1], w0=self.use(table, "rows"), i=(2,), f=(1.0,))

    def rmsnorm(self, x: Value, weight: Param | None, eps: float, group: int = 0) -> Value:
        """RMSNorm (Zhang & Sennrich 2019) of each row, or of each `group` columns of it (norms of heads), with one weight
        (group) for all or weights (groups, group) of their own."""
        own = int(weight is not None and len(weight.shape) == 2)
        return self.emit("RMSNORM", x.width, x, w0=self.use(weight, "f32"), i=(group, own), f=(eps,))

    def layernorm(self, x: Value, weight: Param, bias: Param | None, eps: float, group: int = 0) -> Value:
        """LayerNorm (Ba et al. 2016) of each row, or of each `group` columns of it, with a weight (groups, group) of their
        own."""
        w0, w1 = self.use(weight, "f32"), self.use(bias, "f32")
        return self.emit("LAYERNORM", x.width, x, w0=w0, w1=w1, i=(group,), f=(eps,))

    def matmul(self, x: Value, weight: Param, bias: Param | None = None) -> Value:
        """x . weightᵀ + bias; weight is (outputs, inputs). Where the file has a factor for the whole tensor (NAME.scale beside
        NAME.weight, usual with NVFP4), the product is multiplied by it before the bias is added."""
        factor = self._factor(weight)
        if factor == 1.0:
            return self.emit("MATMUL", weight.shape[0], x, w0=self.use(weight, "matmul"), w1=self.use(bias, "f32"))
        product = self.emit("MATMUL", weight.shape[0], x, w0=self.use(weight, "matmul"))
        scaled = self.scale(product, factor, label=self._stem(weight) + "scale")
        return scaled if bias is None else self.add_bias(scaled, bias)

    def _factor(self, weight: Param) -> float:
        stem = self._stem(weight)
        if not self.has(stem + "scale") or f"{self._prefix}{stem}scale" in self._weight_ids:  # which says something else
            return 1.0
        if self.has(stem + "input_scale"):
            self.positive(stem + "input_scale", (1,))  # for activations of 4 bits; ours have scales of their own
        return float(self.positive(stem + "scale", (1,))[0])

    def _stem(self, weight: Param) -> str:
        """A weight's name in this scope without "weight"."""
        return self.weights[weight.id].name.removeprefix(self._prefix).removesuffix("weight")

    def linear(self, x: Value, name: str, rows: int) -> Value:
        """`matmul` with name.weight (rows, x.width) and, when the file has it, name.bias."""
        return self.matmul(x, self.w(f"{name}.weight", (rows, x.width)), self.maybe(f"{name}.bias", (rows,)))

    def rope(self, x: Value, table: Param, heads: int, *, interleaved: bool, scale: float = 1.0, label: str = "rope") -> Value:
        """Rotary positions (Su et al. 2021) on the first 2*len(table) columns of each head; `table` holds inverse
        frequencies. Columns pair as (j, j+1) when interleaved, else as (j, j+len(table)). `scale` multiplies cos and
        sin."""
        return self.emit(
            "ROPE",
            x.width,
            x,
            label=self._prefix + label,
            w0=self.use(table, "f32"),
            i=(heads, x.width // heads, 2 * table.shape[0], 0 if interleaved else 1),
            f=(scale,),
        )

    def attention(
        self,
        q: Value,
        k: Value,
        v: Value,
        *,
        heads: int,
        kv_heads: int,
        scale: float,
        softcap: float = 0.0,
        alibi: float = 0.0,
        window: int = 0,
        chunked: bool = False,
        sinks: Param | None = None,
        causal: bool = True,
        bias: Param | None = None,
    ) -> Value:
        """Append k and v to a state slot of their own and attend over it: softmax(scale * q.k) . v, grouped (Ainslie et al.
        2023), over earlier tokens or, not causal, the whole sequence; chunked: over those since the last multiple of window.
        bias: for every head what is added to the scores, by distance (heads, 2*reach + 1)."""
        slot = self.put(k, v, kv_heads, window)
        more = (window, int(not causal), bias.shape[1] // 2 if bias else 0, int(chunked))
        w0, w1 = self.use(sinks, "f32"), self.use(bias, "f32")
        return self._attend(q, slot, heads, i=more, f=(scale, softcap, alibi), w0=w0, w1=w1)

    def attention_again(self, q: Value, slot: int, *, heads: int, scale: float) -> Value:
        """Attend over what an earlier layer put into a slot, as far back as its window."""
        s = self.slots[slot]
        assert isinstance(s, Slot)
        return self._attend(q, slot, heads, i=(s.window,), f=(scale,))

    def _attend(self, q: Value, slot: int, heads: int, *, i: tuple[int, ...], **more: Any) -> Value:
        s = self.slots[slot]
        assert isinstance(s, Slot)
        return self.emit("ATTN", heads * s.v_dim, q, slot=slot, i=(heads, s.k_dim, s.heads, s.v_dim, *i), **more)

    def put(self, k: Value, v: Value, kv_heads: int, window: int = 0) -> int:
        """Append k and v to a new state slot; its number."""
        slot = Slot(kv_heads, k.width // kv_heads, v.width // kv_heads, window)
        self.slots.append(slot)
        self.emit("KV_PUT", 0, k, v, slot=len(self.slots) - 1, i=(kv_heads, slot.k_dim, slot.v_dim))
        return len(self.slots) - 1

    def cross_attention(self, q: Value, slot: int, *, heads: int, scale: float) -> Value:
        """Attend over a slot that the encoder filled, all of it."""
        return self._attend(q, slot, heads, i=(0, 2), f=(scale,), label=self._prefix + "cross_attn")

    def conv(self, x: Value, weight: Param, bias: Param | None = None) -> Value:
        """Every column of x convolved with its own taps, weight (x.width, taps), over the token and those before it in its
        sequence."""
        taps = weight.shape[1]
        slot = self._state(x.width, taps - 1)
        w0, w1 = self.use(weight, "lanes"), self.use(bias, "f32")
        return self.emit("CONV", x.width, x, w0=w0, w1=w1, slot=slot, i=(taps, x.width))

    def scan(
        self, x: Value, dt: Value, a: Param, d: Param | None, *, heads: int, width: int, groups: int, states: int
    ) -> Value:
        """Selective state space (Gu & Dao 2023; with one decay per head, Dao & Gu 2024). x: `heads` heads of `width` columns,
        then B and C of `groups` groups of `states`; dt: a step per head; a: (heads, states) or (heads, 1), d: (heads) or
        (heads, 1)."""
        shared = int(a.shape[1] == 1)
        slot = self._state(heads * width, states)
        w0, w1 = self.use(a, "f32" if shared else "lanes"), self.use(d, "f32")
        i = (heads, width, groups, states, shared)
        return self.emit("SCAN", heads * width, x, dt, self._prefix + "scan", w0=w0, w1=w1, slot=slot, i=i)

    def delta(
        self, x: Value, rates: Value, a: Param, *, heads: int, width: int, groups: int, states: int, in_turn: bool, scale: float
    ) -> Value:
        """Gated delta rule (Yang et al. 2025). x: queries and keys of `groups` groups of `states`, then values of `heads` heads
        of `width` columns; rates: a step per head, then how much of the difference it learns; a: (heads). in_turn: neighbouring
        heads are of different groups; scale: of queries."""
        slot, label = self._state(heads * width, states), self._prefix + "delta"
        i, w0 = (heads, width, groups, states, int(in_turn)), self.use(a, "f32")
        return self.emit("DELTA", heads * width, x, rates, label, w0=w0, slot=slot, i=i, f=(scale,))

    def _state(self, channels: int, columns: int) -> int:
        self.slots.append(State(channels, columns))
        return len(self.slots) - 1

    def act(self, x: Value, name: str) -> Value:
        """An activation, by its name in ACTIVATIONS."""
        return self.emit("ACT", x.width, x, label=self._prefix + name, i=(ACTIVATIONS.index(name),))

    def glu(self, gate: Value, up: Value, name: str) -> Value:
        """act(gate) * up (Shazeer 2020)."""
        return self.emit("GLU", gate.width, gate, up, label=f"{self._prefix}{name}_glu", i=(ACTIVATIONS.index(name),))

    def add(self, a: Value, b: Value, label: str = "add") -> Value:
        return self.emit("ADD", a.width, a, b, self._prefix + label)

    def mul(self, a: Value, b: Value, label: str = "mul") -> Value:
        return self.emit("MUL", a.width, a, b, self._prefix + label)

    def scale(self, x: Value, factor: float, offset: float = 0.0, label: str = "scale") -> Value:
        """factor * x + offset; x itself when that changes nothing."""
        if factor == 1.0 and offset == 0.0:
            return x
        return self.emit("SCALE", x.width, x, label=self._prefix + label, f=(factor, offset))

    def softcap(self, x: Value, cap: float) -> Value:
        """cap * tanh(x / cap); x itself when cap is 0."""
        return self.emit("SOFTCAP", x.width, x, f=(cap,)) if cap else x

    def add_bias(self, x: Value, bias: Param) -> Value:
        return self.emit("ADD_BIAS", x.width, x, w0=self.use(bias, "f32"))

    def clamp(self, x: Value, low: float, high: float) -> Value:
        """x between low and high."""
        return self.emit("CLAMP", x.width, x, f=(low, high))

    def slice(self, x: Value, start: int, width: int, label: str = "slice", heads: int = 1) -> Value:
        """Columns start .. start+width, of each of `heads` heads."""
        return self.emit("SLICE", heads * width, x, label=self._prefix + label, i=(start, heads))

    def join(self, a: Value, b: Value, heads: int, width: int, label: str = "join") -> Value:
        """Heads of a and of b side by side, `width` columns together; b may have one head for all."""
        return self.emit("JOIN", heads * width, a, b, self._prefix + label, i=(heads,))

    # -- mixtures of experts

    def route(
        self,
        logits: Value,
        used: int,
        *,
        sigmoid: bool = False,
        bias: Param | None = None,
        groups: int = 1,
        groups_used: int = 1,
        by_two: bool = False,
        normalize: bool = False,
        scale: float = 1.0,
        factors: Param | None = None,
    ) -> Value:
        """The `used` experts of every token and their weights, for `experts` and `mix`. Scores are softmax or sigmoid of the
        logits (tokens, experts). `bias` counts for the choice alone (Wang et al. 2024); with groups only the best groups_used
        of them, by their best choice or sum of best two, take part (DeepSeek-AI 2024). Weights are the scores, normalized to
        a sum of 1 if asked for, times scale and the expert's own of `factors`. Softmax over the chosen alone is softmax,
        normalized."""
        w0, w1 = self.use(bias, "f32"), self.use(factors, "f32")
        i = (used, int(sigmoid), groups, groups_used, int(by_two), int(normalize))
        return self.emit("ROUTE", 2 * used, logits, label=f"{self._prefix}route", w0=w0, w1=w1, i=i, f=(scale,))

    def experts(self, x: Value, routes: Value, weight: Param, bias: Param | None = None) -> Value:
        """For every choice of routes a part: x, or the part of x in the same place, times the matrix of that expert; weight is
        (experts, outputs, inputs), bias (experts, outputs)."""
        used = routes.width // 2
        w0, w1 = self.use(weight, "matmul"), self.use(bias, "f32")
        return self.emit("EXPERTS", used * weight.shape[1], x, routes, w0=w0, w1=w1, i=(used,))

    def heads(self, x: Value, weight: Param) -> Value:
        """Head h of x times weight[h]; weight is (heads, outputs, inputs)."""
        heads, rows, _ = weight.shape
        return self.emit("HEADS", heads * rows, x, w0=self.use(weight, "matmul"), i=(heads,))

    def mix(self, parts: Value, weights: Value, used: int) -> Value:
        """The sum of `used` parts times the last `used` columns of weights."""
        return self.emit("MIX", parts.width // used, parts, weights, f"{self._prefix}mix", i=(used,))
