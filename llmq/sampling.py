"""How tokens are drawn: `Sampling`, its checks and the names that other libraries use for its fields."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from llmq import _native

__all__ = ["ALIASES", "Sampling", "accepts_aliases", "resolve_names", "unknown_name"]

ALIASES = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "temp": "temperature",
    "typical": "typical_p",
    "repetition_penalty": "repeat_penalty",
    "rng_seed": "seed",
    "stop_strings": "stop",
    "num_ctx": "n_ctx",
    "context_length": "n_ctx",
    "max_model_len": "n_ctx",
    "threads": "n_threads",
    "num_thread": "n_threads",
    "num_threads": "n_threads",
    "batch_size": "n_batch",
    "num_batch": "n_batch",
}
"""Names of other libraries and the field of llmq each means."""

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")
_MAX_SEED = 2**64
_MAX_BIAS = 1e30  # more would leave float32 with a penalty or a low temperature


def unknown_name(name: str, known: Iterable[str], what: str) -> TypeError:
    """The error for an option that does not exist: it names the nearest one that does."""
    known = list(known)
    reachable = known + [alias for alias, field in ALIASES.items() if field in known]
    near = difflib.get_close_matches(name, reachable, n=1, cutoff=0.6)
    hint = f"did you mean {ALIASES.get(near[0], near[0])!r}?" if near else f"there are: {', '.join(sorted(known))}"
    return TypeError(f"{what} has no option {name!r}; {hint}")


def resolve_names(options: Mapping[str, Any], known: Iterable[str], what: str) -> dict[str, Any]:
    """`options` under llmq's own names. TypeError for an unknown name and for one option given under two names."""
    known = set(known)
    out: dict[str, Any] = {}
    for name, value in options.items():
        own = name if name in known else ALIASES.get(name, name)
        if own not in known:
            raise unknown_name(name, known, what)
        if own in out:
            other = next(known for known in options if known != name and ALIASES.get(known, known) == own)
            raise TypeError(f"{what}: {own!r} is given twice, as {other!r} and {name!r}")
        out[own] = value
    return out


def accepts_aliases(function: Callable[_P, _R], what: str = "") -> Callable[_P, _R]:
    """Let a function's keyword-only parameters also be given by their ALIASES; `what` is its name in errors."""
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return function(*args, **resolve_names(options, known, what or function.__name__))

    return call


def _with_aliases(cls: type[_T]) -> type[_T]:
    setattr(cls, "__init__", accepts_aliases(vars(cls)["__init__"], cls.__name__))  # noqa: B010 - mypy forbids assigning it
    return cls


def _strings(name: str, value: object) -> tuple[str, ...]:
    items = (value,) if isinstance(value, str) else _items(name, value)
    for item in items:
        if not isinstance(item, str) or not item:
            raise ValueError(f"{name}: non-empty strings expected, found {item!r}")
    return items


def _items(name: str, value: object) -> tuple[Any, ...]:
    if value is None:
        return ()
    if not isinstance(value, Iterable):
        raise ValueError(f"{name}: a sequence expected, found {value!r}")
    return tuple(value)


def _bias(value: Mapping[Any, Any] | None) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"logit_bias: token ids and numbers expected, found {value!r}")
    out: dict[int, float] = {}
    for key, added in value.items():
        try:
            token, number = int(key), float(added)
        except (TypeError, ValueError):
            raise ValueError(f"logit_bias: token ids and numbers expected, found {key!r}: {added!r}") from None
        if token < 0 or math.isnan(number) or number > _MAX_BIAS:
            raise ValueError(f"logit_bias: ids from 0 and numbers up to {_MAX_BIAS:g} expected, found {key!r}: {added!r}")
        out[token] = number if number >= -_MAX_BIAS else -math.inf
    return out


