"""The K types: blocks of 256 weights in groups that have small integer scales. csrc/formats/*_k.c draw the blocks."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from llmq.quant.blocks import f16_at, f16_bytes
from llmq.quant.codecs import Floats, Int8s, Levels, QuantizedCodec, UInt8s
from llmq.quant.kquant_search import Shape, search, starts


def unpack_scales(raw: UInt8s) -> tuple[Int8s, UInt8s]:
    """The 12 bytes of Q4_K and Q5_K: (sc, m), each (n, 8), of 6 bits."""
    sc, m, low = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    both = np.concatenate([sc & 63, low & 15 | sc >> 6 << 4], axis=1), np.concatenate([m & 63, low >> 4 | m >> 6 << 4], axis=1)
    return both[0].astype(np.int8), both[1]


def pack_scales(sc: Int8s, m: UInt8s) -> UInt8s:
    s = sc.astype(np.uint8)
    low = s[:, 4:] & 15 | (m[:, 4:] & 15) << 4
    return np.concatenate([s[:, :4] | s[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6, low], axis=1)


def unpack_bits(raw: UInt8s, bits: int) -> UInt8s:
    """Fields of `bits` bits in runs of 32 bytes: (n, 32 k) to (n, 32 k * 8 / bits); the lowest bits of a run come first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields: UInt8s = raw.reshape(len(raw), -1, 1, 32) >> shifts & np.uint8((1 << bits) - 1)
    return fields.reshape(len(raw), -1)


