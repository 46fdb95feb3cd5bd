"""Granite 3 with experts."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.granite import Granite
from llmq.arch.moe import Pick, hf_halves

__all__ = ["FAMILY"]


class GraniteMoe(Granite):
    name = "granitemoe"
    hf_model_types = ("granitemoe",)
    hf_defaults: Mapping[str, object] = {**Granite.hf_defaults, "num_local_experts": 8, "num_experts_per_tok": 2}

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        prefix = name.removesuffix("block_sparse_moe.input_linear.weight")
        return [(name, None)] if prefix == name else hf_halves(f"{prefix}mlp.experts.")


FAMILY = GraniteMoe()
