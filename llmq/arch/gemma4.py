"""Gemma 4, as far as it reads text: Gemma 3's layers, of which those that see everything have wider heads, in which a part of
the columns turns, and in some models values that are the keys. Small models give every layer an embedding of the token of its
own, and their last layers read the keys and values of an earlier one; large ones have experts beside the feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmq.arch.blocks import embedding, gated, mixture, output, rms_norm, rope_tables, routing
from llmq.arch.family import N_LAYER, Transform
from llmq.arch.fields import Fields
from llmq.arch.gemma import Gemma
from llmq.arch.hparams import MAX_HEADS, MAX_LAYERS, MAX_WIDTH, HParams
from llmq.arch.moe import Pick
from llmq.arch.rope import Rope, hf_rope
from llmq.errors import UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Param, Value

__all__ = ["FAMILY"]

SLIDES = 6
CAP = 30.0  # of logits, in files that do not say
STILL = 1e30  # what frequencies are divided by in columns that do not turn
SHARED = ("attn_k", "attn_v", "attn_k_norm")  # what layers with the keys and values of another may have for nothing


@dataclass(frozen=True)
class Layers(HParams):
    """layers: the same with the widths of each. From layer `shared` on they read keys and values of the last one before with
    their window. own: the width of a layer's own embeddings, 0: there are none."""

    layers: tuple[HParams, ...]
    shared: int
    own: int


