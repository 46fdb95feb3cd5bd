"""What the tensor types mean: one NumPy codec per type.

A codec works on blocks, uint8 (n, bytes per block), and float32 (n, weights per block). The C codecs (csrc/formats/), which do
the work in practice through llmq.quant.rows, are tested against these: dequantizing, the integer form and the dot product agree
bit for bit, quantizing gives the same blocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from llmq.quant.types import QuantType

__all__ = ["Codec", "Floats", "Int8s", "Levels", "QuantizedCodec", "UInt8s", "codec_of", "quantize_x8"]

Floats = npt.NDArray[np.float32]
UInt8s = npt.NDArray[np.uint8]
Int8s = npt.NDArray[np.int8]

_HOMES = {
    "llmq.quant.floats": "F32 F16 BF16",
    "llmq.quant.kquants": "Q2_K Q3_K Q4_K Q5_K Q6_K",
    "llmq.quant.legacy": "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0",
    "llmq.quant.grids": "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S",
    "llmq.quant.iq4": "IQ4_NL IQ4_XS",
    "llmq.quant.low": "TQ1_0 TQ2_0 Q1_0 Q2_0",
    "llmq.quant.fp4": "MXFP4 NVFP4",
}
_registry: dict[QuantType, Codec] = {}


@dataclass(frozen=True)
class Levels:
    """Quantized blocks as integers with scales; weight i is d * sc[i // group] * (q[i] - off) - dmin * m[i // group].

    q uint8 (n, block), sc int8 (n, groups), m uint8 (n, groups), d float32 (n,), dmin float32 (n,); types with one scale per
    block have sc = 1, and m = 1 when they have a minimum (0 otherwise). sc may hold codes: `QuantizedCodec.scales`."""

    q: UInt8s
    sc: Int8s
    m: UInt8s
    d: Floats
    dmin: Floats


class Codec(ABC):
    """One tensor type."""

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            _registry[QuantType[cls.name]] = cls()

    @abstractmethod
    def dequantize(self, blocks: UInt8s) -> Floats:
        """Blocks (n, bytes) to float32 (n, block). Scales may be NaN or infinite; so are the weights then."""

    @abstractmethod
    def quantize(self, x: Floats, weight: Floats | None = None) -> UInt8s:
        """Finite float32 (n, block) to blocks (n, bytes), with a small sum of squared errors; `weight`, of x's shape and
        >= 0, gives each square's importance."""

    @abstractmethod
    def dot(self, row: UInt8s, x: Floats) -> Floats:
        """rows . x as the engines compute it: row (n, bytes of k weights), x (k,), result (n,)."""


class QuantizedCodec(Codec):
    """A type whose blocks are integers with scales. `off` and `group` are those of Levels."""

    off: ClassVar[int]
    group: ClassVar[int]
    has_min: ClassVar[bool] = False
    real_scales: ClassVar[bool] = False  # sc holds codes, d is 1

    @abstractmethod
    def levels(self, blocks: UInt8s) -> Levels:
        """Blocks (n, bytes) as integers with scales."""

    def scales(self, sc: Int8s) -> Floats:
        """The numbers that sc of Levels stands for, of its shape."""
        return sc.astype(np.float32)

    def dot(self, row: UInt8s, x: Floats) -> Floats:
        # The order of csrc/formats/dot.c: integers per run of columns with one scale, then float32, one rounding each.
        qtype = QuantType[self.name]
        n, runs, width = len(row), len(x) // qtype.x8_width, qtype.x8_width
        q, dx, total = quantize_x8(x, width)
        levels = self.levels(row.reshape(-1, qtype.block_bytes))
        wide = levels.q.reshape(n, runs, width // 16, 16).astype(np.int32)
        sc, m = (np.repeat(v.astype(np.int32), self.group // 16, axis=1).reshape(n, runs, -1) for v in (levels.sc, levels.m))
        xs = total.reshape(1, runs, width // 16).astype(np.int32)
        products = (wide * q.reshape(1, runs, width // 16, 16).astype(np.int32)).sum(-1, dtype=np.int32)
        products = products - self.off * xs
        whole = (sc * products).sum(-1, dtype=np.int32).astype(np.float32)
        if self.real_scales:
            scale = np.repeat(self.scales(levels.sc), self.group // 16, axis=1).reshape(products.shape)
            whole = np.add.accumulate(scale * products.astype(np.float32), axis=-1)[..., -1]  # in order
        least = (m * xs).sum(-1, dtype=np.int32).astype(np.float32)
        d, dmin = (np.repeat(v.reshape(n, -1), qtype.block // width, axis=1) for v in (levels.d, levels.dmin))
        out = np.zeros(n, np.float32)
        for s in range(runs):
            t = d[:, s] * whole[:, s]
            out = out + dx[s] * (t - dmin[:, s] * least[:, s] if self.has_min else t)
        return out


def quantize_x8(x: Floats, width: int) -> tuple[Int8s, Floats, npt.NDArray[np.int16]]:
    """Activations (k,), finite, k a multiple of `width`, as the quantized dot reads them: (q int8 (k,), dx float32
    (k // width,), the sums of each 16 of q, int16 (k // 16,)); x is about dx * q."""
    runs = x.reshape(-1, width)
    top = np.abs(runs).max(axis=1)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top / np.float32(127) >= np.finfo(np.float32).tiny)
    dx = np.divide(np.float32(1), inverse, out=np.zeros_like(top), where=inverse > 0)
    q = np.rint(runs * inverse[:, None]).astype(np.int8)
    return q.reshape(-1), dx, q.reshape(-1, 16).sum(axis=1, dtype=np.int16)


def codec_of(qtype: QuantType) -> Codec:
    """The NumPy codec of a type."""
    if qtype not in _registry:
        for module, names in _HOMES.items():
            if qtype.name in names.split():
                import_module(module)
    return _registry[qtype]
