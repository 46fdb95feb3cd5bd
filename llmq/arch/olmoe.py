"""OLMoE: Llama's decoder with experts, and norms on the whole rows of q and k."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, mixture
from llmq.arch.family import Family
from llmq.arch.hparams import HParams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class OLMoE(Family):
    name = "olmoe"
    hf_model_types = ("olmoe",)
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
    }
    hf_requires: Mapping[str, tuple[object, ...]] = {**Family.hf_requires, "clip_qkv": (None,)}
    normalizes = False

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, qk_norm="row"), feed=mixture)


FAMILY = OLMoE()
