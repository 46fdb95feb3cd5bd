"""The language model inside a Hugging Face folder that also sees pictures: config.json keeps it under `text_config` or beside
`vision_config`, its tensors have a prefix. What pictures go through is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["text_config", "text_tensors"]

_WITH_PICTURES = frozenset(
    {"gemma3", "gemma4", "gemma4_unified", "llama4", "llava", "mistral3"}
    | {"qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe"}
)
_OUTSIDE = re.compile(
    r"(model\.)?(vision_tower|vision_model|visual|multi_modal_projector|audio_tower|embed_vision|embed_audio)\."
)
_PREFIX = re.compile(r"language_model\.|model\.language_model\.")
_SHARED = ("tie_word_embeddings", "quantization_config", "compression_config")

_T = TypeVar("_T")


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the language model; config itself when that is all there is."""
    inner = config.get("text_config")
    if not _sees_pictures(config) or not isinstance(inner, dict):
        return config
    vision = config.get("vision_config")
    deep = vision.get("deepstack_visual_indexes") if isinstance(vision, dict) else None
    more = {} if deep is None else {"deepstack_visual_indexes": deep}
    return {"model_type": "llama", **inner, **more, **{key: config[key] for key in _SHARED if key in config}}


def text_tensors(tensors: Mapping[str, _T], config: Mapping[str, Any]) -> dict[str, _T]:
    """The tensors of the language model by the names that they have in a folder of its own."""
    if not _sees_pictures(config):
        return dict(tensors)
    return {_own(name): tensor for name, tensor in tensors.items() if not _OUTSIDE.match(name)}


def _sees_pictures(config: Mapping[str, Any]) -> bool:
    return isinstance(config.get("model_type"), str) and config["model_type"] in _WITH_PICTURES


def _own(name: str) -> str:
    found = _PREFIX.match(name)
    if found is None:
        return name
    return ("model." if found[0].startswith("model.") else "") + name[found.end() :]
