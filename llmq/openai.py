"""OpenAI's shapes over an `LLM`: completions, chat completions and embeddings as plain dicts.

Field names and values are those of OpenAI's API reference for /v1/completions, /v1/chat/completions and
/v1/embeddings; the first two understand every field of `Sampling` too, whose defaults hold. A field that has no meaning here is
refused, never ignored, but for `user`, which is for OpenAI's own records, and null, which is what a client sends for nothing.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmq.results import Chunk, Completion, Stream, TokenLogprob, Usage
from llmq.sampling import Sampling, resolve_names

if TYPE_CHECKING:
    from llmq.model import LLM, Prompt

__all__ = ["create_chat_completion", "create_completion", "create_embedding"]

Json = dict[str, Any]

_SAMPLING = [f.name for f in dataclasses.fields(Sampling)]
_NOT_HERE = frozenset(
    [
        *("audio", "best_of", "echo", "function_call", "functions", "metadata", "modalities", "parallel_tool_calls"),
        *("prediction", "prompt_cache_key", "reasoning_effort", "safety_identifier", "service_tier", "store", "suffix"),
        *("tool_choice", "tools", "verbosity", "web_search_options"),
    ]
)
"""OpenAI's fields that llmq takes null for."""


def create_completion(llm: LLM, **fields: Any) -> Json | Iterator[Json]:
    """`prompt`: a text, token ids, or a sequence of either. `stream`, `stream_options`, `model` (repeated in the answer), and
    the fields of `Sampling`; `logprobs` is a number. A dict, or with stream=True an iterator of chunks, which takes one
    prompt."""
    given = resolve_names(_asked(fields), ["prompt", "stream", "stream_options", "model", *_SAMPLING], "create_completion")
    prompts = _prompts(given.pop("prompt", None), "create_completion: prompt")
    frame = _Frame(llm, given, "cmpl", "text_completion")
    stream, include_usage = _streaming(given)
    sampling = Sampling(**_present(given))
    if stream:
        if len(prompts) != 1:
            raise ValueError(f"a stream takes one prompt, found {len(prompts)}")
        return _stream_text(frame, llm.stream(prompts[0], sampling), include_usage)
    done = llm.generate_batch(prompts, sampling)
    every = [c for first in done for c in (first, *first.others)]
    choices = [
        {"index": i, "text": c.text, "logprobs": _text_logprobs(llm, c.logprobs), "finish_reason": c.finish_reason}
        for i, c in enumerate(every)
    ]
    return frame.whole(choices, _usage(done))


def create_chat_completion(llm: LLM, **fields: Any) -> Json | Iterator[Json]:
    """`messages`, `stream`, `stream_options`, `model` (repeated in the answer), `logprobs` (True or False), `top_logprobs`,
    `response_format` ({"type": "text"} only), and the fields of `Sampling`. A dict, or with stream=True an iterator of
    chunks."""
    own = ["messages", "stream", "stream_options", "model", "top_logprobs", "response_format"]
    given = resolve_names(_asked(fields), [*own, *_SAMPLING], "create_chat_completion")
    messages = given.pop("messages", None)
    if messages is None:
        raise TypeError("create_chat_completion: messages are missing")
    response_format = given.pop("response_format", None)
    if response_format not in (None, {"type": "text"}):
        raise ValueError(f'response_format: {{"type": "text"}} expected, found {response_format!r}; no other is supported')
    wanted, top = given.pop("logprobs", None), given.pop("top_logprobs", None)
    if not isinstance(wanted, bool | None) or (top is not None and not wanted):
        raise ValueError("logprobs: True or False expected, and top_logprobs only with True")
    frame = _Frame(llm, given, "chatcmpl", "chat.completion")
    stream, include_usage = _streaming(given)
    sampling = Sampling(**_present(given), logprobs=(top or 1) if wanted else 0)
    if stream:
        return _stream_chat(frame, llm.chat_stream(messages, sampling), include_usage, top or 0)
    reply = llm.chat(messages, sampling)
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": c.text},
            "logprobs": _chat_logprobs(llm, c.logprobs, top or 0),
            "finish_reason": c.finish_reason,
        }
        for i, c in enumerate((reply, *reply.others))
    ]
    return frame.whole(choices, _usage([reply]))


def create_embedding(llm: LLM, **fields: Any) -> Json:
    """`input`: a text, token ids, or a sequence of either; `model` (repeated in the answer), `encoding_format` ("float" or
    "base64", little-endian float32), `dimensions` (the width of the vectors, no other), and `user`, which says nothing here."""
    given = resolve_names(fields, ["input", "model", "encoding_format", "dimensions", "user"], "create_embedding")
    texts = _prompts(given.pop("input", None), "create_embedding: input")
    coding, width = given.pop("encoding_format", None) or "float", given.pop("dimensions", None)
    if coding not in ("float", "base64"):
        raise ValueError(f'encoding_format: "float" or "base64" expected, found {coding!r}')
    tokens = [llm.tokenize(text) if isinstance(text, str) else llm.tokens(text) for text in texts]
    vectors = llm.embed(tokens, pooling=None if llm.pooling != "none" else "mean")
    n = sum(map(len, tokens))
    if width is not None and any(width != len(vector) for vector in vectors):
        raise ValueError(f"dimensions: {len(vectors[0])} expected, what this model's vectors have; found {width!r}")
    data = [
        {"object": "embedding", "index": i, "embedding": b64encode(v.tobytes()).decode() if coding == "base64" else v.tolist()}
        for i, v in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n, "total_tokens": n}
    return {"object": "list", "data": data, "model": given.pop("model", None) or llm.name, "usage": usage}


