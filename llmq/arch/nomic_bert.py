"""Nomic's BERT: rotary positions and gates instead of learned positions and GELU, no biases."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.arch.blocks import attention, classifier, encoder, gated
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class NomicBert(Family):
    name = "nomic-bert"
    hf_model_types = ("nomic_bert",)
    hf_defaults: Mapping[str, object] = {"layer_norm_epsilon": 1e-12, "rotary_emb_base": 1000.0}
    hf_requires: Mapping[str, tuple[object, ...]] = {
        "activation_function": ("swiglu",),
        "hidden_act": ("silu",),
        "prenorm": (False,),
        "rotary_emb_fraction": (1.0, 1),
        "rotary_emb_interleaved": (False,),
        "causal": (False,),
    }

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True, causal=False)

    def build(self, g: Graph, hp: HParams) -> Value:
        return classifier(g, encoder(g, hp, attend=attention, feed=gated))

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        out: dict[str, MetaValue] = {
            "nomic-bert.attention.causal": False,
            "tokenizer.ggml.token_type_count": f.integer("type_vocab_size", default=1),
        }
        if f.has("max_trained_positions"):  # beyond them the original changes the frequencies with the length
            trained = f.integer("max_trained_positions")
            out["nomic-bert.context_length"] = min(trained, f.integer("max_position_embeddings", "n_positions"))
        return out

    def hf_drops(self, name: str, config: Mapping[str, object]) -> bool:
        return name.startswith(("cls.", "pooler.")) or name.endswith("position_ids")


FAMILY = NomicBert()
