"""MiniMax-M2: experts chosen by sigmoids with a bias, norms on the whole rows of q and k, rotary on a part of each head."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, mixture
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.moe import SIGMOID
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class MiniMaxM2(Family):
    name = "minimax-m2"
    hf_model_types = ("minimax_m2",)
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 196608,
        "head_dim": 128,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
    }
    normalizes = True

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, qk_norm="row"), feed=mixture)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        out: dict[str, MetaValue] = {
            "minimax-m2.expert_gating_func": SIGMOID,
            "minimax-m2.expert_feed_forward_length": f.integer("intermediate_size"),
        }
        return out | ({"minimax-m2.rope.dimension_count": f.integer("rotary_dim")} if f.has("rotary_dim") else {})


FAMILY = MiniMaxM2()
