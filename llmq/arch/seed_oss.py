"""Seed-OSS: Llama's decoder with biases on q, k and v."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.family import Family
from llmq.arch.hparams import HParams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class SeedOss(Family):
    name = "seed_oss"
    hf_model_types = ("seed_oss",)
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-6, "max_position_embeddings": 524288, "head_dim": 128}

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=gated, feed_norm="post_attention_norm")


FAMILY = SeedOss()
