"""DeepSeek-V2, -V3, -R1 and GLM-4.7 Flash: keys and values compressed to one small row per token (multi-head latent attention,
DeepSeek-AI 2024), positions in a part of each head, experts in all but the first layers.

Two forms of the same model: files with attn_kv_b expand the compressed row to keys and values per head; files with attn_k_b
and attn_v_b, which folders are turned to, attend to the compressed row itself, as one head of keys and values for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmq.arch.blocks import decoder, mixture, rms_norm
from llmq.arch.family import Family, predicts_ahead
from llmq.arch.fields import Fields
from llmq.arch.hparams import MAX_WIDTH, HParams
from llmq.arch.moe import SIGMOID, SOFTMAX, Pick
from llmq.arch.rope import hf_rope, yarn_scale
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Param, Value

__all__ = ["FAMILY"]

GLM_FLASH = 47, 154880
INNER_EPS = 1e-6  # of the norms of compressed rows, whatever the others have


@dataclass(frozen=True)
class Latent(HParams):
    """q_rank is 0 when queries are not compressed; a head has nope columns without positions, then rope with."""

    q_rank: int
    kv_rank: int
    nope: int
    rope: int
    v_dim: int


class DeepSeek2(Family):
    name = "deepseek2"
    hf_model_types = ("deepseek_v2", "deepseek_v3", "glm4_moe_lite")
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "first_k_dense_replace": 0}
    hf_requires: Mapping[str, tuple[object, ...]] = {
        **Family.hf_requires,
        "rope_interleave": (True,),
        "attention_bias": (False,),
        "topk_method": ("greedy", "group_limited_greedy", "noaux_tc"),
    }
    normalizes = False

    def hparams(self, f: Fields) -> HParams:
        rope = f.integer("rope.dimension_count", low=2, high=MAX_WIDTH)
        keys = f.integer("attention.key_length_mla", "attention.key_length", low=rope + 1, high=MAX_WIDTH)
        values = f.integer("attention.value_length_mla", "attention.value_length", high=MAX_WIDTH)
        hp = super().hparams(f)
        if hp.experts is not None and not f.has("expert_gating_func") and (hp.n_layer, hp.n_vocab) == GLM_FLASH:
            hp = replace(hp, experts=replace(hp.experts, sigmoid=True))  # files of llama.cpp do not say it
        scale = keys**-0.5
        whole = f.number("rope.scaling.yarn_log_multiplier", high=1e3, default=0.0, zero=True) * 10
        first = hp.ropes[0]
        if whole and first is not None and first.scaling == "yarn":
            # One temperature in all: cos and sin keep their size, the scores take it.
            scale *= yarn_scale(first.factor, whole) ** 2
            ropes = (replace(first, attn_factor=first.attn_factor / yarn_scale(first.factor)),) * hp.n_layer
            hp = replace(hp, ropes=ropes)
        return Latent(
            **{**vars(hp), "attention_scale": scale},
            q_rank=f.integer("attention.q_lora_rank", low=0, high=MAX_WIDTH, default=0),
            kv_rank=f.integer("attention.kv_lora_rank", high=MAX_WIDTH),
            nope=keys - rope,
            rope=rope,
            v_dim=values,
        )

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=_attention, feed=mixture)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        rank, rope, rotary = f.integer("kv_lora_rank"), f.integer("qk_rope_head_dim"), hf_rope(f)
        out: dict[str, MetaValue] = {
            "vocab_size": f.integer("vocab_size"),
            "attention.head_count_kv": 1,
            "attention.kv_lora_rank": rank,
            "attention.key_length": rank + rope,
            "attention.value_length": rank,
            "attention.key_length_mla": f.integer("qk_nope_head_dim") + rope,
            "attention.value_length_mla": f.integer("v_head_dim"),
            "rope.dimension_count": rope,
            "expert_gating_func": SOFTMAX if f.data.get("model_type") == "deepseek_v2" else SIGMOID,
        }
        kinds = f.data.get("mlp_layer_types")  # of GLM; DeepSeek has first_k_dense_replace
        if isinstance(kinds, list):
            dense = kinds.index("sparse") if "sparse" in kinds else len(kinds)
            if any(kind != "sparse" for kind in kinds[dense:]):
                raise UnsupportedError("mlp_layer_types: dense layers expected before all others", path=f.path)
            out["leading_dense_block_count"] = dense
        if f.has("q_lora_rank"):
            out["attention.q_lora_rank"] = f.integer("q_lora_rank")
        if f.data.get("topk_method") == "greedy":
            out |= {"expert_group_count": 1, "expert_group_used_count": 1}
        if rotary.has("mscale_all_dim"):
            whole = rotary.number("mscale_all_dim", zero=True)
            if rotary.number("mscale", default=whole, zero=True) != whole:
                raise UnsupportedError("config.json: rope mscale equal to mscale_all_dim expected", path=f.path)
            # takes the place of the factor that other families have for the two
            out |= {"rope.scaling.yarn_log_multiplier": 0.1 * whole, "rope.scaling.attn_factor": 1.0}
        return {f"{self.name}.{key}": value for key, value in out.items()}

    def hf_drops(self, name: str, config: Mapping[str, object]) -> bool:
        return predicts_ahead(name, self.hf_n_layer(config)) or super().hf_drops(name, config)

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        if not name.endswith(".kv_b_proj.weight"):
            return super().hf_parts(name, config)
        f = Fields(config)
        nope, values, heads = f.integer("qk_nope_head_dim"), f.integer("v_head_dim"), f.integer("num_attention_heads")

        def by_head(x: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
            return x.reshape(heads, nope + values, x.shape[1])

        prefix = name.removesuffix("kv_b_proj.weight")
        return [
            (f"{prefix}k_b_proj.weight", lambda x: by_head(x)[:, :nope].swapaxes(1, 2)),
            (f"{prefix}v_b_proj.weight", lambda x: by_head(x)[:, nope:]),
        ]


def _attention(g: Graph, x: Value, hp: HParams, layer: int, table: Param | None) -> Value:
    assert isinstance(hp, Latent) and table is not None
    heads, rope, scale = hp.n_head, hp.rope, getattr(hp.ropes[layer], "scale", 1.0)
    inner = replace(hp, eps=INNER_EPS)
    q = x
    if hp.q_rank:
        q = rms_norm(g, g.linear(x, "attn_q_a", hp.q_rank), "attn_q_a_norm", inner)
    q = g.linear(q, "attn_q_b" if hp.q_rank else "attn_q", heads * (hp.nope + rope))
    q_nope, q_rope = g.slice(q, 0, hp.nope, "q_nope", heads), g.slice(q, hp.nope, rope, "q_rope", heads)
    both = g.linear(x, "attn_kv_a_mqa", hp.kv_rank + rope)
    row = rms_norm(g, g.slice(both, 0, hp.kv_rank, "kv_row"), "attn_kv_a_norm", inner)
    k_rope = g.slice(both, hp.kv_rank, rope, "k_rope")
    q_rope = g.rope(q_rope, table, heads, interleaved=True, scale=scale, label="rope_q")
    k_rope = g.rope(k_rope, table, 1, interleaved=True, scale=scale, label="rope_k")
    if g.has("attn_kv_b.weight"):
        expanded = g.linear(row, "attn_kv_b", heads * (hp.nope + hp.v_dim))
        k = g.join(g.slice(expanded, 0, hp.nope, "k_nope", heads), k_rope, heads, hp.nope + rope, "k")
        v = g.slice(expanded, hp.nope, hp.v_dim, "v", heads)
        q = g.join(q_nope, q_rope, heads, hp.nope + rope, "q")
        y = g.attention(q, k, v, heads=heads, kv_heads=heads, scale=hp.attention_scale)
    else:
        absorbed = g.heads(q_nope, g.w("attn_k_b.weight", (heads, hp.kv_rank, hp.nope)))
        q = g.join(absorbed, q_rope, heads, hp.kv_rank + rope, "q")
        k = g.join(row, k_rope, 1, hp.kv_rank + rope, "k")
        y = g.attention(q, k, row, heads=heads, kv_heads=1, scale=hp.attention_scale)
        y = g.heads(y, g.w("attn_v_b.weight", (heads, hp.v_dim, hp.kv_rank)))
    return g.linear(y, "attn_output", hp.n_embd)


FAMILY = DeepSeek2()
