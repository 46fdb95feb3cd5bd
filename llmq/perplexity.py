"""Perplexity: how well a model predicts a text, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmq import _native
from llmq.errors import Cancelled

if TYPE_CHECKING:
    from llmq.model import LLM

__all__ = ["Perplexity", "cut", "perplexity"]


@dataclass(frozen=True)
class Perplexity:
    """`value` = exp(`nll`), nll in nats per token over `scored_tokens`; `error` is the standard error of `value`."""

    value: float
    error: float
    nll: float
    scored_tokens: int
    chunks: int
    n_ctx: int
    stride: int

    def __str__(self) -> str:
        return (
            f"perplexity {self.value:.4f} ± {self.error:.4f} "
            f"({self.scored_tokens} tokens scored in {self.chunks} chunks of {self.n_ctx}, one every {self.stride})"
        )


def perplexity(
    llm: LLM,
    text: str,
    *,
    n_ctx: int = 512,
    stride: int | None = None,
    max_chunks: int | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Perplexity:
    """Perplexity of `text` under `llm`.

    The text is tokenized once and cut into chunks of `n_ctx` tokens, one every `stride` (default: n_ctx). The first token of a
    chunk is replaced by BOS where the model wants one, and its later part is scored: the second half, so that each token has at
    least n_ctx / 2 before it, as llama-perplexity does (figures are comparable); with a stride below half of n_ctx the last
    `stride` tokens, so that none is scored twice. A remainder shorter than a chunk is left out.

    `progress` is called with ("perplexity", chunks done, chunks); returning False raises Cancelled. Raises ValueError for a
    text of less than a chunk and for values out of range."""
    windows, stride = cut(llm, text, n_ctx, stride, max_chunks)
    scored = min(n_ctx - n_ctx // 2 - 1, stride)
    total = squares = 0.0
    for chunk, window in enumerate(windows):
        for start, logits in llm.score(window[:-1], n_ctx - 1 - scored):
            targets = np.array(window[start + 1 : start + 1 + len(logits)], np.int32)
            nll = -_native.target_logprobs(logits, targets)
            total += float(nll.sum())
            squares += float(np.square(nll).sum())
        if progress is not None and progress("perplexity", chunk + 1, len(windows)) is False:
            raise Cancelled(f"the progress callback cancelled after {chunk + 1} of {len(windows)} chunks")
    n = len(windows) * scored
    mean = total / n
    deviation = math.sqrt(max(squares / n - mean * mean, 0.0) / max(n - 1, 1))
    value = of_nats(mean)
    return Perplexity(value, value * deviation, mean, n, len(windows), n_ctx, stride)


def of_nats(mean: float) -> float:
    """The perplexity of a mean of negative log-likelihoods; infinity for a broken model's that no float holds."""
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf


def cut(llm: LLM, text: str, n_ctx: int, stride: int | None, max_chunks: int | None) -> tuple[list[list[int]], int]:
    """The chunks of `text` as `perplexity` describes them, and the stride. ValueError for values out of range."""
    stride = n_ctx if stride is None else stride
    if not 4 <= n_ctx <= llm.n_ctx:
        raise ValueError(f"n_ctx: 4 to the model's {llm.n_ctx} expected, found {n_ctx}")
    if not 1 <= stride <= n_ctx:
        raise ValueError(f"stride: 1 to n_ctx ({n_ctx}) expected, found {stride}")
    if max_chunks is not None and max_chunks < 1:
        raise ValueError(f"max_chunks: at least 1 expected, found {max_chunks}")
    tokens = llm.tokenize(text)
    n_chunks = (len(tokens) - n_ctx) // stride + 1
    if n_chunks < 1:
        raise ValueError(f"the text has {len(tokens)} tokens; at least one chunk of {n_ctx} is needed")
    bos = llm.tokenizer.bos_id if llm.tokenizer.add_bos else None
    starts = [chunk * stride for chunk in range(min(n_chunks, max_chunks or n_chunks))]
    windows = [tokens[start : start + n_ctx] for start in starts]
    return windows if bos is None else [[bos, *window[1:]] for window in windows], stride
