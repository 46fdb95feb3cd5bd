"""ChatGLM 3 and GLM-4 of 2024: Llama's decoder with rotary on half of each head, the rows of gate and up in one matrix."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.family import Family
from llmq.arch.hparams import HParams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "ChatGLM"]


class ChatGLM(Family):
    name = "chatglm"
    hf_model_types: tuple[str, ...] = ("glm",)
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1.5625e-07,
        "max_position_embeddings": 131072,
        "head_dim": 128,
        "partial_rotary_factor": 0.5,
    }

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, interleaved=True), feed=gated)


FAMILY = ChatGLM()
