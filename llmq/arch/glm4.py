"""GLM-4 of 2025 (GLM-4-0414, GLM-Z1): ChatGLM's decoder with norms after attention and feed-forward too."""

from __future__ import annotations

from functools import partial

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.chatglm import ChatGLM
from llmq.arch.hparams import HParams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Glm4(ChatGLM):
    name = "glm4"
    hf_model_types = ("glm4",)

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, interleaved=True), feed=gated, post=True)


FAMILY = Glm4()
