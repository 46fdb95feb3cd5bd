"""T5, Flan-T5, mT5: an encoder and a decoder that attends to it (Raffel et al. 2020), with biases of scores by distance instead
of positions.

A distance d falls into one of B buckets: half of the encoder's are for later tokens; of the rest the first half is for a
distance each, the others grow as the logarithm up to `max_distance`, from where on the last one holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmq.arch.blocks import feed_forward, gated, output, rms_norm
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import MAX_LAYERS, HParams, read_hparams
from llmq.errors import UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Param, Value

__all__ = ["FAMILY", "T5", "T5Params", "encoder_states"]

MAX_BUCKETS, MAX_DISTANCE = 4096, 1 << 16
GATES = {"gated-gelu": True, "relu": False}


@dataclass(frozen=True)
class T5Params(HParams):
    """n_layer counts the encoder's blocks. `scaled`: the file says what the logits are multiplied with."""

    n_layer_decoder: int
    buckets: int
    max_distance: int
    scaled: bool


class T5(Family):
    name = "t5"
    blocks = "enc.blk"
    hf_model_types = ("t5", "mt5", "umt5")
    hf_defaults: Mapping[str, object] = {
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "relu",
        "n_positions": 512,
    }
    hf_requires: Mapping[str, tuple[object, ...]] = {"feed_forward_proj": tuple(GATES), "is_encoder_decoder": (True,)}
    hf_rotary = False
    hf_ties = False  # transformers writes that they are tied whatever they are

    def hparams(self, f: Fields) -> HParams:
        hp = read_hparams(f, positions=True)
        return T5Params(
            **{**vars(hp), "attention_scale": 1.0},
            n_layer_decoder=f.integer("decoder_block_count", high=MAX_LAYERS, default=hp.n_layer),
            buckets=f.integer("attention.relative_buckets_count", low=4, high=MAX_BUCKETS),
            max_distance=f.integer("attention.relative_max_distance", high=MAX_DISTANCE, default=128),
            scaled=f.has("logit_scale"),
        )

    def build(self, g: Graph, hp: HParams) -> Value:
        assert isinstance(hp, T5Params)
        slots = []
        with g.encoder():
            x = encoder_states(g, hp)
            for _ in g.blocks(hp.n_layer_decoder, "dec.blk"):
                k, v = (g.linear(x, f"cross_attn_{name}", hp.n_head * hp.head_dim) for name in "kv")
                slots.append(g.put(k, v, hp.n_head))
        x = g.embed(g.w("token_embd.weight", (hp.n_vocab, hp.n_embd)))
        biases = _biases(g, hp, "dec.blk", hp.n_layer_decoder, both=False)
        for i in g.blocks(hp.n_layer_decoder, "dec.blk"):
            x = _block(g, x, hp, biases[i], causal=True)
            q = g.linear(rms_norm(g, x, "cross_attn_norm", hp), "cross_attn_q", hp.n_head * hp.head_dim)
            x = g.add(x, g.linear(g.cross_attention(q, slots[i], heads=hp.n_head, scale=1.0), "cross_attn_o", hp.n_embd))
            x = g.add(x, _feed(g, rms_norm(g, x, "ffn_norm", hp), hp))
        tied = not g.has("output.weight")  # then the original T5 scales the logits
        scale = hp.logit_scale if hp.scaled or not tied else hp.n_embd**-0.5
        return output(g, rms_norm(g, x, "dec.output_norm", hp), replace(hp, logit_scale=scale))

    def hf_metadata(self, config: Mapping[str, object], path: str | None = None) -> dict[str, MetaValue]:
        kind = str(config.get("feed_forward_proj", "relu"))
        if config.get("dense_act_fn", "gelu_new") not in (("gelu_new",) if GATES.get(kind) else ("relu", "gelu_new")):
            raise UnsupportedError(f"dense_act_fn {quoted(config['dense_act_fn'])} with {quoted(kind)}", path=path)
        return super().hf_metadata(_renamed(config), path)

    def hf_n_layer(self, config: Mapping[str, object], path: str | None = None) -> int:
        f = Fields(_renamed(config), path)
        n = f.integer("num_hidden_layers", high=MAX_LAYERS)
        return max(n, f.integer("num_decoder_layers", high=MAX_LAYERS, default=n))

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        n_embd = f.integer("hidden_size")
        scaled = f.flag("scale_decoder_outputs", default=f.flag("tie_word_embeddings", default=True))
        return {
            **self.hf_encoder(f),
            "t5.decoder_block_count": f.integer("num_decoder_layers", default=f.integer("num_hidden_layers")),
            "t5.decoder_start_token_id": f.integer("decoder_start_token_id", low=0, default=0),
            "t5.logit_scale": n_embd**-0.5 if scaled else 1.0,
        }

    def hf_encoder(self, f: Fields) -> dict[str, MetaValue]:
        """What the encoder alone needs."""
        return {
            f"{self.name}.attention.layer_norm_rms_epsilon": f.number("layer_norm_epsilon"),
            f"{self.name}.attention.relative_buckets_count": f.integer("relative_attention_num_buckets"),
            f"{self.name}.attention.relative_max_distance": f.integer("relative_attention_max_distance"),
            f"{self.name}.vocab_size": f.integer("vocab_size"),
        }

    def hf_drops(self, name: str, config: Mapping[str, object]) -> bool:
        return name.endswith(".embed_tokens.weight")  # `shared` again


