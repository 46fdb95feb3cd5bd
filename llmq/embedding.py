"""Texts to vectors, and how well documents answer a query: what `LLM.embed` and `LLM.rerank` do.

Texts are packed into batches as whole sequences, so each sees only itself. The last layer's state of every token becomes one
vector per text by pooling: the mean, the first token (BERT's [CLS]) or the last one. Which of them a model was trained for
stands in its file (`{architecture}.pooling_type`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from llmq.arch.fields import Fields
from llmq.engine.base import Batch, Engine
from llmq.errors import ContextOverflowError, FormatError

if TYPE_CHECKING:
    from llmq.formats.checkpoint import MetaValue
    from llmq.graph.tape import Tape
    from llmq.model import LLM, Prompt

__all__ = ["Pooling", "decoder_start", "embed", "pooling_of", "rerank"]

Pooling = Literal["none", "mean", "cls", "last", "rank"]
"""In the order of GGUF's pooling_type; "rank" is that of a model whose head scores a pair of texts."""

Vectors = npt.NDArray[np.float32]
Piece = tuple[list[int], list[int]]
"""The tokens of a text and the type of each."""


def pooling_of(metadata: Mapping[str, MetaValue], tape: Tape) -> Pooling:
    """What the file says, or else the last token of a decoder and the mean of an encoder. FormatError for a number that means
    nothing."""
    default = get_args(Pooling).index("last" if tape.causal else "mean")
    number = Fields(metadata, prefix=f"{tape.arch}.").integer("pooling_type", low=0, high=2**16, default=default)
    if number >= len(get_args(Pooling)):
        raise FormatError(f"{tape.arch}.pooling_type: 0 to {len(get_args(Pooling)) - 1} expected, found {number}")
    pooling: Pooling = get_args(Pooling)[number]
    return pooling


def embed(llm: LLM, texts: Prompt | Sequence[Prompt], pooling: Pooling | None, *, normalize: bool) -> Vectors | list[Vectors]:
    """See `LLM.embed`."""
    if not hasattr(texts, "__getitem__") or isinstance(texts, Mapping):
        raise TypeError(f"embed: a text, token ids, or a sequence of these expected, found {type(texts).__name__}")
    one = isinstance(texts, str) or (len(texts) > 0 and isinstance(texts[0], int | np.integer))
    vectors = _embed(llm, cast("list[Prompt]", [texts] if one else list(texts)), pooling, normalize=normalize)
    if one:
        return vectors[0]
    width = 0 if llm.tape is None else llm.tape.n_embd
    return vectors if (pooling or llm.pooling) == "none" else np.array(vectors, np.float32).reshape(len(vectors), width)


def _embed(llm: LLM, texts: list[Prompt], pooling: Pooling | None, *, normalize: bool) -> list[Vectors]:
    if llm.decoder_start is not None:
        raise ValueError(f"{llm.name} is an encoder–decoder, whose states are made for its decoder; embed takes no such model")
    chosen = pooling or llm.pooling
    if chosen not in get_args(Pooling)[:-1]:
        names = ", ".join(repr(name) for name in get_args(Pooling)[:-1])
        why = "this model ranks pairs of texts (see rerank)" if pooling is None else f"found {pooling!r}"
        raise ValueError(f"pooling: {names} expected; {why}")
    pieces = [_piece(llm, n, text) for n, text in enumerate(texts)]
    out = []
    for states in _states(llm, pieces, chosen, hidden=True):
        vectors = states if chosen == "none" else states.mean(axis=0, dtype=np.float64)[None]
        if normalize:
            length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
            vectors = vectors / np.where(length > 0, length, 1.0)
        vectors = vectors.astype(np.float32)
        out.append(vectors if chosen == "none" else vectors[0])
    return out


def rerank(llm: LLM, query: str, docs: Sequence[str]) -> Vectors:
    """See `LLM.rerank`."""
    tape = llm.tape
    if tape is None or tape.output != "scores" or tape.width != 1:
        what = "gives vectors" if tape is None or tape.output != "scores" else f"gives {tape.width} labels"
        raise ValueError(f"rerank: a model with a head that scores a pair of texts expected; {llm.name} {what}")
    pieces = [_pair(llm, query, doc) for doc in docs]
    return np.array([scores[0, 0] for scores in _states(llm, pieces, "cls", hidden=False)], np.float32)


def _piece(llm: LLM, n: int, text: Prompt) -> Piece:
    tokens = llm.tokenize(text) if isinstance(text, str) else llm.tokens(text)
    if not tokens:
        raise ValueError(f"text {n} has no tokens")
    return tokens, [0] * len(tokens)


def _pair(llm: LLM, query: str, doc: str) -> Piece:
    # [CLS] query [SEP] doc [SEP] of BERT, <s> query </s></s> doc </s> of RoBERTa
    tokenizer = llm.tokenizer
    first, second = llm.tokenize(query), llm.tokenize(doc, add_special=False)
    ends = first[-1:] if tokenizer.add_sep or tokenizer.add_eos else []
    second = [*(ends if tokenizer.model != "bert" else []), *second, *ends]
    types = int(llm.tape is not None and llm.tape.n_types > 1)
    return [*first, *second], [0] * len(first) + [types] * len(second)


def _states(llm: LLM, pieces: list[Piece], pooling: str, *, hidden: bool) -> Iterator[Vectors]:
    """For every text the rows that its pooling looks at."""
    for tokens, _ in pieces:
        if len(tokens) > llm.n_ctx:
            raise ContextOverflowError(len(tokens), llm.n_ctx)
    at = 0
    while at < len(pieces):
        end, n = at, 0
        while end < len(pieces) and (end == at or n + len(pieces[end][0]) <= llm.n_batch):
            n += len(pieces[end][0])
            end += 1
        with llm.alone() as engine:
            yield from _run(engine, pieces[at:end], pooling, hidden=hidden)
        at = end


def _run(engine: Engine, pieces: list[Piece], pooling: str, *, hidden: bool) -> list[Vectors]:
    lengths = [len(tokens) for tokens, _ in pieces]
    starts = np.cumsum([0, *lengths])
    ids: list[int] = []
    try:
        for _ in pieces:
            ids.append(engine.new_sequence())
        wanted = [_rows(int(start), n, pooling) for start, n in zip(starts, lengths, strict=False)]
        types = np.concatenate([np.array(types, np.int32) for _, types in pieces])
        batch = Batch(
            np.concatenate([np.array(tokens, np.int32) for tokens, _ in pieces]),
            np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
            np.repeat(np.array(ids, np.int32), lengths),
            np.concatenate(wanted),
            types if types.any() else None,
        )
        rows = engine.run(batch, hidden=hidden)
    finally:
        for seq in ids:
            engine.free_sequence(seq)
    return np.split(rows, np.cumsum([len(w) for w in wanted])[:-1])


def _rows(start: int, n: int, pooling: str) -> npt.NDArray[np.int32]:
    first, end = {"cls": (0, 1), "last": (n - 1, n)}.get(pooling, (0, n))
    return np.arange(start + first, start + end, dtype=np.int32)


def decoder_start(metadata: Mapping[str, MetaValue], tape: Tape, bos_id: int | None, path: str) -> int | None:
    """What the decoder of an encoder–decoder begins with, BOS where the file does not say; None for any other model."""
    if not tape.has_encoder:
        return None
    fields = Fields(metadata, path, f"{tape.arch}.")
    return fields.integer("decoder_start_token_id", low=0, high=tape.n_vocab - 1, default=bos_id)
