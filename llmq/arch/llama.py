"""Llama 1 to 3 and what shares its graph: Mistral, Mixtral, Ministral, InternLM 3, Helium, TinyLlama, SmolLM, Yi.

GGUF stores the rows of q and k so that rotary pairs are neighbours; Hugging Face has the two halves of a head apart."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from llmq.arch.blocks import attention, decoder, mixture
from llmq.arch.family import Family, Transform
from llmq.arch.fields import Fields
from llmq.arch.hparams import HParams
from llmq.arch.layouts import neighbours
from llmq.arch.rope import hf_rope, llama3_factors, llama3_scaling
from llmq.errors import UnsupportedError
from llmq.formats.checkpoint import MetaValue, Tensor
from llmq.graph.builder import Graph, Value

__all__ = ["FAMILY", "Llama"]


HELIUM: Mapping[str, object] = {"rms_norm_eps": 1e-8, "max_position_embeddings": 4096, "head_dim": 128, "rope_theta": 1e5}


class Llama(Family):
    name = "llama"
    hf_model_types: tuple[str, ...] = ("llama", "mistral", "mixtral", "ministral", "internlm3", "llava", "Yi", "helium")
    hf_classes: Mapping[str, str] = {
        "llama": "LlamaForCausalLM",
        "mistral": "MistralForCausalLM",
        "ministral": "MinistralForCausalLM",
    }
    hf_defaults: Mapping[str, object] = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048}
    normalizes: bool | None = True

    def build(self, g: Graph, hp: HParams) -> Value:
        return decoder(g, hp, attend=partial(attention, interleaved=True), feed=mixture)

    def hf_fields(self, config: Mapping[str, object], path: str | None = None) -> Fields:
        return super().hf_fields({**HELIUM, **config} if config.get("model_type") == "helium" else config, path)

    def hf_more(self, f: Fields) -> dict[str, MetaValue]:
        return {f"{self.name}.vocab_size": f.integer("vocab_size"), f"{self.name}.rope.dimension_count": _head_dim(f)}

    def hf_config(self, f: Fields, tensors: Mapping[str, Tensor]) -> dict[str, object]:
        out = super().hf_config(f, tensors)
        if "rope_freqs.weight" in tensors:
            scaling = llama3_scaling(tensors["rope_freqs.weight"].numpy(), f.number("rope.freq_base", default=10000.0))
            if scaling is None:
                raise UnsupportedError("rope_freqs.weight holds no factors that config.json has a name for", path=f.path)
            out["rope_scaling"] = scaling
        if self.name == "llama" and "sliding_window" in out:
            model_type = "ministral" if "layer_types" in out else "mistral"
            out |= {"model_type": model_type, "architectures": [self.hf_classes[model_type]]}
        return out

    def hf_transform(self, name: str, config: Mapping[str, object]) -> Transform | None:
        f = Fields(config)
        n_head = f.integer("num_attention_heads")
        if f.data.get("model_type") == "helium":
            return None  # its pairs are neighbours
        if name.endswith((".attn_q.weight", ".attn_q.bias")):
            return lambda x: neighbours(x, n_head)
        if name.endswith((".attn_k.weight", ".attn_k.bias")):
            n_head_kv = f.integer("num_key_value_heads", default=n_head)
            return lambda x: neighbours(x, n_head_kv)
        return None

    def hf_extra_tensors(self, config: Mapping[str, object]) -> dict[str, npt.NDArray[np.float32]]:
        f = Fields(config)
        rope = hf_rope(f)
        if rope.text("rope_type", "type", default="default").lower() != "llama3":
            return {}
        factors = llama3_factors(
            rope.number("rope_theta", default=10000.0),
            _head_dim(f),
            factor=rope.number("factor", default=8.0),
            low=rope.number("low_freq_factor", default=1.0),
            high=rope.number("high_freq_factor", default=4.0),
            original_context=rope.integer("original_max_position_embeddings", default=8192),
        )
        return {"rope_freqs.weight": factors}


def _head_dim(f: Fields) -> int:
    return f.integer("head_dim", default=f.integer("hidden_size") // f.integer("num_attention_heads"))


FAMILY = Llama()