def encoder_states(g: Graph, hp: T5Params) -> Value:
    """What the encoder makes of the batch's tokens."""
    x = g.embed(g.w("token_embd.weight", (hp.n_vocab, hp.n_embd)))
    biases = _biases(g, hp, "enc.blk", hp.n_layer, both=True)
    for i in g.blocks(hp.n_layer, "enc.blk"):
        x = _block(g, x, hp, biases[i], causal=False)
        x = g.add(x, _feed(g, rms_norm(g, x, "ffn_norm", hp), hp))
    return rms_norm(g, x, "enc.output_norm", hp)


def _renamed(config: Mapping[str, object]) -> dict[str, object]:
    """T5's names of what every configuration has."""
    names = {"num_layers": "num_hidden_layers", "d_model": "hidden_size", "num_heads": "num_attention_heads"}
    names |= {"d_kv": "head_dim", "d_ff": "intermediate_size"}
    return {names.get(key, key): value for key, value in config.items()}


def _block(g: Graph, x: Value, hp: HParams, bias: Param, *, causal: bool) -> Value:
    """x + attention(norm(x))."""
    y = rms_norm(g, x, "attn_norm", hp)
    q, k, v = (g.linear(y, f"attn_{name}", hp.n_head * hp.head_dim) for name in "qkv")
    y = g.attention(q, k, v, heads=hp.n_head, kv_heads=hp.n_head, scale=1.0, causal=causal, bias=bias)
    return g.add(x, g.linear(y, "attn_o", hp.n_embd))


def _feed(g: Graph, x: Value, hp: HParams) -> Value:
    return gated(g, x, hp, "gelu_tanh") if g.has("ffn_gate.weight") else feed_forward(g, x, hp, "relu")


def _biases(g: Graph, hp: T5Params, prefix: str, n: int, *, both: bool) -> list[Param]:
    """For each block the biases by distance, (heads, 2 * max_distance + 1), of its own buckets or else of the block before."""
    out: list[Param] = []
    for i in range(n):
        name = f"{prefix}.{i}.attn_rel_b.weight"
        if out and not g.has(name):
            out.append(out[-1])
            continue
        buckets = g.finite(name, (hp.buckets, hp.n_head))
        out.append(g.const(f"{prefix}.{i}.attn_rel_b", _by_distance(buckets, hp.max_distance, both=both)))
    return out


def _by_distance(buckets: npt.NDArray[np.float32], reach: int, *, both: bool) -> npt.NDArray[np.float32]:
    distance = np.arange(-reach, reach + 1)
    n = len(buckets) // 2 if both else len(buckets)
    back = abs(distance) if both else np.maximum(-distance, 0)
    exact = n // 2
    # in float32, as the models were trained with
    decades = np.float32(math.log(max(reach / exact, 1 + 1e-6)))
    far = np.log(np.maximum(back, 1).astype(np.float32) / np.float32(exact)) / decades
    bucket = np.where(back < exact, back, np.minimum(exact + (far * np.float32(n - exact)).astype(np.int64), n - 1))
    bucket = bucket + (n * (distance > 0) if both else 0)
    return np.ascontiguousarray(buckets[bucket].T)


FAMILY = T5()
