"""StarCoder2: grouped queries, LayerNorm, biases, a plain feed-forward and a window in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch import hf_names
from llmq.arch.blocks import attention, decoder, feed_forward, layer_norm
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class StarCoder2(Family):
    name = "starcoder2"
    hf_model_types = ("starcoder2",)
    hf_classes: Mapping[str, str] = {"starcoder2": "Starcoder2ForCausalLM"}
    hf_tensor_names = hf_names.STARCODER2
    hf_biases: Mapping[str, str] = {"blk.0.attn_q.bias": "use_bias"}
    hf_renamed: Mapping[str, str] = {"layer_norm_eps": "norm_epsilon"}
    hf_defaults: Mapping[str, object] = {"norm_epsilon": 1e-5, "max_position_embeddings": 4096}
    hf_requires: Mapping[str, tuple[object, ...]] = {"hidden_act": ("gelu_pytorch_tanh",)}

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=partial(feed_forward, act="gelu_tanh"), norm=layer_norm)


FAMILY = StarCoder2()
