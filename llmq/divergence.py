"""How far a model's predictions are from those of another, usually of itself before quantizing: Kullback-Leibler divergence."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmq.errors import Cancelled
from llmq.perplexity import cut, of_nats

if TYPE_CHECKING:
    from llmq.model import LLM

__all__ = ["PERCENTILES", "Divergence", "kl_divergence"]

PERCENTILES = (0.0, 1.0, 5.0, 10.0, 50.0, 90.0, 95.0, 99.0, 99.9, 100.0)
_AT_ONCE = 1 << 22  # logits: what is computed beside them stays small

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Divergence:
    """Over `scored_tokens` positions of a text, P the reference's distribution of the next token and Q the model's:

    mean            KL(P || Q) = sum of P log(P / Q), in nats per token, and its standard error `error`
    percentiles     of the divergences, by percentage; 0 is the least, 100 the greatest
    same_top        share of positions where both find the same token most probable, and its standard error
    rms_p, mean_p   Q - P of the token that follows in the text: root mean square and mean, 0 to 1
    perplexity, reference_perplexity    of both on these positions
    """

    mean: float
    error: float
    percentiles: dict[float, float]
    same_top: float
    same_top_error: float
    rms_p: float
    mean_p: float
    perplexity: float
    reference_perplexity: float
    scored_tokens: int
    chunks: int
    n_ctx: int
    stride: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        names = {0.0: "least", 50.0: "median", 100.0: "greatest"}
        rows = [(names.get(p, f"{p:g} %"), f"{value:.6f}") for p, value in sorted(self.percentiles.items(), reverse=True)]
        return "\n".join(
            [
                f"KL divergence {self.mean:.6f} ± {self.error:.6f} nats per token "
                f"({self.scored_tokens} tokens scored in {self.chunks} chunks of {self.n_ctx}, one every {self.stride})",
                *(f"  {name:<9} {value:>11}" for name, value in rows),
                f"same most probable token {100 * self.same_top:.2f} ± {100 * self.same_top_error:.2f} %",
                f"probability of the text's token differs by {100 * self.rms_p:.3f} % (rms), {100 * self.mean_p:+.3f} % (mean)",
                f"perplexity {self.perplexity:.4f}, of the reference {self.reference_perplexity:.4f}",
            ]
        )


def kl_divergence(
    ref: LLM | str | os.PathLike[str],
    model: LLM | str | os.PathLike[str],
    text: str,
    *,
    n_ctx: int = 512,
    stride: int | None = None,
    max_chunks: int | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Divergence:
    """How far `model` predicts `text` otherwise than `ref`: two models of one vocabulary, each an `LLM` or a path to load.

    Chunks and scored positions are those of `LLM.perplexity`, and of llama-perplexity --kl-divergence, whose figures these are;
    it rounds the reference's logits to 16 bits, which is not done here. `progress` is called with ("kl_divergence", chunks
    done, chunks); returning False raises Cancelled. Raises ValueError for different vocabularies, one model given twice, a
    text of less than a chunk, and values out of range; for paths what `load` raises."""
    from llmq.loading import load  # noqa: PLC0415 - `import llmq` stays fast
    from llmq.model import LLM  # noqa: PLC0415

    with ExitStack() as stack:
        one, other = (m if isinstance(m, LLM) else stack.enter_context(load(m, n_ctx=n_ctx)) for m in (ref, model))
        if one is other:
            raise ValueError("ref and model are one LLM, which does not differ from itself; load the second")
        windows, stride = cut(one, text, n_ctx, stride, max_chunks)
        if one.n_vocab != other.n_vocab or cut(other, text, n_ctx, stride, max_chunks)[0] != windows:
            raise ValueError(
                f"the models do not share a vocabulary: {one.n_vocab} and {other.n_vocab} tokens"
                + (", and another id for the same text" if one.n_vocab == other.n_vocab else "")
            )
        first = n_ctx - 1 - min(n_ctx - n_ctx // 2 - 1, stride)
        found = []
        for chunk, window in enumerate(windows):
            pieces = one.score(window[:-1], first), other.score(window[:-1], first)
            for start, p, q in _side_by_side(*pieces, id(one) < id(other)):
                found.append(_compare(p, q, window[start + 1 : start + 1 + len(p)]))
            if progress is not None and progress("kl_divergence", chunk + 1, len(windows)) is False:
                raise Cancelled(f"the progress callback cancelled after {chunk + 1} of {len(windows)} chunks")
    return _summary(np.concatenate(found, axis=1), len(windows), n_ctx, stride)


Pieces = Iterator[tuple[int, npt.NDArray[np.float32]]]


def _side_by_side(
    ps: Pieces, qs: Pieces, p_first: bool
) -> Iterator[tuple[int, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """The logits of the same positions, of two models that may cut them otherwise: (position, P's, Q's). Each model is held
    from its first piece on: all threads must take two of them in the same order."""
    if not p_first:
        _, q = next(qs)
    start, p = next(ps)
    if p_first:
        _, q = next(qs)
    while True:
        n = min(len(p), len(q), max(1, _AT_ONCE // p.shape[1]))
        yield start, p[:n], q[:n]
        p, q, start = p[n:], q[n:], start + n
        if not len(p):
            p = next(ps, (0, p))[1]
        if not len(q):
            q = next(qs, (0, q))[1]
        if not len(p) or not len(q):
            return


def _compare(p: npt.NDArray[np.float32], q: npt.NDArray[np.float32], follows: Sequence[int]) -> Doubles:
    """Per position: divergence, whether the most probable token is the same, and log P and log Q of what follows; (4, n)."""
    targets = np.array(follows, np.int32)
    rows = np.arange(len(targets))
    log_p, log_q = _log_softmax(p), _log_softmax(q)
    with np.errstate(invalid="ignore"):  # what P excludes counts nothing, whatever Q says
        terms = np.where(log_p > -np.inf, np.exp(log_p) * (log_p - log_q), 0)
    return np.stack([terms.sum(1), p.argmax(1) == q.argmax(1), log_p[rows, targets], log_q[rows, targets]])


def _log_softmax(logits: npt.NDArray[np.float32]) -> Doubles:
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    x -= np.log(np.exp(x).sum(1, keepdims=True))
    if np.isnan(x).any():
        raise ValueError("the model's logits are no numbers (NaN or infinity)")
    return x


def _summary(found: Doubles, chunks: int, n_ctx: int, stride: int) -> Divergence:
    divergence, same, log_p, log_q = found
    n = len(divergence)
    agreed = float(same.mean())
    error = float(divergence.std()) / math.sqrt(max(n - 1, 1))
    at = dict(zip(PERCENTILES, np.percentile(divergence, PERCENTILES).tolist(), strict=True))
    shift = np.exp(log_q) - np.exp(log_p)
    rms, mean = float(np.sqrt(np.square(shift).mean())), float(shift.mean())
    ppl, ref_ppl = (of_nats(-float(x.mean())) for x in (log_q, log_p))
    same_error = math.sqrt(agreed * (1 - agreed) / max(n - 1, 1))
    return Divergence(
        float(divergence.mean()), error, at, agreed, same_error, rms, mean, ppl, ref_ppl, n, chunks, n_ctx, stride
    )
