"""Qwen2 and Qwen2.5: Llama's decoder with biases on q, k and v."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.family import Family
from llmq.arch.hparams import HParams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "Qwen2"]


class Qwen2(Family):
    name = "qwen2"
    hf_model_types: tuple[str, ...] = ("qwen2",)
    hf_classes: Mapping[str, str] = {"qwen2": "Qwen2ForCausalLM"}
    hf_biases: Mapping[str, str] = {}
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "use_sliding_window": False}

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=gated)


FAMILY = Qwen2()
