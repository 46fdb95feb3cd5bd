"""Parts that families share: norms, attention, feed-forwards, and the two ways layers are wired."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from llmq.arch.hparams import HParams, Stepped
from llmq.arch.moe import Experts
from llmq.arch.rope import Rope
from llmq.errors import UnsupportedError
from llmq.graph.builder import Graph, Param, Value

__all__ = [
    "attention",
    "classifier",
    "decoder",
    "embedding",
    "encoder",
    "feed_forward",
    "gated",
    "layer_norm",
    "mixture",
    "output",
    "parallel_decoder",
    "query_growth",
    "rms_norm",
    "routing",
    "states",
]

MAX_REACH = 1 << 16
MAX_GROWN = 1 << 24
Norm = Callable[[Graph, Value, str, HParams], Value]
Attend = Callable[[Graph, Value, HParams, int, Param | None], Value]
Feed = Callable[[Graph, Value, HParams], Value]
Head = Feed


def rms_norm(g: Graph, x: Value, name: str, hp: HParams, group: int = 0) -> Value:
    """RMSNorm with name.weight, of each row or of each `group` columns."""
    return g.rmsnorm(x, g.w(f"{name}.weight", (group or x.width,)), hp.eps, group)


def layer_norm(g: Graph, x: Value, name: str, hp: HParams) -> Value:
    """LayerNorm with name.weight and, when the file has it, name.bias."""
    return g.layernorm(x, g.w(f"{name}.weight", (x.width,)), g.maybe(f"{name}.bias", (x.width,)), hp.eps)


def head_norms(g: Graph, x: Value, name: str, hp: HParams) -> Value:
    """LayerNorm of every head of x, name.weight (heads, columns) having a row for each."""
    weight = g.w(f"{name}.weight", (x.width // hp.head_dim, hp.head_dim))
    return g.layernorm(x, weight, None, hp.eps, hp.head_dim)


def decoder(
    g: Graph,
    hp: HParams,
    *,
    attend: Attend,
    feed: Feed,
    norm: Norm = rms_norm,
    pre: bool = True,
    post: bool = False,
    feed_norm: str = "ffn_norm",
    head: Head | None = None,
) -> Value:
    """One after the other: h = x + attend(norm(x)), y = h + feed(norm(h)), with norms before (`pre`) or after (`post`) each or
    both; feed_norm names the one before the feed-forward. What head makes of the final hidden state: the logits."""
    x = embedding(g, hp)
    tables = rope_tables(g, hp)

    def before(x: Value, name: str) -> Value:
        return norm(g, x, name, hp) if pre else x

    def join(x: Value, y: Value, name: str) -> Value:
        return g.add(x, g.scale(norm(g, y, name, hp) if post else y, hp.residual_scale))

    for i in g.blocks(hp.n_layer):
        x = join(x, attend(g, before(x, "attn_norm"), hp, i, tables[i]), "post_attention_norm")
        x = join(x, feed(g, before(x, feed_norm), hp), "post_ffw_norm")
    return (head or output)(g, norm(g, x, "output_norm", hp), hp)


def parallel_decoder(
    g: Graph,
    hp: HParams,
    *,
    attend: Attend,
    feed: Feed,
    norm: Norm,
    attend_norm: str = "attn_norm",
    feed_norm: str = "attn_norm",
) -> Value:
    """Side by side (Wang & Komatsuzaki 2021): y = x + attend(norm(x)) + feed(norm(x)), with one norm or two. The logits."""
    x = embedding(g, hp)
    tables = rope_tables(g, hp)
    for i in g.blocks(hp.n_layer):
        first = norm(g, x, attend_norm, hp)
        second = first if feed_norm == attend_norm else norm(g, x, feed_norm, hp)
        x = g.add(g.add(x, attend(g, first, hp, i, tables[i])), feed(g, second, hp))
    return output(g, norm(g, x, "output_norm", hp), hp)


def encoder(g: Graph, hp: HParams, *, attend: Attend, feed: Feed) -> Value:
    """BERT's order (Devlin et al. 2019): h = norm(x + attend(x)), y = norm(h + feed(h)). The final hidden state."""
    x = embedding(g, hp)
    tables = rope_tables(g, hp)
    for i in g.blocks(hp.n_layer):
        x = layer_norm(g, g.add(x, attend(g, x, hp, i, tables[i])), "attn_output_norm", hp)
        x = layer_norm(g, g.add(x, feed(g, x, hp)), "layer_output_norm", hp)
    return x


