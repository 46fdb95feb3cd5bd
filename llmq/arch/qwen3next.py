"""Qwen3-Next: layers of the gated delta rule, with gated attention in every fourth, experts, and RMSNorm by 1 + weight, to
which GGUF has the 1 added already."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from llmq.arch.blocks import attention, decoder, mixture
from llmq.arch.family import Transform
from llmq.arch.fields import Fields
from llmq.arch.hparams import MAX_LAYERS, HParams
from llmq.arch.layouts import Rows
from llmq.arch.moe import Pick
from llmq.arch.rope import hf_rope
from llmq.arch.ssm import Recurrent, RecurrentFamily, Ssm, convolved, layer_kinds, read_ssm
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Param, Value

__all__ = ["FAMILY", "Qwen3Next"]

PERIOD = 4  # of layers with attention, when nothing is said
KEY_EPS = 1e-6  # of the lengths of queries and keys, whatever the norms have
KINDS = {"linear_attention": True, "full_attention": False}


class Qwen3Next(RecurrentFamily):
    """in_turn: neighbouring heads of values are of different keys."""

    name = "qwen3next"
    hf_model_types: tuple[str, ...] = ("qwen3_next",)
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "head_dim": 256, "num_key_value_heads": 2,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
        "num_experts": 512, "num_experts_per_tok": 10, "norm_topk_prob": True,
    }  # fmt: skip
    normalizes: bool | None = True
    heads = True
    in_turn = False

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        n = f.integer("block_count", high=MAX_LAYERS)  # with those that predict ahead
        period = f.integer("full_attention_interval", default=PERIOD)
        recurrent = f.flags("attention.recurrent_layers", [(i + 1) % period != 0 for i in range(n)])[: hp.n_layer]
        return Recurrent(**vars(hp), ssm=read_ssm(f, heads=True), recurrent=tuple(recurrent), norm_steps=0.0)

    def build(self, g: Graph, hp: HParams) -> Value:
        assert isinstance(hp, Recurrent)
        root = g.const("root", np.full(hp.ssm.states, hp.ssm.states**-0.5, np.float32))
        attend = partial(_mix, root=root, in_turn=self.in_turn)
        return decoder(g, hp, attend=attend, feed=mixture, feed_norm="post_attention_norm")

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        rank = f.integer("linear_num_value_heads")
        ssm = Ssm(
            f.integer("linear_conv_kernel_dim"),
            rank * f.integer("linear_value_head_dim"),
            f.integer("linear_key_head_dim"),
            rank,
            f.integer("linear_num_key_heads"),
        )
        rotary = hf_rope(f).number("partial_rotary_factor", high=1.0, default=0.25)
        out: dict[str, MetaValue] = {
            **self.ssm_metadata(f, ssm),
            f"{self.name}.rope.dimension_count": int(f.integer("head_dim") * rotary),
            f"{self.name}.full_attention_interval": f.integer("full_attention_interval", default=PERIOD),
        }
        if f.has("layer_types"):
            kinds = layer_kinds(f)
            if not set(kinds) <= KINDS.keys():
                raise UnsupportedError(f"layer_types: {' or '.join(KINDS)} expected", path=f.path)
            out[f"{self.name}.attention.recurrent_layers"] = [KINDS[kind] for kind in kinds]
        return out

    def hf_drops(self, name: str, config: Mapping[str, object]) -> bool:
        return name.startswith(("mtp.", "model.mtp.")) or super().hf_drops(name, config)

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        if name.endswith(".A_log"):  # a vector here
            return [(name, None)]
        stem, found, rest = name.partition("in_proj_qkvz")
        if not found:
            return super().hf_parts(name, config)
        f = Fields({**self.hf_defaults, **config})
        groups, keys = f.integer("linear_num_key_heads"), f.integer("linear_key_head_dim")
        values = f.integer("linear_num_value_heads") * f.integer("linear_value_head_dim") // groups
        ends = (keys, 2 * keys, 2 * keys + values)

        def pick(x: Rows, first: int, last: int | None) -> Rows:
            parts = np.split(x.reshape(groups, 2 * (keys + values), *x.shape[1:]), ends, axis=1)[first:last]
            return np.concatenate([part.reshape(-1, *x.shape[1:]) for part in parts])

        return [
            (f"{stem}in_proj_qkv{rest}", partial(pick, first=0, last=3)),
            (f"{stem}in_proj_z{rest}", partial(pick, first=3, last=None)),
        ]

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        if name.endswith("_norm.weight") and not name.endswith(".ssm_norm.weight"):
            return lambda x: np.add(x, np.float32(1))
        return super().hf_transform(name, config)


def _mix(g: Graph, x: Value, hp: HParams, layer: int, table: Param | None, *, root: Param, in_turn: bool) -> Value:
    assert isinstance(hp, Recurrent)
    if hp.recurrent[layer]:
        return _delta(g, x, hp, root, in_turn)
    return attention(g, x, hp, layer, table, qk_norm="head", gate=True)


def _delta(g: Graph, x: Value, hp: Recurrent, root: Param, in_turn: bool) -> Value:
    """The mixer of the gated delta rule (Yang et al. 2025): queries and keys are made as long as 1, which is RMSNorm and then
    `root`; RMSNorm of every head of the output, times the gate."""
    s = hp.ssm
    width, keys = s.inner // s.rank, 2 * s.groups * s.states
    qkv, gate = _projections(g, x, s)
    qkv = convolved(g, qkv, s)
    qk = g.rmsnorm(g.slice(qkv, 0, keys, "delta_qk"), root, KEY_EPS / s.states, s.states)
    qkv = g.join(qk, g.slice(qkv, keys, s.inner, "delta_v"), 1, qkv.width)
    step, rate = _rates(g, x, s)
    step = g.act(g.add_bias(step, g.w("ssm_dt.bias", (s.rank,))), "softplus")
    rates = g.join(step, g.act(rate, "sigmoid"), 1, 2 * s.rank, "delta_rates")
    sizes = {"heads": s.rank, "width": width, "groups": s.groups, "states": s.states}
    y = g.delta(qkv, rates, g.w("ssm_a", (s.rank,)), **sizes, in_turn=in_turn, scale=s.states**-0.5)
    y = g.rmsnorm(y, g.w("ssm_norm.weight", (width,)), hp.eps, width)
    return g.linear(g.glu(gate, y, "silu"), "ssm_out", hp.n_embd)


def _projections(g: Graph, x: Value, s: Ssm) -> tuple[Value, Value]:
    """Queries, keys and values, and the gate; the first files had both in one matrix, all of a key's heads together."""
    keys = s.groups * s.states
    if not g.has("ssm_in.weight"):
        return g.linear(x, "attn_qkv", 2 * keys + s.inner), g.linear(x, "attn_gate", s.inner)
    both, n = g.linear(x, "ssm_in", 2 * (keys + s.inner)), s.inner // s.groups
    q, k = (g.slice(both, at * s.states, s.states, label, heads=s.groups) for at, label in enumerate(("delta_q", "delta_k")))
    v, gate = (
        g.slice(both, 2 * s.states + at * n, n, label, heads=s.groups) for at, label in enumerate(("delta_v", "delta_gate"))
    )
    return g.join(g.join(q, k, 1, 2 * keys), v, 1, 2 * keys + s.inner), gate


def _rates(g: Graph, x: Value, s: Ssm) -> tuple[Value, Value]:
    """A step and a rate per head, not yet made positive."""
    if g.has("ssm_alpha.weight"):
        return g.linear(x, "ssm_alpha", s.rank), g.linear(x, "ssm_beta", s.rank)
    both, n = g.linear(x, "ssm_ba", 2 * s.rank), s.rank // s.groups
    return g.slice(both, n, n, "delta_steps", heads=s.groups), g.slice(both, 0, n, "delta_rates", heads=s.groups)


FAMILY = Qwen3Next()
