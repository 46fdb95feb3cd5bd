"""F32, F16 (IEEE 754 binary16) and BF16 (the high half of binary32): rounded to nearest even; beyond the range of the type, its
largest finite number."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from llmq.quant.codecs import Codec, Floats, UInt8s

F16_MAX = np.float32(65504)
BF16_MAX_BITS = np.uint32(0x7F7F)


class FloatCodec(Codec):
    @abstractmethod
    def dequantize(self, blocks: UInt8s) -> Floats: ...

    def dot(self, row: UInt8s, x: Floats) -> Floats:
        # columns ascending, multiplication and addition rounded separately, as in csrc/formats/dot.c
        w = self.dequantize(row.reshape(len(row) * len(x), -1)).reshape(len(row), len(x))
        total = np.zeros(len(row), np.float32)
        for i in range(len(x)):
            total = total + w[:, i] * x[i]
        return total


class F32(FloatCodec):
    name = "F32"

    def dequantize(self, blocks: UInt8s) -> Floats:
        return blocks.view(np.float32)

    def quantize(self, x: Floats, weight: Floats | None = None) -> UInt8s:
        return x.view(np.uint8)


class F16(FloatCodec):
    name = "F16"

    def dequantize(self, blocks: UInt8s) -> Floats:
        return blocks.view(np.float16).astype(np.float32)

    def quantize(self, x: Floats, weight: Floats | None = None) -> UInt8s:
        return to_f16(x).view(np.uint8)


class BF16(FloatCodec):
    name = "BF16"

    def dequantize(self, blocks: UInt8s) -> Floats:
        return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)

    def quantize(self, x: Floats, weight: Floats | None = None) -> UInt8s:
        bits = x.view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        sign = rounded & 0x8000
        finite: UInt8s = (sign | np.minimum(rounded & 0x7FFF, BF16_MAX_BITS)).astype(np.uint16).view(np.uint8)
        return finite


def to_f16(x: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    """float16 nearest to x; the largest finite one where x is beyond the range."""
    return np.clip(x, -F16_MAX, F16_MAX).astype(np.float16)
