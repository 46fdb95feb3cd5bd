"""SmolLM3: Llama's decoder in which every fourth layer has no positions (NoPE)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.llama import Llama
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY"]


class SmolLM3(Llama):
    name = "smollm3"
    hf_model_types = ("smollm3",)
    hf_classes: Mapping[str, str] = {"smollm3": "SmolLM3ForCausalLM"}

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        return replace(hp, ropes=tuple(rope if has else None for rope, has in zip(hp.ropes, _rotary(hp.n_layer), strict=True)))

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        n_layer = f.integer("num_hidden_layers")
        given = f.data.get("no_rope_layers")
        if given is not None and given != [int(has) for has in _rotary(n_layer)]:
            raise UnsupportedError("no_rope_layers: every fourth layer without positions expected", path=f.path)
        return super().hf_more(f)


def _rotary(n_layer: int) -> list[bool]:
    return [(i + 1) % 4 != 0 for i in range(n_layer)]


FAMILY = SmolLM3()
