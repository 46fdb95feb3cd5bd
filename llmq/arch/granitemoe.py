"""Granite 3 with experts, in some with a feed-forward that all tokens use beside them."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.fields import Fields
from llmq.arch.granite import Granite
from llmq.arch.moe import Pick, hf_halves
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY"]


class GraniteMoe(Granite):
    name = "granitemoe"
    hf_model_types: tuple[str, ...] = ("granitemoe", "granitemoeshared")
    hf_defaults: Mapping[str, object] = {**Granite.hf_defaults, "num_local_experts": 8, "num_experts_per_tok": 2}

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        out = super().hf_more(f)
        if f.integer("shared_intermediate_size", low=0, default=0):
            out[f"{self.name}.expert_shared_feed_forward_length"] = f.integer("shared_intermediate_size")
        return out

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        shared = name.removesuffix("shared_mlp.input_linear.weight")
        if shared != name:
            return [
                (f"{shared}mlp.shared_experts.gate_proj.weight", lambda x: x[: len(x) // 2]),
                (f"{shared}mlp.shared_experts.up_proj.weight", lambda x: x[len(x) // 2 :]),
            ]
        prefix = name.removesuffix("block_sparse_moe.input_linear.weight")
        return [(name, None)] if prefix == name else hf_halves(f"{prefix}mlp.experts.")


FAMILY = GraniteMoe()
