"""GPT-2: learned positions, LayerNorm, biases everywhere; Hugging Face has its matrices as (inputs, outputs)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch import hf_names
from llmq.arch.blocks import attention, decoder, feed_forward, layer_norm
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class GPT2(Family):
    name = "gpt2"
    hf_model_types = ("gpt2",)
    hf_classes: Mapping[str, str] = {"gpt2": "GPT2LMHeadModel"}
    hf_tensor_names = hf_names.GPT2
    hf_biases: Mapping[str, str] = {}
    hf_renamed: Mapping[str, str] = {
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
        "intermediate_size": "n_inner",
        "layer_norm_eps": "layer_norm_epsilon",
    }
    hf_defaults: Mapping[str, object] = {"layer_norm_epsilon": 1e-5}
    hf_requires: Mapping[str, tuple[object, ...]] = {
        "activation_function": ("gelu_new",),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    }
    hf_rotary = False
    hf_ff_ratio = 4
    ignored = (".attn.bias", ".attn.masked_bias")

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True, positions=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=partial(feed_forward, act="gelu_tanh"), norm=layer_norm)

    def hf_transposed(self, name: str) -> bool:
        return name.startswith("blk.") and name.endswith(
            ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
        )


FAMILY = GPT2()
