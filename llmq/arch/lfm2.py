"""LFM2: gated short convolutions, with attention in some layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmq.arch.blocks import attention, mixture, output, rms_norm, rope_tables
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.moe import Pick
from llmq.arch.ssm import hybrid, layer_kinds
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value
from llmq.graph.tape import MAX_TAPS

__all__ = ["FAMILY", "Lfm2"]


@dataclass(frozen=True)
class Convolutions(HParams):
    """`convolves`: the layers that do, over `taps` tokens."""

    taps: int
    convolves: tuple[bool, ...]


class Lfm2(Family):
    name = "lfm2"
    hf_model_types: tuple[str, ...] = ("lfm2",)
    hf_defaults: Mapping[str, object] = {
        "norm_eps": 1e-5, "max_position_embeddings": 128000, "conv_L_cache": 3, "num_key_value_heads": 8,
        "block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True, "rope_theta": 1e6,
    }  # fmt: skip

    def hparams(self, f: Fields) -> HParams:
        f, convolves = hybrid(f)
        taps = f.integer("shortconv.l_cache", low=2, high=MAX_TAPS)
        return Convolutions(**vars(super().hparams(f)), taps=taps, convolves=convolves)

    def build(self, g: Graph, hp: HParams) -> Value:
        assert isinstance(hp, Convolutions)
        x = g.embed(g.w("token_embd.weight", (hp.n_vocab, hp.n_embd)))
        tables = rope_tables(g, hp)
        for i in g.blocks(hp.n_layer):
            h = rms_norm(g, x, "attn_norm", hp)
            h = _short(g, h, hp) if hp.convolves[i] else attention(g, h, hp, i, tables[i], qk_norm="head")
            x = g.add(x, h)
            x = g.add(x, mixture(g, rms_norm(g, x, "ffn_norm", hp), hp))
        return output(g, rms_norm(g, x, "token_embd_norm", hp), hp)  # that of the output, in spite of its name

    def hf_metadata(self, config: Mapping[str, object], path: str | None = None) -> dict[str, MetaValue]:
        f = self.hf_fields(config, path)
        return super().hf_metadata({**config, "intermediate_size": _width(f), "rms_norm_eps": f.number("norm_eps")}, path)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        attends = f.data.get("full_attn_idxs")
        if not f.has("layer_types") and isinstance(attends, list):
            kinds = ["full_attention" if i in attends else "conv" for i in range(f.integer("num_hidden_layers"))]
        else:
            kinds = layer_kinds(f)
        kv = f.integer("num_key_value_heads")
        return {
            f"{self.name}.vocab_size": f.integer("vocab_size"),
            f"{self.name}.shortconv.l_cache": f.integer("conv_L_cache"),
            f"{self.name}.attention.head_count_kv": [0 if kind == "conv" else kv for kind in kinds],
        }

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        return [(name, lambda x: x[:, 0])] if name.endswith(".conv.conv.weight") else super().hf_parts(name, config)


def _width(f: Fields) -> int:
    """Of the feed-forward: what config.json says is, usually, still to be adjusted."""
    width = f.integer("block_ff_dim", "intermediate_size")
    if not f.flag("block_auto_adjust_ff_dim"):
        return width
    width = int(f.number("block_ffn_dim_multiplier", high=64.0) * int(2 * width / 3))
    unit = f.integer("block_multiple_of")
    return -(-width // unit) * unit


def _short(g: Graph, x: Value, hp: Convolutions) -> Value:
    n = hp.n_embd
    both = g.linear(x, "shortconv.in_proj", 3 * n)
    before, after, x = (g.slice(both, k * n, n, label) for k, label in enumerate(("conv_gate", "conv_out_gate", "conv_x")))
    bias = g.maybe("shortconv.conv.bias", (n,))
    x = g.conv(g.mul(before, x, "conv_gated"), g.w("shortconv.conv.weight", (n, hp.taps)), bias)
    return g.linear(g.mul(after, x, "conv_out"), "shortconv.out_proj", n)


FAMILY = Lfm2()
