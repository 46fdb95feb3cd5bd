"""The types of 32 weights with one scale: Q4_0 and Q8_0."""

from __future__ import annotations

import numpy as np

from llmq.quant.codecs import Floats, Levels, QuantizedCodec, UInt8s
from llmq.quant.floats import to_f16


def unpack_nibbles(qs: UInt8s) -> UInt8s:
    """(n, 16) bytes to (n, 32) levels: the low nibbles, then the high ones."""
    return np.concatenate([qs & 15, qs >> 4], axis=1)


def pack_nibbles(q: UInt8s) -> UInt8s:
    return q[:, :16] | q[:, 16:] << np.uint8(4)


def f16_column(blocks: UInt8s, at: int) -> Floats:
    """The binary16 number at byte `at` of each block, float32 (n, 1)."""
    column: Floats = blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)
    return column


def inverse(d: Floats) -> Floats:
    """1 / d, and 0 where d is 0."""
    out = np.zeros_like(d)
    np.divide(np.float32(1), d, out=out, where=d != 0)
    return out


class Q4_0(QuantizedCodec):  # noqa: N801 - the type's name
    name, off, group = "Q4_0", 8, 32

    def levels(self, blocks: UInt8s) -> Levels:
        return self.plain_levels(unpack_nibbles(blocks[:, 2:]), f16_column(blocks, 0)[:, 0])

    def dequantize(self, blocks: UInt8s) -> Floats:
        with np.errstate(invalid="ignore"):
            q = unpack_nibbles(blocks[:, 2:]).astype(np.float32)
            return np.multiply(f16_column(blocks, 0), q - np.float32(8), dtype=np.float32)

    def quantize(self, x: Floats, weight: Floats | None = None) -> UInt8s:
        extreme = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
        d = to_f16(extreme / np.float32(-8)) + np.float16(0)  # no negative zero
        q = np.rint(np.clip(x * inverse(d.astype(np.float32)) + np.float32(8), 0, 15)).astype(np.uint8)
        return np.concatenate([d.view(np.uint8), pack_nibbles(q)], axis=1)


class Q8_0(QuantizedCodec):  # noqa: N801
    name, off, group = "Q8_0", 128, 32

    def levels(self, blocks: UInt8s) -> Levels:
        return self.plain_levels(blocks[:, 2:] ^ np.uint8(128), f16_column(blocks, 0)[:, 0])

    def dequantize(self, blocks: UInt8s) -> Floats:
        with np.errstate(invalid="ignore"):
            return f16_column(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)

    def quantize(self, x: Floats, weight: Floats | None = None) -> UInt8s:
        d = to_f16(np.abs(x).max(axis=1, keepdims=True) / np.float32(127))
        q = np.rint(np.clip(x * inverse(d.astype(np.float32)), -127, 127)).astype(np.int8)
        return np.concatenate([d.view(np.uint8), q.view(np.uint8)], axis=1)
