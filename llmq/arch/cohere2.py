"""Command-R7B: Command-R with windows and rotary positions in three layers of four, neither in the fourth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmq.arch.cohere import Cohere
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams

__all__ = ["FAMILY"]


class Cohere2(Cohere):
    name = "cohere2"
    hf_model_types = ("cohere2",)
    hf_classes: Mapping[str, str] = {"cohere2": "Cohere2ForCausalLM"}
    slides = 4

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        return replace(hp, ropes=tuple(rope if window else None for rope, window in zip(hp.ropes, hp.windows, strict=True)))


FAMILY = Cohere2()
