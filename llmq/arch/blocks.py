"""Parts that families share."""

from __future__ import annotations

from llmq.arch.hparams import HParams
from llmq.graph.builder import Graph, Param, Value

__all__ = ["decoder", "embedding", "norm", "output", "rope_table", "self_attention", "swiglu"]


def decoder(g: Graph, hp: HParams, *, interleaved: bool, qk_norm: bool = False) -> Value:
    """The decoder of Llama (Touvron et al. 2023): h = x + Attention(RMSNorm(x)), y = h + SwiGLU(RMSNorm(h)) in every layer."""
    x = embedding(g, hp)
    table = rope_table(g, hp)
    for i in g.blocks(hp.n_layer):
        h = norm(g, x, "attn_norm", hp.eps)
        x = g.add(x, self_attention(g, h, hp, i, table, interleaved=interleaved, qk_norm=qk_norm))
        h = norm(g, x, "ffn_norm", hp.eps)
        x = g.add(x, swiglu(g, h, hp))
    return output(g, norm(g, x, "output_norm", hp.eps), hp)


def embedding(g: Graph, hp: HParams, scale: float = 1.0) -> Value:
    """The embeddings of the batch's tokens."""
    return g.embed(g.w("token_embd.weight", (hp.n_vocab, hp.n_embd)), scale)


def norm(g: Graph, x: Value, name: str, eps: float, group: int = 0) -> Value:
    """RMSNorm with name.weight."""
    return g.rmsnorm(x, g.w(f"{name}.weight", (group or x.width,)), eps, group)


def rope_table(g: Graph, hp: HParams) -> Param:
    """The inverse frequencies, divided by the tensor rope_freqs.weight when the file has it."""
    factors = g.positive("rope_freqs.weight", (hp.rope.dims // 2,)) if g.has("rope_freqs.weight") else None
    return g.const("rope", hp.rope.table(factors))


def self_attention(
    g: Graph, x: Value, hp: HParams, layer: int, table: Param, *, interleaved: bool, qk_norm: bool = False
) -> Value:
    """Grouped-query attention with rotary positions, and with RMSNorm on every head of q and k when qk_norm."""
    q = g.linear(x, "attn_q", hp.n_head * hp.head_dim)
    k = g.linear(x, "attn_k", hp.n_head_kv * hp.head_dim)
    v = g.linear(x, "attn_v", hp.n_head_kv * hp.head_dim_v)
    if qk_norm:
        q = norm(g, q, "attn_q_norm", hp.eps, hp.head_dim)
        k = norm(g, k, "attn_k_norm", hp.eps, hp.head_dim)
    q = g.rope(q, table, hp.n_head, interleaved=interleaved, scale=hp.rope.scale, label="rope_q")
    k = g.rope(k, table, hp.n_head_kv, interleaved=interleaved, scale=hp.rope.scale, label="rope_k")
    y = g.attention(q, k, v, heads=hp.n_head, kv_heads=hp.n_head_kv, scale=hp.head_dim**-0.5, window=hp.windows[layer])
    return g.linear(y, "attn_output", hp.n_embd)


def swiglu(g: Graph, x: Value, hp: HParams) -> Value:
    """The gated feed-forward of Llama: down(silu(gate(x)) * up(x)) (Shazeer 2020)."""
    gate = g.linear(x, "ffn_gate", hp.n_ff)
    up = g.linear(x, "ffn_up", hp.n_ff)
    return g.linear(g.glu(gate, up, "silu"), "ffn_down", hp.n_embd)


def output(g: Graph, x: Value, hp: HParams) -> Value:
    """The logits; a file without output.weight ties it to the embeddings."""
    name = "output" if g.has("output.weight") else "token_embd"
    return g.linear(x, name, hp.n_vocab)
