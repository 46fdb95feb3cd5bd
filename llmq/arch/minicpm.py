"""MiniCPM 1, 2 and 4: Granite's constants on embeddings, residuals and logits; LongRoPE in the fourth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.llama import Llama
from llmq.arch.rope import longrope_metadata, longrope_tensors
from llmq.formats.checkpoint import MetaValue

__all__ = ["FAMILY"]

USUAL_EMBEDDING, USUAL_DEPTH, USUAL_BASE = 12.0, 1.4, 256  # in the first files, which do not say


class MiniCPM(Llama):
    name = "minicpm"
    hf_model_types = ("minicpm",)
    hf_classes: Mapping[str, str] = {}
    hf_defaults: Mapping[str, object] = {**Llama.hf_defaults, "scale_emb": 1, "scale_depth": 1, "dim_model_base": 1}
    hf_requires: Mapping[str, tuple[object, ...]] = {
        **Llama.hf_requires,
        "num_experts": (0,),
        "sparse_config": (None,),  # attention to chosen blocks
    }
    normalizes = None

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        said = {name: f.has(name) for name in ("embedding_scale", "residual_scale", "logit_scale")}
        return replace(
            hp,
            embedding_scale=hp.embedding_scale if said["embedding_scale"] else USUAL_EMBEDDING,
            residual_scale=hp.residual_scale if said["residual_scale"] else USUAL_DEPTH * hp.n_layer**-0.5,
            logit_scale=1 / hp.logit_scale if said["logit_scale"] else USUAL_BASE / hp.n_embd,  # the logits are divided by it
        )

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        scales: dict[str, MetaValue] = {
            "minicpm.embedding_scale": f.number("scale_emb"),
            "minicpm.residual_scale": f.number("scale_depth") * f.integer("num_hidden_layers") ** -0.5,
            "minicpm.logit_scale": f.integer("hidden_size") / f.number("dim_model_base"),
        }
        return super().hf_more(f) | scales | longrope_metadata(f, "minicpm.")

    def hf_extra_tensors(self, config: Mapping[str, object]) -> dict[str, npt.NDArray[np.float32]]:
        return longrope_tensors(config) or super().hf_extra_tensors(config)


FAMILY = MiniCPM()
