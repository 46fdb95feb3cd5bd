"""OPT: learned positions, LayerNorm, ReLU, biases. OPT-350m normalizes after each part instead of before, and its embeddings
are narrower than its hidden state.

llama.cpp does not know this architecture, so its GGUF names are llmq's own: those of BERT for norms that come after, and
token_embd_up and output_down for the matrices between OPT-350m's embeddings and its hidden state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, encoder, feed_forward, layer_norm, output
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]

FIRST_POSITION = 2
"""The first rows of the position table stand for nothing."""
_NAMES = {
    "embed_tokens": "token_embd", "embed_positions": "position_embd", "project_in": "token_embd_up",
    "project_out": "output_down", "final_layer_norm": "output_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.out_proj": "attn_output",
    "self_attn_layer_norm": "attn_norm", "fc1": "ffn_up", "fc2": "ffn_down",
}  # fmt: skip


class Opt(Family):
    name = "opt"
    hf_model_types = ("opt",)
    hf_defaults: Mapping[str, object] = {"layer_norm_eps": 1e-5, "max_position_embeddings": 2048}
    hf_requires: Mapping[str, tuple[object, ...]] = {
        "activation_function": ("relu",),
        "layer_norm_elementwise_affine": (True,),
        "_remove_final_layer_norm": (False,),
    }
    hf_rotary = False

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True, positions=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        feed = partial(feed_forward, act="relu")
        if g.has("output_norm.weight"):
            return decoder(g, hp, attend=attention, feed=feed, norm=layer_norm)
        return output(g, encoder(g, hp, attend=attention, feed=feed), hp)

    def hf_names(self, name: str, config: Mapping[str, object]) -> str | None:
        found = re.fullmatch(r"(?:model\.)?decoder\.(?:layers\.(\d+)\.)?([\w.]+)\.(weight|bias)", name)
        if found is None:
            return None
        block, part, kind = found.groups()
        gguf = _NAMES.get(part)
        if block is not None and part == "final_layer_norm":
            gguf = "ffn_norm"
        if not Fields(config).flag("do_layer_norm_before", default=True):
            gguf = {"attn_norm": "attn_output_norm", "ffn_norm": "layer_output_norm"}.get(gguf or "", gguf)
        return None if gguf is None else f"{gguf}.{kind}" if block is None else f"blk.{block}.{gguf}.{kind}"

    def hf_skipped_rows(self, name: str, config: Mapping[str, object]) -> int:
        return FIRST_POSITION if name == "position_embd.weight" else 0


FAMILY = Opt()
