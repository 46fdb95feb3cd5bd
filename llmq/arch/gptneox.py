"""GPT-NeoX (Pythia): LayerNorm, biases, rotary on part of each head, attention and feed-forward side by side or in turn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch import hf_names
from llmq.arch.blocks import attention, decoder, feed_forward, layer_norm, parallel_decoder
from llmq.arch.family import Family, Transform
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.arch.layouts import query_key_value
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class GPTNeoX(Family):
    name = "gptneox"
    hf_model_types = ("gpt_neox",)
    hf_classes: Mapping[str, str] = {"gpt_neox": "GPTNeoXForCausalLM"}
    hf_tensor_names = hf_names.NEOX
    hf_biases: Mapping[str, str] = {}
    hf_renamed: Mapping[str, str] = {"partial_rotary_factor": "rotary_pct", "rope_theta": "rotary_emb_base"}
    hf_defaults: Mapping[str, object] = {"layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "rotary_pct": 0.25}
    hf_requires: Mapping[str, tuple[object, ...]] = {"hidden_act": ("gelu",)}
    ignored = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        feed = partial(feed_forward, act="gelu")
        if hp.parallel:
            return parallel_decoder(g, hp, attend=attention, feed=feed, norm=layer_norm, feed_norm="ffn_norm")
        return decoder(g, hp, attend=attention, feed=feed, norm=layer_norm)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {"gptneox.use_parallel_residual": f.flag("use_parallel_residual", default=True)}

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        n_head = Fields(config).integer("num_attention_heads")
        return (lambda x: query_key_value(x, n_head, n_head)) if ".attn_qkv." in name else None


FAMILY = GPTNeoX()
