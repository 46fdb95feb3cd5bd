"""Measuring importances: what the columns of every weight matrix are multiplied by when a model reads a text."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from llmq.arch import build_tape
from llmq.engine.base import Batch
from llmq.engine.ops import Array
from llmq.engine.reference import ReferenceEngine
from llmq.errors import Cancelled
from llmq.formats import open_checkpoint
from llmq.formats.atomic import check_destination
from llmq.graph.tape import Op, Tape
from llmq.quant.imatrix import Imatrix, Sums, read_imatrix, write_imatrix
from llmq.text.tokenizer import Tokenizer

__all__ = ["imatrix"]


def imatrix(
    model: str | os.PathLike[str],
    text: str,
    out: str | os.PathLike[str],
    *,
    n_ctx: int = 512,
    max_chunks: int | None = None,
    dataset: str = "",
    progress: Callable[[str, int, int], object] | None = None,
) -> Imatrix:
    """Write the importance matrix of `model` (a GGUF file or a Hugging Face folder) for `text` to the file `out`, in the GGUF
    format of llama-imatrix, and return it: per weight matrix the mean square of each input column, per expert where there are
    many.

    The text is tokenized once and cut into chunks of `n_ctx` tokens, read one by one from an empty context, the first token
    replaced by BOS where the model wants one; a remainder is left out. `dataset` is what the file calls the text. The reference
    engine computes, on float32 weights. `progress` is called with ("imatrix", chunks done, chunks); returning False raises
    Cancelled. Raises ModelFileError and OSError, and ValueError for a text of less than a chunk and for values out of range."""
    if max_chunks is not None and max_chunks < 1:
        raise ValueError(f"max_chunks: at least 1 expected, found {max_chunks}")
    with open_checkpoint(model) as checkpoint:
        check_destination(out, [source.identity for source in checkpoint.sources])
        tape = build_tape(checkpoint)
        if not 2 <= n_ctx <= tape.n_ctx_train:
            raise ValueError(f"n_ctx: 2 to the model's {tape.n_ctx_train} expected, found {n_ctx}")
        tokenizer = Tokenizer.from_metadata(checkpoint.metadata, path=checkpoint.path)
        tokens = np.array(tokenizer.encode(text), np.int32)
        n_chunks = min(len(tokens) // n_ctx, max_chunks or len(tokens))
        if n_chunks < 1:
            raise ValueError(f"the text has {len(tokens)} tokens; at least one chunk of {n_ctx} is needed")
        collector = _Collector(tape)
        with ReferenceEngine(tape, checkpoint.tensors, n_ctx=n_ctx) as engine:
            places = np.arange(n_ctx, dtype=np.int32)
            for chunk in range(n_chunks):
                window = tokens[chunk * n_ctx : (chunk + 1) * n_ctx].copy()
                if tokenizer.add_bos and tokenizer.bos_id is not None:
                    window[0] = tokenizer.bos_id
                seq = engine.new_sequence()
                engine.run(Batch(window, places, np.full(n_ctx, seq, np.int32), places), collector.watch)
                engine.free_sequence(seq)
                if progress is not None and progress("imatrix", chunk + 1, n_chunks) is False:
                    raise Cancelled(f"the progress callback cancelled after {chunk + 1} of {n_chunks} chunks")
        write_imatrix(out, collector.sums, [dataset] if dataset else [], n_chunks, n_ctx)
    return read_imatrix(out)


class _Collector:
    """Sums of squares of what every matrix of a tape is multiplied by."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.sums: dict[str, Sums] = {}

    def watch(self, n: int, op: Op, inputs: list[Array], output: Array | None) -> None:
        if op.kind not in ("MATMUL", "EXPERTS", "HEADS"):
            return
        weight = self.tape.weights[op.w0]
        *matrices, _, columns = weight.shape
        count = int(np.prod(matrices, dtype=np.int64))
        sums = self.sums.setdefault(weight.name, Sums(np.zeros((count, columns)), np.zeros(count)))
        squares = np.square(inputs[0], dtype=np.float64).reshape(len(inputs[0]), -1, columns)
        if op.kind != "EXPERTS":  # each head has columns of its own
            sums.squares[:] += squares.sum(axis=0)
            sums.counts[:] += len(squares)
            return
        ids = inputs[1][:, : op.i[0]].astype(np.int64)
        parts: npt.NDArray[np.float64] = np.broadcast_to(squares, (*ids.shape, columns))
        for expert in np.unique(ids):
            sums.squares[expert] += parts[ids == expert].sum(axis=0)
            sums.counts[expert] += np.count_nonzero(ids == expert)
