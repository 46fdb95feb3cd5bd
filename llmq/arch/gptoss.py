"""gpt-oss: experts with biases and a clamped gate, attention with sinks, every other layer with a window.

Its YaRN does not round the range of columns that it changes, and GGUF has no key to say so; llama.cpp rounds, and its
logits differ a little for that."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from llmq.arch.blocks import attention, decoder, mixture
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.moe import Pick
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]

LIMIT = 7.0
LOWEST = float(np.finfo(np.float32).min)


class GptOss(Family):
    name = "gpt-oss"
    hf_model_types = ("gpt_oss",)
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "head_dim": 64,
        "sliding_window": 128,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
    }
    hf_requires: Mapping[str, tuple[object, ...]] = {
        **Family.hf_requires,
        "swiglu_alpha": (1.702,),
        "swiglu_limit": (LIMIT,),
    }
    slides = 2
    normalizes = True
    truncates = False

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=partial(mixture, join=_clamped), feed_norm="post_attention_norm")

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {"gpt-oss.expert_feed_forward_length": f.integer("intermediate_size")}

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        # Stacks of (experts, inputs, outputs), those in MXFP4 with rows as outputs; those of gate and up in turn.
        prefix, experts, kind = name.partition(".mlp.experts.")
        parts: dict[str, list[tuple[str, Pick | None]]] = {
            "gate_up_proj": [
                ("gate_proj.weight", lambda x: x[:, :, ::2].swapaxes(1, 2)),
                ("up_proj.weight", lambda x: x[:, :, 1::2].swapaxes(1, 2)),
            ],
            "gate_up_proj_bias": [("gate_proj.bias", lambda x: x[:, ::2]), ("up_proj.bias", lambda x: x[:, 1::2])],
            "down_proj": [("down_proj.weight", lambda x: x.swapaxes(1, 2))],
            "down_proj_bias": [("down_proj.bias", None)],
            "gate_up_proj_blocks": [("gate_proj.weight", lambda x: x[:, ::2]), ("up_proj.weight", lambda x: x[:, 1::2])],
            "down_proj_blocks": [("down_proj.weight", None)],
            "gate_up_proj_scales": [],
            "down_proj_scales": [],
        }
        if name.endswith(".sinks"):
            return [(f"{name}.weight", None)]
        return [(f"{prefix}{experts}{part}", pick) for part, pick in parts[kind]] if kind in parts else [(name, None)]


def _clamped(g: Graph, gate: Value, up: Value) -> Value:
    return g.glu(g.clamp(gate, LOWEST, LIMIT), g.scale(g.clamp(up, -LIMIT, LIMIT), 1.0, 1.0), "gelu_quick")


FAMILY = GptOss()
