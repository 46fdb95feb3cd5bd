"""StableLM: Llama's gates with LayerNorm and rotary on part of each head, in turn or side by side. The 12B has
LayerNorm on every head of queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, gated, layer_norm, parallel_decoder
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hf_names import DECODER
from llmq.arch.hparams import HParams, read_hparams
from llmq.arch.moe import Pick
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class StableLM(Family):
    name = "stablelm"
    hf_model_types = ("stablelm",)
    hf_classes: Mapping[str, str] = {"stablelm": "StableLmForCausalLM"}
    # the norms of heads are not there: transformers has one tensor for each head
    hf_tensor_names: Mapping[str, str] = {k: v for k, v in DECODER.items() if k not in ("attn_q_norm", "attn_k_norm")}
    hf_biases: Mapping[str, str] = {"blk.0.attn_q.bias": "use_qkv_bias"}
    hf_defaults: Mapping[str, object] = {
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.25,
        "max_position_embeddings": 4096,
    }
    hf_requires: Mapping[str, tuple[object, ...]] = {"hidden_act": ("silu",)}

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True)

    def build(self, g: Graph, hp: HParams) -> Value:
        attend = partial(attention, qk_norm="layer" if g.has("blk.0.attn_q_norm.weight") else "")
        if hp.parallel:
            return parallel_decoder(g, hp, attend=attend, feed=gated, norm=layer_norm)
        return decoder(g, hp, attend=attend, feed=gated, norm=layer_norm)

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        return [(name.replace("_layernorm.norms.", "_layernorm.experts."), None)]  # one for each head, stacked

    def hf_name(self, name: str) -> str:
        return name.replace("_layernorm.experts.", "_layernorm.")

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {"stablelm.use_parallel_residual": f.flag("use_parallel_residual", default=False)}


FAMILY = StableLM()
