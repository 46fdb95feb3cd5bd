"""compressed-tensors (vLLM's llm-compressor): integers packed in words or as bytes, and floats of 8 and 4 bits.

    pack-quantized        weight_packed int32 (outputs, ceil(inputs * bits / 32)), numbers along the inputs, across words,
                          plus 2**(bits - 1); weight_shape (2,); weight_scale (outputs, groups); weight_zero_point int32
                          (ceil(outputs * bits / 32), groups) packed along the outputs in the same way, when asymmetric;
                          weight_g_idx int32 (inputs,), the group of each input, when ordered by activation
    int-quantized         weight int8, weight_scale (), (1,), (outputs, 1) or (outputs, groups), weight_zero_point int8
    float-quantized       weight float8_e4m3fn, scales as in fp8.py
    nvfp4-pack-quantized  weight_packed uint8 (outputs, inputs / 2) of float4_e2m1, the first number in the low half;
                          weight_scale float8_e4m3fn (outputs, inputs / 16); weight_global_scale float32 (1,)
    mxfp4-pack-quantized  the same with weight_scale uint8 (outputs, inputs / 32), exponents plus 127

    integers  w[o, i] = (q[o, i] - zero_point[o, g]) * weight_scale[o, g]
    NVFP4     w[o, i] = value[o, i] * (weight_scale[o, g] / weight_global_scale)

The tensors of a module say which of these it has. Source: compressed_tensors/compressors and
quantization/lifecycle/forward.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmq.arch.fields import Fields
from llmq.errors import UnsupportedError, quoted
from llmq.formats.packed.coded import Coded, nibbles
from llmq.formats.packed.fp8 import fp8_weight
from llmq.formats.packed.grouped import Grouped, Int16s, unpack_bits
from llmq.formats.packed.parts import FLOATS, Parts, Unpacker, elements, floats
from llmq.formats.packed.weight import PackedWeight, Rows, UInt8s
from llmq.formats.small_floats import E2M1
from llmq.formats.stored import StoredTensor

__all__ = ["unpacker"]

_FORMATS = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized",
    "mixed-precision", "dense",
)  # fmt: skip
_BYTES = ("I8", "F8_E4M3", "F8_E5M2")


def unpacker(settings: Fields) -> Unpacker:
    """The unpacker for this quantization_config."""
    given = settings.text("format", default="dense")
    sparse = settings.sub("sparsity_config").text("format", default="dense")
    for name, allowed in ((given, _FORMATS), (sparse, ("dense",))):
        if name not in allowed:
            raise UnsupportedError(
                f"format {quoted(name)} of compressed-tensors is not supported; {', '.join(allowed)} are", path=settings.path
            )
    bits, blocks = set(), set()
    groups = settings.sub("config_groups")
    for name in groups.data:
        weights = groups.sub(name).sub("weights")
        if weights.data:
            bits.add(weights.integer("num_bits", high=8))
        structure = weights.data.get("block_structure")
        if isinstance(structure, list) and len(structure) == 2 and all(type(n) is int and n > 0 for n in structure):
            blocks.add((structure[0], structure[1]))
    return _CompressedTensors(given == "dense", bits, next(iter(blocks)) if len(blocks) == 1 else None)


class _CompressedTensors(Unpacker):
    ignored = tuple(
        f".{what}_{part}"
        for what in ("input", "output", "q", "k", "v")
        for part in ("scale", "zero_point", "global_scale", "g_idx")
    )

    def __init__(self, may_be_plain: bool, bits: set[int], block: tuple[int, int] | None) -> None:
        self.may_be_plain = may_be_plain
        self.bits = bits
        self.block = block

    def module_of(self, name: str, stored: Mapping[str, StoredTensor]) -> str | None:
        if name.endswith(".weight_packed"):
            return name.removesuffix(".weight_packed")
        return name.removesuffix(".weight") if name.endswith(".weight") and stored[name].dtype in _BYTES else None

    def unpack(self, parts: Parts) -> PackedWeight:
        if parts.key.name.endswith(".weight"):
            if parts.key.dtype == "I8":
                return _bytes(parts)
            return fp8_weight(parts, parts.get("weight_scale", FLOATS), self.block)
        return self._packed(parts) if parts.key.dtype == "I32" else _fours(parts)

    def _packed(self, parts: Parts) -> Grouped:
        shape_of = parts.get("weight_shape", ("I64", "I32"), (2,))
        outputs, inputs = (int(n) for n in elements(shape_of))
        packed = parts.get("weight_packed", ("I32",), (None, None))
        found = [b for b in self.bits if (outputs, -(-inputs * b // 32)) == packed.shape]
        if len(found) != 1 or inputs < 1:
            parts.refuse(
                f"tensor {quoted(packed.name)} has shape {packed.shape}, and {quoted(shape_of.name)} is "
                f"({outputs}, {inputs}); numbers of {sorted(self.bits)} bits do not fill it", packed,
            )  # fmt: skip
        bits = found[0]
        return _integers(parts, packed, bits, (outputs, inputs), lambda rows: unpack_bits(elements(packed)[rows], bits, inputs))


def _bytes(parts: Parts) -> Grouped:
    weight = parts.get("weight", ("I8",), (None, None))
    outputs, inputs = weight.shape

    def codes(rows: Rows) -> UInt8s:
        lifted: UInt8s = elements(weight)[rows].view(np.uint8) ^ np.uint8(128)
        return lifted

    return _integers(parts, weight, 8, (outputs, inputs), codes)


def _integers(
    parts: Parts, weight: StoredTensor, bits: int, shape: tuple[int, int], codes: Callable[[Rows], UInt8s]
) -> Grouped:
    """The matrix of integers, which `codes` gives plus 2**(bits - 1)."""
    outputs, inputs = shape
    scale = parts.get("weight_scale", FLOATS)
    n_groups = scale.shape[1] if len(scale.shape) == 2 else 1
    if scale.size != 1 and (scale.shape not in ((outputs,), (outputs, n_groups)) or inputs % n_groups):
        parts.refuse(f"tensor {quoted(scale.name)} has shape {scale.shape}; one per row or group of {shape} expected", scale)
    group_of = parts.groups("weight_g_idx", inputs, n_groups)
    if group_of is None:
        group_of = np.arange(inputs) // (inputs // n_groups)
    zeros = _zeros(parts, bits, outputs, n_groups, scale)
    kind = f"int{bits}, " + (f"groups of {inputs // n_groups}" if n_groups > 1 else "a scale per row")
    return Grouped(
        f"{parts.module}.weight", kind, shape, parts.nbytes, str(weight.source.path), weight.offset, bits, codes,
        zeros, lambda rows: _by_row(floats(scale), outputs)[rows], group_of,
    )  # fmt: skip


def _by_row(values: npt.NDArray[np.generic], outputs: int) -> npt.NDArray[Any]:
    """One or more numbers per row as (outputs, n)."""
    return np.broadcast_to(values.reshape(1, 1), (outputs, 1)) if values.size == 1 else values.reshape(outputs, -1)


def _zeros(parts: Parts, bits: int, outputs: int, n_groups: int, scale: StoredTensor) -> Callable[[Rows], Int16s]:
    zero = parts.maybe("weight_zero_point", ("I32", "I8"))
    middle = np.int16(1 << (bits - 1))
    if zero is None:
        return lambda rows: np.full((1, 1), middle)
    if zero.dtype == "I8":
        plain = parts.get("weight_zero_point", ("I8",), scale.shape)
        return lambda rows: _by_row(elements(plain).astype(np.int16), outputs)[rows] + middle
    packed = parts.get("weight_zero_point", ("I32",), (-(-outputs * bits // 32), n_groups))
    return lambda rows: unpack_bits(elements(packed).T, bits, outputs).T[rows].astype(np.int16)


def _fours(parts: Parts) -> Coded:
    packed = parts.get("weight_packed", ("U8",), (None, None))
    outputs, inputs = packed.shape[0], 2 * packed.shape[1]
    scale = parts.get("weight_scale", ("F8_E4M3", "U8", "F8_E8M0"), (outputs, None))
    size = 16 if scale.dtype == "F8_E4M3" else 32
    if scale.shape[1] * size != inputs:
        parts.refuse(f"tensor {quoted(scale.name)} has shape {scale.shape}; groups of {size} of {inputs} expected", scale)
    overall = np.ones(1, np.float32)
    if size == 16:
        factor = parts.get("weight_global_scale", ("F32",))
        overall = floats(factor).reshape(-1)
        if factor.size != 1 or overall[0] <= 0:
            parts.refuse(f"tensor {quoted(factor.name)} is {quoted(overall.tolist())}; one number above 0 expected", factor)
    else:
        scale = replace(scale, dtype="F8_E8M0")
    return Coded(
        f"{parts.module}.weight", "NVFP4" if size == 16 else "MXFP4", (outputs, inputs), parts.nbytes,
        str(packed.source.path), packed.offset, E2M1, lambda rows: nibbles(elements(packed)[rows]),
        lambda rows: floats(scale, (rows,)) / overall, size == 32,
    )  # fmt: skip
