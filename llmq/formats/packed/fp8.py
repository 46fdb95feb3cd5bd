"""Weights of 8-bit floats: DeepSeek's and Qwen's blocks, and per-tensor or per-row scales.

    weight            float8_e4m3fn (outputs, inputs)
    weight_scale_inv  float or float8_e8m0fnu (ceil(outputs / b0), ceil(inputs / b1)), weight_block_size [b0, b1]
    weight_scale      in its place: float (), (1,) or (outputs, 1)

    w[o, i] = weight[o, i] * scale[o / b0, i / b1]

The scale is the inverse of the one that quantizing multiplied by, hence the name. Source: DeepSeek-V3's inference/kernel.py
(weight_dequant) and transformers' integrations/finegrained_fp8.py and fbgemm_fp8.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llmq.arch.fields import Fields
from llmq.errors import quoted
from llmq.formats.packed.coded import Coded
from llmq.formats.packed.parts import FLOATS, Parts, Unpacker, elements, floats
from llmq.formats.packed.weight import Floats, Rows
from llmq.formats.small_floats import EIGHT_BITS
from llmq.formats.stored import StoredTensor

__all__ = ["fp8_weight", "unpacker"]

_WEIGHTS = ("F8_E4M3", "F8_E5M2")
_SCALES = ("weight_scale_inv", "weight_scale")


def unpacker(settings: Fields) -> Unpacker:
    """The unpacker for this quantization_config."""
    given = settings.data.get("weight_block_size")
    if given is None:
        return _FP8(None)
    if not isinstance(given, list) or len(given) != 2 or not all(type(n) is int and n > 0 for n in given):
        raise settings.error("weight_block_size", f"two sizes expected, found {quoted(given)}")
    return _FP8((given[0], given[1]))


class _FP8(Unpacker):
    ignored = (".input_scale", ".activation_scale", ".input_scale_ub", ".k_scale", ".v_scale")

    def __init__(self, block: tuple[int, int] | None) -> None:
        self.block = block

    def module_of(self, name: str, stored: Mapping[str, StoredTensor]) -> str | None:
        return name.removesuffix(".weight") if name.endswith(".weight") and stored[name].dtype in _WEIGHTS else None

    def unpack(self, parts: Parts) -> Coded:
        found = next((part for part in _SCALES if f"{parts.module}.{part}" in parts.stored), _SCALES[0])
        return fp8_weight(parts, parts.get(found, (*FLOATS, "F8_E8M0")), self.block)


def fp8_weight(parts: Parts, scale: StoredTensor, block: tuple[int, int] | None) -> Coded:
    """The matrix of 8-bit floats `weight` with scales in blocks, for groups of columns, rows, or the whole."""
    weight = parts.get("weight", _WEIGHTS, (None, None))
    outputs, inputs = weight.shape
    columns = np.arange(inputs)
    if scale.size == 1:
        values = floats(scale).reshape(1, 1)
        height, step, kind = outputs, inputs, "one scale"
    elif scale.shape in ((outputs, 1), (outputs,)):
        values = floats(scale).reshape(outputs, 1)
        height, step, kind = 1, inputs, "a scale per row"
    elif block and scale.shape == (-(-outputs // block[0]), -(-inputs // block[1])):
        values = floats(scale)
        height, step, kind = *block, f"blocks of {block[0]} x {block[1]}"
    else:
        shape = f"{scale.shape}; weight_block_size {block}" if block else f"{scale.shape}; no weight_block_size"
        parts.refuse(f"tensor {quoted(scale.name)} has shape {shape} fits {outputs} x {inputs} weights", scale)

    def scales(rows: Rows) -> Floats:
        chosen = np.arange(outputs)[rows] // height
        if inputs % step == 0:
            return values[chosen]
        return values[chosen][:, columns // step]

    return Coded(
        f"{parts.module}.weight", f"{weight.dtype[3:]}, {kind}", (outputs, inputs), parts.nbytes, str(weight.source.path),
        weight.offset, EIGHT_BITS[weight.dtype], lambda rows: elements(weight)[rows], scales,
    )  # fmt: skip
