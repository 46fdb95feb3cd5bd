"""Qwen3: Llama's decoder with RMSNorm on every head of q and k, and heads whose width is given."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.family import Family
from llmq.arch.hparams import HParams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "Qwen3"]


class Qwen3(Family):
    name = "qwen3"
    hf_model_types: tuple[str, ...] = ("qwen3",)
    hf_classes: Mapping[str, str] = {"qwen3": "Qwen3ForCausalLM"}
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "head_dim": 128,
        "use_sliding_window": False,
    }

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, qk_norm="head"), feed=gated)


FAMILY = Qwen3()
