"""What generating gives back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmq.session import Generation, Scheduler

__all__ = ["ChatReply", "Chunk", "Completion", "FinishReason", "Stream", "Timings", "TokenLogprob", "Usage"]

FinishReason = str
""""stop": the model ended, or a stop string or stop id came; "length": max_tokens or the context is used up."""


@dataclass(frozen=True)
class TokenLogprob:
    """One generated token under the raw distribution of the model (softmax of the logits, before any sampling): its natural log
    probability, and the most probable tokens as (id, log probability), best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Usage:
    """Token counts. `cached_tokens` of the prompt were taken from an earlier request and not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """Wall-clock figures of one request. `ttft`: seconds from the call to the first token (waiting in the queue included).
    `tpot`: mean seconds per token after the first. `prompt_tps`: computed prompt tokens per second of prompt processing.
    `gen_tps`: generated tokens per second after the first. 0.0 where there is nothing to divide."""

    ttft: float = 0.0
    tpot: float = 0.0
    prompt_tps: float = 0.0
    gen_tps: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """A piece of a stream: `text` never ends inside a UTF-8 character or in what may become a stop string. The texts of all
    chunks make the completion's text, their tokens its tokens. The last chunk has a `finish_reason` (and perhaps no text)."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None
    finish_reason: FinishReason | None
    usage: Usage
    timings: Timings
    seed: int


@dataclass(frozen=True)
class Completion:
    """A finished generation. `tokens` are the generated ids without the one that ended it; `text` is without the stop string.
    `logprobs` is None unless asked for. `seed` is the one that was used. `others` are the further completions of n > 1."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    usage: Usage
    timings: Timings
    seed: int
    others: tuple[Completion, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class ChatReply(Completion):
    """A completion of a chat; `message` is the turn to append to the messages."""

    @property
    def message(self) -> dict[str, str]:
        return {"role": "assistant", "content": self.text}


class Stream(Iterator[Chunk]):
    """The chunks of one generation as they come. Closing it (or leaving its `with`, or dropping it) cancels."""

    def __init__(self, scheduler: Scheduler, generation: Generation) -> None:
        self._scheduler = scheduler
        self._generation = generation
        self._ended = False

    def __next__(self) -> Chunk:
        generation = self._generation
        if self._ended:
            raise StopIteration
        try:
            self._scheduler.wait(lambda: generation.news, generation.event)
        except BaseException:
            self.close()
            raise
        if generation.error is not None:
            self._ended = True
            raise generation.error
        if generation.cancelled:
            self._ended = True
            raise StopIteration
        self._ended = generation.finish is not None
        return generation.take()

    def close(self) -> None:
        """Stop generating. Does nothing when it has ended."""
        self._ended = True
        self._scheduler.cancel(self._generation)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            self.close()
