"""The tape: a model as a static list of ops over values, weights and state slots.

A value is a float32 matrix (tokens, width) that one op writes and later ops read. There is no control flow: layers are
unrolled, and the positions, sequences and state of a batch belong to the engine that runs the tape. The kinds of op, what
each reads and what its integers and floats mean stand in csrc/ops.def (docs/ops.md); the arrays of a `Tape` are the structs
of csrc/llmq.h byte for byte."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from llmq import _native
from llmq.quant.types import QuantType

__all__ = [
    "ACTIVATIONS",
    "ALIGN",
    "BODY",
    "ENCODE",
    "HEAD",
    "KINDS",
    "MAX_EXPERTS",
    "MAX_TAPS",
    "OP_DTYPE",
    "VALUE_DTYPE",
    "Kind",
    "Op",
    "Output",
    "Slot",
    "State",
    "Tape",
    "Weight",
]


class Kind(NamedTuple):
    """A row of csrc/ops.def: what an op of this kind reads."""

    name: str
    reads_a: bool
    reads_b: bool
    weights: int
    state: bool
    doc: str


KINDS: dict[str, Kind] = {row[0]: Kind(*row) for row in _native.op_kinds()}
KIND_NAMES = tuple(KINDS)

OP_DTYPE: np.dtype[np.void]
VALUE_DTYPE: np.dtype[np.void]
OP_DTYPE, VALUE_DTYPE = _native.tape_dtypes()

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid", "tanh", "gelu_quick", "softplus")
"""The functions of ACT and GLU, in the order of i0."""

MAX_EXPERTS = _native.MAX_EXPERTS
"""A router chooses among so many at most."""

BODY, HEAD, ENCODE = range(3)
"""The parts of a tape: up to the final hidden state; from there to the logits; the encoder of an encoder–decoder."""

Output = Literal["logits", "hidden", "scores"]
"""What a tape computes: of every next token, the final hidden state, or of labels for a whole text."""

MAX_TAPS = _native.MAX_TAPS
"""A convolution looks at so many tokens at most."""

MAX_POSITIONS = 1 << 30
"""No sequence is longer."""

ALIGN = 16
"""Arena offsets and the room of every value are multiples of this many floats (64 bytes)."""


@dataclass(frozen=True)
class Op:
    """One op. `out`, `a`, `b` are value ids, `w0`, `w1` weight ids, `slot` a state slot; -1: none. `i` and `f` are filled
    up to 8 and 4 with zeros. `label` says where it stands in the model ("blk.0.attn_q"). `part`: BODY, HEAD or ENCODE."""

    kind: str
    out: int = -1
    a: int = -1
    b: int = -1
    w0: int = -1
    w1: int = -1
    slot: int = -1
    i: tuple[int, ...] = ()
    f: tuple[float, ...] = ()
    label: str = ""
    part: int = BODY

    def __post_init__(self) -> None:
        object.__setattr__(self, "i", self.i + (0,) * (8 - len(self.i)))
        object.__setattr__(self, "f", self.f + (0.0,) * (4 - len(self.f)))

    @property
    def inputs(self) -> tuple[int, ...]:
        """The values it reads."""
        return tuple(v for v in (self.a, self.b) if v >= 0)

    @property
    def weights(self) -> tuple[int, ...]:
        """The weights it reads."""
        return tuple(w for w in (self.w0, self.w1) if w >= 0)


@dataclass(frozen=True)
class Weight:
    """A tensor that ops read: of the checkpoint, by its name, or a table that the graph computed (`data`, float32).

    `uses` says how: "matmul" (packed), "rows" (looked up by EMBED), "f32" (norms, biases, tables), "lanes" (a matrix with a row
    for each channel of a recurrent op)."""

    name: str
    shape: tuple[int, ...]
    type: QuantType
    uses: frozenset[str]
    data: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.type.nbytes(int(np.prod(self.shape)))


@dataclass(frozen=True)
class Slot:
    """The keys and values of one attention layer: per token `heads` heads of `k_dim` and `v_dim` numbers. No op looks
    further back than `window` tokens (0: to the start)."""

    heads: int
    k_dim: int
    v_dim: int
    window: int = 0


@dataclass(frozen=True)
class State:
    """What a recurrent op carries from token to token: `columns` numbers (the rows before for a convolution, the states of a
    scan) for each of `channels`."""

    channels: int
    columns: int


@dataclass(frozen=True)
class Tape:
    """A program that is ready to run: immutable, verified, shared by threads.

    ops: OP_DTYPE (n_ops,), read-only; values: VALUE_DTYPE (n_values,), read-only. Value v of a batch of n tokens is the
    float32 matrix (n, width), or (n_out, width) when its `tail` is 1, row after row from arena[offset * n]. `arena` is the
    number of floats per token. `result` is the value that a run gives back, (n_out, width); `output` says
    what it is. `hidden` is the final hidden state, (n_out, n_embd), which BODY ends with and a run can give back instead (-1:
    it has none); in a model without a head it is the result."""

    arch: str
    ops: npt.NDArray[Any]
    values: npt.NDArray[Any]
    weights: tuple[Weight, ...]
    slots: tuple[Slot | State, ...]
    labels: tuple[str, ...]
    result: int
    arena: int
    n_vocab: int
    n_embd: int
    n_layer: int
    n_ctx_train: int
    hidden: int = -1
    output: Output = "logits"

    @property
    def causal(self) -> bool:
        """Whether a token's state depends on the tokens before it only."""
        attention = (self.ops["kind"] == KIND_NAMES.index("ATTN")) & (self.ops["part"] == BODY)
        return not (self.ops["i"][attention, 5] == 1).any()

    @property
    def generates(self) -> bool:
        """Whether the result says what the next token may be."""
        return self.output == "logits" and self.causal

    @property
    def width(self) -> int:
        """Columns of the result: n_vocab when it is the logits."""
        return int(self.values["width"][self.result])

    def asked(self, *, hidden: bool) -> tuple[tuple[int, ...], int]:
        """The parts that a run goes through and the value it gives back: the final hidden state, or the result. ValueError
        when there is no such state."""
        if hidden and self.hidden < 0:
            raise ValueError(f"{self.arch}: the tape has no final hidden state")
        return ((BODY,), self.hidden) if hidden else ((BODY, HEAD), self.result)

    @cached_property  # asked before every run
    def has_encoder(self) -> bool:
        """Whether it is an encoder–decoder."""
        return bool((self.ops["part"] == ENCODE).any())

    @property
    def max_positions(self) -> int:
        """How many positions a sequence may have at most: the rows of the smallest table that is looked up by position."""
        return min(self._rows_looked_up(1), default=MAX_POSITIONS)

    @property
    def bytes_per_token(self) -> int:
        """How many bytes of matrices one token reads: of experts those that it uses."""
        whole = sum(w.nbytes for w in self.weights if "matmul" in w.uses)
        stacks = [self.op(n) for n in np.flatnonzero(self.ops["kind"] == KIND_NAMES.index("EXPERTS")).tolist()]
        unused = ((op.w0, self.weights[op.w0].shape[0] - op.i[0]) for op in stacks)
        return whole - sum(self.weights[w].nbytes // self.weights[w].shape[0] * n for w, n in unused)

    @cached_property  # asked before every run
    def n_types(self) -> int:
        """How many types of token there are."""
        return min(self._rows_looked_up(2), default=1)

    def _rows_looked_up(self, by: int) -> list[int]:
        tables = (self.op(n) for n in np.flatnonzero(self.ops["kind"] == KIND_NAMES.index("EMBED")).tolist())
        return [self.weights[op.w0].shape[0] for op in tables if op.i[0] == by]

    def op(self, n: int) -> Op:
        """Op n as Python reads it."""
        kind, out, a, b, w0, w1, slot, part, i, f = self.ops[n].item()
        return Op(KIND_NAMES[kind], out, a, b, w0, w1, slot, tuple(i.tolist()), tuple(f.tolist()), self.labels[n], part)
