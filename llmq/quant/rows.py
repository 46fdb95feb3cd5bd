"""Rows of weights to and from blocks, by the C codecs; the NumPy codecs beside this file define what they mean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmq import _native
from llmq.quant.types import QuantType

__all__ = ["dequantize", "quantize"]


def dequantize(raw: npt.NDArray[np.uint8], qtype: QuantType, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Decode bytes of `qtype`, uint8 (n,), to float32 of `shape`. Raises ValueError when the sizes do not match."""
    out = np.empty(shape, np.float32)
    _native.dequantize(int(qtype), np.ascontiguousarray(raw).reshape(-1), out.reshape(-1))
    return out


def quantize(
    values: npt.NDArray[np.float32], qtype: QuantType, weight: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]:
    """Encode float32 rows (..., k) as uint8 (..., bytes per row); k must be a multiple of the type's block. `weight` is the
    importance (>= 0) of each column, float32 (k,), or of each weight, of values' shape. Raises ValueError on NaN or infinity."""
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty((*values.shape[:-1], qtype.nbytes(values.shape[-1])), np.uint8)
    if weight is not None:
        weight = np.ascontiguousarray(np.broadcast_to(weight, values.shape), np.float32).reshape(-1)
    _native.quantize(int(qtype), values.reshape(-1), out.reshape(-1), weight)
    return out
