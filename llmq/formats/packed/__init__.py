"""Weights of Hugging Face folders that another tool quantized: quantization_config says how each is made from its parts.

One module per tool. It finds its modules by the name of one part (`x.qweight`), checks the shapes and types of the others
(`Parts`), and gives the matrix as a `PackedWeight`: its exact values by the tool's own formula, and the GGUF type that keeps
most of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from llmq.arch.fields import Fields
from llmq.errors import FormatError, UnsupportedError, quoted
from llmq.formats.packed.parts import Parts, Unpacker
from llmq.formats.packed.weight import OrderedRows, PackedWeight, StackedRows
from llmq.formats.stored import StoredTensor

__all__ = ["OrderedRows", "PackedWeight", "StackedRows", "unpacked"]

_METHODS = {  # quant_method: module
    "gptq": "gptq",
    "awq": "awq",
    "compressed-tensors": "compressed_tensors",
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "bitsandbytes": "bitsandbytes",
}


def unpacked(
    stored: Mapping[str, StoredTensor], quantization: Mapping[str, object] | None, folder: Path
) -> dict[str, StoredTensor | PackedWeight]:
    """The tensors of a folder with every packed matrix under the name of its weight ("model.norm.weight" and the like are as
    they were). `quantization` is the folder's quantization_config. Raises FormatError for parts that are missing or do not fit,
    UnsupportedError for a method or variant that is not known."""
    if not quantization:
        return dict(stored)
    path = str(folder)
    settings = Fields(quantization, path)
    method = _method(settings)
    if method == "mxfp4":  # stacks of experts, whose parts only the family can tell
        return dict(stored)
    if method not in _METHODS:
        raise UnsupportedError(
            f"the weights are quantized by {quoted(method)}; known are {', '.join(_METHODS)} and mxfp4. "
            "Give the original model or a GGUF file",
            path=path,
        )
    unpacker: Unpacker = import_module(f"{__name__}.{_METHODS[method]}").unpacker(settings)
    weights: dict[str, StoredTensor | PackedWeight] = {}
    used: set[str] = set()
    for name in stored:
        module = unpacker.module_of(name, stored)
        if module is None or f"{module}.weight" in weights:
            continue
        parts = Parts(stored, module, name)
        weights[f"{module}.weight"] = unpacker.unpack(parts)
        used |= parts.used
    if not weights and not unpacker.may_be_plain:
        raise FormatError(f"config.json says the weights are quantized by {quoted(method)}, but none is", path=path)
    plain = {name: t for name, t in stored.items() if name not in used and not name.endswith(unpacker.ignored)}
    twice = next((name for name in weights if name in plain), None)
    if twice is not None:
        raise FormatError(f"tensor {quoted(twice)} is there both packed and plain", path=path)
    return plain | weights


def _method(settings: Fields) -> str:
    """quant_method; files of the tools' first versions do not have it, but settings of their own names."""
    if settings.has("quant_method"):
        return settings.text("quant_method").lower().replace("_", "-").replace("fbgemm-fp8", "fbgemm_fp8")
    if settings.has("w_bit", "q_group_size"):
        return "awq"
    if settings.has("load_in_4bit", "load_in_8bit"):
        return "bitsandbytes"
    return "gptq" if settings.has("bits") else "unknown"
