"""Granite 3: Llama's decoder with four constants: on the embeddings, the residuals, the attention scores and the logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.llama import Llama
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY"]


class Granite(Llama):
    name = "granite"
    hf_model_types: tuple[str, ...] = ("granite",)
    hf_classes: Mapping[str, str] = {"granite": "GraniteForCausalLM"}
    hf_numbers: Mapping[str, str] = {
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "attention.scale": "attention_multiplier",
        "logit_scale": "logits_scaling",
    }

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        return replace(hp, logit_scale=1 / hp.logit_scale)  # the logits are divided by it

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return super().hf_more(f) | {f"{self.name}.{key}": f.number(name, default=1.0) for key, name in self.hf_numbers.items()}


FAMILY = Granite()
