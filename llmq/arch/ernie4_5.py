"""ERNIE 4.5: Llama's decoder; rotary pairs are neighbours in its own files too."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, mixture
from llmq.arch.family import Family
from llmq.arch.hparams import HParams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "Ernie45"]


class Ernie45(Family):
    name = "ernie4_5"
    hf_model_types: tuple[str, ...] = ("ernie4_5",)
    hf_classes: Mapping[str, str] = {"ernie4_5": "Ernie4_5ForCausalLM"}
    hf_biases: Mapping[str, str] = {"blk.0.attn_q.bias": "use_bias"}
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    }

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, interleaved=True), feed=mixture)


FAMILY = Ernie45()
