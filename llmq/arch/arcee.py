"""Arcee's AFM: Llama's attention with squared ReLU and no gates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, feed_forward
from llmq.arch.hf_names import DECODER
from llmq.arch.hparams import HParams
from llmq.arch.llama import Llama
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Arcee(Llama):
    name = "arcee"
    hf_model_types = ("arcee",)
    hf_classes: Mapping[str, str] = {"arcee": "ArceeForCausalLM"}
    hf_tensor_names: Mapping[str, str] = {k: v for k, v in DECODER.items() if k != "ffn_gate"}
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
    hf_requires: Mapping[str, tuple[object, ...]] = {"hidden_act": ("relu2",)}

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, interleaved=True), feed=partial(feed_forward, act="relu2"))


FAMILY = Arcee()
