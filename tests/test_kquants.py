"""The K types beyond what every codec promises: packing, blocks on their own, scaling, importances of zero, constants."""

from __future__ import annotations

import numpy as np
import pytest
from codec_cases import ROW, adversarial_rows

from llmq.quant import rows
from llmq.quant.codecs import codec_of
from llmq.quant.kquants import KQuant
from llmq.quant.types import QuantType

K_TYPES = [t for t in QuantType if isinstance(codec_of(t), KQuant)]
each_type = pytest.mark.parametrize("qtype", K_TYPES, ids=lambda t: t.name)


def test_there_are_k_types() -> None:
    assert {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"} <= {t.name for t in K_TYPES}


@each_type
def test_packing_is_the_inverse_of_levels(qtype: QuantType) -> None:
    codec = codec_of(qtype)
    assert isinstance(codec, KQuant)
    x = np.concatenate(list(adversarial_rows().values()))
    blocks = rows.quantize(x, qtype).reshape(-1, qtype.block_bytes)
    np.testing.assert_array_equal(codec.pack(codec.levels(blocks)), blocks)


@each_type
def test_a_block_does_not_depend_on_its_neighbours(qtype: QuantType) -> None:
    # 16 groups are searched together: one or two blocks, the last of an odd number beside zeros
    x = adversarial_rows()["heavy-tailed"].astype(np.float32).reshape(-1, 256)[:7]
    weight = np.exp(np.random.RandomState(1).standard_normal(x.shape)).astype(np.float32)
    for h in (None, weight):
        together = rows.quantize(x.reshape(-1), qtype, None if h is None else h.reshape(-1)).reshape(7, -1)
        alone = [rows.quantize(x[i], qtype, None if h is None else h[i]) for i in range(7)]
        np.testing.assert_array_equal(together, np.stack(alone))


@each_type
def test_powers_of_two_only_change_the_scales(qtype: QuantType) -> None:
    # while d and dmin stay normal binary16 numbers
    x = adversarial_rows()["normal"].astype(np.float32) * np.float32(32)
    weight = np.exp(np.random.RandomState(1).standard_normal(ROW)).astype(np.float32)
    once = rows.dequantize(rows.quantize(x, qtype, weight), qtype, x.shape)
    for by, importance in ((8.0, 1.0), (1.0, 2.0**60), (1.0, 2.0**-60)):
        more = rows.quantize(x * np.float32(by), qtype, weight * np.float32(importance))
        np.testing.assert_array_equal(rows.dequantize(more, qtype, x.shape), once * np.float32(by))


@each_type
def test_importances_of_zero(qtype: QuantType) -> None:
    x = adversarial_rows()["normal"].astype(np.float32)
    none = rows.quantize(x, qtype, np.zeros(ROW, np.float32))
    np.testing.assert_array_equal(none, rows.quantize(x, qtype))
    half = np.ones(ROW, np.float32)
    half[: ROW // 2] = 0
    half[ROW // 2 :: 3] = 0
    got = rows.dequantize(rows.quantize(x, qtype, half), qtype, x.shape)
    plain = rows.dequantize(rows.quantize(x, qtype), qtype, x.shape)
    assert np.isfinite(got).all()
    assert (half * (got - x) ** 2).sum() < (half * (plain - x) ** 2).sum()


@each_type
def test_what_is_constant_is_nearly_exact(qtype: QuantType) -> None:
    for value in (1.0, -1.0, 0.3, -7.25, 2000.0):
        x = np.full(ROW, value, np.float32)
        got = rows.dequantize(rows.quantize(x, qtype), qtype, x.shape)
        assert np.abs(got - x).max() <= 2.0**-11 * abs(value)
