"""EXAONE 3: Llama's decoder, with the halves of a head apart in GGUF too."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.family import Transform
from llmq.arch.hparams import HParams
from llmq.arch.llama import Llama
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "Exaone"]


class Exaone(Llama):
    name = "exaone"
    hf_model_types: tuple[str, ...] = ("exaone",)
    hf_classes: Mapping[str, str] = {}
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    hf_requires: Mapping[str, tuple[object, ...]] = {**Llama.hf_requires, "activation_function": ("silu",)}

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=gated)

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        return None


FAMILY = Exaone()