@_with_aliases
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn and when to stop. Order of the chain: penalties, dry, top_k, typical_p, top_p, min_p, xtc,
    temperature.

    max_tokens: most tokens to generate; None or -1: until the model ends or the context is full.
    temperature: 0 takes the most probable token (greedy). top_k: keep the k best, 0: off. top_p: keep the best until their
        probability reaches it, 1: off. min_p: drop what is less probable than min_p times the best, 0: off. typical_p: locally
        typical sampling, 1: off.
    repeat_penalty (1: off), presence_penalty, frequency_penalty (0: off): lower the logits of tokens among the last
        `repeat_last_n` (prompt included; 0: none, -1: all).
    dry_multiplier (0: off), dry_base, dry_allowed_length, dry_last_n, dry_sequence_breakers: penalty
        dry_multiplier * dry_base ** (m - dry_allowed_length) on a token that would continue a repetition of m tokens.
    xtc_probability (0: off), xtc_threshold: with this probability keep only the least probable of the tokens above the
    threshold. mirostat (0: off, 1, 2), mirostat_tau, mirostat_eta: hold the surprise (bits per token) near tau; replaces top_k,
        typical_p, top_p, min_p and xtc.
    seed: 0..2**64-1; None or -1 draws one, and the result reports it. n: independent completions; the i-th uses seed + i.
    stop: strings that end the text (not included in it). stop_token_ids: token ids that end it. ignore_eos: go on after the
        model's own end-of-generation tokens.
    logit_bias: {token id: number added to its logit}, -inf forbids it. logprobs: how many most probable tokens to report for
        each position, under the raw distribution of the model; 0: none.

    ValueError for a value out of range, TypeError for an unknown name. Names of other libraries (max_new_tokens,
    repetition_penalty, temp, …) are understood.
    """

    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    n: int = 1
    stop: str | tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: Mapping[int, float] | None = None
    logprobs: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)
        put("max_tokens", None if self.max_tokens == -1 else self.max_tokens)
        put("seed", None if self.seed == -1 else self.seed)
        put("stop", _strings("stop", self.stop))
        put("dry_sequence_breakers", _strings("dry_sequence_breakers", self.dry_sequence_breakers))
        put("stop_token_ids", _items("stop_token_ids", self.stop_token_ids))
        put("logit_bias", _bias(self.logit_bias))
        for name, low, high in _RANGES:
            value = getattr(self, name)
            self._check(name, value, low, high)
            if isinstance(low, float) and not isinstance(value, int | float):
                put(name, float(value))  # a NumPy scalar
        for token in self.stop_token_ids:
            self._check("stop_token_ids", token, 0, 2**31 - 1)
        if not isinstance(self.ignore_eos, bool):
            raise ValueError(f"ignore_eos: True or False expected, found {self.ignore_eos!r}")

    @staticmethod
    def _check(name: str, value: object, low: float, high: float) -> None:
        whole = isinstance(low, int)
        if value is None and name in ("max_tokens", "seed"):
            return
        if not hasattr(value, "__index__") and (whole or not isinstance(value, numbers.Real)):
            raise ValueError(f"{name}: {'a whole number' if whole else 'a number'} expected, found {value!r}")
        if isinstance(value, bool) or not low <= value <= high:  # type: ignore[operator]
            raise ValueError(f"{name}: {low} to {high} expected, found {value!r}")

    def replace(self, **overrides: Any) -> Sampling:
        """A copy with some fields changed; TypeError for an unknown name."""
        if not overrides:
            return self
        own = resolve_names(overrides, [f.name for f in dataclasses.fields(self)], "Sampling")
        return dataclasses.replace(self, **own)

    def seeded(self, choice: int = 0) -> Sampling:
        """The sampling of one completion: n = 1 and the seed it will use, drawn from the system's entropy when there is
        none."""
        seed = secrets.randbits(32) if self.seed is None else self.seed
        return dataclasses.replace(self, n=1, seed=(seed + choice) % _MAX_SEED)

    def sampler(self, n_vocab: int, breakers: Any = None) -> _native.Sampler:
        """The chain in C. `breakers`: uint8 (n_vocab,), needed when dry_multiplier is not 0. ValueError for a token id in
        logit_bias that the vocabulary does not have."""
        if self.seed is None:
            raise ValueError("a sampler needs a seed; use Sampling.seeded()")
        for token in self.logit_bias or {}:
            if token >= n_vocab:
                raise ValueError(f"logit_bias: token ids 0..{n_vocab - 1} expected, found {token}")
        return _native.Sampler(n_vocab, {name: getattr(self, name) for name in _CHAIN}, dict(self.logit_bias or {}), breakers)


# (field, least, most); whole numbers where the bounds are int
_RANGES: list[tuple[str, float, float]] = [
    ("max_tokens", 0, 2**31 - 1),
    ("temperature", 0.0, 1000.0),
    ("top_k", 0, 2**31 - 1),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("typical_p", 0.0, 1.0),
    ("repeat_penalty", 0.01, 100.0),
    ("repeat_last_n", -1, 2**31 - 1),
    ("presence_penalty", -100.0, 100.0),
    ("frequency_penalty", -100.0, 100.0),
    ("dry_multiplier", 0.0, 100.0),
    ("dry_base", 1.0, 100.0),
    ("dry_allowed_length", 1, 2**31 - 1),
    ("dry_last_n", -1, 2**31 - 1),
    ("xtc_probability", 0.0, 1.0),
    ("xtc_threshold", 0.0, 1.0),
    ("mirostat", 0, 2),
    ("mirostat_tau", 0.0, 100.0),
    ("mirostat_eta", 0.0, 1.0),
    ("seed", 0, _MAX_SEED - 1),
    ("n", 1, 1024),
    ("logprobs", 0, 2**31 - 1),
]

_CHAIN = [
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "presence_penalty"),
    *("frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_last_n", "xtc_probability"),
    *("xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta", "seed"),
]
"""The fields that the chain in C reads, by the names it reads them."""
