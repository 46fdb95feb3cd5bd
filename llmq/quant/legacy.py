"""The types of 32 weights with one scale: Q4_0, Q5_0, Q8_0, with a minimum too: Q4_1, Q5_1.
csrc/formats/ draws the blocks."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from llmq.quant.blocks import f16_at, f16_bytes, pack_fives, pack_nibbles, unpack_fives, unpack_nibbles
from llmq.quant.codecs import Floats, Levels, QuantizedCodec, UInt8s
from llmq.quant.search32 import EIGHT_BIT_STARTS, MIN_STARTS, Shape, search, uniform_starts


class Legacy(QuantizedCodec):
    """A block is d, m when the type has a minimum, and the places of the levels in their bits."""

    group = 32
    shape: ClassVar[Shape]

    @staticmethod
    @abstractmethod
    def unpack(bits: UInt8s) -> UInt8s:
        """The bytes after the scales to levels plus `off`, (n, 32)."""

    @staticmethod
    @abstractmethod
    def pack(places: UInt8s) -> UInt8s:
        """Levels counted from the lowest one (of a codebook: plus `off`) to bytes."""

    def parts(self, blocks: UInt8s) -> tuple[UInt8s, Floats, Floats | None]:
        """Levels plus `off`, d and, when the type has it, m."""
        m = f16_at(blocks, 2) if self.has_min else None
        return self.unpack(blocks[:, 4 if self.has_min else 2 :]), f16_at(blocks, 0), m

    def levels(self, blocks: UInt8s) -> Levels:
        q, d, m = self.parts(blocks)
        return self.plain_levels(q, d, None if m is None else -m)

    def dequantize(self, blocks: UInt8s) -> Floats:
        q, d, m = self.parts(blocks)
        with np.errstate(invalid="ignore"):
            scaled: Floats = d[:, None] * (q.astype(np.float32) - np.float32(self.off))
            return scaled if m is None else scaled + m[:, None]

    def quantize(self, x: Floats, weight: Floats | None = None) -> UInt8s:
        places, d, m = search(self.shape, x, weight)
        scales = [f16_bytes(d), f16_bytes(m)] if self.has_min else [f16_bytes(d)]
        return np.concatenate([*scales, self.pack(places)], axis=1)


class Nibbles(Legacy):
    unpack, pack = staticmethod(unpack_nibbles), staticmethod(pack_nibbles)


class Fives(Legacy):
    pack = staticmethod(pack_fives)

    @staticmethod
    def unpack(bits: UInt8s) -> UInt8s:
        return unpack_fives(bits[:, :4], bits[:, 4:])


class Q4_0(Nibbles):  # noqa: N801 - the type's name
    name, off = "Q4_0", 8
    shape = Shape(-8, 7, uniform_starts(-8, 7))


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
    shape = Shape(-127, 127, EIGHT_BIT_STARTS)

    @staticmethod
    def unpack(bits: UInt8s) -> UInt8s:
        return bits ^ np.full_like(bits, 128)  # -128 may be read, though it is not written

    @staticmethod
    def pack(places: UInt8s) -> UInt8s:
        return places - np.full_like(places, 127)

