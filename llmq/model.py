"""`LLM`: a model ready to use."""

from __future__ import annotations

import dataclasses
import reprlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import numpy.typing as npt

from llmq.engine.base import Batch, Engine
from llmq.errors import Cancelled, ContextOverflowError
from llmq.results import ChatReply, Chunk, Completion, Stream
from llmq.sampling import Sampling
from llmq.session import Generation, Overflow, Scheduler, fit_prompt, fit_source
from llmq.text.detokenizer import Detokenizer
from llmq.text.stops import StopStrings
from llmq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llmq.embedding import Pooling
    from llmq.graph.tape import Tape
    from llmq.perplexity import Perplexity
    from llmq.text.template import ChatTemplate

__all__ = ["LLM", "Message", "Progress", "Prompt"]

Message = Mapping[str, Any]
"""One turn: {"role": "system" | "user" | "assistant" | …, "content": a text or a list of {"type": "text", "text": str}}."""
Prompt = str | Sequence[int]
Progress = Callable[[str, int, int], object]
"""Called with (stage, done, total); returning False cancels."""


class _Text:
    """Tokens to text for the scheduler: detokenizer, then stop strings."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        return self._stops.matched is not None

    def push(self, token: int) -> str:
        return self._stops.push(self._detokenizer.push(token))

    def finish(self) -> str:
        return self._stops.push(self._detokenizer.finish()) + self._stops.finish()


class LLM:
    """A model ready to use; made by `load`.

    May be used from many threads at once: requests that overlap are decoded together and each gets what it would get alone.
    Closing it releases the memory; use it in a `with` statement or call `close`. Pickling keeps the path and the options of
    `load`.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        tape: Tape | None = None,
        n_batch: int = 512,
        n_threads: int = 1,
        template: ChatTemplate | None = None,
        name: str = "model",
        on_close: Callable[[], None] = lambda: None,
        loaded_as: tuple[str, dict[str, Any]] | None = None,
        pooling: Pooling = "last",
        decoder_start: int | None = None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.n_ctx = engine.n_ctx
        self.n_vocab = engine.n_vocab
        self.n_batch = n_batch
        self.n_threads = n_threads
        self.bytes_per_token = 0 if tape is None else tape.bytes_per_token
        self.tape = tape
        self.pooling = pooling
        self.decoder_start = decoder_start
        self._scheduler = Scheduler(engine, n_batch=n_batch)
        self._template = template
        self._on_close = on_close
        self._loaded_as = loaded_as
        self._breakers: dict[tuple[str, ...], npt.NDArray[np.uint8]] = {}

    # -- generating

    def generate(
        self, prompt: Prompt, sampling: Sampling | None = None, *, overflow: Overflow = "error", **overrides: Any
    ) -> Completion:
        """Continue `prompt`, a text or token ids.

        A text gets the model's BOS unless it begins with it; control tokens in it are recognized. `overrides` change fields of
        `sampling` (or of the default `Sampling`). `overflow` says what happens when the context is too small: "error" raises
        ContextOverflowError for a prompt that does not fit and ends a completion at the end of the context; "truncate_left"
        drops the start of the prompt (BOS stays); "shift" also drops the older half of the context when generating fills it,
        and needs max_tokens.

        Raises ContextOverflowError, ModelClosedError, TypeError for an unknown option, ValueError for one out of range."""
        generations = self._submit(prompt, self._sampling(sampling, overrides), overflow, threading.Event())
        return self._collect(generations)

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | None = None,
        *,
        progress: Progress | None = None,
        overflow: Overflow = "error",
        **overrides: Any,
    ) -> list[Completion]:
        """Continue many prompts together: what `generate` gives for each, in order, in less time. `progress` is called with
        ("generate", prompts finished, prompts); returning False cancels all and raises Cancelled."""
        if isinstance(prompts, str):
            raise TypeError("generate_batch: a sequence of prompts expected, found one string; use generate")
        event = threading.Event()
        chosen = self._sampling(sampling, overrides)
        groups: list[list[Generation]] = []
        everything: list[Generation] = []
        try:
            for prompt in prompts:
                groups.append(self._submit(prompt, chosen, overflow, event))
                everything += groups[-1]
            finished = 0
            while True:
                left = [g for g in everything if not g.done]
                failed = next((g.error for g in everything if g.error is not None), None)
                if failed is not None:
                    raise failed
                now = sum(all(g.done for g in group) for group in groups)
                if progress is not None and now > finished and progress("generate", now, len(groups)) is False:
                    raise Cancelled(f"the progress callback cancelled after {now} of {len(groups)} prompts")
                finished = now
                if not left:
                    return [self._result(group) for group in groups]
                self._scheduler.wait(partial(_any_done, left), event)
        finally:
            for generation in everything:
                self._scheduler.cancel(generation)

    def stream(
        self, prompt: Prompt, sampling: Sampling | None = None, *, overflow: Overflow = "error", **overrides: Any
    ) -> Stream:
        """As `generate`, in pieces as they come: an iterator of `Chunk`. Closing it cancels. n must be 1."""
        chosen = self._sampling(sampling, overrides)
        if chosen.n != 1:
            raise ValueError(f"a stream is one completion; n=1 expected, found {chosen.n}")
        (generation,) = self._submit(prompt, chosen, overflow, threading.Event())
        return Stream(self._scheduler, generation)

    def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None = None,
        *,
        overflow: Overflow = "error",
        **overrides: Any,
    ) -> ChatReply:
        """The assistant's next turn. `messages` are {"role", "content"} mappings; ChatTemplateError when the model has no chat
        template. Other parameters and errors as for `generate`."""
        return _as_reply(self.generate(self._chat_prompt(messages), sampling, overflow=overflow, **overrides))

    def chat_stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None = None,
        *,
        overflow: Overflow = "error",
        **overrides: Any,
    ) -> Stream:
        """As `chat`, in pieces as they come."""
        return self.stream(self._chat_prompt(messages), sampling, overflow=overflow, **overrides)

    async def agenerate(
        self, prompt: Prompt, sampling: Sampling | None = None, *, overflow: Overflow = "error", **overrides: Any
    ) -> Completion:
        """`generate` for asyncio. Cancelling the task stops the generation."""
        import asyncio  # noqa: PLC0415 - takes longer to import than a small model to load, as Jinja does

        generations = self._submit(prompt, self._sampling(sampling, overrides), overflow, threading.Event())
        try:
            return await asyncio.to_thread(self._collect, generations)
        except asyncio.CancelledError:
            for generation in generations:
                self._scheduler.cancel(generation)
            raise

    async def astream(
        self, prompt: Prompt, sampling: Sampling | None = None, *, overflow: Overflow = "error", **overrides: Any
    ) -> AsyncIterator[Chunk]:
        """`stream` for asyncio: an asynchronous iterator of `Chunk`."""
        import asyncio  # noqa: PLC0415

        with self.stream(prompt, sampling, overflow=overflow, **overrides) as stream:
            while (chunk := await asyncio.to_thread(next, stream, None)) is not None:
                yield chunk

    async def achat(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None = None,
        *,
        overflow: Overflow = "error",
        **overrides: Any,
    ) -> ChatReply:
        """`chat` for asyncio."""
        return _as_reply(await self.agenerate(self._chat_prompt(messages), sampling, overflow=overflow, **overrides))

    def achat_stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None = None,
        *,
        overflow: Overflow = "error",
        **overrides: Any,
    ) -> AsyncIterator[Chunk]:
        """`chat_stream` for asyncio."""
        return self.astream(self._chat_prompt(messages), sampling, overflow=overflow, **overrides)

    # -- looking

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """What the model expects after each token: float32 (n_tokens, n_vocab). ContextOverflowError beyond n_ctx."""
        tokens = self.tokens(token_ids)
        if len(tokens) > self.n_ctx:
            raise ContextOverflowError(len(tokens), self.n_ctx)
        out = np.empty((len(tokens), self.n_vocab), np.float32)
        for start, rows in self.score(tokens, 0):
            out[start : start + len(rows)] = rows
        return out

    def score(self, tokens: Sequence[int], first: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """The logits of `tokens` from position `first` on, in pieces of at most 64 MiB: (position, float32 (n, n_vocab)). Until
        the last piece, or until it is closed, no other call gets the model."""
        self._must_generate()
        if self.decoder_start is not None:
            raise ValueError(f"{self.name} is an encoder–decoder, which needs a text for its encoder too; use generate")
        most = max(1, min(self.n_batch, 2**24 // self.n_vocab))
        with self._scheduler.alone() as engine:
            seq = engine.new_sequence()
            try:
                start = 0
                while start < len(tokens):
                    self._scheduler.check_open()
                    n = min(len(tokens) - start, most if start >= first else min(self.n_batch, first - start))
                    out = np.arange(n if start >= first else 0, dtype=np.int32)
                    positions = np.arange(start, start + n, dtype=np.int32)
                    ids = np.array(tokens[start : start + n], np.int32)
                    rows = engine.run(Batch(ids, positions, np.full(n, seq, np.int32), out))
                    if len(out):
                        yield start, rows
                    start += n
            finally:
                engine.free_sequence(seq)

    def perplexity(
        self,
        text: str,
        *,
        n_ctx: int = 512,
        stride: int | None = None,
        max_chunks: int | None = None,
        progress: Progress | None = None,
    ) -> Perplexity:
        """How well the model predicts `text`; see `llmq.perplexity`."""
        from llmq.perplexity import perplexity  # noqa: PLC0415

        return perplexity(self, text, n_ctx=n_ctx, stride=stride, max_chunks=max_chunks, progress=progress)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`. `add_special` adds BOS (and what else the model wants), never twice; `parse_special` recognizes
        control tokens in it."""
        return self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids; control tokens give none."""
        return self.tokenizer.decode(self.tokens(ids))

    def render(self, messages: Sequence[Message]) -> str:
        """The text that the chat template makes of `messages`, up to where the assistant's turn begins."""
        if self._template is None:
            from llmq.text.template import chat_template_of  # noqa: PLC0415

            self._template = chat_template_of(self.tokenizer)
        return self._template.render(messages)

    def explain(self) -> str:
        """The tape, op by op, as text."""
        from llmq.graph.explain import explain  # noqa: PLC0415

        if self.tape is None:
            raise ValueError("this model was not made from a tape")
        return explain(self.tape)

    # -- vectors

    def embed(
        self, texts: Prompt | Sequence[Prompt], *, pooling: Pooling | None = None, normalize: bool = True
    ) -> npt.NDArray[np.float32] | list[npt.NDArray[np.float32]]:
        """What the texts mean, as vectors: float32 (n_texts, n_embd), or (n_embd,) for a single text. `normalize` makes them of
        length 1, so that their products are cosines.

        pooling: how the final states of a text's tokens become one vector, "mean", "cls" (the first token) or "last"; None for
        what the file says. "none" leaves them: a list of float32 (n_tokens, n_embd). The texts go in batches of up to
        `n_batch` tokens and do not see each other. Raises ContextOverflowError for a text longer than the context, ValueError
        for an unknown pooling or a text without tokens, ModelClosedError."""
        from llmq.embedding import embed  # noqa: PLC0415

        return embed(self, texts, pooling, normalize=normalize)

    def rerank(self, query: str, docs: Sequence[str]) -> npt.NDArray[np.float32]:
        """How well each document answers the query, float32 (n_docs,), higher is better: the score of the model's head before
        any sigmoid. Needs a reranker (a cross-encoder such as bge-reranker); ValueError for any other model,
        ContextOverflowError for a pair longer than the context."""
        from llmq.embedding import rerank  # noqa: PLC0415

        return rerank(self, query, docs)

    def alone(self) -> AbstractContextManager[Engine]:
        """The engine for the calling thread alone, between the steps of what generates; for whoever builds on it."""
        return self._scheduler.alone()

    # -- OpenAI's shapes

    def create_completion(self, **options: Any) -> Any:
        """OpenAI's text completion: a dict, or with stream=True an iterator of dicts. See llmq/openai.py."""
        from llmq import openai  # noqa: PLC0415

        return openai.create_completion(self, **options)

    def create_chat_completion(self, **options: Any) -> Any:
        """OpenAI's chat completion: a dict, or with stream=True an iterator of dicts. See llmq/openai.py."""
        from llmq import openai  # noqa: PLC0415

        return openai.create_chat_completion(self, **options)

    def create_embedding(self, **options: Any) -> Any:
        """OpenAI's embeddings: a dict. See llmq/openai.py."""
        from llmq import openai  # noqa: PLC0415

        return openai.create_embedding(self, **options)

    # -- life

    def close(self) -> None:
        """Release the memory. May be called again; any other use afterwards raises ModelClosedError."""
        self._scheduler.close()
        self._on_close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        from llmq.loading import load  # noqa: PLC0415

        if self._loaded_as is None:
            raise TypeError("only a model that came from llmq.load can be pickled")
        src, options = self._loaded_as
        return partial(load, **options), (src,)

    def __repr__(self) -> str:
        return f"<LLM {self.name}: {self.n_vocab} tokens, context {self.n_ctx}>"

    # -- inside

    def _sampling(self, sampling: Sampling | None, overrides: Mapping[str, Any]) -> Sampling:
        if sampling is not None and not isinstance(sampling, Sampling):
            raise TypeError(f"sampling: a Sampling expected, found {type(sampling).__name__}")
        return (sampling or Sampling()).replace(**overrides)

    def tokens(self, ids: Sequence[int]) -> list[int]:
        """The ids as plain integers; ValueError unless the vocabulary has all of them."""
        if isinstance(ids, str | bytes) or not hasattr(ids, "__len__"):
            raise TypeError(f"token ids expected, found {type(ids).__name__}")
        found = np.asarray(ids) if len(ids) else np.empty(0, np.int64)
        if found.ndim != 1 or found.dtype.kind not in "iu":
            raise TypeError(f"a sequence of whole numbers expected as token ids, found {reprlib.repr(ids)}")
        tokens: list[int] = found.tolist()
        bad = next((i for i in tokens if not 0 <= i < self.n_vocab), None)
        if bad is not None:
            raise ValueError(f"token ids 0..{self.n_vocab - 1} expected, found {bad}")
        return tokens

    def _prompt(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            tokens = self.tokenizer.encode(prompt, add_special=True, parse_special=True)
            if self.tokenizer.add_eos and tokens[-1:] == [self.tokenizer.eos_id] and self.decoder_start is None:
                tokens.pop()  # the text goes on
        else:
            if isinstance(prompt, list | tuple) and any(isinstance(part, str) for part in prompt):
                raise TypeError("prompt: a text or token ids expected, found a sequence of texts; use generate_batch")
            tokens = self.tokens(prompt)
        if not tokens:
            raise ValueError("the prompt has no tokens, and this model has no BOS to begin with")
        return tokens

    def _chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        return self._prompt(self.render(messages))

    def _submit(self, prompt: Prompt, sampling: Sampling, overflow: Overflow, event: threading.Event) -> list[Generation]:
        self._scheduler.check_open()
        self._must_generate()
        if overflow not in get_args(Overflow):
            raise ValueError(f"overflow: {', '.join(map(repr, get_args(Overflow)))} expected, found {overflow!r}")
        if overflow == "shift" and sampling.max_tokens is None:
            raise ValueError('overflow="shift" never fills the context; it needs max_tokens')
        bad = next((i for i in sampling.stop_token_ids if i >= self.n_vocab), None)
        if bad is not None:
            raise ValueError(f"stop_token_ids: 0..{self.n_vocab - 1} expected, found {bad}")
        tokens, source = self._prompt(prompt), None
        if self.decoder_start is not None:  # the encoder reads the prompt, the decoder begins with its start token
            source, tokens = tuple(fit_source(tokens, self.n_ctx, overflow)), [self.decoder_start]
        keep = int(source is not None or tokens[0] == self.tokenizer.bos_id)
        stop_ids = frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else self.tokenizer.stop_ids)
        first = sampling.seeded()
        generations = []
        for choice in range(sampling.n):
            seeded = first.seeded(choice)
            context, limit = fit_prompt(tokens, self.n_ctx, sampling.max_tokens, overflow, keep)
            generation = Generation(
                context,
                limit,
                seeded,
                seeded.sampler(self.n_vocab, self._dry_breakers(sampling)),
                partial(_Text, self.tokenizer, cast("tuple[str, ...]", sampling.stop)),
                stop_ids=stop_ids,
                keep=keep,
                event=event,
                source=source,
            )
            self._scheduler.submit(generation)
            generations.append(generation)
        return generations

    def _must_generate(self) -> None:
        if self.tape is not None and not self.tape.generates:
            raise ValueError(
                f"{self.name} is an encoder ({self.tape.arch}): it turns texts into vectors and cannot generate; use embed"
            )

    def _dry_breakers(self, sampling: Sampling) -> npt.NDArray[np.uint8] | None:
        if sampling.dry_multiplier == 0:
            return None
        strings = sampling.dry_sequence_breakers
        if strings not in self._breakers:
            pieces = [self.tokenizer.token_bytes(i) for i in range(self.n_vocab)]
            wanted = [s.encode() for s in strings]
            self._breakers[strings] = np.array([any(w in piece for w in wanted) for piece in pieces], np.uint8)
        return self._breakers[strings]

    def _collect(self, generations: list[Generation]) -> Completion:
        """Run to the end; whatever interrupts it cancels."""
        try:
            self._scheduler.wait(lambda: all(g.done for g in generations), generations[0].event)
            return self._result(generations)
        finally:
            for generation in generations:
                self._scheduler.cancel(generation)

    @staticmethod
    def _result(generations: list[Generation]) -> Completion:
        done = []
        for g in generations:
            if g.error is not None:
                raise g.error
            if g.finish is None:
                raise Cancelled("the generation was cancelled")
            done.append(Completion(g.text, tuple(g.tokens), g.finish, g.logprobs(), g.usage(), g.timings(), g.seed))
        return dataclasses.replace(done[0], others=tuple(done[1:]))


def _any_done(generations: list[Generation]) -> bool:
    return any(g.done for g in generations)


def _as_reply(c: Completion) -> ChatReply:
    others = tuple(_as_reply(o) for o in c.others)
    return ChatReply(c.text, c.tokens, c.finish_reason, c.logprobs, c.usage, c.timings, c.seed, others)
