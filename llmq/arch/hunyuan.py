"""Hunyuan's dense models: Llama's decoder with RMSNorm on every head of q and k, after they are turned."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.rope import hf_rope
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Hunyuan(Family):
    name = "hunyuan-dense"
    hf_model_types = ("hunyuan_v1_dense",)
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048}

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, qk_norm="turned"), feed=gated)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        rope = hf_rope(f)
        if not rope.has("alpha"):
            return {}
        # The base is stretched once, by alpha, whatever the context.
        dims = f.integer("head_dim", default=f.integer("hidden_size") // f.integer("num_attention_heads"))
        base = rope.number("rope_theta", default=10000.0) * rope.number("alpha", high=1e9) ** (dims / max(dims - 2, 1))
        return {"hunyuan-dense.rope.freq_base": base}


FAMILY = Hunyuan()
