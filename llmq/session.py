"""The scheduler: many generations on one engine, each as if it were alone.

There is no thread behind it. Whoever waits for a result takes the turn and runs steps for everybody; the others sleep until
theirs is there. A step runs one chunk of one prompt, then one token of every sequence that is past its prompt, in one batch.

So that company changes nothing, prompts never share a batch with anything and at most MAX_ACTIVE sequences are decoded
together: small batches are bit-equal to lone ones in the native engine. A reused prefix leaves fewer prompt tokens to compute,
which may be another kernel than the whole prompt would use; the difference is the one between those kernels (ARCHITECTURE.md,
Numbers).

Ctrl-C raises at any point of the main thread. What is true of a generation is therefore only its tokens; what the engine holds
is asked of the engine, the rest is derived, so the next step repairs whatever an interrupted one left behind.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from llmq import _native
from llmq.engine.base import Batch, Engine
from llmq.errors import Cancelled, ContextOverflowError, LlmqError, ModelClosedError
from llmq.results import Chunk, FinishReason, Timings, TokenLogprob, Usage
from llmq.sampling import Sampling

__all__ = ["Generation", "Overflow", "Scheduler", "TextOutput", "fit_prompt", "fit_source"]

Overflow = Literal["error", "truncate_left", "shift"]

MAX_ACTIVE = 16
MAX_IDLE = 8
_SHARED = 16  # a prefix shorter than this is not worth waiting for or copying
_NAP = 0.05  # seconds; waiters are woken, this only bounds what a lost wake-up costs

Logits = npt.NDArray[np.float32]
_T = TypeVar("_T")


class TextOutput(Protocol):
    """Tokens to text: detokenizer and stop strings."""

    @property
    def stopped(self) -> bool:
        """A stop string came; there is nothing more."""

    def push(self, token: int) -> str:
        """The text that is certain now."""

    def finish(self) -> str:
        """The rest."""


def fit_prompt(
    prompt: Sequence[int], n_ctx: int, max_tokens: int | None, overflow: Overflow, keep: int
) -> tuple[array[int], int]:
    """The prompt as it will be used and the most tokens that may follow it. A prompt that leaves no room for a token is a
    ContextOverflowError, or loses tokens after the first `keep` until max_tokens (at most half of the context) fit."""
    n = len(prompt)
    if n >= n_ctx:
        if overflow == "error":
            raise ContextOverflowError(n, n_ctx)
        room = max(1, min(max_tokens or n_ctx // 4, n_ctx // 2))
        tail = n_ctx - room - keep
        prompt = [*prompt[:keep], *(prompt[-tail:] if tail > 0 else ())]
    left = n_ctx - len(prompt)
    if max_tokens is None:
        return array("i", prompt), left
    return array("i", prompt), max_tokens if overflow == "shift" else min(max_tokens, left)


def fit_source(tokens: Sequence[int], n_ctx: int, overflow: Overflow) -> Sequence[int]:
    """What the encoder is given: the tokens, or without an error of overflow the last of those that are too many."""
    if len(tokens) > n_ctx and overflow == "error":
        raise ContextOverflowError(len(tokens), n_ctx)
    return tokens[-n_ctx:]


class Generation:
    """One prompt being continued. The thread that has the turn writes it; the thread that waits for it reads it."""

    def __init__(
        self,
        prompt: array[int],
        limit: int,
        sampling: Sampling,
        sampler: _native.Sampler,
        output: Callable[[], TextOutput],
        *,
        stop_ids: frozenset[int],
        keep: int,
        event: threading.Event,
        source: tuple[int, ...] | None = None,
    ) -> None:
        assert sampling.seed is not None
        self.prompt_tokens = len(prompt)
        self.context = prompt  # what the engine is to hold: the prompt and what follows, without what was shifted out
        self.limit = limit
        self.keep = keep
        self.shifted = 0  # tokens that left the context
        self.seed = sampling.seed
        self.event = event
        self.source = source  # what the encoder of an encoder–decoder is given
        self.seq: int | None = None
        self.cached_tokens = 0
        self.prompt_logits: Logits | None = None
        self.cancelled = False
        self.error: BaseException | None = None
        self.finish: FinishReason | None = None
        self._sampler = sampler
        self._n_logprobs = sampling.logprobs
        self._stop_ids = stop_ids
        self._output = output
        # the truth is `_sampled`; the rest is worked out from it
        self._sampled: list[int] = []
        self._logprobs: dict[int, TokenLogprob] = {}
        self._begin()
        self._taken_tokens = self._taken_text = 0
        self._submitted = time.perf_counter()
        self._first = self._last = 0.0
        self.prompt_seconds = 0.0

    def _begin(self) -> None:
        self._decoder = self._output()
        self._text = ""
        self.tokens: list[int] = []
        self._read = 0

    @property
    def done(self) -> bool:
        """Nothing more will come."""
        return self.finish is not None or self.error is not None or self.cancelled

    @property
    def news(self) -> bool:
        """Something for a stream: text, or the end."""
        return self.done or len(self._text) > self._taken_text

    @property
    def started(self) -> bool:
        return bool(self._sampled)

    def sample(self, logits: Logits, n_ctx: int) -> None:
        """Draw the next token and take it in."""
        step = len(self._sampled)
        token = self._sampler.sample(logits, self.context, step)
        if self._n_logprobs:
            logprob, top = _native.top_logprobs(logits, token, min(self._n_logprobs, len(logits)))
            self._logprobs[step] = TokenLogprob(token, logprob, tuple(top))
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self._sampled.append(token)
        self.take_in(n_ctx)

    def repair(self, n_ctx: int) -> None:
        """After an interrupted step: work everything out again from the tokens drawn."""
        if not self.done:
            self._begin()
            self.take_in(n_ctx)

    def take_in(self, n_ctx: int) -> None:
        """Tokens drawn but not yet part of the text."""
        finish: FinishReason | None = None
        if self.limit == 0:
            finish = "length"
        while self._read < len(self._sampled) and finish is None:
            token = self._sampled[self._read]
            self._read += 1
            if token in self._stop_ids:
                finish = "stop"
                break
            self.tokens.append(token)
            self._text += self._decoder.push(token)
            if self._decoder.stopped:
                finish = "stop"
            elif len(self.tokens) >= self.limit:
                finish = "length"
        missing = len(self.tokens) - (len(self.context) + self.shifted - self.prompt_tokens)
        if missing > 0:
            self.context.extend(self.tokens[-missing:])
        if finish is not None:
            if not self._decoder.stopped:
                self._text += self._decoder.finish()
            self.finish = finish

    def shift(self) -> None:
        """Drop the older half of the context after the first `keep` tokens."""
        drop = (len(self.context) - self.keep + 1) // 2
        self.context, self.shifted = self.context[: self.keep] + self.context[self.keep + drop :], self.shifted + drop

    def take(self) -> Chunk:
        """What a stream has not seen yet."""
        text, tokens = self._text[self._taken_text :], tuple(self.tokens[self._taken_tokens :])
        chunk = Chunk(text, tokens, self.logprobs(self._taken_tokens), self.finish, self.usage(), self.timings(), self.seed)
        self._taken_text += len(text)
        self._taken_tokens += len(tokens)
        return chunk

    @property
    def text(self) -> str:
        return self._text

    def logprobs(self, start: int = 0) -> tuple[TokenLogprob, ...] | None:
        if not self._n_logprobs:
            return None
        return tuple(self._logprobs[i] for i in range(start, len(self.tokens)))

    def usage(self) -> Usage:
        return Usage(self.prompt_tokens + len(self.source or ()), len(self.tokens), self.cached_tokens)

    def timings(self) -> Timings:
        if not self._first:
            return Timings()
        computed = self.prompt_tokens - self.cached_tokens
        seconds, n = self._last - self._first, len(self._sampled) - 1
        return Timings(
            ttft=self._first - self._submitted,
            tpot=seconds / n if n else 0.0,
            prompt_tps=computed / self.prompt_seconds if self.prompt_seconds else 0.0,
            gen_tps=n / seconds if seconds else 0.0,
        )


@dataclass
class _Idle:
    """A sequence that nobody uses, kept for its prefix. `logits` follow the first `n_logits` tokens."""

    seq: int
    tokens: array[int]
    n_logits: int
    logits: Logits | None
    source: tuple[int, ...] | None = None


def _common(a: array[int], b: array[int]) -> int:
    n = min(len(a), len(b))
    if n == 0:
        return 0
    differ = np.frombuffer(a, np.int32, n) != np.frombuffer(b, np.int32, n)
    return int(differ.argmax()) if differ.any() else n


class Scheduler:
    """Runs generations on `engine`, which it owns from now on. `n_batch`: prompt tokens per step."""

    def __init__(self, engine: Engine, *, n_batch: int) -> None:
        self.engine = engine
        self.n_batch = n_batch
        self._turn = _native.Turn()
        self._waiting: list[Generation] = []
        self._active: list[Generation] = []
        self._idle: list[_Idle] = []
        self._events: list[threading.Event] = []
        self._reserved = 0.0  # until this time (monotonic) nobody starts a step: a thread wants the engine for itself
        self._running: Generation | None = None
        self._torn = False
        self._closed = False
        self._shut_down = False
        self._pid = os.getpid()
        _SCHEDULERS.add(self)

    # -- for callers

    def submit(self, generation: Generation) -> None:
        self.check_open()
        generation.take_in(self.engine.n_ctx)
        if not generation.done:
            self._waiting.append(generation)

    def wait(self, ready: Callable[[], bool], event: threading.Event) -> None:
        """Return when `ready()`; `event` is that of the generations it looks at. Runs steps while it is this thread's turn."""
        self._events.append(event)
        try:
            while not ready():
                self.check_open()
                self._not_mine()
                event.clear()
                with self._turn.claim() as mine:
                    try:
                        while mine and not ready() and time.monotonic() > self._reserved:
                            self._step()
                            self.check_open()
                    finally:
                        if mine and self._closed:
                            self._shut()
                if mine:
                    self._wake()
                if not ready():
                    event.wait(_NAP)
        finally:
            self._events.remove(event)
            self._wake()

    def cancel(self, generation: Generation) -> None:
        """Stop; nothing more will come. Does nothing when it is done."""
        if generation.done:
            return
        generation.cancelled = True
        generation.event.set()
        with self._turn.claim() as mine:
            if mine and not self._closed:
                self._retire()
            if mine and self._closed:  # in between
                self._shut()
        if not mine and self._running is generation:
            self._interrupt()

    @contextmanager
    def alone(self) -> Iterator[Engine]:
        """The engine for this thread alone. LlmqError when the thread has it already."""
        event = threading.Event()
        self._events.append(event)
        try:
            mine = False
            while not mine:
                self.check_open()
                self._not_mine()
                event.clear()
                self._reserved = time.monotonic() + 2 * _NAP  # renewed while this thread waits, so it cannot outlive it
                with self._turn.claim() as mine:
                    try:
                        if mine:
                            self._reserved = 0.0
                            yield self.engine
                    finally:
                        if mine and self._closed:
                            self._shut()
                if not mine:
                    event.wait(_NAP)
        finally:
            self._events.remove(event)
            self._wake()

    def close(self) -> None:
        """Fail what runs with ModelClosedError and close the engine. May be called again, and from any thread; in a thread that
        holds the turn (in a signal handler, or between the pieces of `score`) the engine is closed when it lets go."""
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid() and self._turn.taken:
            self._interrupt()
        mine = False
        while not mine and not (self._torn and self._turn.taken) and not self._turn.mine:
            with self._turn.claim() as mine:
                if mine:
                    self._shut()
            if not mine:
                time.sleep(0.001)
        self._wake()

    def check_open(self) -> None:
        if self._closed:
            raise ModelClosedError("the model is closed; load it again to use it")
        if self._torn:
            raise LlmqError("the process was forked while another thread was using this model; load it again in this process")

    def after_fork(self) -> None:
        """In the child: the threads that waited are gone, and with them what they wanted."""
        self._torn = self._turn.taken
        for generation in [*self._active, *self._waiting]:
            generation.error = generation.error or LlmqError("the process was forked while generating; generate again")
        self._events = []
        self._reserved = 0.0
        self._pid = os.getpid()

    # -- the turn

    def _not_mine(self) -> None:
        """Whoever is about to wait for the turn must not hold it already."""
        if self._turn.mine:
            raise LlmqError(
                "this thread is using the model already: finish with the pieces of score, or with alone, before another call; "
                "signal handlers can only close it"
            )

    def _shut(self) -> None:
        """By the threads that have the turn when the model is closed, before they let go."""
        if self._shut_down:
            return
        for generation in [*self._active, *self._waiting]:
            generation.error = generation.error or ModelClosedError("the model was closed while generating")
        self._active, self._waiting, self._idle = [], [], []
        self.engine.close()
        self._shut_down = True

    def _wake(self) -> None:
        for event in list(self._events):
            event.set()

    def _interrupt(self) -> None:
        stop = getattr(self.engine, "cancel", None)
        if stop is not None:
            stop()

    # -- a step

    def _step(self) -> None:
        clean = False
        try:
            self._retire()
            self._admit()
            decoding = [g for g in self._active if g.started and self._missing(g) == 1]
            prompt = next((g for g in self._active if g not in decoding), None)
            if prompt is not None:
                self._run_prompt(prompt)
            if decoding:
                self._run_tokens(decoding)
            self._retire()
            clean = True
        except Cancelled:
            clean = True  # a cancelled generation stopped the engine; the others go on
        finally:
            self._running = None
            if not clean:
                for generation in list(self._active):
                    generation.repair(self.engine.n_ctx)

    def _missing(self, g: Generation) -> int:
        """Tokens that the engine does not hold yet. Never 0 for a generation that needs logits: then the last is computed
        again."""
        assert g.seq is not None
        length = self.engine.length(g.seq)
        if len(g.context) > self.engine.n_ctx:
            length = self.engine.truncate(g.seq, min(length, g.keep))
            g.shift()
        if length >= len(g.context):
            if not g.started and g.prompt_logits is not None and length == len(g.context):
                return 0
            length = self.engine.truncate(g.seq, len(g.context) - 1)
        return len(g.context) - length

    def _run_prompt(self, g: Generation) -> None:
        assert g.seq is not None
        if g.source is not None and not self.engine.source_length(g.seq) and not self._encode(g, g.source):
            return
        missing = self._missing(g)
        if missing == 0:
            assert g.prompt_logits is not None
            self._sample(g, g.prompt_logits)
            return
        start = len(g.context) - missing
        n = min(missing, self.n_batch)
        began = time.perf_counter()
        self._running = g
        logits = self._run(
            [g],
            np.array(g.context[start : start + n], np.int32),
            np.arange(start, start + n, dtype=np.int32),
            np.full(n, g.seq, np.int32),
            np.array([n - 1] if n == missing else [], np.int32),
        )
        self._running = None
        if logits is None:
            return
        g.prompt_seconds += time.perf_counter() - began
        if n == missing:
            if not g.started:
                g.prompt_logits = logits[0].copy()
            self._sample(g, logits[0])

    def _encode(self, g: Generation, source: tuple[int, ...]) -> bool:
        assert g.seq is not None
        seq, began = g.seq, time.perf_counter()
        self._running = g
        self._try([g], lambda: self.engine.encode(seq, np.array(source, np.int32)))
        self._running = None
        g.prompt_seconds += time.perf_counter() - began
        return not g.done

    def _run_tokens(self, generations: list[Generation]) -> None:
        n = len(generations)
        logits = self._run(
            generations,
            np.array([g.context[-1] for g in generations], np.int32),
            np.array([len(g.context) - 1 for g in generations], np.int32),
            np.array([g.seq for g in generations], np.int32),
            np.arange(n, dtype=np.int32),
        )
        if logits is not None:
            for g, row in zip(generations, logits, strict=True):
                self._sample(g, row)

    def _run(self, generations: list[Generation], *batch: npt.NDArray[np.int32]) -> Logits | None:
        return self._try(generations, lambda: self.engine.run(Batch(*batch)))

    def _try(self, generations: list[Generation], work: Callable[[], _T]) -> _T | None:
        """What the engine's work gives; an error is that of all the generations in the batch. Without memory, idle sequences
        go first."""
        while True:
            try:
                return work()
            except (MemoryError, ValueError, RuntimeError) as error:
                if isinstance(error, MemoryError) and self._idle:
                    self._drop_idle(0)
                    continue
                for g in generations:
                    g.error = error
                return None

    def _sample(self, g: Generation, logits: Logits) -> None:
        try:
            g.sample(logits, self.engine.n_ctx)
        except (ValueError, MemoryError) as error:
            g.error = error
        if g.news:
            g.event.set()

    # -- sequences

    def _retire(self) -> None:
        """Take out what is done or cancelled; its sequence stays for its prefix."""
        for g in [g for g in self._waiting if g.done]:
            self._waiting.remove(g)
        for g in [g for g in self._active if g.done]:
            if g.seq is not None:
                length = min(self.engine.length(g.seq), len(g.context))
                whole = length >= g.prompt_tokens and g.shifted == 0
                idle = _Idle(g.seq, g.context[:length], g.prompt_tokens, g.prompt_logits if whole else None, g.source)
                g.seq = None
                self._idle.append(idle)
            self._active.remove(g)
            g.event.set()
        self._drop_idle(MAX_IDLE)

    def _drop_idle(self, most: int) -> None:
        """Free the oldest idle sequences beyond `most`, and beyond one context of tokens in all."""
        while len(self._idle) > most or (len(self._idle) > 1 and sum(len(i.tokens) for i in self._idle) > self.engine.n_ctx):
            self.engine.free_sequence(self._idle.pop(0).seq)

    def _admit(self) -> None:
        for g in list(self._waiting):
            if len(self._active) >= MAX_ACTIVE:
                return
            if g not in self._active:
                if self._worth_waiting(g):
                    continue
                if g.seq is None:
                    g.seq = self._sequence_for(g)
                g.cached_tokens = self.engine.length(g.seq)
                self._active.append(g)
            self._waiting.remove(g)

    def _worth_waiting(self, g: Generation) -> bool:
        """True while another prompt that begins as this one does is being computed."""
        for other in self._active:
            if not other.started and other.seq is not None and other.source == g.source:
                shared = _common(g.context, other.context)
                if shared >= _SHARED and shared > self.engine.length(other.seq):
                    return True
        return False

    def _sequence_for(self, g: Generation) -> int:
        """A sequence that already holds as much of the prompt as any does."""
        best: _Idle | None = None
        most = 0
        for held in [*self._idle, *self._held()]:
            shared = _common(g.context, held.tokens) if g.source == held.source else 0
            if shared == len(g.context) and not (held.logits is not None and held.n_logits == shared):
                shared -= 1  # the last token must be computed for its logits
            shared = self.engine.kept(held.seq, shared)
            if shared >= most and shared > 0:
                best, most = held, shared
        if best is None:
            return self.engine.new_sequence()
        g.prompt_logits = best.logits if most == len(g.context) else None
        if best in self._idle and 2 * most >= len(best.tokens):
            self.engine.truncate(best.seq, most)
            self._idle.remove(best)
            return best.seq
        if most < _SHARED and 2 * most < len(g.context):
            return self.engine.new_sequence()
        return self.engine.fork(best.seq, most)

    def _held(self) -> Iterator[_Idle]:
        """What running generations hold, in the same form."""
        for g in self._active:
            if g.seq is not None and g.shifted == 0:
                tokens = g.context[: self.engine.length(g.seq)]
                yield _Idle(g.seq, tokens, g.prompt_tokens, g.prompt_logits, g.source)


_SCHEDULERS: weakref.WeakSet[Scheduler] = weakref.WeakSet()


def _after_fork() -> None:
    for scheduler in list(_SCHEDULERS):
        scheduler.after_fork()


os.register_at_fork(after_in_child=_after_fork)
