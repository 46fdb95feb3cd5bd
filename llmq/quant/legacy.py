"""The types of 32 weights with one scale: Q4_0, Q5_0, Q8_0, with a minimum too: Q4_1, Q5_1.
csrc/formats/ draws the blocks."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from llmq.quant.blocks import f16_at, f16_bytes, pack_fives, pack_nibbles, unpack_fives, unpack_nibbles
from llmq.quant.codecs import Floats, Levels, QuantizedCodec, UInt8s
from llmq.quant.scale_search import EIGHT_BIT_STARTS, MIN_STARTS, Shape, search, uniform_starts


class OneScale(QuantizedCodec):
    """A type whose blocks have one scale d, and perhaps a minimum m."""

    shape: ClassVar[Shape]

    @abstractmethod
    def split(self, blocks: UInt8s) -> tuple[UInt8s, Floats, Floats | None]:
        """Levels plus `off` (n, block), d and, when the type has it, m."""

    @abstractmethod
    def join(self, levels: UInt8s, d: Floats, m: Floats) -> UInt8s:
        """Blocks from levels counted from the shape's lo, d and m."""

    def levels(self, blocks: UInt8s) -> Levels:
        q, d, m = self.split(blocks)
        ones = np.ones((len(q), q.shape[1] // self.group), np.int8)
        if m is None:
            return Levels(q, ones, np.zeros_like(ones, np.uint8), d, np.zeros_like(d))
        return Levels(q, ones, ones.astype(np.uint8), d, -m)

    def dequantize(self, blocks: UInt8s) -> Floats:
        q, d, m = self.split(blocks)
        with np.errstate(invalid="ignore", over="ignore"):
            scaled: Floats = d[:, None] * (q.astype(np.float32) - np.float32(self.off))
            return scaled if m is None else scaled + m[:, None]

    def quantize(self, x: Floats, weight: Floats | None = None) -> UInt8s:
        return self.join(*search(self.shape, x, weight))


class Legacy(OneScale):
    """32 weights; a block is d, m when the type has a minimum, and the bits of the levels."""

    group = 32

    @staticmethod
    @abstractmethod
    def unpack(bits: UInt8s) -> UInt8s:
        """The bytes after the scales to levels plus `off`, (n, 32)."""

    @staticmethod
    @abstractmethod
    def pack(places: UInt8s) -> UInt8s:
        """Levels counted from lo to bytes."""

    def split(self, blocks: UInt8s) -> tuple[UInt8s, Floats, Floats | None]:
        m = f16_at(blocks, 2) if self.has_min else None
        return self.unpack(blocks[:, 4 if self.has_min else 2 :]), f16_at(blocks, 0), m

    def join(self, levels: UInt8s, d: Floats, m: Floats) -> UInt8s:
        scales = [f16_bytes(d), f16_bytes(m)] if self.has_min else [f16_bytes(d)]
        return np.concatenate([*scales, self.pack(levels)], axis=1)


class Nibbles(Legacy):
    unpack, pack = staticmethod(unpack_nibbles), staticmethod(pack_nibbles)


class Fives(Legacy):
    pack = staticmethod(pack_fives)

    @staticmethod
    def unpack(bits: UInt8s) -> UInt8s:
        return unpack_fives(bits[:, :4], bits[:, 4:])


class Q4_0(Nibbles):  # noqa: N801 - the type's name
    name, off = "Q4_0", 8
    shape = Shape(-8, 7, uniform_starts(-8, 7), plain=7)


class Q4_1(Nibbles):  # noqa: N801
    name, off, has_min = "Q4_1", 0, True
    shape = Shape(0, 15, MIN_STARTS)


class Q5_0(Fives):  # noqa: N801
    name, off = "Q5_0", 16
    shape = Shape(-16, 15, uniform_starts(-16, 15))


class Q5_1(Fives):  # noqa: N801
    name, off, has_min = "Q5_1", 0, True
    shape = Shape(0, 31, MIN_STARTS)


class Q8_0(Legacy):  # noqa: N801
    name, off = "Q8_0", 128
    shape = Shape(-127, 127, EIGHT_BIT_STARTS, plain=8)

    @staticmethod
    def unpack(bits: UInt8s) -> UInt8s:
        return bits ^ np.full_like(bits, 128)  # -128 may be read, though it is not written

    @staticmethod
    def pack(places: UInt8s) -> UInt8s:
        return places - np.full_like(places, 127)

