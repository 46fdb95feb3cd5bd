"""The types with a codebook of 16 unevenly spaced levels: IQ4_NL, 32 weights with one scale, and IQ4_XS, 256 in scaled groups
of 32. csrc/formats/ draws the blocks."""

from __future__ import annotations

import numpy as np

from llmq.quant.blocks import f16_at, f16_bytes, pack_nibbles, unpack_nibbles
from llmq.quant.codecs import Levels, UInt8s
from llmq.quant.kquant_search import Shape as GroupShape
from llmq.quant.kquant_search import starts
from llmq.quant.kquants import KQuant
from llmq.quant.legacy import Legacy
from llmq.quant.scale_search import IQ4_STARTS, Shape

LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
OFF = 128
_STORED = np.array(LEVELS, np.int16) + OFF


def unpack_iq4(bits: UInt8s) -> UInt8s:
    """(n, 16) bytes to (n, 32) levels plus 128."""
    out: UInt8s = _STORED.astype(np.uint8)[unpack_nibbles(bits)]
    return out


def pack_iq4(places: UInt8s) -> UInt8s:
    return pack_nibbles(np.searchsorted(_STORED, places).astype(np.uint8))


class IQ4_NL(Legacy):  # noqa: N801 - the type's name
    name, off = "IQ4_NL", OFF
    shape = Shape(-OFF, 0, IQ4_STARTS, codebook=LEVELS)
    unpack, pack = staticmethod(unpack_iq4), staticmethod(pack_iq4)


class IQ4_XS(KQuant):  # noqa: N801
    name, off, group = "IQ4_XS", OFF, 32
    shape = GroupShape(
        group=32,
        off=OFF,
        q=(0, 0),
        sc=(-32, 31),
        m=0,
        step=1,
        reach=(2, 0),
        start=starts("-127, -115, -139, -151, 113, 101, 125, 137"),
        codebook=LEVELS,
    )

    def levels(self, blocks: UInt8s) -> Levels:
        high = blocks[:, 2:4].copy().view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16) & np.uint16(3)
        low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(len(blocks), 8)
        sc = (low | high.astype(np.uint8) << 4).astype(np.int8) - np.int8(32)
        q = unpack_iq4(blocks[:, 8:].reshape(-1, 16)).reshape(len(blocks), 256)
        return Levels(q, sc, np.zeros((len(blocks), 8), np.uint8), f16_at(blocks, 0), np.zeros(len(blocks), np.float32))

    def pack(self, w: Levels) -> UInt8s:
        s = (w.sc + np.int8(32)).astype(np.uint8)
        high = np.bitwise_or.reduce((s >> 4).astype(np.uint16) << np.arange(0, 16, 2, dtype=np.uint16), axis=1, keepdims=True)
        low = s[:, ::2] & 15 | s[:, 1::2] << 4
        qs = pack_iq4(w.q.reshape(-1, 32)).reshape(len(s), 128)
        return np.concatenate([f16_bytes(w.d), high.view(np.uint8), low, qs], axis=1)
