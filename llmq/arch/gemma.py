"""Gemma: scaled embeddings, GELU gates, and RMSNorm by 1 + weight, to which GGUF has the 1 added already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.family import Family, Transform
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.formats.checkpoint import Tensor
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "Gemma"]


class Gemma(Family):
    name = "gemma"
    hf_model_types: tuple[str, ...] = ("gemma",)
    hf_classes: Mapping[str, str] = {"gemma": "GemmaForCausalLM"}
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "head_dim": 256}
    hf_requires: Mapping[str, tuple[object, ...]] = {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "hidden_act": ("gelu_pytorch_tanh", "gelu"),  # "gelu" of old configurations has always meant the other
    }

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        return replace(hp, embedding_scale=hp.n_embd**0.5)

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=partial(gated, act="gelu_tanh"))

    def hf_config(self, f: Fields, tensors: Mapping[str, Tensor]) -> dict[str, object]:
        out = super().hf_config(f, tensors)
        if self.slides:  # Gemma 2 and 3
            scalar = self.hparams(f).attention_scale ** -2
            out["query_pre_attn_scalar"] = round(scalar) if abs(scalar - round(scalar)) < 1e-4 * scalar else scalar
            out |= {name: None for name in ("attn_logit_softcapping", "final_logit_softcapping") if out.get(name) == 0}
        return out

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        return (lambda x: np.add(x, np.float32(1))) if name.endswith("_norm.weight") else None


FAMILY = Gemma()
