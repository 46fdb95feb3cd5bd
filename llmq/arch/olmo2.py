"""OLMo 2: norms only after attention and feed-forward, and on the whole rows of q and k."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.family import Family
from llmq.arch.hf_names import POST_NORMS
from llmq.arch.hparams import HParams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class OLMo2(Family):
    name = "olmo2"
    hf_model_types = ("olmo2",)
    hf_classes: Mapping[str, str] = {"olmo2": "Olmo2ForCausalLM"}
    hf_tensor_names = POST_NORMS
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048}

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, qk_norm="row"), feed=gated, pre=False, post=True)


FAMILY = OLMo2()
