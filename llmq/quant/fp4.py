"""Weights that are floating-point numbers of 4 bits (E2M1): MXFP4. csrc/formats/ draws the blocks."""

from __future__ import annotations

import numpy as np

from llmq.quant.blocks import pack_nibbles, unpack_nibbles
from llmq.quant.codecs import Floats, UInt8s
from llmq.quant.legacy import OneScale
from llmq.quant.scale_search import FP4_STARTS, Shape

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
    shape = Shape(-OFF, 0, FP4_STARTS, plain=5, codebook=LEVELS, powers=True)

    def split(self, blocks: UInt8s) -> tuple[UInt8s, Floats, Floats | None]:
        return level_of(unpack_nibbles(blocks[:, 1:])), np.ldexp(np.float32(1), blocks[:, 0].astype(np.int32) - 128), None

    def join(self, levels: UInt8s, d: Floats, m: Floats) -> UInt8s:
        _, exponent = np.frexp(d)  # d = 0.5 * 2^exponent
        e = np.where(d == 0, 0, exponent + 127).astype(np.uint8)
        return np.concatenate([e[:, None], pack_nibbles(code_of(levels))], axis=1)