class _Frame:
    """What every answer to one request has in common."""

    def __init__(self, llm: LLM, given: Json, prefix: str, kind: str) -> None:
        self.llm = llm
        self.kind = kind
        self.head = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": given.pop("model", None) or llm.name,
        }

    def whole(self, choices: list[Json], usage: Json) -> Json:
        return {**self.head, "object": self.kind, "choices": choices, "usage": usage}

    def chunk(self, choices: list[Json], **more: Any) -> Json:
        kind = self.kind if self.kind == "text_completion" else self.kind + ".chunk"
        return {**self.head, "object": kind, "choices": choices, **more}


def _asked(fields: Json) -> Json:
    """Without `user`, and without the nulls of fields that are not known here."""
    return {name: value for name, value in fields.items() if name != "user" and not (value is None and name in _NOT_HERE)}


def _present(given: Json) -> Json:
    """The fields that say something: OpenAI's null means the default."""
    return {name: value for name, value in given.items() if value is not None}


def _prompts(prompt: Any, what: str) -> list[Prompt]:
    if prompt is None:
        raise TypeError(f"{what} is missing")
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, Mapping) or not hasattr(prompt, "__getitem__"):
        raise TypeError(f"{what}: a text, token ids, or a list of these expected, found {type(prompt).__name__}")
    return [prompt] if len(prompt) and isinstance(prompt[0], int | np.integer) else list(prompt)


def _streaming(given: Json) -> tuple[bool, bool]:
    stream, options = given.pop("stream", None) or False, given.pop("stream_options", None)
    if not isinstance(stream, bool):
        raise ValueError(f"stream: True or False expected, found {stream!r}")
    if options is None:
        return stream, False
    if not stream or not isinstance(options, Mapping) or set(options) - {"include_usage"}:
        raise ValueError('stream_options: {"include_usage": bool} expected, with stream=True only')
    return stream, bool(options.get("include_usage"))


def _stream_text(frame: _Frame, stream: Stream, include_usage: bool) -> Iterator[Json]:
    with stream:
        for chunk in stream:
            logprobs = _text_logprobs(frame.llm, chunk.logprobs)
            yield frame.chunk([{"index": 0, "text": chunk.text, "logprobs": logprobs, "finish_reason": chunk.finish_reason}])
            if chunk.finish_reason and include_usage:
                yield frame.chunk([], usage=_count([chunk.usage]))


def _stream_chat(frame: _Frame, stream: Stream, include_usage: bool, top: int) -> Iterator[Json]:
    def choice(delta: Json, finish: str | None, logprobs: Json | None = None) -> list[Json]:
        return [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]

    with stream:
        yield frame.chunk(choice({"role": "assistant", "content": ""}, None))
        chunk: Chunk | None = None
        for chunk in stream:
            if chunk.text or chunk.tokens:
                logprobs = _chat_logprobs(frame.llm, chunk.logprobs, top)
                yield frame.chunk(choice({"content": chunk.text}, None, logprobs))
        if chunk is not None:
            yield frame.chunk(choice({}, chunk.finish_reason))
            if include_usage:
                yield frame.chunk([], usage=_count([chunk.usage]))


def _usage(completions: Sequence[Completion]) -> Json:
    """Prompts count once, however many completions they have."""
    usage = _count([c.usage for c in completions])
    more = sum(o.usage.completion_tokens for c in completions for o in c.others)
    usage["completion_tokens"] += more
    usage["total_tokens"] += more
    return usage


def _count(usages: Sequence[Usage]) -> Json:
    return {
        "prompt_tokens": sum(u.prompt_tokens for u in usages),
        "completion_tokens": sum(u.completion_tokens for u in usages),
        "total_tokens": sum(u.total_tokens for u in usages),
        "prompt_tokens_details": {"cached_tokens": sum(u.cached_tokens for u in usages)},
    }


def _piece(llm: LLM, token: int) -> bytes:
    return llm.tokenizer.token_bytes(token)


def _shown(llm: LLM, token: int) -> str:
    return _piece(llm, token).decode("utf-8", "replace")


def _text_logprobs(llm: LLM, logprobs: tuple[TokenLogprob, ...] | None) -> Json | None:
    if logprobs is None:
        return None
    tokens = [_shown(llm, t.token) for t in logprobs]
    return {
        "tokens": tokens,
        "token_logprobs": [t.logprob for t in logprobs],
        "top_logprobs": [{_shown(llm, i): p for i, p in t.top} for t in logprobs],
        "text_offset": [sum(map(len, tokens[:i])) for i in range(len(tokens))],
    }


def _chat_logprobs(llm: LLM, logprobs: tuple[TokenLogprob, ...] | None, top: int) -> Json | None:
    if logprobs is None:
        return None

    def entry(token: int, logprob: float) -> Json:
        return {"token": _shown(llm, token), "logprob": logprob, "bytes": list(_piece(llm, token))}

    return {"content": [{**entry(t.token, t.logprob), "top_logprobs": [entry(*x) for x in t.top[:top]]} for t in logprobs]}
