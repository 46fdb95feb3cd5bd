"""BLOOM: ALiBi instead of positions, LayerNorm on the embeddings too, biases everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from llmq.arch.blocks import attention, decoder, feed_forward, layer_norm
from llmq.arch.family import Family, Transform
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.arch.layouts import query_key_value
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Bloom(Family):
    name = "bloom"
    hf_model_types = ("bloom",)
    hf_defaults: Mapping[str, object] = {"layer_norm_epsilon": 1e-5, "seq_length": 2048}
    hf_requires: Mapping[str, tuple[object, ...]] = {"apply_residual_connection_post_layernorm": (False,)}
    hf_rotary = False
    hf_ff_ratio = 4

    def hparams(self, f: Fields) -> HParams:
        return replace(read_hparams(f, layer_norm=True, positions=True), alibi=8.0)

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=partial(feed_forward, act="gelu_tanh"), norm=layer_norm)

    def hf_name(self, name: str) -> str:
        return name.removeprefix("transformer.")

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        n_head = Fields(config).integer("n_head", "num_attention_heads")
        return (lambda x: query_key_value(x, n_head, n_head)) if ".attn_qkv." in name else None


FAMILY = Bloom()
