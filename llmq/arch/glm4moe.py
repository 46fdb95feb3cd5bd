"""GLM-4.5, 4.6 and 4.7 with experts as DeepSeek-V3 has them, and ordinary attention, in some with norms on the heads of q and
k."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, mixture
from llmq.arch.family import Family, predicts_ahead
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.moe import SIGMOID
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Glm4Moe(Family):
    name = "glm4moe"
    hf_model_types = ("glm4_moe",)
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "partial_rotary_factor": 0.5,
        "norm_topk_prob": True,
        "first_k_dense_replace": 1,
    }
    normalizes = False

    def build(self, g: Graph, hp: HParams) -> Value:
        attend = partial(attention, qk_norm="head" if g.has("blk.0.attn_q_norm.weight") else "")
        return decoder(g, hp, attend=attend, feed=mixture, feed_norm="post_attention_norm")

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {"glm4moe.expert_gating_func": SIGMOID}

    def hf_drops(self, name: str, config: Mapping[str, object]) -> bool:
        return predicts_ahead(name, self.hf_n_layer(config)) or super().hf_drops(name, config)


FAMILY = Glm4Moe()
