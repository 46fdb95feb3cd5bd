"""OLMo 1: Llama's decoder with LayerNorm that has no weights, in some with q, k and v clamped."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.arch.llama import Llama
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class OLMo(Llama):
    name = "olmo"
    hf_model_types = ("olmo",)
    hf_classes: Mapping[str, str] = {}
    hf_defaults: Mapping[str, object] = {"layer_norm_eps": 1e-5, "max_position_embeddings": 2048}
    hf_requires: Mapping[str, tuple[object, ...]] = {**Llama.hf_requires, "clip_qkv": (None,)}

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        ones = g.const("ones", np.ones(hp.n_embd, np.float32))

        def norm(g: Graph, x: Value, name: str, hp: HParams) -> Value:
            return g.layernorm(x, ones, None, hp.eps)

        return decoder(g, hp, attend=partial(attention, interleaved=True), feed=gated, norm=norm)


FAMILY = OLMo()
