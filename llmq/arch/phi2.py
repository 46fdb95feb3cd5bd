"""Phi 1 to 2: attention and feed-forward side by side, LayerNorm, biases everywhere, rotary on part of each head."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch import hf_names
from llmq.arch.blocks import attention, feed_forward, layer_norm, parallel_decoder
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Phi2(Family):
    name = "phi2"
    hf_model_types = ("phi",)
    hf_classes: Mapping[str, str] = {"phi": "PhiForCausalLM"}
    hf_tensor_names = hf_names.PHI
    hf_biases: Mapping[str, str] = {}
    hf_defaults: Mapping[str, object] = {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5}
    hf_requires: Mapping[str, tuple[object, ...]] = {"hidden_act": ("gelu_new", "gelu_pytorch_tanh"), "qk_layernorm": (False,)}
    hf_ff_ratio = 4

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        feed = partial(feed_forward, act="gelu_tanh")
        return parallel_decoder(g, hp, attend=attention, feed=feed, norm=layer_norm)


FAMILY = Phi2()
