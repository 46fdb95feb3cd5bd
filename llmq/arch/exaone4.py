"""EXAONE 4: norms only after attention and feed-forward, and on every head of q and k; in the 32B three layers of four have
windows, and the fourth no positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.exaone import Exaone
from llmq.arch.fields import Fields
from llmq.arch.hf_names import POST_NORMS
from llmq.arch.hparams import HParams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Exaone4(Exaone):
    name = "exaone4"
    hf_model_types = ("exaone4",)
    hf_classes: Mapping[str, str] = {"exaone4": "Exaone4ForCausalLM"}
    hf_tensor_names = POST_NORMS
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048}
    hf_biases: Mapping[str, str] = {}
    slides = 4

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        if not any(hp.windows):
            return hp
        return replace(hp, ropes=tuple(rope if window else None for rope, window in zip(hp.ropes, hp.windows, strict=True)))

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, qk_norm="head"), feed=gated, pre=False, post=True)


FAMILY = Exaone4()
