"""Command-R and R+: attention and feed-forward side by side on one LayerNorm without bias, scaled logits; R+ has LayerNorm on
every head of queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, gated, layer_norm, parallel_decoder
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "Cohere"]


class Cohere(Family):
    name = "command-r"
    hf_model_types = ("cohere",)
    hf_classes: Mapping[str, str] = {"cohere": "CohereForCausalLM"}
    hf_numbers: Mapping[str, str] = {"logit_scale": "logit_scale"}
    hf_biases: Mapping[str, str] = {"blk.0.attn_q.bias": "attention_bias", "blk.0.attn_q_norm.weight": "use_qk_norm"}
    hf_defaults: Mapping[str, object] = {"layer_norm_eps": 1e-5, "max_position_embeddings": 8192, "logit_scale": 0.0625}
    hf_requires: Mapping[str, tuple[object, ...]] = {"hidden_act": ("silu",)}

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True, slides=self.slides)

    def build(self, g: Graph, hp: HParams) -> Value:
        attend = partial(attention, interleaved=True, qk_norm="layer" if g.has("blk.0.attn_q_norm.weight") else "")
        return parallel_decoder(g, hp, attend=attend, feed=gated, norm=layer_norm)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {f"{self.name}.logit_scale": f.number("logit_scale"), f"{self.name}.vocab_size": f.integer("vocab_size")}


FAMILY = Cohere()
