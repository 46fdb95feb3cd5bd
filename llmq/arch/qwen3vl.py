"""The language model of Qwen3-VL: Qwen3, whose positions in texts are the usual ones. Pictures are not read."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.fields import Fields
from llmq.arch.qwen3 import Qwen3
from llmq.arch.rope import hf_sections
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY", "of_pictures"]


class Qwen3VL(Qwen3):
    name = "qwen3vl"
    hf_model_types = ("qwen3_vl", "qwen3_vl_text")
    hf_classes: Mapping[str, str] = {}

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return of_pictures(self.name, f)


def of_pictures(name: str, f: Fields) -> dict[str, MetaValue]:
    """What a GGUF says of the pictures that are not read."""
    return {
        f"{name}.rope.dimension_sections": hf_sections(f),
        f"{name}.n_deepstack_layers": len(f.items("deepstack_visual_indexes")),
    }


FAMILY = Qwen3VL()
