"""Qwen3-MoE: Qwen3 with experts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, mixture
from llmq.arch.hparams import HParams
from llmq.arch.qwen3 import Qwen3
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "Qwen3Moe"]


class Qwen3Moe(Qwen3):
    name = "qwen3moe"
    hf_model_types: tuple[str, ...] = ("qwen3_moe",)
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
    }
    normalizes = True

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, qk_norm="head"), feed=mixture)


FAMILY = Qwen3Moe()
