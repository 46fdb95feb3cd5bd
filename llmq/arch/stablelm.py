"""StableLM: Llama's gates with LayerNorm and rotary on part of each head, in turn or (12B) side by side."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.blocks import attention, decoder, gated, layer_norm, parallel_decoder
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class StableLM(Family):
    name = "stablelm"
    hf_model_types = ("stablelm",)
    hf_classes: Mapping[str, str] = {"stablelm": "StableLmForCausalLM"}
    hf_biases: Mapping[str, str] = {"blk.0.attn_q.bias": "use_qkv_bias"}
    hf_defaults: Mapping[str, object] = {
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.25,
        "max_position_embeddings": 4096,
    }
    hf_requires: Mapping[str, tuple[object, ...]] = {"hidden_act": ("silu",), "qk_layernorm": (False,)}

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        if hp.parallel:
            return parallel_decoder(g, hp, attend=attention, feed=gated, norm=layer_norm)
        return decoder(g, hp, attend=attention, feed=gated, norm=layer_norm)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {"stablelm.use_parallel_residual": f.flag("use_parallel_residual", default=False)}


FAMILY = StableLM()
