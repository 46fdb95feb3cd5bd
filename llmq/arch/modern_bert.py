"""ModernBERT: a decoder's order of norms and gates in an encoder, rotary positions; two layers of three see a window to both
sides and turn faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from llmq.arch.blocks import attention, decoder, gated, layer_norm, states
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.arch.rope import Rope
from llmq.errors import UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class ModernBert(Family):
    name = "modern-bert"
    hf_model_types = ("modernbert",)
    hf_defaults: Mapping[str, object] = {
        "norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
    }
    hf_requires: Mapping[str, tuple[object, ...]] = {"hidden_activation": ("gelu",)}

    def hparams(self, f: Fields) -> HParams:
        act = f.text("hidden_activation", default="gelu")
        if act != "gelu":
            raise UnsupportedError(f"{f.prefix}hidden_activation: gelu expected, found {quoted(act)}", path=f.path)
        hp = read_hparams(f, layer_norm=True, causal=False, slides=3, full_first=True)
        near = Rope(hp.head_dim, f.number("rope.freq_base_swa", low=1.0, high=1e12, default=10000.0))
        return replace(hp, ropes=tuple(near if window else rope for rope, window in zip(hp.ropes, hp.windows, strict=True)))

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=partial(gated, act="gelu"), norm=_norm, head=states)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        n, kinds = f.integer("num_hidden_layers"), f.data.get("layer_types")
        period = f.integer("global_attn_every_n_layers")
        near = [i % period != 0 for i in range(n)]
        if isinstance(kinds, list) and len(kinds) == n:
            near = [kind == "sliding_attention" for kind in kinds]
        ropes = f.sub("rope_parameters")  # of transformers 5
        out: dict[str, MetaValue] = {
            "attention.causal": False,
            "attention.sliding_window": f.integer("local_attention"),
            "attention.sliding_window_pattern": near,
            "rope.freq_base": ropes.sub("full_attention").number("rope_theta", default=f.number("global_rope_theta")),
            "rope.freq_base_swa": ropes.sub("sliding_attention").number("rope_theta", default=f.number("local_rope_theta")),
            "vocab_size": f.integer("vocab_size"),
        }
        return {f"{self.name}.{key}": value for key, value in out.items()}

    def hf_name(self, name: str) -> str:
        return name.removeprefix("model.")

    def hf_drops(self, name: str, config: Mapping[str, object]) -> bool:
        return name.startswith(("head.", "decoder."))  # what pre-training used


def _norm(g: Graph, x: Value, name: str, hp: HParams) -> Value:
    # The first layer begins with the norm of the embeddings.
    return layer_norm(g, x, name, hp) if name != "attn_norm" or g.has("attn_norm.weight") else x


FAMILY = ModernBert()
