"""EmbeddingGemma: Gemma 3 as an encoder, windows to both sides; vectors may go through two matrices more."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, gated, states
from llmq.arch.fields import Fields
from llmq.arch.gemma3 import Gemma3
from llmq.arch.hparams import HParams
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class GemmaEmbedding(Gemma3):
    name = "gemma-embedding"
    hf_model_types = ("gemma3_text",)
    hf_architectures = ("Gemma3TextModel",)
    hf_classes: Mapping[str, str] = {}
    causal = False

    def build(self, g: Graph, hp: HParams) -> Value:
        attend, feed = partial(attention, qk_norm="head"), partial(gated, act="gelu_tanh")
        return decoder(g, hp, attend=attend, feed=feed, post=True, head=_dense)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return super().hf_more(f) | {"gemma-embedding.attention.causal": False}


def _dense(g: Graph, x: Value, hp: HParams) -> Value:
    for name in ("dense_2", "dense_3"):  # after the mean in the original, which is the same: there is nothing between
        if g.has(f"{name}.weight"):
            x = g.linear(x, name, g.tensors[f"{name}.weight"].shape[0])
    return states(g, x, hp)


FAMILY = GemmaEmbedding()
