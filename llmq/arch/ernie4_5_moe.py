"""ERNIE 4.5 with experts; a bias that is not part of the weights chooses them, and some are used by all tokens."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.ernie4_5 import Ernie45
from llmq.arch.fields import Fields
from llmq.arch.moe import Pick
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY"]


class Ernie45Moe(Ernie45):
    name = "ernie4_5-moe"
    hf_model_types = ("ernie4_5_moe",)
    hf_defaults: Mapping[str, object] = {
        **Ernie45.hf_defaults,
        "moe_num_experts": 64,
        "moe_k": 6,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_intermediate_size": 1536,
    }
    hf_requires: Mapping[str, tuple[object, ...]] = {**Ernie45.hf_requires, "moe_layer_interval": (1,)}
    normalizes = True

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        if f.has("moe_layer_end_index") and 0 <= f.integer("moe_layer_end_index", low=-1) < f.integer("num_hidden_layers") - 1:
            raise UnsupportedError("moe_layer_end_index: the last layer expected", path=f.path)
        width, shared = f.integer("moe_intermediate_size"), f.integer("moe_num_shared_experts", low=0)
        out: dict[str, MetaValue] = {
            "expert_count": f.integer("moe_num_experts"),
            "expert_used_count": f.integer("moe_k"),
            "expert_feed_forward_length": width,
            "expert_shared_count": shared,
            "interleave_moe_layer_step": 1,
            "leading_dense_block_count": f.integer("moe_layer_start_index", low=0),
        }
        out |= {"expert_shared_feed_forward_length": width * shared} if shared else {}
        return {f"{self.name}.{key}": value for key, value in out.items()}

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        if name.endswith(".e_score_correction_bias"):
            return [(name, lambda x: x.reshape(-1))]
        return super().hf_parts(name, config)


FAMILY = Ernie45Moe()
