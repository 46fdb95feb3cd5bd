"""Nemotron-H: a layer is a mixer of Mamba 2, attention, or a feed-forward, each alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmq.arch.blocks import attention, embedding, feed_forward, output, rms_norm
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.ssm import Recurrent, RecurrentFamily, Ssm, hybrid, layer_kinds, mamba2, no_step_limit, per_layer, read_ssm
from llmq.errors import UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "FEED", "NemotronH"]

MIXER, ATTENTION, FEED = "mixer", "attention", "feed"
KINDS = {  # in config.json, old and new
    "M": MIXER, "mamba": MIXER, "linear_attention": MIXER, "*": ATTENTION, "attention": ATTENTION, "full_attention": ATTENTION,
}  # fmt: skip
EXPERTS = ("E", "moe")


@dataclass(frozen=True)
class Single(Recurrent):
    """`feeds`: the layers that are feed-forwards."""

    feeds: tuple[bool, ...]


class NemotronH(RecurrentFamily):
    name = "nemotron_h"
    hf_model_types: tuple[str, ...] = ("nemotron_h",)
    hf_defaults: Mapping[str, object] = {
        "layer_norm_epsilon": 1e-5, "max_position_embeddings": 4096, "head_dim": 128, "num_key_value_heads": 8, "n_groups": 8,
        "ssm_state_size": 128, "conv_kernel": 4, "mamba_num_heads": 128, "mamba_head_dim": 64,
    }  # fmt: skip
    hf_requires: Mapping[str, tuple[object, ...]] = {"mlp_hidden_act": ("relu2",), "mamba_hidden_act": ("silu", "swish")}
    hf_rotary = False
    hf_feeds: tuple[str, ...] = ("-", "mlp")  # the layers of a config.json that are feed-forwards
    heads = True

    def feed(self, g: Graph, x: Value, hp: HParams) -> Value:
        return feed_forward(g, x, hp, "relu2")

    def hparams(self, f: Fields) -> HParams:
        f, without = hybrid(f)
        f, feeds = per_layer(f, "feed_forward_length")
        norm = "attention.layer_norm_rms_epsilon"
        f = Fields({f.prefix + norm: f.data.get(f"{f.prefix}attention.layer_norm_epsilon"), **f.data}, f.path, f.prefix)
        values = vars(super().hparams(f)) | {"ropes": (None,) * len(feeds)}
        recurrent = tuple(no_heads and not feed for no_heads, feed in zip(without, feeds, strict=True))
        return Single(**values, ssm=read_ssm(f, heads=True), recurrent=recurrent, norm_steps=0.0, feeds=feeds)

    def build(self, g: Graph, hp: HParams) -> Value:
        assert isinstance(hp, Single)
        x = embedding(g, hp)
        for i in g.blocks(hp.n_layer):
            h = rms_norm(g, x, "attn_norm", hp)
            if hp.recurrent[i]:
                h = mamba2(g, h, hp)
            elif hp.feeds[i]:
                h = self.feed(g, h, hp)
            else:
                h = attention(g, h, hp, i, None)
            x = g.add(x, h)
        return output(g, rms_norm(g, x, "output_norm", hp), hp)

    def hf_n_layer(self, config: Mapping[str, object], path: str | None = None) -> int:
        return len(_names(Fields(config, path)))

    def hf_family(self, config: Mapping[str, object]) -> str:
        return "nemotron_h_moe" if set(EXPERTS) & set(_names(Fields(config))) else self.name

    def hf_metadata(self, config: Mapping[str, object], path: str | None = None) -> dict[str, MetaValue]:
        return super().hf_metadata({**config, "num_hidden_layers": self.hf_n_layer(config, path)}, path)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        no_step_limit(f)
        kinds, n_ff, kv = self._kinds(f), f.integer("intermediate_size"), f.integer("num_key_value_heads")
        heads = f.integer("mamba_num_heads")
        inner = heads * f.integer("mamba_head_dim")
        ssm = Ssm(f.integer("conv_kernel"), inner, f.integer("ssm_state_size"), heads, self.hf_groups(f.data))
        return {
            f"{self.name}.vocab_size": f.integer("vocab_size"),
            f"{self.name}.attention.layer_norm_rms_epsilon": f.number("layer_norm_epsilon"),
            f"{self.name}.attention.head_count_kv": [kv if kind is ATTENTION else 0 for kind in kinds],
            f"{self.name}.feed_forward_length": [n_ff if kind is FEED else 0 for kind in kinds],
            **self.ssm_metadata(f, ssm),
        }

    def hf_groups(self, config: Mapping[str, object]) -> int:
        return super().hf_groups({**self.hf_defaults, **config})

    def _kinds(self, f: Fields) -> list[str]:
        kinds = {**KINDS, **dict.fromkeys(self.hf_feeds, FEED)}
        names = _names(f)
        unknown = [name for name in names if name not in kinds]
        if unknown:
            raise UnsupportedError(f"a layer of kind {quoted(unknown[0])} is not supported in {self.name}", path=f.path)
        return [kinds[name] for name in names]

    def hf_name(self, name: str) -> str:
        name = super().hf_name(name)
        return name.replace("model.", "backbone.", 1) if name.startswith("model.") else name


def _names(f: Fields) -> list[str]:
    pattern = f.data.get("hybrid_override_pattern")
    return list(pattern) if isinstance(pattern, str) else layer_kinds(f)


FAMILY = NemotronH()
