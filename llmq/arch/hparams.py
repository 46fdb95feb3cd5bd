"""The hyper-parameters that decoder families share, read from GGUF metadata."""

from __future__ import annotations

from dataclasses import dataclass

from llmq.arch.fields import Fields
from llmq.arch.rope import Rope, read_rope
from llmq.errors import UnsupportedError

__all__ = ["HParams", "read_hparams"]

MAX_LAYERS, MAX_WIDTH, MAX_HEADS, MAX_VOCAB, MAX_CONTEXT = 1024, 2**20, 2**12, 2**24, 2**27


@dataclass(frozen=True)
class HParams:
    """Counts and widths, all at least 1; `windows` has the attention window of every layer, 0 for attention to the start."""

    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    head_dim_v: int
    n_ff: int
    eps: float
    rope: Rope
    windows: tuple[int, ...]


def read_hparams(f: Fields, *, eps_key: str = "attention.layer_norm_rms_epsilon", rope_base: float = 10000.0) -> HParams:
    """Read and check them; `f` has the keys of `{architecture}.`. FormatError names the key that is missing or wrong."""
    n_embd = f.integer("embedding_length", high=MAX_WIDTH)
    n_layer = f.integer("block_count", high=MAX_LAYERS)
    n_head = f.integer("attention.head_count", high=MAX_HEADS)
    n_head_kv = f.integer("attention.head_count_kv", high=MAX_HEADS, default=n_head)
    if n_head % n_head_kv:
        raise f.error(f"{f.prefix}attention.head_count_kv", f"a divisor of the head count {n_head} expected, found {n_head_kv}")
    if not f.has("attention.key_length") and n_embd % n_head:
        raise f.error(f"{f.prefix}attention.head_count", f"a divisor of the width {n_embd} expected, found {n_head}")
    head_dim = f.integer("attention.key_length", high=MAX_WIDTH, default=max(n_embd // n_head, 1))
    head_dim_v = f.integer("attention.value_length", high=MAX_WIDTH, default=head_dim)
    n_ctx_train = f.integer("context_length", high=MAX_CONTEXT)
    experts = f.integer("expert_count", low=0, default=0)
    if experts:
        raise UnsupportedError(f"{f.prefix}expert_count is {experts}: mixtures of experts are not supported", path=f.path)
    return HParams(
        n_vocab=_vocabulary(f),
        n_ctx_train=n_ctx_train,
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        n_ff=f.integer("feed_forward_length", high=MAX_WIDTH * 16),
        eps=f.number(eps_key, high=1.0),
        rope=read_rope(f, head_dim, n_ctx_train, rope_base),
        windows=_windows(f, n_layer),
    )


def _windows(f: Fields, n_layer: int) -> tuple[int, ...]:
    # One width for the layers that sliding_window_pattern marks: all of them, those in a list of flags, or with a period p all
    # but each p-th.
    window = f.integer("attention.sliding_window", low=0, default=0)
    pattern = f.flags("attention.sliding_window_pattern", n_layer, default=True)
    return tuple(window if slides else 0 for slides in pattern)


def _vocabulary(f: Fields) -> int:
    # The tokenizer's list decides when the file has no vocab_size; a file with neither cannot be run.
    tokens = f.data.get("tokenizer.ggml.tokens")
    counted = len(tokens) if isinstance(tokens, list) else None
    return f.integer("vocab_size", high=MAX_VOCAB, default=counted)
