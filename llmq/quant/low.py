"""Two bits and less with one scale: the ternary TQ1_0 and TQ2_0, Q1_0 and Q2_0. csrc/formats/ draws the blocks."""

from __future__ import annotations

import numpy as np

from llmq.quant.blocks import f16_at, f16_bytes
from llmq.quant.codecs import Floats, UInt8s
from llmq.quant.kquants import pack_bits, unpack_bits
from llmq.quant.legacy import OneScale
from llmq.quant.scale_search import Shape

TERNARY_STARTS = (1, 0.75, 1.25, 1.5, 1.7, 1.9, 2.1, 2.3, 2.6, 2.9, 3.3, 3.8, 4.5, 5.5, 7, 10)


class TQ2_0(OneScale):  # noqa: N801 - the type's name
    name, off, group = "TQ2_0", 1, 32
    shape = Shape(-1, 1, TERNARY_STARTS, 256)

    def split(self, blocks: UInt8s) -> tuple[UInt8s, Floats, Floats | None]:
        return unpack_bits(blocks[:, :64], 2), f16_at(blocks, 64), None

    def join(self, levels: UInt8s, d: Floats, m: Floats) -> UInt8s:
        return np.concatenate([pack_bits(levels, 2), f16_bytes(d)], axis=1)


class TQ1_0(OneScale):  # noqa: N801
    name, off, group = "TQ1_0", 1, 32
    shape = Shape(-1, 1, TERNARY_STARTS, 256)
    runs = ((0, 32, 5), (32, 16, 5), (48, 4, 4))  # first byte, bytes, weights in each

    def split(self, blocks: UInt8s) -> tuple[UInt8s, Floats, Floats | None]:
        parts = []
        for first, count, digits in self.runs:
            powers = np.array([1, 3, 9, 27, 81], np.uint8)[:digits, None]
            front = blocks[:, None, first : first + count] * powers  # modulo 256
            parts.append((front.astype(np.uint16) * np.uint16(3) >> np.uint16(8)).astype(np.uint8).reshape(len(blocks), -1))
        return np.concatenate(parts, axis=1), f16_at(blocks, 52), None

    def join(self, levels: UInt8s, d: Floats, m: Floats) -> UInt8s:
        parts, at = [], 0
        for _, count, digits in self.runs:
            q = levels[:, at : at + count * digits].reshape(-1, digits, count).astype(np.int64)
            at += count * digits
            value = (q * 3 ** np.arange(4, 4 - digits, -1)[:, None]).sum(axis=1)
            parts.append(((value * 256 + 242) // 243).astype(np.uint8))
        return np.concatenate([*parts, f16_bytes(d)], axis=1)


class Q1_0(OneScale):  # noqa: N801
    name, off, group = "Q1_0", 1, 32
    starts = (1, 2, 3, 4, 6, 8, 16, 32, 128, 512, 2048, 8192, 2**15, 2**17, 2**19, 2**21)
    shape = Shape(-1, 1, starts, 128, plain=9, codebook=(-1, 1))

    def split(self, blocks: UInt8s) -> tuple[UInt8s, Floats, Floats | None]:
        return np.unpackbits(blocks[:, 2:], axis=1, bitorder="little") << np.uint8(1), f16_at(blocks, 0), None

    def join(self, levels: UInt8s, d: Floats, m: Floats) -> UInt8s:
        return np.concatenate([f16_bytes(d), np.packbits(levels >> np.uint8(1), axis=1, bitorder="little")], axis=1)


class Q2_0(OneScale):  # noqa: N801
    name, off, group = "Q2_0", 1, 32
    shape = Shape(-1, 2, (-1, -0.8, -1.2, -1.4, -1.6, -1.9, 2, 1.8, 2.2, 2.4, 2.7, 3, 1.6, 3.4, 4, 1), 64)

    def split(self, blocks: UInt8s) -> tuple[UInt8s, Floats, Floats | None]:
        fields = blocks[:, 2:, None] >> np.arange(0, 8, 2, dtype=np.uint8) & np.uint8(3)
        return fields.reshape(len(blocks), 64), f16_at(blocks, 0), None

    def join(self, levels: UInt8s, d: Floats, m: Floats) -> UInt8s:
        fields = levels.reshape(-1, 16, 4) << np.arange(0, 8, 2, dtype=np.uint8)
        return np.concatenate([f16_bytes(d), np.bitwise_or.reduce(fields, axis=2)], axis=1)
