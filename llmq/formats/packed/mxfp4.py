"""The experts of gpt-oss folders: MXFP4 (OCP Microscaling Formats 1.0) as two tensors.

    x_blocks   uint8 (…, columns / 32, 16)   weights 2i and 2i + 1 in the low and the high bits of byte i
    x_scales   uint8 (…, columns / 32)       the power of two of each block, plus 127

GGUF has both in one block of 17 bytes: the scale, then weights i and i + 16 in the low and the high bits of byte i."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from llmq.errors import FormatError, quoted
from llmq.formats.stored import StoredTensor

__all__ = ["is_blocks", "mxfp4_blocks", "scales_of"]


def is_blocks(tensor: StoredTensor) -> bool:
    """Whether this is the first of the two tensors."""
    return tensor.dtype == "U8" and tensor.name.endswith("_blocks")


def scales_of(blocks: StoredTensor, tensors: Mapping[str, object]) -> StoredTensor:
    """The second one. FormatError when it is missing or they do not fit."""
    name = f"{blocks.name.removesuffix('_blocks')}_scales"
    scales = tensors.get(name)
    if not isinstance(scales, StoredTensor) or scales.dtype != "U8":
        raise FormatError(f"tensor {quoted(name)}: the scales of MXFP4 (U8) expected", path=blocks.source.path)
    if blocks.shape[-1:] != (16,) or scales.shape != blocks.shape[:-1] or len(scales.shape) < 2 or 0 in scales.shape:
        raise FormatError(
            f"tensor {quoted(blocks.name)} of shape {blocks.shape} does not fit its scales of shape {scales.shape}",
            path=blocks.source.path,
            offset=blocks.offset,
        )
    return scales


def mxfp4_blocks(blocks: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """GGUF's blocks (…, 17) of blocks (…, 16) and scales (…)."""
    weights = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    return np.concatenate([scales[..., None], weights[..., :16] | weights[..., 16:] << 4], axis=-1)
