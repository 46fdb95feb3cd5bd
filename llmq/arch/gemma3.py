"""Gemma 3 (text): Gemma with norms before and after and on every head of q and k; five layers of six have windows and a
RoPE base of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.fields import Fields
from llmq.arch.gemma import Gemma
from llmq.arch.hf_names import POST_NORMS
from llmq.arch.hparams import HParams
from llmq.arch.rope import Rope, hf_rope
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "Gemma3"]

LAYERS_OF_27B = 62


class Gemma3(Gemma):
    name = "gemma3"
    hf_model_types: tuple[str, ...] = ("gemma3_text", "gemma3")
    hf_classes: Mapping[str, str] = {"gemma3_text": "Gemma3ForCausalLM"}
    hf_tensor_names = POST_NORMS
    hf_numbers: Mapping[str, str] = {
        "rope.freq_base_swa": "rope_local_base_freq",
        **{name: name for name in ("attn_logit_softcapping", "final_logit_softcapping")},
    }
    hf_defaults: Mapping[str, object] = {
        **Gemma.hf_defaults,
        "max_position_embeddings": 131072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "rope_theta": 1000000.0,
    }
    slides = 6

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        if not f.has("attention.scale") and hp.n_layer == LAYERS_OF_27B:
            hp = replace(hp, attention_scale=(hp.n_embd / hp.n_head) ** -0.5)
        local = Rope(hp.head_dim, f.number("rope.freq_base_swa", low=1.0, high=1e12, default=10000.0))
        return replace(hp, ropes=tuple(local if window else rope for rope, window in zip(hp.ropes, hp.windows, strict=True)))

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, qk_norm="head"), feed=partial(gated, act="gelu_tanh"), post=True)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        if f.flag("use_bidirectional_attention", default=not self.causal) == self.causal:
            raise UnsupportedError(f"use_bidirectional_attention: {str(not self.causal).lower()} expected", path=f.path)
        out: dict[str, MetaValue] = {
            f"{self.name}.attention.scale": f.number("query_pre_attn_scalar", default=256.0) ** -0.5,
            f"{self.name}.rope.freq_base_swa": hf_rope(f, "sliding_attention").number("rope_theta", default=10000.0),
        }
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if f.has(name):
                out[f"{self.name}.{name}"] = f.number(name)
        return out


FAMILY = Gemma3()
