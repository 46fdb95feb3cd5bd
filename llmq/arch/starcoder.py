"""StarCoder and SantaCoder: GPT-2 with one head of keys and values for all."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.fields import Fields
from llmq.arch.gpt2 import GPT2
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY"]


class StarCoder(GPT2):
    name = "starcoder"
    hf_model_types = ("gpt_bigcode",)
    hf_classes: Mapping[str, str] = {}
    hf_requires: Mapping[str, tuple[object, ...]] = {
        "activation_function": ("gelu_pytorch_tanh", "gelu_new"),
        "scale_attn_weights": (True,),
        "multi_query": (True,),
        "add_cross_attention": (False,),
    }

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {"starcoder.attention.head_count_kv": 1}

    def hf_transposed(self, name: str) -> bool:
        return False


FAMILY = StarCoder()
