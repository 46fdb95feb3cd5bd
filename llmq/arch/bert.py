"""BERT and what shares its graph: MiniLM, BGE, E5, GTE, DistilBERT; RoBERTa and XLM-RoBERTa, whose positions begin after the
padding's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmq.arch.blocks import attention, classifier, encoder, feed_forward
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams, read_hparams
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "RANK"]

ROBERTA = ("roberta", "xlm-roberta", "camembert")
RANK = 4
"""pooling_type of a model that classifies: of a reranker, the one label is the relevance."""


class Bert(Family):
    name = "bert"
    hf_model_types = ("bert", "distilbert", *ROBERTA)
    hf_defaults: Mapping[str, object] = {"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "pad_token_id": 1}
    hf_requires: Mapping[str, tuple[object, ...]] = {
        "hidden_act": ("gelu",),
        "activation": ("gelu",),
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
    }
    hf_rotary = False

    def hparams(self, f: Fields) -> HParams:
        return read_hparams(f, layer_norm=True, positions=True, causal=False)

    def build(self, g: Graph, hp: HParams) -> Value:
        return classifier(g, encoder(g, hp, attend=attention, feed=partial(feed_forward, act="gelu")))

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        out: dict[str, MetaValue] = {
            "bert.attention.causal": False,
            "bert.context_length": f.integer("max_position_embeddings") - _first_position(f),
            "tokenizer.ggml.token_type_count": f.integer("type_vocab_size", default=1),
        }
        if _classifies(f):
            if f.text("model_type") == "distilbert":
                raise UnsupportedError("a DistilBERT that classifies is not supported", path=f.path)
            out["bert.pooling_type"] = RANK
            labels = f.sub("id2label").data
            if len(labels) > 1:
                out["bert.classifier.output_labels"] = [str(labels[key]) for key in sorted(labels, key=int)]
        return out

    def hf_name(self, name: str) -> str:
        name = name.removeprefix("bert.").removeprefix("roberta.").removeprefix("distilbert.")
        if name.startswith("pooler.dense."):
            return name.replace("pooler.dense", "classifier.dense")
        return name.replace("classifier.", "classifier.out_proj.") if name in ("classifier.weight", "classifier.bias") else name

    def hf_drops(self, name: str, config: Mapping[str, object]) -> bool:
        # The head that pre-training used, and the pooler, which only classifiers read.
        pooler = ".pooler." in f".{name}" and not _classifies(Fields(config))
        return (
            pooler
            or name.startswith(("cls.", "lm_head.", "vocab_"))
            or name.endswith(("position_ids", "embeddings.token_type_ids"))
        )

    def hf_skipped_rows(self, name: str, config: Mapping[str, object]) -> int:
        return _first_position(Fields({**self.hf_defaults, **config})) if name == "position_embd.weight" else 0


def _first_position(f: Fields) -> int:
    return f.integer("pad_token_id", low=0) + 1 if f.text("model_type") in ROBERTA else 0


def _classifies(f: Fields) -> bool:
    named = f.data.get("architectures")
    return isinstance(named, list) and any(str(name).endswith("ForSequenceClassification") for name in named)


FAMILY = Bert()