class Gemma4(Gemma):
    name = "gemma4"
    hf_model_types = ("gemma4_text", "gemma4", "gemma4_unified_text", "gemma4_unified")
    hf_classes: Mapping[str, str] = {}
    hf_defaults: Mapping[str, object] = {
        **Gemma.hf_defaults,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "sliding_window": 512,
        "hidden_size_per_layer_input": 256,
        "num_kv_shared_layers": 0,
        "attention_k_eq_v": False,
        "enable_moe_block": False,
        "use_double_wide_mlp": False,
        "rope_parameters": {
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    hf_requires: Mapping[str, tuple[object, ...]] = {
        **Gemma.hf_requires,
        "attention_bias": (False,),
        "use_bidirectional_attention": ("vision",),  # of pictures
    }
    hf_rotary = False  # `hf_more` writes both
    slides = SLIDES
    normalizes = True

    def hparams(self, f: Fields) -> HParams:
        n_layer = f.integer("block_count", high=MAX_LAYERS)
        widths = f.integers("feed_forward_length", n_layer, high=MAX_WIDTH * 16)
        heads = f.integers("attention.head_count_kv", n_layer, high=MAX_HEADS)
        first = {f"{f.prefix}feed_forward_length": widths[0], f"{f.prefix}attention.head_count_kv": heads[0]}
        hp = replace(super().hparams(Fields({**f.data, **first}, f.path, f.prefix)), attention_scale=1.0)
        if not f.has("final_logit_softcapping"):
            hp = replace(hp, logit_softcap=CAP)
        dim = f.integer("attention.key_length_swa", high=MAX_WIDTH, default=hp.head_dim)
        if hp.head_dim_v != hp.head_dim or f.integer("attention.value_length_swa", high=MAX_WIDTH, default=dim) != dim:
            raise f.error("attention.value_length", "keys and values of one width expected")
        turned = f.integer("rope.dimension_count_swa", low=2, high=dim, default=dim)
        if turned % 2:
            raise f.error("rope.dimension_count_swa", f"an even number expected, found {turned}")
        near = Rope(turned, f.number("rope.freq_base_swa", low=1.0, high=1e12, default=10000.0), factored=False)
        layers = []
        for window, kv, n_ff in zip(hp.windows, heads, widths, strict=True):
            if hp.n_head % kv:
                raise f.error("attention.head_count_kv", f"divisors of the head count {hp.n_head} expected, found {kv}")
            width = dim if window else hp.head_dim
            layers.append(replace(hp, n_ff=n_ff, n_head_kv=kv, head_dim=width, head_dim_v=width))
        shared = n_layer - f.integer("attention.shared_kv_layers", low=0, high=n_layer - 1, default=0)
        if not set(hp.windows[shared:]) <= set(hp.windows[:shared]):
            raise f.error("attention.shared_kv_layers", "layers of both kinds expected before those that share")
        return Layers(
            **{**vars(hp), "ropes": tuple(near if w else rope for w, rope in zip(hp.windows, hp.ropes, strict=True))},
            layers=tuple(layers),
            shared=shared,
            own=f.integer("embedding_length_per_layer_input", low=0, high=MAX_WIDTH, default=0),
        )

    def build(self, g: Graph, hp: HParams) -> Value:
        assert isinstance(hp, Layers)
        x = embedding(g, hp)
        tables = rope_tables(g, hp)
        inputs = _inputs(g, x, hp) if hp.own else None
        slots: dict[int, int] = {}  # by window
        for i in g.blocks(hp.n_layer):
            y = _attention(g, rms_norm(g, x, "attn_norm", hp), hp, i, tables[i], slots=slots)
            x = g.add(x, rms_norm(g, y, "post_attention_norm", hp))
            x = g.add(x, rms_norm(g, _feed(g, x, hp.layers[i]), "post_ffw_norm", hp))
            if inputs is not None:
                own = g.slice(inputs, i * hp.own, hp.own, "own")
                y = g.glu(g.linear(x, "inp_gate", hp.own), own, "gelu_tanh")
                x = g.add(x, rms_norm(g, g.linear(y, "proj", hp.n_embd), "post_norm", hp))
            if g.has("layer_output_scale.weight"):
                x = g.scale(x, float(g.finite("layer_output_scale.weight", (1,))[0]))
        return output(g, rms_norm(g, x, "output_norm", hp), hp)

    def hf_fields(self, config: Mapping[str, object], path: str | None = None) -> Fields:
        unified = str(config.get("model_type")).startswith("gemma4_unified")
        more: dict[str, object] = {}
        if unified:
            more |= {"hidden_size_per_layer_input": 0, "max_position_embeddings": 262144, "sliding_window": 1024}
        given = {key: value for key, value in config.items() if value is not None}
        if given.get("enable_moe_block") is True:
            more["num_experts_per_tok"] = given.get("top_k_experts")
        else:
            given.pop("num_experts", None)
        f = super().hf_fields({**more, **given}, path)
        if f.integer("vocab_size_per_layer_input", default=f.integer("vocab_size")) != f.integer("vocab_size"):
            raise UnsupportedError("vocab_size_per_layer_input: that of vocab_size expected", path=path)
        return f

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        n_layer, near, (dim, kv) = f.integer(*N_LAYER), _near(f), _full(f)
        turned = hf_rope(f, "sliding_attention")
        if turned.text("rope_type", default="default") != "default" or turned.number("partial_rotary_factor", default=1.0) != 1:
            raise UnsupportedError("rope_parameters: rope_type default expected for sliding_attention", path=f.path)
        width, own = f.integer("head_dim"), f.integer("num_key_value_heads")
        n_ff, shared = f.integer("intermediate_size"), f.integer("num_kv_shared_layers", low=0)
        out: dict[str, MetaValue] = {
            "vocab_size": f.integer("vocab_size"),
            "attention.key_length": dim,
            "attention.value_length": dim,
            "attention.key_length_swa": width,
            "attention.value_length_swa": width,
            "attention.shared_kv_layers": shared,
            "attention.sliding_window": f.integer("sliding_window"),
            "attention.sliding_window_pattern": near,
            "final_logit_softcapping": f.number("final_logit_softcapping", default=0.0, zero=True),
            "embedding_length_per_layer_input": f.integer("hidden_size_per_layer_input", low=0),
            "rope.dimension_count": dim,
            "rope.dimension_count_swa": width,
            "rope.freq_base": hf_rope(f).number("rope_theta", default=1e6),
            "rope.freq_base_swa": turned.number("rope_theta", default=1e4),
        }
        if kv != own:
            out["attention.head_count_kv"] = [own if on else kv for on in near]
        if f.flag("use_double_wide_mlp"):
            out["feed_forward_length"] = [n_ff if i < n_layer - shared else 2 * n_ff for i in range(n_layer)]
        return {f"gemma4.{key}": value for key, value in out.items()}

    def hf_drops(self, name: str, config: Mapping[str, object]) -> bool:
        # Layers without keys of their own have them in some folders.
        f = self.hf_fields(config)
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        shared = layer.isdecimal() and int(layer) >= f.integer(*N_LAYER) - f.integer("num_kv_shared_layers", low=0)
        return (shared and part.startswith(("self_attn.k_", "self_attn.v_"))) or super().hf_drops(name, config)

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        plain = name.endswith((".layer_scalar", ".experts.gate_up_proj", ".experts.down_proj"))
        return [(f"{name}.weight" if plain else name, None)]

    def hf_names(self, name: str, config: Mapping[str, object]) -> str | None:
        block, _, part = name.removeprefix("model.layers.").partition(".")
        known = {"router.scale": "ffn_gate_inp.scale", "router.per_expert_scale": "ffn_down_exps.scale"}
        return f"blk.{block}.{known[part]}" if part in known else None

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        return None  # nothing is added to norms

    def hf_extra_tensors(self, config: Mapping[str, object]) -> dict[str, npt.NDArray[np.float32]]:
        f = self.hf_fields(config)
        rope, pairs = hf_rope(f), _full(f)[0] // 2
        if rope.text("rope_type", default="proportional") != "proportional" or rope.number("factor", default=1.0) != 1:
            raise UnsupportedError("rope_parameters: rope_type proportional expected for full_attention", path=f.path)
        turning = int(rope.number("partial_rotary_factor", high=1.0, default=1.0) * 2 * pairs) // 2
        return {"rope_freqs.weight": np.repeat(np.array([1, STILL], np.float32), [turning, pairs - turning])}


def _inputs(g: Graph, x: Value, hp: Layers) -> Value:
    """What every layer is given of the token: its own embedding of it, and a part of the common one."""
    n = hp.n_layer * hp.own
    shared = g.scale(g.linear(x, "per_layer_model_proj", n), hp.n_embd**-0.5)
    shared = rms_norm(g, shared, "per_layer_proj_norm", hp, hp.own)
    own = g.embed(g.w("per_layer_token_embd.weight", (hp.n_vocab, n)), hp.own**0.5)
    return g.scale(g.add(shared, own), 2**-0.5)


def _attention(g: Graph, x: Value, model: Layers, layer: int, table: Param | None, *, slots: dict[int, int]) -> Value:
    hp, window = model.layers[layer], model.windows[layer]
    assert table is not None
    q = rms_norm(g, g.linear(x, "attn_q", hp.n_head * hp.head_dim), "attn_q_norm", hp, hp.head_dim)
    q = g.rope(q, table, hp.n_head, interleaved=False, label="rope_q")
    if layer < model.shared:
        rows = hp.n_head_kv * hp.head_dim
        k = g.linear(x, "attn_k", rows)
        v = g.rmsnorm(g.linear(x, "attn_v", rows) if g.has("attn_v.weight") else k, None, hp.eps, hp.head_dim)
        k = g.rope(rms_norm(g, k, "attn_k_norm", hp, hp.head_dim), table, hp.n_head_kv, interleaved=False, label="rope_k")
        slots[window] = g.put(k, v, hp.n_head_kv, window)
    else:
        g.leave(f"{name}.weight" for name in SHARED)
    return g.linear(g.attention_again(q, slots[window], heads=hp.n_head, scale=hp.attention_scale), "attn_output", hp.n_embd)


def _feed(g: Graph, x: Value, hp: HParams) -> Value:
    y = gated(g, rms_norm(g, x, "ffn_norm", hp), hp, "gelu_tanh")
    if hp.experts is None:
        return y
    chosen_by = g.scale(g.rmsnorm(x, g.w("ffn_gate_inp.scale", (hp.n_embd,)), hp.eps), hp.n_embd**-0.5)
    routes = routing(g, chosen_by, hp.experts, g.maybe("ffn_down_exps.scale", (hp.experts.count,)))
    z = mixture(g, rms_norm(g, x, "pre_ffw_norm_2", hp), hp, join=_geglu, routes=routes)
    return g.add(rms_norm(g, y, "post_ffw_norm_1", hp), rms_norm(g, z, "post_ffw_norm_2", hp))


def _geglu(g: Graph, gate: Value, up: Value) -> Value:
    return g.glu(gate, up, "gelu_tanh")


def _near(f: Fields) -> list[bool]:
    """Which layers of a config.json have windows; the last has none, whatever the file says."""
    n_layer = f.integer(*N_LAYER)
    usual = ["sliding_attention" if (i + 1) % SLIDES else "full_attention" for i in range(n_layer)]
    kinds = f.items("layer_types") or usual
    if len(kinds) != n_layer or any(kind not in ("full_attention", "sliding_attention") for kind in kinds):
        raise f.error("layer_types", f"{n_layer} kinds of attention expected, found {quoted(kinds)}")
    return [kind == "sliding_attention" for kind in kinds[:-1]] + [False]


def _full(f: Fields) -> tuple[int, int]:
    """The width and the number of key heads of the layers of a config.json without windows."""
    width, kv = f.integer("head_dim"), f.integer("num_key_value_heads")
    given = f.sub("per_layer_config").data
    if not f.has("per_layer_config"):
        kv = f.integer("num_global_key_value_heads", default=kv) if f.flag("attention_k_eq_v") else kv
        return f.integer("global_head_dim", default=512), kv
    if not given:
        return width, kv
    full = [str(i) for i, near in enumerate(_near(f)) if not near]
    own = given.get(full[0])
    if given != dict.fromkeys(full, own) or not isinstance(own, dict) or not own.keys() <= {"head_dim", "num_key_value_heads"}:
        raise UnsupportedError(
            f"per_layer_config: the same head_dim and num_key_value_heads for layers {', '.join(full)} expected, "
            f"found {quoted(given)}",
            path=f.path,
        )
    sizes = Fields(own, f.path)
    return sizes.integer("head_dim", default=width), sizes.integer("num_key_value_heads", default=kv)


FAMILY = Gemma4()
