"""dots.llm1: Qwen3's attention with experts as DeepSeek-V3 has them."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.fields import Fields
from llmq.arch.moe import SIGMOID
from llmq.arch.qwen3moe import Qwen3Moe
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY"]


class Dots1(Qwen3Moe):
    name = "dots1"
    hf_model_types = ("dots1",)
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "norm_topk_prob": False,
        "sliding_window": None,
    }
    normalizes = False

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {"dots1.expert_gating_func": SIGMOID}


FAMILY = Dots1()
