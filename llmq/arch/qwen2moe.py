"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with experts, and one that all tokens use, gated by a sigmoid."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.blocks import attention, decoder, mixture
from llmq.arch.hparams import HParams
from llmq.arch.qwen2 import Qwen2
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Qwen2Moe(Qwen2):
    name = "qwen2moe"
    hf_model_types = ("qwen2_moe",)
    hf_defaults: Mapping[str, object] = {**Qwen2.hf_defaults, "num_experts": 60, "num_experts_per_tok": 4}
    normalizes = False

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=mixture)


FAMILY = Qwen2Moe()
