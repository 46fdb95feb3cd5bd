"""The types whose weights are points of a grid: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S. The grids are the gguf
package's; csrc/formats/iq1_*.c, iq2_*.c and iq3_*.c draw the blocks."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import gguf.quants
import numpy as np
import numpy.typing as npt

from llmq.quant.blocks import f16_at, f16_bytes
from llmq.quant.codecs import Floats, Levels, QuantizedCodec, UInt8s
from llmq.quant.grid_search import Grid, Points, Shape, search

UInt16s = npt.NDArray[np.uint16]
OFF = 128
_BITS = np.arange(8, dtype=np.uint8)
_SEVENS = np.arange(0, 28, 7, dtype=np.uint32)
_PARITY = np.array([bin(i).count("1") % 2 for i in range(128)], np.uint8)


def grid_of(name: str) -> Grid:
    kind = getattr(gguf.quants, name)
    kind.init_grid()
    return Grid(kind.grid.reshape(kind.grid_shape), kind.grid_map)


def even_signs(seven: UInt8s) -> UInt8s:
    """Seven sign bits as eight, of which an even number is one."""
    eight: UInt8s = seven | _PARITY[seven] << np.uint8(7)
    return eight


def unpack_words(raw: UInt8s) -> tuple[UInt8s, UInt8s]:
    """32-bit words (n, 4 k) to sign bytes (n, 4 k) and scales (n, k)."""
    words = np.ascontiguousarray(raw).view(np.uint32)
    signs = (words[:, :, None] >> _SEVENS & np.uint32(127)).astype(np.uint8)
    return even_signs(signs.reshape(len(raw), -1)), (words >> np.uint32(28)).astype(np.uint8)


def pack_words(minus: UInt8s, s: UInt8s) -> UInt8s:
    fields = (minus & np.uint8(127)).astype(np.uint32).reshape(len(s), -1, 4) << _SEVENS
    words: UInt8s = (np.bitwise_or.reduce(fields, axis=2) | s.astype(np.uint32) << np.uint32(28)).view(np.uint8)
    return words


def unpack_halves(raw: UInt8s) -> UInt8s:
    """(n, k) bytes to (n, 2 k) nibbles, the low one first."""
    return np.stack([raw & np.uint8(15), raw >> np.uint8(4)], axis=2).reshape(len(raw), -1)


def pack_halves(nibbles: UInt8s) -> UInt8s:
    raw: UInt8s = nibbles[:, ::2] | nibbles[:, 1::2] << np.uint8(4)
    return raw


def high_bits(raw: UInt8s, bits: int) -> UInt16s:
    """Fields of `bits` bits of bytes, the lowest first, as bits 8.. of an index."""
    fields = raw[:, :, None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8((1 << bits) - 1)
    high: UInt16s = fields.reshape(len(raw), -1).astype(np.uint16) << np.uint16(8)
    return high


def pack_high(point: UInt16s, bits: int) -> UInt8s:
    fields = (point >> np.uint16(8)).astype(np.uint8).reshape(len(point), -1, 8 // bits)
    packed: UInt8s = np.bitwise_or.reduce(fields << np.arange(0, 8, bits, dtype=np.uint8), axis=2)
    return packed


class GridCodec(QuantizedCodec):
    off = OFF
    shape: ClassVar[Shape]

    @abstractmethod
    def unpack(self, blocks: UInt8s) -> Points: ...

    @abstractmethod
    def pack(self, p: Points) -> UInt8s:
        """The inverse of unpack."""

    def levels(self, blocks: UInt8s) -> Levels:
        p, n = self.unpack(blocks), len(blocks)
        level = self.shape.grid.levels[p.point].reshape(n, 32, 8)
        if p.lower is not None:
            level = np.float32(8) * level + np.where(p.lower, np.float32(-1), np.float32(1))[:, :, None]
        if p.minus is not None:
            level = np.where(p.minus[:, :, None] >> _BITS & np.uint8(1), -level, level)
        sc = (2 * p.s + 1).astype(np.int8)
        q = (level.reshape(n, 256) + np.float32(OFF)).astype(np.uint8)
        with np.errstate(invalid="ignore"):
            d = p.d * np.float32(self.shape.unit)
        return Levels(q, sc, np.zeros(sc.shape, np.uint8), d, np.zeros(n, np.float32))

    def dequantize(self, blocks: UInt8s) -> Floats:
        w = self.levels(blocks)
        with np.errstate(invalid="ignore"):
            a = w.d[:, None] * w.sc.astype(np.float32)
            weights: Floats = a[:, :, None] * (w.q.astype(np.float32) - np.float32(OFF)).reshape(len(blocks), -1, self.group)
        return weights.reshape(len(blocks), 256)

    def quantize(self, x: Floats, weight: Floats | None = None) -> UInt8s:
        return self.pack(search(self.shape, x, weight))


class IQ2_XXS(GridCodec):  # noqa: N801 - the type's name
    name, group = "IQ2_XXS", 32
    shape = Shape(grid_of(name), "even", group, 15, 1 / 8)

    def unpack(self, blocks: UInt8s) -> Points:
        words = blocks[:, 2:].reshape(len(blocks), 8, 2, 4)
        minus, s = unpack_words(words[:, :, 1].reshape(len(blocks), 32))
        return Points(f16_at(blocks, 0), s, words[:, :, 0].reshape(len(blocks), 32).astype(np.uint16), minus, None)

    def pack(self, p: Points) -> UInt8s:
        assert p.minus is not None
        parts = [p.point.astype(np.uint8).reshape(-1, 8, 4), pack_words(p.minus, p.s).reshape(-1, 8, 4)]
        return np.concatenate([f16_bytes(p.d), np.concatenate(parts, axis=2).reshape(-1, 64)], axis=1)


class IQ2_XS(GridCodec):  # noqa: N801
    name, group = "IQ2_XS", 16
    shape = Shape(grid_of(name), "even", group, 15, 1 / 8)

    def unpack(self, blocks: UInt8s) -> Points:
        fields = np.ascontiguousarray(blocks[:, 2:66]).view(np.uint16)
        minus = even_signs((fields >> np.uint16(9)).astype(np.uint8))
        return Points(f16_at(blocks, 0), unpack_halves(blocks[:, 66:]), fields & np.uint16(511), minus, None)

    def pack(self, p: Points) -> UInt8s:
        assert p.minus is not None
        fields = p.point | (p.minus & np.uint8(127)).astype(np.uint16) << np.uint16(9)
        return np.concatenate([f16_bytes(p.d), fields.view(np.uint8), pack_halves(p.s)], axis=1)


class IQ2_S(GridCodec):  # noqa: N801
    name, group = "IQ2_S", 16
    shape = Shape(grid_of(name), "free", group, 15, 1 / 8)

    def unpack(self, blocks: UInt8s) -> Points:
        point = blocks[:, 2:34] | high_bits(blocks[:, 66:74], 2)
        return Points(f16_at(blocks, 0), unpack_halves(blocks[:, 74:]), point, blocks[:, 34:66], None)

    def pack(self, p: Points) -> UInt8s:
        assert p.minus is not None
        return np.concatenate(
            [f16_bytes(p.d), p.point.astype(np.uint8), p.minus, pack_high(p.point, 2), pack_halves(p.s)], axis=1
        )


class IQ3_XXS(GridCodec):  # noqa: N801
    name, group = "IQ3_XXS", 32
    shape = Shape(grid_of(name), "even", group, 15, 1 / 4)

    def unpack(self, blocks: UInt8s) -> Points:
        minus, s = unpack_words(blocks[:, 66:])
        return Points(f16_at(blocks, 0), s, blocks[:, 2:66].astype(np.uint16), minus, None)

    def pack(self, p: Points) -> UInt8s:
        assert p.minus is not None
        return np.concatenate([f16_bytes(p.d), p.point.astype(np.uint8), pack_words(p.minus, p.s)], axis=1)


class IQ3_S(GridCodec):  # noqa: N801
    name, group = "IQ3_S", 32
    shape = Shape(grid_of(name), "free", group, 15, 1)

    def unpack(self, blocks: UInt8s) -> Points:
        point = blocks[:, 2:66] | high_bits(blocks[:, 66:74], 1)
        return Points(f16_at(blocks, 0), unpack_halves(blocks[:, 106:]), point, blocks[:, 74:106], None)

    def pack(self, p: Points) -> UInt8s:
        assert p.minus is not None
        return np.concatenate(
            [f16_bytes(p.d), p.point.astype(np.uint8), pack_high(p.point, 1), p.minus, pack_halves(p.s)], axis=1
        )


class IQ1_S(GridCodec):  # noqa: N801
    name, group = "IQ1_S", 32
    shape = Shape(grid_of(name), "in grid", group, 7, 1 / 8, lowered=32)
    shifts = np.arange(0, 12, 3, dtype=np.uint16)

    def unpack(self, blocks: UInt8s) -> Points:
        high = np.ascontiguousarray(blocks[:, 34:]).view(np.uint16)
        top = (high[:, :, None] >> self.shifts & np.uint16(7)).reshape(len(blocks), 32) << np.uint16(8)
        lower = np.repeat((high >> np.uint16(15)).astype(np.uint8), 4, axis=1)
        s = (high >> np.uint16(12) & np.uint16(7)).astype(np.uint8)
        return Points(f16_at(blocks, 0), s, blocks[:, 2:34] | top, None, lower)

    def pack(self, p: Points) -> UInt8s:
        assert p.lower is not None
        high = np.bitwise_or.reduce((p.point >> np.uint16(8)).reshape(-1, 8, 4) << self.shifts, axis=2)
        high |= p.s.astype(np.uint16) << np.uint16(12) | p.lower[:, ::4].astype(np.uint16) << np.uint16(15)
        return np.concatenate([f16_bytes(p.d), p.point.astype(np.uint8), high.view(np.uint8)], axis=1)


class IQ1_M(GridCodec):  # noqa: N801
    name, group = "IQ1_M", 16
    shape = Shape(grid_of("IQ1_S"), "in grid", group, 7, 1 / 8, lowered=8)
    shifts = np.arange(0, 12, 3, dtype=np.uint16)
    quarters = np.arange(0, 16, 4, dtype=np.uint16)

    def unpack(self, blocks: UInt8s) -> Points:
        high = unpack_halves(blocks[:, 32:48])
        fields = np.ascontiguousarray(blocks[:, 48:]).view(np.uint16)
        d = np.bitwise_or.reduce(fields >> np.uint16(12) << self.quarters, axis=1).view(np.float16).astype(np.float32)
        s = (fields[:, :, None] >> self.shifts & np.uint16(7)).astype(np.uint8).reshape(len(blocks), 16)
        point = blocks[:, :32] | (high & np.uint8(7)).astype(np.uint16) << np.uint16(8)
        return Points(d, s, point, None, high >> np.uint8(3))

    def pack(self, p: Points) -> UInt8s:
        assert p.lower is not None
        high = pack_halves((p.point >> np.uint16(8)).astype(np.uint8) | p.lower << np.uint8(3))
        fields = np.bitwise_or.reduce(p.s.astype(np.uint16).reshape(-1, 4, 4) << self.shifts, axis=2)
        fields |= (f16_bytes(p.d).view(np.uint16) >> self.quarters & np.uint16(15)) << np.uint16(12)
        return np.concatenate([p.point.astype(np.uint8), high, fields.view(np.uint8)], axis=1)
