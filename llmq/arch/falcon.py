"""Falcon 7B, 11B (one norm) and 40B, 180B (two): attention and feed-forward side by side, few key heads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, feed_forward, layer_norm, parallel_decoder
from llmq.arch.family import Family, Transform
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.arch.layouts import query_key_value
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Falcon(Family):
    name = "falcon"
    hf_model_types = ("falcon", "RefinedWeb", "RefinedWebModel")
    hf_defaults: Mapping[str, object] = {"layer_norm_epsilon": 1e-5, "max_position_embeddings": 2048}
    hf_requires: Mapping[str, tuple[object, ...]] = {"alibi": (False,), "parallel_attn": (True,), "activation": ("gelu",)}
    hf_ff_ratio = 4

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        feed = partial(feed_forward, act="gelu")
        attend_norm = "attn_norm_2" if g.has("blk.0.attn_norm_2.weight") else "attn_norm"
        return parallel_decoder(g, hp, attend=attention, feed=feed, norm=layer_norm, attend_norm=attend_norm)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        out: dict[str, MetaValue] = {"falcon.attention.head_count_kv": _key_heads(f)}
        if f.has("ffn_hidden_size"):
            out["falcon.feed_forward_length"] = f.integer("ffn_hidden_size")
        return out

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        f = Fields(config)
        n_head, n_head_kv = f.integer("num_attention_heads", "n_head"), _key_heads(f)
        return (lambda x: query_key_value(x, n_head, n_head_kv)) if ".attn_qkv." in name else None


def _key_heads(f: Fields) -> int:
    n_head = f.integer("num_attention_heads", "n_head")
    if f.flag("new_decoder_architecture", default=False):
        return f.integer("num_kv_heads", "n_head_kv", default=n_head)
    return 1 if f.flag("multi_query", default=True) else n_head


FAMILY = Falcon()
