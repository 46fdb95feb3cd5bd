"""Mistral Small 3 and Ministral 3: Llama's decoder. Ministral's queries grow in steps of the original context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from llmq.arch.blocks import attention, decoder, mixture, query_growth
from llmq.arch.fields import Fields
from llmq.arch.hparams import MAX_SCALE, HParams, Stepped
from llmq.arch.llama import Llama
from llmq.arch.rope import hf_rope, yarn_scale
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Mistral3(Llama):
    name = "mistral3"
    hf_model_types = ("ministral3", "mistral3")
    hf_classes: Mapping[str, str] = {}

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        rope = hp.ropes[0]
        whole = f.number("rope.scaling.yarn_log_multiplier", high=1e3, default=0.0, zero=True)
        if whole and rope is not None and rope.scaling == "yarn":
            rope = replace(rope, attn_factor=rope.attn_factor / yarn_scale(rope.factor, whole))
        return Stepped(
            **{**vars(hp), "ropes": (rope,) * hp.n_layer},
            step=f.integer("rope.scaling.original_context_length", default=hp.n_ctx_train),
            rate=f.number("attention.temperature_scale", high=MAX_SCALE, default=0.0, zero=True),
        )

    def build(self, g: Graph, hp: HParams) -> Value:
        assert isinstance(hp, Stepped)
        growth = query_growth(g, hp, first=0)
        return decoder(g, hp, attend=partial(attention, interleaved=True, growth=growth), feed=mixture)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        rope, out = hf_rope(f), super().hf_more(f)
        if rope.has("llama_4_scaling_beta"):
            out["mistral3.attention.temperature_scale"] = rope.number("llama_4_scaling_beta", zero=True)
        if rope.has("mscale_all_dim"):
            if rope.number("mscale", default=1.0) != 1:
                raise UnsupportedError("config.json: rope mscale 1 expected", path=f.path)
            # takes the place of the factor that other families have for the two
            out["mistral3.rope.scaling.yarn_log_multiplier"] = rope.number("mscale_all_dim", zero=True)
            out["mistral3.rope.scaling.attn_factor"] = 1.0
        return out


FAMILY = Mistral3()
