"""What every engine offers: sequences of tokens whose state it keeps, and one forward pass over a batch of them."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Batch", "Engine", "check_batch", "check_source", "check_types"]


@dataclass(frozen=True)
class Batch:
    """One forward pass over tokens of one or many sequences.

    Token t is `tokens[t]` at `positions[t]` of the sequence `sequences[t]` (all int32, shape (n,), n >= 1). The positions of
    one sequence are consecutive and start at its current length; tokens of different sequences may be mixed in any order.
    `outputs`, int32 (n_out,), are the indexes t whose logits are wanted, ascending; it may be empty. `types`, int32 (n,), are
    the kinds of token that encoders tell two texts apart by; None: all 0.
    """

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    sequences: npt.NDArray[np.int32]
    outputs: npt.NDArray[np.int32]
    types: npt.NDArray[np.int32] | None = None


class Engine(Protocol):
    """A model that is ready to run. `n_vocab` is the number of tokens and the width of the logits, `n_ctx` the number of
    positions of every sequence.

    Not for concurrent use: callers take turns. A sequence id that `new_sequence` or `fork` did not give, or that was freed, is
    a ValueError."""

    n_vocab: int
    n_ctx: int

    def new_sequence(self) -> int:
        """The id of a new, empty sequence."""

    def length(self, seq: int) -> int:
        """The number of tokens the sequence holds, 0..n_ctx."""

    def kept(self, seq: int, length: int) -> int:
        """How many of the first `length` tokens `truncate` and `fork` can keep: all of them, unless the tape has recurrent
        state. That can be cut back only to where a checkpoint of it was kept (csrc/states.h); what lies between must be run
        again."""

    def truncate(self, seq: int, length: int) -> int:
        """Forget the tokens at positions >= kept(seq, length); the new length."""

    def fork(self, seq: int, length: int) -> int:
        """A new sequence that starts as the first kept(seq, length) tokens of `seq`; the two are independent from then on."""

    def free_sequence(self, seq: int) -> None:
        """Forget the sequence and its id."""

    def encode(self, seq: int, tokens: npt.NDArray[np.int32]) -> None:
        """Run the encoder of an encoder–decoder on a text (int32 (n,), 1 <= n <= n_ctx): from now on `seq`, which must be
        empty, and what is forked from it attend to that text. ValueError for a tape without an encoder."""

    def source_length(self, seq: int) -> int:
        """The number of tokens that `encode` was given for the sequence, 0 if it was not called."""

    def run(self, batch: Batch, *, hidden: bool = False) -> npt.NDArray[np.float32]:
        """Append the batch to its sequences; the logits of its outputs, float32 (n_out, n_vocab), or with `hidden` the final
        hidden state, (n_out, n_embd), without computing logits.

        ValueError for a batch that breaks the rules of `Batch`, `Cancelled` or KeyboardInterrupt when stopped: then every
        sequence is as long as it was before."""

    def close(self) -> None:
        """Release everything; closing twice is allowed, any other use afterwards is `ModelClosedError`."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def check_batch(batch: Batch, lengths: dict[int, int], n_vocab: int, n_ctx: int) -> None:
    """Raise ValueError unless the batch keeps the rules of `Batch`. `lengths` maps every live sequence to its length."""
    n = len(batch.tokens)
    for name in ("tokens", "positions", "sequences", "outputs"):
        array = getattr(batch, name)
        if array.dtype != np.int32 or array.ndim != 1:
            raise ValueError(f"batch.{name}: int32 of one dimension expected, found {array.dtype} of shape {array.shape}")
        if name != "outputs" and len(array) != n:
            raise ValueError(f"batch.{name}: {n} entries expected, found {len(array)}")
    if n == 0:
        raise ValueError("batch: at least one token is needed")
    bad = np.flatnonzero((batch.tokens < 0) | (batch.tokens >= n_vocab))
    if len(bad):
        raise ValueError(f"batch.tokens: ids 0..{n_vocab - 1} expected, found {batch.tokens[bad[0]]} at index {bad[0]}")
    out = batch.outputs
    if len(out) and (out[0] < 0 or out[-1] >= n or (np.diff(out) <= 0).any()):
        raise ValueError(f"batch.outputs: ascending token indexes 0..{n - 1} expected")
    for seq in np.unique(batch.sequences).tolist():
        if seq not in lengths:
            raise ValueError(f"batch.sequences: no sequence has the id {seq}")
        found = batch.positions[batch.sequences == seq]
        start = lengths[seq]
        if start + len(found) > n_ctx:
            raise ValueError(f"sequence {seq}: {start} + {len(found)} tokens do not fit into a context of {n_ctx}")
        if not np.array_equal(found, np.arange(start, start + len(found), dtype=np.int32)):
            raise ValueError(f"sequence {seq}: positions counting up from {start} expected, found {found[:4].tolist()}…")


def check_types(batch: Batch, n_types: int) -> None:
    """Raise ValueError unless every token's type is one of 0..n_types-1."""
    types = batch.types
    if types is None:
        return
    if types.dtype != np.int32 or types.shape != batch.tokens.shape:
        raise ValueError(f"batch.types: {len(batch.tokens)} int32 expected, found {types.dtype} of shape {types.shape}")
    bad = np.flatnonzero((types < 0) | (types >= n_types))
    if len(bad):
        raise ValueError(f"batch.types: 0..{n_types - 1} expected, found {types[bad[0]]} at index {bad[0]}")


def check_source(sources: dict[int, int], batch: Batch) -> None:
    """Raise ValueError unless every sequence of the batch has a source. `sources` maps sequences to the lengths of theirs."""
    for seq in np.unique(batch.sequences).tolist():
        if not sources.get(seq):
            raise ValueError(f"sequence {seq}: the encoder must run first (encode)")
