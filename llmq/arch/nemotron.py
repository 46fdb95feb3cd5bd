"""Nemotron 3 and 4, Minitron: LayerNorm around one, squared ReLU, rotary on half of each head."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from llmq.arch.blocks import attention, decoder, feed_forward, layer_norm
from llmq.arch.family import Family, Transform
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Nemotron(Family):
    name = "nemotron"
    hf_model_types = ("nemotron",)
    hf_defaults: Mapping[str, object] = {"norm_eps": 1e-5, "max_position_embeddings": 4096, "partial_rotary_factor": 0.5}
    hf_requires: Mapping[str, tuple[object, ...]] = {"hidden_act": ("relu2",)}

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=partial(feed_forward, act="relu2"), norm=layer_norm)

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        return (lambda x: np.add(x, np.float32(1))) if name.endswith("_norm.weight") else None


FAMILY = Nemotron()