def classifier(g: Graph, x: Value) -> Value:
    """What a model says of a text, a score per label, when x is the final state of its first token: out(tanh(dense(x))), where
    the file may leave out either; x where it has neither."""
    x = g.final(x, "scores" if g.has("cls.weight") or g.has("cls.output.weight") else "hidden")
    if g.has("cls.weight"):
        x = g.act(g.linear(x, "cls", g.tensors["cls.weight"].shape[0]), "tanh")
    return g.linear(x, "cls.output", g.tensors["cls.output.weight"].shape[0]) if g.has("cls.output.weight") else x


def embedding(g: Graph, hp: HParams) -> Value:
    """The embeddings of the batch's tokens, made as wide as the hidden state; with those of their types and positions, and
    LayerNorm on top, where the file has them."""
    up = "token_embd_up.weight"
    width = g.tensors[up].shape[-1] if g.has(up) else hp.n_embd
    x = g.embed(g.w("token_embd.weight", (hp.n_vocab, width)), hp.embedding_scale)
    x = g.linear(x, "token_embd_up", hp.n_embd) if g.has(up) else x
    if g.has("token_types.weight"):
        n_types = g.tensors["token_types.weight"].shape[0]
        x = g.add(x, g.embed_types(g.w("token_types.weight", (n_types, hp.n_embd))), "add_types")
    if g.has("position_embd.weight"):
        x = g.add(x, g.embed_positions(g.w("position_embd.weight", (hp.n_ctx_train, hp.n_embd))), "add_positions")
    return layer_norm(g, x, "token_embd_norm", hp) if g.has("token_embd_norm.weight") else x


def rope_tables(g: Graph, hp: HParams) -> list[Param | None]:
    """The inverse frequencies of every layer, divided by what the file has for it."""
    made: dict[Rope, Param] = {}
    for rope in hp.ropes:
        if rope is not None and rope not in made:
            made[rope] = g.const(f"rope.{len(made)}", rope.table(_rope_factors(g, hp, rope), hp.n_ctx))
    return [None if rope is None else made[rope] for rope in hp.ropes]


