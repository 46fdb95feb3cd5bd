"""Granite 4: Mamba 2's mixers with attention in a few layers, and a feed-forward that all tokens use, mostly beside experts.
Bamba is the same without experts and constants, of which positions turn half of every head."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, decoder, mixture
from llmq.arch.family import Transform
from llmq.arch.fields import Fields
from llmq.arch.granitemoe import GraniteMoe
from llmq.arch.hparams import MAX_LAYERS, HParams
from llmq.arch.layouts import neighbours
from llmq.arch.moe import Pick
from llmq.arch.rope import hf_rope
from llmq.arch.ssm import Recurrent, RecurrentFamily, Ssm, hybrid, layer_kinds, mamba2, no_step_limit, read_ssm
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Param, Value

__all__ = ["FAMILY"]

ATTENTION = ("attention", "full_attention")
BAMBA: Mapping[str, object] = {
    "rms_norm_eps": 1e-5, "max_position_embeddings": 262144, "num_key_value_heads": 8, "intermediate_size": 14336,
    "attn_layer_indices": [],
}  # fmt: skip


class GraniteHybrid(RecurrentFamily, GraniteMoe):
    name = "granitehybrid"
    hf_model_types = ("granitemoehybrid", "bamba")
    hf_classes: Mapping[str, str] = {}
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "num_local_experts": 8, "num_experts_per_tok": 2,
        "shared_intermediate_size": 1024, "mamba_n_heads": 128, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2,
    }  # fmt: skip
    hf_requires: Mapping[str, tuple[object, ...]] = {
        **GraniteMoe.hf_requires,
        "position_embedding_type": ("nope", "rope"),
    }
    heads = True

    def hparams(self, f: Fields) -> HParams:
        f, recurrent = hybrid(f)
        values = vars(super().hparams(f))
        if not f.flag("rope.scaling.finetuned", default=True):  # what llama.cpp takes for a sign of positions
            values = {**values, "ropes": (None,) * len(recurrent)}
        return Recurrent(**values, ssm=read_ssm(f, heads=True), recurrent=recurrent, norm_steps=0.0)

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=_mix, feed=mixture)

    def hf_metadata(self, config: Mapping[str, object], path: str | None = None) -> dict[str, MetaValue]:
        config = _as_granite(config, path)
        given = Fields(config, path)
        if not _is_dense(given):
            return super().hf_metadata(config, path)
        # the feed-forward is the one that all tokens use
        width = given.integer("shared_intermediate_size", default=1024)
        one = {**config, "intermediate_size": width, "num_local_experts": 1, "num_experts_per_tok": 1}
        return {key: value for key, value in super().hf_metadata(one, path).items() if ".expert_" not in key}

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        no_step_limit(f)
        kv = f.integer("num_key_value_heads", default=f.integer("num_attention_heads"))
        inner = f.integer("mamba_expand") * f.integer("hidden_size")
        ssm = Ssm(
            f.integer("mamba_d_conv"), inner, f.integer("mamba_d_state"), f.integer("mamba_n_heads"), self.hf_groups(f.data)
        )
        dims = {f"{self.name}.rope.dimension_count": _turning(f)} if _is_bamba(f.data) else {}
        return {
            **super().hf_more(f),
            **dims,
            **self.ssm_metadata(f, ssm),
            f"{self.name}.attention.head_count_kv": [kv if kind in ATTENTION else 0 for kind in layer_kinds(f)],
            f"{self.name}.rope.scaling.finetuned": f.text("position_embedding_type", default="nope") == "rope",
        }

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        prefix, found, part = name.partition("shared_mlp.")
        if not found:
            return super().hf_parts(name, config)
        stem = f"{prefix}mlp." if _is_dense(Fields(config)) else f"{prefix}mlp.shared_expert."
        if part == "output_linear.weight":
            return [(f"{stem}down_proj.weight", None)]
        return [(f"{stem}gate_proj.weight", lambda x: x[: len(x) // 2]), (f"{stem}up_proj.weight", lambda x: x[len(x) // 2 :])]

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        heads = {".attn_q.": "num_attention_heads", ".attn_k.": "num_key_value_heads"}
        key = next((key for part, key in heads.items() if part in name), None)
        if key is None or not _is_bamba(config):
            return super().hf_transform(name, config)
        f = Fields(_as_granite(config))
        return partial(neighbours, n_head=f.integer(key), dims=_turning(f))


def _is_bamba(config: Mapping[str, object]) -> bool:
    return config.get("model_type") == "bamba"


def _as_granite(config: Mapping[str, object], path: str | None = None) -> Mapping[str, object]:
    """A config.json of Bamba in Granite's words; any other as it is."""
    if not _is_bamba(config):
        return config
    f = Fields({**BAMBA, **{key: value for key, value in config.items() if value is not None}}, path)
    attends = f.items("attn_layer_indices")
    kinds = [ATTENTION[0] if i in attends else "mamba" for i in range(f.integer("num_hidden_layers", high=MAX_LAYERS))]
    return {
        **f.data, "layer_types": kinds, "num_local_experts": 0, "shared_intermediate_size": f.data["intermediate_size"],
        "position_embedding_type": "rope", "attention_multiplier": _head_dim(f) ** -0.5,
    }  # fmt: skip


def _head_dim(f: Fields) -> int:
    return max(f.integer("hidden_size") // f.integer("num_attention_heads"), 1)


def _turning(f: Fields) -> int:
    """How many columns of a head of Bamba positions turn."""
    return int(_head_dim(f) * hf_rope(f).number("partial_rotary_factor", high=1.0, default=0.5))


def _is_dense(f: Fields) -> bool:
    return f.integer("num_local_experts", low=0, default=8) == 0


def _mix(g: Graph, x: Value, hp: HParams, layer: int, table: Param | None) -> Value:
    assert isinstance(hp, Recurrent)
    return mamba2(g, x, hp) if hp.recurrent[layer] else attention(g, x, hp, layer, table, interleaved=True)


FAMILY = GraniteHybrid()
