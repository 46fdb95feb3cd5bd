"""OLMo 2 and 3: norms only after attention and feed-forward, and on the whole rows of q and k; in OLMo 3 three layers of four
have windows and positions that are not scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import cast

from llmq.arch.blocks import attention, decoder, gated
from llmq.arch.family import Family
from llmq.arch.fields import Fields
from llmq.arch.hf_names import POST_NORMS
from llmq.arch.hparams import HParams
from llmq.arch.rope import Rope
from llmq.formats.checkpoint import Tensor
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY"]


class OLMo2(Family):
    name = "olmo2"
    hf_model_types = ("olmo2", "olmo3")
    hf_classes: Mapping[str, str] = {"olmo2": "Olmo2ForCausalLM", "olmo3": "Olmo3ForCausalLM"}
    hf_tensor_names = POST_NORMS
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-5, "max_position_embeddings": 2048}

    slides = 4

    def hparams(self, f: Fields) -> HParams:
        hp = super().hparams(f)
        ropes = zip(hp.ropes, hp.windows, strict=True)
        return replace(hp, ropes=tuple(Rope(rope.dims, rope.base) if rope and window else rope for rope, window in ropes))

    def hf_config(self, f: Fields, tensors: Mapping[str, Tensor]) -> dict[str, object]:
        out = super().hf_config(f, tensors)
        if "sliding_window" in out:
            full: dict[str, object] = {"rope_type": "default", "rope_theta": out["rope_theta"]}
            ropes = {"full_attention": full | cast("dict[str, object]", out.get("rope_scaling", {})), "sliding_attention": full}
            out |= {"model_type": "olmo3", "architectures": [self.hf_classes["olmo3"]], "rope_parameters": ropes}
        return out

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, qk_norm="row"), feed=gated, pre=False, post=True)


FAMILY = OLMo2()
