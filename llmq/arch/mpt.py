"""MPT: ALiBi instead of positions, LayerNorm without bias, no biases."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, feed_forward, layer_norm
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class MPT(Family):
    name = "mpt"
    hf_model_types = ("mpt",)
    hf_defaults: Mapping[str, object] = {"layer_norm_epsilon": 1e-5}
    hf_requires: Mapping[str, tuple[object, ...]] = {"no_bias": (True,), "learned_pos_emb": (True, False)}
    hf_rotary = False
    hf_ff_ratio = 4

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True, positions=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=partial(feed_forward, act="gelu"), norm=layer_norm)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        n_head, how = f.integer("n_heads"), f.sub("attn_config")
        if (
            not how.flag("alibi", default=True)
            or how.has("clip_qkv")
            or how.flag("qk_ln", default=False)
            or n_head & (n_head - 1)
        ):
            raise UnsupportedError(
                "attn_config: alibi, no clip_qkv, no qk_ln and a power of two of heads are supported", path=f.path
            )
        return {"mpt.attention.max_alibi_bias": how.number("alibi_bias_max", default=8.0)}


FAMILY = MPT()