def pack_bits(fields: UInt8s, bits: int) -> UInt8s:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs: UInt8s = np.bitwise_or.reduce(fields.reshape(len(fields), -1, 8 // bits, 32) << shifts, axis=2)
    return runs.reshape(len(fields), -1)


class KQuant(QuantizedCodec):
    shape: ClassVar[Shape]

    @abstractmethod
    def pack(self, w: Levels) -> UInt8s:
        """The inverse of levels."""

    def dequantize(self, blocks: UInt8s) -> Floats:
        w = self.levels(blocks)
        q = (w.q.astype(np.float32) - np.float32(self.off)).reshape(len(blocks), -1, self.group)
        with np.errstate(invalid="ignore"):
            a, b = w.d[:, None] * w.sc.astype(np.float32), w.dmin[:, None] * w.m.astype(np.float32)
            weights: Floats = a[:, :, None] * q - b[:, :, None]
        return weights.reshape(len(blocks), 256)

    def quantize(self, x: Floats, weight: Floats | None = None) -> UInt8s:
        return self.pack(search(self.shape, x, weight))


class Q2_K(KQuant):  # noqa: N801 - the type's name
    name, off, group, has_min = "Q2_K", 0, 16, True
    shape = Shape(
        group=16,
        off=0,
        q=(0, 3),
        sc=(0, 15),
        m=15,
        step=0.5,
        reach=(1, 1),
        start=starts("-0.45 -0.45, -0.3 -1.2, -0.6 0, 0 -0.15, -1.2 -0.15, 0 -1.2, -0.45 -0.15, -0.15 -0.6"),
    )

    def levels(self, blocks: UInt8s) -> Levels:
        scales = blocks[:, :16]
        sc, m = (scales & np.uint8(15)).view(np.int8), scales >> np.uint8(4)
        return Levels(unpack_bits(blocks[:, 16:80], 2), sc, m, f16_at(blocks, 80), f16_at(blocks, 82))

    def pack(self, w: Levels) -> UInt8s:
        scales = w.sc.view(np.uint8) | w.m << np.uint8(4)
        return np.concatenate([scales, pack_bits(w.q, 2), f16_bytes(w.d), f16_bytes(w.dmin)], axis=1)


class Q3_K(KQuant):  # noqa: N801
    name, off, group = "Q3_K", 4, 16
    shape = Shape(
        group=16,
        off=4,
        q=(-4, 3),
        sc=(-32, 31),
        m=0,
        step=0.5,
        reach=(2, 0),
        start=starts("-4, 2, -3.2, -3.6, -4.4, -5, -6, -2.8, 2.5, 3, 3.3, 3.6, 4, 5"),
    )

    def levels(self, blocks: UInt8s) -> Levels:
        low, high = blocks[:, 96:104], blocks[:, 104:108]
        u = np.concatenate([low & 15, low >> 4], axis=1) | np.concatenate([high >> 2 * t & 3 for t in range(4)], axis=1) << 4
        q = unpack_bits(blocks[:, 32:96], 2) | unpack_bits(blocks[:, :32], 1) << np.uint8(2)
        return Levels(q, (u - 32).view(np.int8), np.zeros_like(u), f16_at(blocks, 108), np.zeros(len(blocks), np.float32))

    def pack(self, w: Levels) -> UInt8s:
        u = w.sc.view(np.uint8) + np.uint8(32)
        low, high = u & np.uint8(15), u >> np.uint8(4)
        scales = [low[:, :8] | low[:, 8:] << 4, high[:, :4] | high[:, 4:8] << 2 | high[:, 8:12] << 4 | high[:, 12:] << 6]
        bits = [pack_bits(w.q >> np.uint8(2), 1), pack_bits(w.q & np.uint8(3), 2)]
        return np.concatenate([*bits, *scales, f16_bytes(w.d)], axis=1)


class SixBitScales(KQuant):
    """Blocks of d, dmin, scales and minima of 6 bits, and the bits of q."""

    off, group, has_min = 0, 32, True

    @staticmethod
    @abstractmethod
    def unpack(bits: UInt8s) -> UInt8s:
        """The bytes behind the scales to q, (n, 256)."""

    @staticmethod
    @abstractmethod
    def pack_levels(q: UInt8s) -> UInt8s:
        """The inverse."""

    def levels(self, blocks: UInt8s) -> Levels:
        sc, m = unpack_scales(blocks[:, 4:16])
        return Levels(self.unpack(blocks[:, 16:]), sc, m, f16_at(blocks, 0), f16_at(blocks, 2))

    def pack(self, w: Levels) -> UInt8s:
        return np.concatenate([f16_bytes(w.d), f16_bytes(w.dmin), pack_scales(w.sc, w.m), self.pack_levels(w.q)], axis=1)


class Q4_K(SixBitScales):  # noqa: N801
    name = "Q4_K"
    shape = Shape(
        group=32,
        off=0,
        q=(0, 15),
        sc=(0, 63),
        m=63,
        step=1,
        reach=(1, 0),
        start=starts(
            "-0.2 -0.2, 0.25 -0.35, -0.5 0.1, -0.05 1, -0.05 -0.35, -0.35 -0.05, 0.85 0.85, 1.15 -0.2, -0.8 0.1, "
            "-0.8 -0.8, 0.25 0.1, 0.1 -0.8, -0.2 1.15, -0.35 -0.8, -0.05 0.25, -0.8 -0.35"
        ),
    )

    @staticmethod
    def unpack(bits: UInt8s) -> UInt8s:
        return unpack_bits(bits, 4)

    @staticmethod
    def pack_levels(q: UInt8s) -> UInt8s:
        return pack_bits(q, 4)


class Q5_K(SixBitScales):  # noqa: N801
    name = "Q5_K"
    shape = Shape(
        group=32,
        off=0,
        q=(0, 31),
        sc=(0, 63),
        m=63,
        step=1,
        reach=(2, 1),
        start=starts(
            "-0.05 -0.05, -0.2 0.85, -0.35 0.25, 0.25 -0.35, 1 1, 1.15 -0.2, -0.2 1.3, -0.5 -0.2, 0.1 -0.2, 0.85 1.3, "
            "1.3 0.85, -0.8 -0.05, -0.5 -0.65, -0.05 -0.8, 0.1 1.15, -0.05 0.25"
        ),
    )

    @staticmethod
    def unpack(bits: UInt8s) -> UInt8s:
        q: UInt8s = unpack_bits(bits[:, 32:], 4) | unpack_bits(bits[:, :32], 1) << np.uint8(4)
        return q

    @staticmethod
    def pack_levels(q: UInt8s) -> UInt8s:
        return np.concatenate([pack_bits(q >> np.uint8(4), 1), pack_bits(q & np.uint8(15), 4)], axis=1)


class Q6_K(KQuant):  # noqa: N801
    name, off, group = "Q6_K", 32, 16
    shape = Shape(
        group=16, off=32, q=(-32, 31), sc=(-128, 127), m=0, step=1, reach=(12, 0), start=starts("-32, 31, -31.5, -30")
    )

    def levels(self, blocks: UInt8s) -> Levels:
        # the two runs of 32 bytes of each 64 hold 32 weights each in their low nibbles, and then 32 each in their high ones
        low = unpack_bits(blocks[:, :128], 4).reshape(len(blocks), 2, 2, 2, 32).swapaxes(2, 3).reshape(len(blocks), 256)
        high = unpack_bits(blocks[:, 128:192], 2)
        sc = blocks[:, 192:208].view(np.int8)
        return Levels(low | high << 4, sc, np.zeros_like(sc, np.uint8), f16_at(blocks, 208), np.zeros(len(blocks), np.float32))

    def pack(self, w: Levels) -> UInt8s:
        low = (w.q & np.uint8(15)).reshape(len(w.q), 2, 2, 2, 32).swapaxes(2, 3).reshape(len(w.q), 256)
        return np.concatenate(
            [pack_bits(low, 4), pack_bits(w.q >> np.uint8(4), 2), w.sc.view(np.uint8), f16_bytes(w.d)], axis=1
        )
