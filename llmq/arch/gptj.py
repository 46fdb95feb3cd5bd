"""GPT-J: attention and feed-forward side by side on one LayerNorm, rotary on neighbours of part of each head."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, feed_forward, layer_norm, parallel_decoder
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class GPTJ(Family):
    name = "gptj"
    hf_model_types = ("gptj",)
    hf_defaults: Mapping[str, object] = {"layer_norm_epsilon": 1e-5}
    hf_requires: Mapping[str, tuple[object, ...]] = {"activation_function": ("gelu_new",)}
    hf_ff_ratio = 4
    ignored = (".attn.bias", ".attn.masked_bias", ".attn.embed_positions")

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        attend, feed = partial(attention, interleaved=True), partial(feed_forward, act="gelu_tanh")
        return parallel_decoder(g, hp, attend=attend, feed=feed, norm=layer_norm)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {"gptj.rope.dimension_count": f.integer("rotary_dim")} if f.has("rotary_dim") else {}


FAMILY = GPTJ()
