"""Rows of weights to and from blocks, by the C codecs; the NumPy codecs of llmq.quant.codecs define what they mean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmq import _native
from llmq.quant.codecs import Levels
from llmq.quant.types import QuantType

__all__ = ["dequantize", "dot", "levels", "quantize"]


def dequantize(raw: npt.NDArray[np.uint8], qtype: QuantType, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Decode bytes of `qtype`, uint8 (n,), to float32 of `shape`. Raises ValueError when the sizes do not match."""
    out = np.empty(shape, np.float32)
    _native.dequantize(int(qtype), np.ascontiguousarray(raw).reshape(-1), out.reshape(-1))
    return out


def quantize(
    values: npt.NDArray[np.float32], qtype: QuantType, weight: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]:
    """Encode float32 rows (..., k) as uint8 (..., bytes per row); k must be a multiple of the type's block. `weight` is the
    importance (>= 0) of each column, float32 (k,), or of each weight, of values' shape. Raises ValueError on NaN or infinity,
    and on negative importances."""
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty((*values.shape[:-1], qtype.nbytes(values.shape[-1])), np.uint8)
    if weight is not None:
        weight = np.ascontiguousarray(np.broadcast_to(weight, values.shape), np.float32).reshape(-1)
    _native.quantize(int(qtype), values.reshape(-1), out.reshape(-1), weight)
    return out


def levels(raw: npt.NDArray[np.uint8], qtype: QuantType) -> Levels:
    """The integer form of whole blocks of a quantized type, uint8 (n * bytes per block,). Raises ValueError for F32, F16, BF16
    and for bytes that are not whole blocks."""
    return Levels(*_native.levels(int(qtype), np.ascontiguousarray(raw).reshape(-1)))


def dot(raw: npt.NDArray[np.uint8], qtype: QuantType, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """rows . x, float32 (n,), for `raw` uint8 (n, bytes per row) and finite x float32 (k,), with the roundings that every
    matmul kernel has (csrc/formats/dot.c): for a quantized type, x is rounded to 8 bits per 32 columns. Raises ValueError when
    sizes differ."""
    out = np.empty(len(raw), np.float32)
    _native.dot(int(qtype), np.ascontiguousarray(raw).reshape(-1), np.ascontiguousarray(x, np.float32), out)
    return out
