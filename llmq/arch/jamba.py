"""Jamba: Mamba's mixers with attention in every few layers, and experts in every few others; nothing tells positions but the
states."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.blocks import attention, decoder, mixture
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.ssm import Recurrent, RecurrentFamily, Ssm, hybrid, mamba, read_ssm
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Param, Value

__all__ = ["FAMILY"]


class Jamba(RecurrentFamily):
    name = "jamba"
    hf_model_types = ("jamba",)
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-6, "max_position_embeddings": 262144, "num_experts": 16, "num_experts_per_tok": 2,
        "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
        "num_key_value_heads": 8,
    }  # fmt: skip
    hf_rotary = False
    normalizes = False

    def hparams(self, f: Fields) -> HParams:
        f, recurrent = hybrid(f)
        values = vars(super().hparams(f)) | {"ropes": (None,) * len(recurrent)}
        return Recurrent(**values, ssm=read_ssm(f, heads=False), recurrent=recurrent, norm_steps=0.0)

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=_mix, feed=mixture)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        width, kv = f.integer("hidden_size"), f.integer("num_key_value_heads")
        period, offset = f.integer("attn_layer_period"), f.integer("attn_layer_offset", low=0)
        rank = f.integer("mamba_dt_rank") if f.data.get("mamba_dt_rank", "auto") != "auto" else -(-width // 16)
        inner = f.integer("mamba_expand") * width
        attends = [i % period == offset for i in range(f.integer("num_hidden_layers"))]
        return {
            f"{self.name}.vocab_size": f.integer("vocab_size"),
            f"{self.name}.attention.head_count_kv": [kv if on else 0 for on in attends],
            **self.ssm_metadata(f, Ssm(f.integer("mamba_d_conv"), inner, f.integer("mamba_d_state"), rank, 1)),
        }

    def hf_name(self, name: str) -> str:
        return super().hf_name(name).replace(".feed_forward.experts.", ".mlp.experts.").replace(".moe.", ".feed_forward.")


def _mix(g: Graph, x: Value, hp: HParams, layer: int, table: Param | None) -> Value:
    assert isinstance(hp, Recurrent)
    return mamba(g, x, hp) if hp.recurrent[layer] else attention(g, x, hp, layer, table)


FAMILY = Jamba()
