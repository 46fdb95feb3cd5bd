"""LFM2 with experts in all but the first layers."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.fields import Fields
from llmq.arch.lfm2 import Lfm2
from llmq.arch.moe import SIGMOID
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY"]


class Lfm2Moe(Lfm2):
    name = "lfm2moe"
    hf_model_types = ("lfm2_moe",)
    hf_defaults: Mapping[str, object] = {
        **Lfm2.hf_defaults, "block_auto_adjust_ff_dim": False, "moe_intermediate_size": 1792, "num_dense_layers": 2,
        "num_experts": 32, "num_experts_per_tok": 4, "norm_topk_prob": True, "routed_scaling_factor": 1.0,
    }  # fmt: skip
    normalizes = True

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return super().hf_more(f) | {
            f"{self.name}.expert_gating_func": SIGMOID,
            f"{self.name}.leading_dense_block_count": f.integer("num_dense_layers", low=0),
        }

    def hf_name(self, name: str) -> str:
        if ".feed_forward.experts." in name:
            return name.removeprefix("model.")
        return name.replace(".expert_bias", ".expert_bias.bias")


FAMILY = Lfm2Moe()
