"""Fields of blocks that several types share. Blocks are uint8 (n, bytes per block)."""

from __future__ import annotations

import numpy as np

from llmq.quant.codecs import Floats, UInt8s

__all__ = ["f16_at", "f16_bytes", "pack_fives", "pack_nibbles", "unpack_fives", "unpack_nibbles"]


def f16_at(blocks: UInt8s, at: int) -> Floats:
    """The binary16 number at byte `at` of each block, float32 (n,)."""
    value: Floats = blocks[:, at : at + 2].copy().view(np.float16)[:, 0].astype(np.float32)
    return value


def f16_bytes(values: Floats) -> UInt8s:
    """float32 (n,) that binary16 holds exactly, as bytes (n, 2)."""
    return values.astype(np.float16).view(np.uint8).reshape(-1, 2)


def unpack_nibbles(bits: UInt8s) -> UInt8s:
    """(n, 16) bytes to (n, 32) levels: the low nibbles, then the high ones."""
    return np.concatenate([bits & np.uint8(15), bits >> np.uint8(4)], axis=1)


def pack_nibbles(places: UInt8s) -> UInt8s:
    packed: UInt8s = places[:, :16] & np.uint8(15) | places[:, 16:] << np.uint8(4)
    return packed


def unpack_fives(qh: UInt8s, qs: UInt8s) -> UInt8s:
    """Bit 4 of each level from qh (n, 4), little-endian, the others from qs (n, 16): (n, 32) levels."""
    levels: UInt8s = unpack_nibbles(qs) | np.unpackbits(qh, axis=1, bitorder="little") << np.uint8(4)
    return levels


def pack_fives(places: UInt8s) -> UInt8s:
    """The inverse: qh and qs side by side, (n, 20)."""
    return np.concatenate([np.packbits(places >> np.uint8(4), axis=1, bitorder="little"), pack_nibbles(places)], axis=1)
