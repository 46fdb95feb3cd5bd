"""Phi-3, 3.5 and 4: Llama's decoder with the rows of q, k, v and those of gate and up in one matrix each; LongRoPE."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.family import Family
from llmq.arch.fields import Fields, shortest
from llmq.arch.hf_names import FUSED
from llmq.arch.hparams import HParams
from llmq.arch.rope import longrope_metadata, longrope_tensors
from llmq.formats.checkpoint import MetaValue, Tensor
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class Phi3(Family):
    name = "phi3"
    hf_model_types = ("phi3",)
    hf_classes: Mapping[str, str] = {"phi3": "Phi3ForCausalLM"}
    hf_tensor_names = FUSED
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=attention, feed=gated)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return longrope_metadata(f, "phi3.")

    def hf_config(self, f: Fields, tensors: Mapping[str, Tensor]) -> dict[str, object]:
        out = super().hf_config(f, tensors)
        if all(f"rope_factors_{which}.weight" in tensors for which in ("long", "short")):
            factors = {which: tensors[f"rope_factors_{which}.weight"].numpy().tolist() for which in ("long", "short")}
            out |= {
                "original_max_position_embeddings": f.integer("rope.scaling.original_context_length"),
                "rope_scaling": {
                    "type": "longrope",
                    "rope_type": "longrope",
                    "attention_factor": shortest(f.number("rope.scaling.attn_factor", default=1.0)),
                    **{f"{which}_factor": [shortest(factor) for factor in values] for which, values in factors.items()},
                },
            }
        return out

    def hf_extra_tensors(self, config: Mapping[str, object]) -> dict[str, npt.NDArray[np.float32]]:
        return longrope_tensors(config)


FAMILY = Phi3()
