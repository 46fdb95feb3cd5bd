"""Gemma 2: Gemma with norms before and after, soft-capped scores and logits, and windows in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.fields import Fields
from llmq.arch.gemma import Gemma
from llmq.arch.hf_names import POST_NORMS
from llmq.arch.hparams import HParams
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]

LAYERS_OF_27B = 46


class Gemma2(Gemma):
    name = "gemma2"
    hf_model_types = ("gemma2",)
    hf_classes: Mapping[str, str] = {"gemma2": "Gemma2ForCausalLM"}
    hf_tensor_names = POST_NORMS
    hf_numbers: Mapping[str, str] = {name: name for name in ("attn_logit_softcapping", "final_logit_softcapping")}
    slides = 2

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        # Files without these keys have what every Gemma 2 has; only the largest scales by the width of its queries.
        if not f.has("attention.scale") and hp.n_layer == LAYERS_OF_27B:
            hp = replace(hp, attention_scale=(hp.n_embd / hp.n_head) ** -0.5)
        return replace(
            hp,
            attention_softcap=hp.attention_softcap if f.has("attn_logit_softcapping") else 50.0,
            logit_softcap=hp.logit_softcap if f.has("final_logit_softcapping") else 30.0,
        )

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=partial(gated, act="gelu_tanh"), post=True)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {
            "gemma2.attention.scale": f.number("query_pre_attn_scalar", default=256.0) ** -0.5,
            "gemma2.attn_logit_softcapping": f.number("attn_logit_softcapping", default=0.0),
            "gemma2.final_logit_softcapping": f.number("final_logit_softcapping", default=0.0),
        }


FAMILY = Gemma2()