def _rope_factors(g: Graph, hp: HParams, rope: Rope) -> npt.NDArray[np.float32] | None:
    shape = (rope.dims // 2,)
    if rope.scaling == "longrope" or g.has("rope_factors_long.weight"):
        long, short = (g.positive(f"rope_factors_{which}.weight", shape) for which in ("long", "short"))
        return long if hp.n_ctx > rope.original_context else short
    return g.positive("rope_freqs.weight", shape) if rope.factored and g.has("rope_freqs.weight") else None


def attention(
    g: Graph,
    x: Value,
    hp: HParams,
    layer: int,
    table: Param | None,
    *,
    interleaved: bool = False,
    qk_norm: str = "",
    gate: bool = False,
    chunked: bool = False,
    growth: Param | None = None,
) -> Value:
    """Grouped-query attention with rotary positions (none when table is None), with sinks where the file has them. qk_norm:
    "head" puts RMSNorm on every head of q and k, "turned" the same after the positions, "plain" that without weights, "row"
    on the whole rows, "layer" LayerNorm with weights of its own on every head. The projections are attn_q, attn_k, attn_v, or
    attn_qkv with their rows one after another; gate: attn_q has behind the rows of every head as many whose sigmoid its output
    is multiplied with. chunked: windows begin at their multiples. growth: what queries are multiplied by at each position
    (`query_growth`)."""
    q, k, v = _projections(g, x, hp, 2 if gate else 1)
    opening = g.slice(q, hp.head_dim, hp.head_dim, "gate", heads=hp.n_head) if gate else None
    q = g.slice(q, 0, hp.head_dim, "q", heads=hp.n_head) if gate else q
    if qk_norm == "layer":
        q, k = head_norms(g, q, "attn_q_norm", hp), head_norms(g, k, "attn_k_norm", hp)
    elif qk_norm in ("head", "row"):
        group = hp.head_dim if qk_norm == "head" else 0
        q, k = rms_norm(g, q, "attn_q_norm", hp, group), rms_norm(g, k, "attn_k_norm", hp, group)
    rope = hp.ropes[layer]
    if table is not None and rope is not None:
        q = g.rope(q, table, hp.n_head, interleaved=interleaved, scale=rope.scale, label="rope_q")
        k = g.rope(k, table, hp.n_head_kv, interleaved=interleaved, scale=rope.scale, label="rope_k")
    if qk_norm == "turned":
        q, k = rms_norm(g, q, "attn_q_norm", hp, hp.head_dim), rms_norm(g, k, "attn_k_norm", hp, hp.head_dim)
    elif qk_norm == "plain":
        q, k = g.rmsnorm(q, None, hp.eps, hp.head_dim), g.rmsnorm(k, None, hp.eps, hp.head_dim)
    if growth is not None:
        q = g.mix(q, g.embed_positions(growth), 1)
    window = hp.windows[layer]
    near = not hp.causal and window > 0 and window // 2 < hp.n_ctx  # to both sides
    y = g.attention(
        q,
        k,
        v,
        heads=hp.n_head,
        kv_heads=hp.n_head_kv,
        scale=hp.attention_scale,
        softcap=hp.attention_softcap,
        alibi=hp.alibi,
        window=window if hp.causal else 0,
        chunked=chunked and window > 0,
        causal=hp.causal,
        sinks=g.maybe("attn_sinks.weight", (hp.n_head,)),
        bias=_near(g, hp.n_head, window // 2) if near else None,
    )
    if opening is not None:
        y = g.glu(opening, y, "sigmoid")
    return g.linear(y, "attn_output", hp.n_embd)


def query_growth(g: Graph, hp: Stepped, *, first: int) -> Param | None:
    """1 + rate * log(1 + floor((p + first) / step)) for every position p (Nakanishi 2025); None when all are 1."""
    if hp.n_ctx + first <= hp.step or not hp.rate:
        return None
    if hp.n_ctx > MAX_GROWN:
        raise UnsupportedError(f"queries grow with the position: ask for a context of at most {MAX_GROWN} (n_ctx)", path=g.path)
    steps = (np.arange(hp.n_ctx) + first) // hp.step
    return g.const("growth", (1 + hp.rate * np.log1p(steps)).astype(np.float32)[:, None])


def _near(g: Graph, heads: int, reach: int) -> Param:
    """A window to both sides, as biases by distance: 0 up to reach, then what no score makes up for."""
    if reach > MAX_REACH:
        raise UnsupportedError(f"attention.sliding_window: at most {2 * MAX_REACH} expected, found {2 * reach}", path=g.path)
    bias = np.zeros((heads, 2 * reach + 3), np.float32)
    bias[:, [0, -1]] = -1e9
    return g.const(f"near.{reach}", bias)


def _projections(g: Graph, x: Value, hp: HParams, parts: int) -> tuple[Value, Value, Value]:
    q, k, v = parts * hp.n_head * hp.head_dim, hp.n_head_kv * hp.head_dim, hp.n_head_kv * hp.head_dim_v
    if g.has("attn_qkv.weight"):
        y = g.linear(x, "attn_qkv", q + k + v)
        return g.slice(y, 0, q, "q"), g.slice(y, q, k, "k"), g.slice(y, q + k, v, "v")
    return g.linear(x, "attn_q", q), g.linear(x, "attn_k", k), g.linear(x, "attn_v", v)


def gated(g: Graph, x: Value, hp: HParams, act: str = "silu", *, suffix: str = "", n_ff: int = 0) -> Value:
    """down(act(gate(x)) * up(x)) (Shazeer 2020); a file without ffn_gate has the rows of both in ffn_up. n_ff: its width when
    not hp.n_ff."""
    n_ff = n_ff or hp.n_ff
    if g.has(f"ffn_gate{suffix}.weight"):
        gate, up = g.linear(x, f"ffn_gate{suffix}", n_ff), g.linear(x, f"ffn_up{suffix}", n_ff)
    else:
        both = g.linear(x, f"ffn_up{suffix}", 2 * n_ff)
        gate, up = g.slice(both, 0, n_ff, "gate"), g.slice(both, n_ff, n_ff, "up")
    return g.linear(g.glu(gate, up, act), f"ffn_down{suffix}", hp.n_embd)


def swiglu(g: Graph, gate: Value, up: Value) -> Value:
    return g.glu(gate, up, "silu")


def routing(g: Graph, x: Value, e: Experts, factors: Param | None = None) -> Value:
    """Which experts each token goes to, and how much of each, times the expert's own of `factors`."""
    return g.route(
        g.linear(x, "ffn_gate_inp", e.count),
        e.used,
        sigmoid=e.sigmoid,
        bias=g.maybe("exp_probs_b.bias", (e.count,)),
        groups=e.groups,
        groups_used=e.groups_used,
        by_two=e.sigmoid,
        normalize=e.normalize,
        scale=e.scale,
        factors=factors,
    )


def mixture(
    g: Graph,
    x: Value,
    hp: HParams,
    *,
    join: Callable[[Graph, Value, Value], Value] = swiglu,
    weigh_inputs: bool = False,
    routes: Value | None = None,
) -> Value:
    """Feed-forward by some of many experts (Shazeer et al. 2017), plus that of experts that all tokens use (Dai et al. 2024),
    in some models gated by a sigmoid; `gated` in layers without a router. join: what is made of gate and up. weigh_inputs: the
    weight is on what goes into the expert, of which each token uses one, and not on what comes out. routes: where they go,
    when that is not the routing of x. A file without ffn_gate_exps has the rows of gate and up in ffn_gate_up_exps."""
    e = hp.experts
    if e is None or not g.has("ffn_gate_inp.weight"):
        return gated(g, x, hp)
    routes = routes or routing(g, x, e)

    def experts(x: Value, name: str, rows: int, columns: int) -> Value:
        weight = g.w(f"ffn_{name}_exps.weight", (e.count, rows, columns))
        return g.experts(x, routes, weight, g.maybe(f"ffn_{name}_exps.bias", (e.count, rows)))

    given = g.mix(x, routes, 1) if weigh_inputs else x
    if g.has("ffn_gate_up_exps.weight"):
        both = experts(given, "gate_up", 2 * e.n_ff, hp.n_embd)
        gate, up = g.slice(both, 0, e.n_ff, "gate", e.used), g.slice(both, e.n_ff, e.n_ff, "up", e.used)
    else:
        gate, up = experts(given, "gate", e.n_ff, hp.n_embd), experts(given, "up", e.n_ff, hp.n_embd)
    hidden = join(g, gate, up)
    out = experts(hidden, "down", hp.n_embd, e.n_ff)
    out = out if weigh_inputs else g.mix(out, routes, e.used)
    if not g.has("ffn_up_shexp.weight"):
        return out
    shared = gated(g, x, hp, suffix="_shexp", n_ff=e.n_ff_shared)
    if g.has("ffn_gate_inp_shexp.weight"):
        shared = g.mix(shared, g.act(g.linear(x, "ffn_gate_inp_shexp", 1), "sigmoid"), 1)
    return g.add(out, shared, "add_shared")


def feed_forward(g: Graph, x: Value, hp: HParams, act: str) -> Value:
    """down(act(up(x)))."""
    return g.linear(g.act(g.linear(x, "ffn_up", hp.n_ff), act), "ffn_down", hp.n_embd)


def states(g: Graph, x: Value, hp: HParams) -> Value:
    """The final hidden state itself, of a model that makes vectors."""
    return g.final(x, "hidden")


def output(g: Graph, x: Value, hp: HParams) -> Value:
    """The logits of the final hidden state x; a file without output.weight ties it to the embeddings."""
    x = g.final(x)
    if g.has("output_down.weight"):
        x = g.linear(x, "output_down", g.tensors["output_down.weight"].shape[0])
    name = "output" if g.has("output.weight") else "token_embd"
    return g.softcap(g.scale(g.linear(x, name, hp.n_vocab), hp.logit_scale), hp.logit_softcap)
