"""The encoder of T5 alone, which turns texts into vectors (Sentence-T5, GTR, Instructor)."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.blocks import states
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.t5 import T5, T5Params, encoder_states
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class T5Encoder(T5):
    name = "t5encoder"
    hf_architectures = ("T5EncoderModel", "MT5EncoderModel", "UMT5EncoderModel")
    hf_requires: Mapping[str, tuple[object, ...]] = {"feed_forward_proj": T5.hf_requires["feed_forward_proj"]}

    def build(self, g: Graph, hp: HParams) -> Value:
        assert isinstance(hp, T5Params)
        return states(g, encoder_states(g, hp), hp)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return self.hf_encoder(f)

    def hf_drops(self, name: str, config: Mapping[str, object]) -> bool:
        return name.startswith(("decoder.", "lm_head.")) or super().hf_drops(name, config)


FAMILY = T5Encoder()
