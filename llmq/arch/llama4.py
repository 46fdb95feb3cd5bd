"""Llama 4 (Scout, Maverick), as far as it reads text: three layers of four have rotary positions and see their own chunk of the
context alone, the fourth has neither, and queries that grow with the position; one expert a token, its input weighted by a
sigmoid, beside one that all tokens use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from llmq.arch.blocks import attention, decoder, mixture, query_growth
from llmq.arch.family import N_LAYER, Family, Transform
from llmq.arch.fields import Fields
from llmq.arch.hparams import MAX_CONTEXT, MAX_SCALE, HParams, Stepped
from llmq.arch.llama import Llama
from llmq.arch.moe import Pick
from llmq.errors import UnsupportedError, quoted
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Param, Value

__all__ = ["FAMILY"]

CHUNK, STEP, RATE = 8192, 8192, 0.1  # of all published models; llama.cpp knows no others
PERIOD = 4
EXPERTS_OF_MAVERICK = 128


@dataclass(frozen=True)
class Llama4Params(Stepped):
    """normed: whether the heads of q and k are."""

    normed: bool


class Llama4(Llama):
    name = "llama4"
    hf_model_types = ("llama4_text", "llama4")
    hf_classes: Mapping[str, str] = {}
    hf_defaults: Mapping[str, object] = {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "head_dim": 128,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
        "rope_theta": 500000.0,
    }
    hf_requires: Mapping[str, tuple[object, ...]] = {**Family.hf_requires, "no_rope_layer_interval": (PERIOD,)}
    slides = PERIOD
    normalizes = False

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        chunk = f.integer("attention.sliding_window", low=0, high=MAX_CONTEXT, default=CHUNK)
        if hp.experts is None or hp.experts.used != 1 or chunk == 0:
            raise UnsupportedError("llama4: chunks and experts, of which each token uses one, expected", path=f.path)
        e = replace(hp.experts, sigmoid=True, n_ff_shared=hp.experts.n_ff)
        turned = _turned(hp.n_layer)
        return Llama4Params(
            **{
                **vars(hp),
                "experts": e,
                "windows": tuple(chunk if on else 0 for on in f.flags("attention.sliding_window_pattern", turned)),
                "ropes": tuple(rope if on else None for rope, on in zip(hp.ropes, turned, strict=True)),
            },
            step=f.integer("attention.temperature_length", default=STEP),
            rate=f.number("attention.temperature_scale", high=MAX_SCALE, default=RATE, zero=True),
            normed=e.count != EXPERTS_OF_MAVERICK,
        )

    def build(self, g: Graph, hp: HParams) -> Value:
        assert isinstance(hp, Llama4Params)
        growth = query_growth(g, hp, first=1)
        normed = hp.normed

        def attend(g: Graph, x: Value, hp: HParams, layer: int, table: Param | None) -> Value:
            if table is None:
                return attention(g, x, hp, layer, table, growth=growth)
            return attention(g, x, hp, layer, table, interleaved=True, chunked=True, qk_norm="plain" if normed else "")

        return decoder(g, hp, attend=attend, feed=partial(mixture, weigh_inputs=True))

    def hf_fields(self, config: Mapping[str, object], path: str | None = None) -> Fields:
        f = super().hf_fields(config, path)
        n_layer = f.integer(*N_LAYER)
        turned, step = _turned(n_layer), f.integer("interleave_moe_layer_step")
        kinds = ["chunked_attention" if on else "full_attention" for on in turned]
        for key, expected in (
            ("no_rope_layers", [int(on) for on in turned]),
            ("layer_types", kinds),
            ("moe_layers", list(range(step - 1, n_layer, step))),
            ("use_qk_norm", f.integer("num_local_experts") != EXPERTS_OF_MAVERICK),
        ):
            if f.has(key) and f.data[key] not in (expected, []):
                raise UnsupportedError(f"{key}: {expected} expected, found {quoted(f.data[key])}", path=path)
        if config.get("attention_chunk_size", CHUNK) is None:
            raise UnsupportedError("attention_chunk_size: a number expected", path=path)
        return f

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        out = super().hf_more(f) | {
            "llama4.feed_forward_length": f.integer("intermediate_size_mlp"),
            "llama4.expert_feed_forward_length": f.integer("intermediate_size"),
            "llama4.interleave_moe_layer_step": f.integer("interleave_moe_layer_step"),
        }
        grows = f.data.get("attn_temperature_tuning", True)  # a number in the first files
        for key, value, usual in (
            ("sliding_window", f.integer("attention_chunk_size", default=CHUNK), CHUNK),
            ("temperature_length", f.integer("floor_scale", default=STEP), STEP),
            ("temperature_scale", f.number("attn_scale", default=RATE, zero=True) if grows else 0.0, RATE),
        ):
            if value != usual:
                out[f"llama4.attention.{key}"] = value
        return out

    def hf_parts(self, name: str, config: Mapping[str, object]) -> list[tuple[str, Pick | None]]:
        prefix, experts, kind = name.partition(".feed_forward.experts.")
        if kind == "gate_up_proj":  # (experts, inputs, both)
            return [
                (f"{prefix}{experts}gate_proj.weight", lambda x: x[:, :, : x.shape[2] // 2].swapaxes(1, 2)),
                (f"{prefix}{experts}up_proj.weight", lambda x: x[:, :, x.shape[2] // 2 :].swapaxes(1, 2)),
            ]
        return [(f"{name}.weight", lambda x: x.swapaxes(1, 2))] if kind == "down_proj" else [(name, None)]

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        return None  # pairs are neighbours already


def _turned(n_layer: int) -> list[bool]:
    return [(i + 1) % PERIOD != 0 for i in range(n_layer)]


FAMILY = Llama4()
