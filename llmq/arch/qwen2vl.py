"""The language model of Qwen2-VL and Qwen2.5-VL: Qwen2, whose positions in texts are the usual ones. Pictures are not read."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.fields import Fields
from llmq.arch.qwen2 import Qwen2
from llmq.arch.rope import hf_sections
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY"]


class Qwen2VL(Qwen2):
    name = "qwen2vl"
    hf_model_types = ("qwen2_vl", "qwen2_5_vl", "qwen2_vl_text", "qwen2_5_vl_text")
    hf_classes: Mapping[str, str] = {}

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {"qwen2vl.rope.dimension_sections": hf_sections(f)}


FAMILY = Qwen2VL()
