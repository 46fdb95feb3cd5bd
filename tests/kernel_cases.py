"""Weights for the tests of packing and of kernels: random blocks of any type with finite scales."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from codec_cases import byte_scales, scale_offsets, write_scale

from llmq import _native
from llmq.quant.types import QuantType

TYPES = list(QuantType)
QUANTIZED = [t for t in TYPES if not t.is_float]
FLOATS = [t for t in TYPES if t.is_float]

each_type = pytest.mark.parametrize("qtype", TYPES, ids=lambda t: t.name)
each_quantized = pytest.mark.parametrize("qtype", QUANTIZED, ids=lambda t: t.name)
each_float = pytest.mark.parametrize("qtype", FLOATS, ids=lambda t: t.name)


def random_rows(qtype: QuantType, n: int, k: int, seed: int = 0) -> np.ndarray:
    """uint8 (n, bytes per row): every byte random, the scales between 2^-10 and 2^2 of either sign."""
    rng = np.random.default_rng([int(qtype), n, k, seed])
    if qtype.is_float:
        values = rng.standard_normal((n, k)).astype(np.float32)
        half = {"F16": lambda: values.astype(np.float16), "BF16": lambda: (values.view(np.uint32) >> 16).astype(np.uint16)}
        return np.ascontiguousarray(half.get(qtype.name, lambda: values)()).view(np.uint8)
    blocks = rng.integers(0, 256, (n * k // qtype.block, qtype.block_bytes), np.uint8)
    finite_scales(qtype, blocks, rng)
    return blocks.reshape(n, -1)


def finite_scales(qtype: QuantType, blocks: np.ndarray, rng: np.random.Generator) -> None:
    """Give blocks, uint8 (n, bytes), scales between 2^-10 and 2^2 of either sign."""
    for at in scale_offsets(qtype):
        scales = (rng.choice([-1, 1], len(blocks)) * 2 ** rng.uniform(-10, 2, len(blocks))).astype(np.float16)
        write_scale(blocks, qtype, at, scales.view(np.uint16))
    for at in byte_scales(qtype).at:
        blocks[:, at] = rng.integers(*byte_scales(qtype).moderate, len(blocks))


def packed(qtype: QuantType, rows: np.ndarray, k: int, **more: object) -> _native.Packed:
    return _native.Packed(int(qtype), rows.size // qtype.nbytes(k), k, rows.reshape(-1), **more)  # type: ignore[arg-type]


@pytest.fixture(params=_native.isa_levels())
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each level of the ladder that this machine has."""
    before = _native.isa_used()
    _native.use_isa(request.param)
    yield request.param
    _native.use_isa(before)
