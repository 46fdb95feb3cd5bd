"""The language model of Qwen3-VL with experts. Pictures are not read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.fields import Fields
from llmq.arch.layouts import Rows
from llmq.arch.moe import Pick
from llmq.arch.qwen3moe import Qwen3Moe
from llmq.arch.qwen3vl import of_pictures
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY"]


class Qwen3VLMoe(Qwen3Moe):
    name = "qwen3vlmoe"
    hf_model_types = ("qwen3_vl_moe", "qwen3_vl_moe_text")
    hf_defaults: Mapping[str, object] = {**Qwen3Moe.hf_defaults, "norm_topk_prob": True}

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return of_pictures(self.name, f)

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        # transformers 5 has experts as (outputs, inputs), 4 as (inputs, outputs).
        width, parts = Fields(config).integer("hidden_size"), super().hf_parts(name, config)
        place = {"gate_up_proj": 2, "down_proj": 1}.get(name.rpartition(".")[2] if ".mlp.experts." in name else "")
        if place is None:
            return parts
        return [(part, partial(_turned, pick=pick, place=place, width=width)) for part, pick in parts]


def _turned(x: Rows, *, pick: Pick | None, place: int, width: int) -> Rows:
    x = x if x.shape[place] == width else x.swapaxes(1, 2)
    return x if pick is None else pick(x)


FAMILY = Qwen3VLMoe()
