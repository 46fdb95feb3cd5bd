"""The hyper-parameters that decoder families share, read from GGUF metadata."""

from __future__ import annotations

from dataclasses import dataclass

from llmq.arch.fields import Fields
from llmq.arch.moe import Experts, read_experts
from llmq.arch.rope import Rope, read_rope
from llmq.errors import UnsupportedError

__all__ = ["HParams", "Stepped", "read_hparams"]

MAX_LAYERS, MAX_WIDTH, MAX_HEADS, MAX_VOCAB, MAX_CONTEXT, MAX_SCALE = 1024, 2**20, 2**12, 2**24, 2**27, 1e6


@dataclass(frozen=True)
class HParams:
    """Counts and widths, all at least 1; n_ctx is the context that the model is built for, n_ctx_train that of its
    training. Per layer: `windows`, how far attention looks back (0: to the start), and `ropes`, how positions turn queries
    and keys (None: not at all). The scales are 1, the caps and `alibi` 0 when a model has none. `parallel`: attention and
    feed-forward side by side, where a family has both ways. `causal`: tokens see only those before them. `experts` is None
    without."""

    n_vocab: int
    n_ctx_train: int
    n_ctx: int
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    head_dim_v: int
    n_ff: int
    eps: float
    windows: tuple[int, ...]
    ropes: tuple[Rope | None, ...]
    attention_scale: float
    attention_softcap: float
    alibi: float
    embedding_scale: float
    residual_scale: float
    logit_scale: float
    logit_softcap: float
    parallel: bool
    causal: bool
    experts: Experts | None


@dataclass(frozen=True)
class Stepped(HParams):
    """Of models whose queries grow with the position: see `query_growth` in blocks.py."""

    step: int
    rate: float


def read_hparams(
    f: Fields,
    *,
    layer_norm: bool = False,
    positions: bool = False,
    slides: int = 0,
    full_first: bool = False,
    causal: bool = True,
    normalizes: bool | None = None,
    truncates: bool = True,
) -> HParams:
    """Read and check them; `f` has the keys of `{architecture}.`. FormatError names the key that is missing or wrong.

    layer_norm: epsilon is that of LayerNorm; positions: added to the embeddings or ALiBi, not rotary; slides: with a window and
    no word about which layers have it, the period p of which all but each p-th do (0: all), or with full_first all but the
    first of each p; causal: what holds when
    the file does not say; normalizes: the same of the weights of experts, None: the family has none; truncates: whether YaRN
    rounds its range to whole columns."""
    n_embd = f.integer("embedding_length", high=MAX_WIDTH)
    n_layer = f.integer("block_count", high=MAX_LAYERS)
    ahead = f.integer("nextn_predict_layers", low=0, default=0)  # layers after the last, which predict several tokens ahead
    if ahead >= n_layer:
        raise f.error("nextn_predict_layers", f"fewer than the {n_layer} blocks expected, found {ahead}")
    n_layer -= ahead
    n_head = f.integer("attention.head_count", high=MAX_HEADS)
    n_head_kv = f.integer("attention.head_count_kv", high=MAX_HEADS, default=n_head)
    if n_head % n_head_kv:
        raise f.error("attention.head_count_kv", f"a divisor of the head count {n_head} expected, found {n_head_kv}")
    if not f.has("attention.key_length") and n_embd % n_head:
        raise f.error("attention.head_count", f"a divisor of the width {n_embd} expected, found {n_head}")
    head_dim = f.integer("attention.key_length", high=MAX_WIDTH, default=max(n_embd // n_head, 1))
    n_ctx_train = f.integer("context_length", high=MAX_CONTEXT)
    n_ff = f.integer("feed_forward_length", high=MAX_WIDTH * 16)
    if normalizes is None and f.integer("expert_count", low=0, default=0):
        raise UnsupportedError(f"{f.prefix}expert_count: this architecture has no experts", path=f.path)
    norm = "attention.layer_norm_epsilon" if layer_norm else "attention.layer_norm_rms_epsilon"
    return HParams(
        n_vocab=_vocabulary(f),
        n_ctx_train=n_ctx_train,
        n_ctx=n_ctx_train,
        n_embd=n_embd,
        n_layer=n_layer,
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        head_dim_v=f.integer("attention.value_length", high=MAX_WIDTH, default=head_dim),
        n_ff=n_ff,
        eps=f.number(norm, high=1.0),
        windows=_windows(f, n_layer, slides, full_first=full_first),
        ropes=(None if positions else read_rope(f, head_dim, n_ctx_train, truncates=truncates),) * n_layer,
        attention_scale=_scale(f, "attention.scale", head_dim**-0.5),
        attention_softcap=_scale(f, "attn_logit_softcapping", 0.0),
        alibi=_scale(f, "attention.max_alibi_bias", 0.0),
        embedding_scale=_scale(f, "embedding_scale", 1.0),
        residual_scale=_scale(f, "residual_scale", 1.0),
        logit_scale=_scale(f, "logit_scale", 1.0),
        logit_softcap=_scale(f, "final_logit_softcapping", 0.0),
        parallel=f.flag("use_parallel_residual", default=False),
        causal=f.flag("attention.causal", default=causal),
        experts=None if normalizes is None else read_experts(f, n_ff, normalizes),
    )


def _scale(f: Fields, name: str, default: float) -> float:
    # A stored 0 means, in llama.cpp too, that the model has no such factor.
    return f.number(name, high=MAX_SCALE, default=default, zero=True) or default


def _windows(f: Fields, n_layer: int, slides: int, *, full_first: bool) -> tuple[int, ...]:
    # One width for the layers that sliding_window_pattern marks: all of them, those in a list of flags, or with a period p all
    # but each p-th or, with full_first, the first.
    window = f.integer("attention.sliding_window", low=0, default=0)
    default = [not slides or (i + 1 - full_first) % slides != 0 for i in range(n_layer)]
    pattern = f.flags("attention.sliding_window_pattern", default, first=full_first)
    return tuple(window if on else 0 for on in pattern)


def _vocabulary(f: Fields) -> int:
    # The tokenizer's list decides when the file has no vocab_size; a file with neither cannot be run.
    tokens = f.data.get("tokenizer.ggml.tokens")
    counted = len(tokens) if isinstance(tokens, list) else None
    return f.integer("vocab_size", high=MAX_VOCAB, default=counted)
