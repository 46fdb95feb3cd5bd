"""NF4, FP4 (Dettmers et al. 2023) and LLM.int8 (Dettmers et al. 2022) as bitsandbytes and transformers store them.

4 bits; the matrix is flat, row after row, its first number in the high half of a byte:

    weight                                  uint8 (bytes, 1)
    weight.quant_map                        float32 (16,)
    weight.absmax                           float32 (blocks,), or uint8 when quantized once more ("double quant"):
    weight.nested_quant_map, nested_absmax  float32 (256,), float32 (blocks of blocks,)
    weight.quant_state.bitsandbytes__nf4    JSON: blocksize, shape, quant_type, nested_blocksize, nested_offset

    w[i] = quant_map[code[i]] * a[i / blocksize]
    a[j] = absmax[j], or nested_quant_map[absmax[j]] * nested_absmax[j / nested_blocksize] + nested_offset

8 bits:

    weight  int8 (outputs, inputs)
    SCB     float32 (outputs,)

    w[o, i] = weight[o, i] * SCB[o] * (1 / 127)

Source: bitsandbytes' functional.py (QuantState) and backends/default/ops.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llmq.arch.fields import Fields
from llmq.errors import quoted
from llmq.formats.json_file import strict_json
from llmq.formats.packed.coded import Coded, nibbles
from llmq.formats.packed.grouped import Grouped
from llmq.formats.packed.parts import Parts, Unpacker, elements, floats
from llmq.formats.packed.weight import Floats, PackedWeight, Rows, UInt8s
from llmq.formats.stored import StoredTensor

__all__ = ["unpacker"]

_STATES = tuple(f"weight.quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4"))
_MAX_STATE = 4096
_OF_127 = np.float32(7.874015718698502e-3)  # as bitsandbytes writes 1 / 127


def unpacker(settings: Fields) -> Unpacker:
    """The unpacker for this quantization_config; the tensors tell everything."""
    return _Bitsandbytes()


class _Bitsandbytes(Unpacker):
    ignored = (".weight_format",)

    def module_of(self, name: str, stored: Mapping[str, StoredTensor]) -> str | None:
        return next((name.removesuffix(f".{key}") for key in ("SCB", *_STATES) if name.endswith(f".{key}")), None)

    def unpack(self, parts: Parts) -> PackedWeight:
        if parts.key.name.endswith(".SCB"):
            return _int8(parts)
        return _four_bits(parts, parts.key.name.removeprefix(f"{parts.module}."))


def _int8(parts: Parts) -> Grouped:
    weight = parts.get("weight", ("I8",), (None, None))
    outputs, inputs = weight.shape
    scale = parts.get("SCB", ("F32",), (outputs,))

    def codes(rows: Rows) -> UInt8s:
        lifted: UInt8s = elements(weight)[rows].view(np.uint8) ^ np.uint8(128)
        return lifted

    return Grouped(
        f"{parts.module}.weight", "LLM.int8, a scale per row", (outputs, inputs), parts.nbytes, str(weight.source.path),
        weight.offset, 8, codes, lambda rows: np.full((1, 1), 128, np.int16), lambda rows: floats(scale)[rows][:, None],
        np.zeros(inputs, np.intp), _OF_127,
    )  # fmt: skip


def _four_bits(parts: Parts, state_part: str) -> Coded:
    state = parts.get(state_part, ("U8",), (None,))
    if state.size > _MAX_STATE:
        parts.refuse(f"tensor {quoted(state.name)} has {state.size} bytes; at most {_MAX_STATE} are allowed", state)
    path = state.source.path
    told = strict_json(elements(state).tobytes(), path, f"tensor {quoted(state.name)}", state.offset, depth=2)
    if not isinstance(told, dict):
        parts.refuse(f"tensor {quoted(state.name)} is no JSON object", state)
    told_fields = Fields(told, str(path))
    shape = told.get("shape")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 0 < n < 1 << 31 for n in shape):
        parts.refuse(f"tensor {quoted(state.name)} gives the shape {quoted(shape)}; a matrix expected", state)
    outputs, inputs = shape
    size = told_fields.integer("blocksize", high=1 << 20)
    n = outputs * inputs
    weight = parts.get("weight", ("U8",), (None, 1))
    if weight.size != -(-n // 2):
        parts.refuse(f"tensor {quoted(weight.name)} has {weight.size} bytes; 4 bits of {outputs} x {inputs} expected", weight)
    absmax = _absmax(parts, told_fields, -(-n // size))
    table = floats(parts.get("weight.quant_map", ("F32",), (16,)))

    def codes(rows: Rows) -> UInt8s:
        octets = elements(weight).reshape(-1)
        if inputs % 2 == 0:
            return nibbles(octets.reshape(outputs, inputs // 2)[rows], high_first=True)
        at = np.arange(outputs)[rows][:, None] * inputs + np.arange(inputs)
        halves: UInt8s = octets[at // 2] >> np.where(at % 2, 0, 4).astype(np.uint8) & np.uint8(15)
        return halves

    def scales(rows: Rows) -> Floats:
        if inputs % size == 0:
            return absmax.reshape(outputs, -1)[rows]
        spread: Floats = absmax[(np.arange(outputs)[rows][:, None] * inputs + np.arange(inputs)) // size]
        return spread

    kind = f"{state_part.rpartition('__')[2].upper()}, blocks of {size}"
    return Coded(
        f"{parts.module}.weight", kind, (outputs, inputs), parts.nbytes, str(path), weight.offset, table, codes, scales
    )


def _absmax(parts: Parts, told: Fields, blocks: int) -> Floats:
    absmax = parts.get("weight.absmax", ("F32", "U8"), (blocks,))
    if absmax.dtype == "F32":
        return floats(absmax)
    size = told.integer("nested_blocksize", high=1 << 20)
    table = floats(parts.get("weight.nested_quant_map", ("F32",), (256,)))
    outer = floats(parts.get("weight.nested_absmax", ("F32",), (-(-blocks // size),)))
    offset = np.float32(told.number("nested_offset", low=-np.inf))
    values: Floats = table[elements(absmax)] * np.repeat(outer, size)[:blocks] + offset
    return values
