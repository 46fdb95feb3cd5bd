"""Weights that are floating-point numbers of 4 bits (E2M1): MXFP4, NVFP4. csrc/formats/ draws the blocks."""

from __future__ import annotations

import numpy as np

from llmq.quant.blocks import pack_nibbles, unpack_nibbles
from llmq.quant.codecs import Floats, Int8s, Levels, QuantizedCodec, UInt8s
from llmq.quant.legacy import OneScale
from llmq.quant.scale_search import MXFP4_STARTS, NVFP4_STARTS, Shape, search

OFF = 16
MAGNITUDES = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.int8)  # twice the numbers
LEVELS = (-12, -8, -6, -4, -3, -2, -1, 0, 0, 1, 2, 3, 4, 6, 8, 12)


def level_of(code: UInt8s) -> UInt8s:
    """Codes, bit 3 the sign, to levels plus OFF."""
    magnitude = MAGNITUDES[code & 7]
    level: UInt8s = (np.where(code < 8, magnitude, -magnitude) + np.int8(OFF)).astype(np.uint8)
    return level


def code_of(level: UInt8s) -> UInt8s:
    """The inverse; 0 has no sign."""
    value = level.astype(np.int8) - np.int8(OFF)
    code: UInt8s = (np.searchsorted(MAGNITUDES, np.abs(value)) + 8 * (value < 0)).astype(np.uint8)
    return code


class MXFP4(OneScale):
    name, off, group = "MXFP4", OFF, 32
    shape = Shape(-OFF, 0, MXFP4_STARTS, plain=5, codebook=LEVELS, scale="E8M0")

    def split(self, blocks: UInt8s) -> tuple[UInt8s, Floats, Floats | None]:
        return level_of(unpack_nibbles(blocks[:, 1:])), np.ldexp(np.float32(1), blocks[:, 0].astype(np.int32) - 128), None

    def join(self, levels: UInt8s, d: Floats, m: Floats) -> UInt8s:
        _, exponent = np.frexp(d)  # d = 0.5 * 2^exponent
        e = np.where(d == 0, 0, exponent + 127).astype(np.uint8)
        return np.concatenate([e[:, None], pack_nibbles(code_of(levels))], axis=1)


class NVFP4(QuantizedCodec):
    """64 weights; each 16 have a scale of their own."""

    name, off, group, real_scales = "NVFP4", OFF, 16, True
    shape = Shape(-OFF, 0, NVFP4_STARTS, 16, codebook=LEVELS, scale="E4M3")

    def scales(self, sc: Int8s) -> Floats:
        scales: Floats = (sc.astype(np.uint16) << np.uint16(7)).view(np.float16).astype(np.float32) * np.float32(128)
        return scales

    def levels(self, blocks: UInt8s) -> Levels:
        codes = blocks[:, 4:].reshape(-1, 4, 8)
        q = level_of(np.concatenate([codes & np.uint8(15), codes >> np.uint8(4)], axis=2)).reshape(-1, 64)
        sc = np.where(blocks[:, :4] == 0x7F, 0, blocks[:, :4] & np.uint8(0x7F)).astype(np.int8)
        one = np.ones(len(blocks), np.float32)
        return Levels(q, sc, np.zeros((len(blocks), 4), np.uint8), one, np.zeros_like(one))

    def dequantize(self, blocks: UInt8s) -> Floats:
        w = self.levels(blocks)
        weights: Floats = np.repeat(self.scales(w.sc), 16, axis=1) * (w.q.astype(np.float32) - np.float32(OFF))
        return weights

    def quantize(self, x: Floats, weight: Floats | None = None) -> UInt8s:
        levels, d, _ = search(self.shape, x.reshape(-1, 16), None if weight is None else weight.reshape(-1, 16))
        code = code_of(levels)
        scales = ((d * np.float32(2.0**-7)).astype(np.float16).view(np.uint16) >> np.uint16(7)).astype(np.uint8)
        packed = code[:, :8] | code[:, 8:] << np.uint8(4)
        return np.concatenate([scales.reshape(-1, 4), packed.reshape(-1, 32)], axis=1)
