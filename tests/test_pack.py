"""Packed weights give back what the codecs decode, bit for bit, and refuse what they cannot hold."""

from __future__ import annotations

import numpy as np
import pytest
from codec_cases import scale_offsets, write_scale
from kernel_cases import TYPES, each_quantized, each_type, level, packed, random_rows  # noqa: F401

from llmq import _native
from llmq.quant import rows as codecs
from llmq.quant.types import QuantType


@each_type
@pytest.mark.parametrize("n", [1, 16, 35])
def test_round_trip(qtype: QuantType, n: int) -> None:
    for k in (qtype.block, 5 * qtype.block, 8 * qtype.block):
        rows = random_rows(qtype, n, k)
        want = codecs.dequantize(rows, qtype, (n, k))
        w = packed(qtype, rows, k)
        got = np.stack([w.row(i) for i in range(n)])
        np.testing.assert_array_equal(got.view(np.uint32) << 1, want.view(np.uint32) << 1)  # but for the sign of zero
        assert (got == want).all()


@each_type
def test_every_level_packs_the_same_bytes(qtype: QuantType, level: str) -> None:  # noqa: F811
    """Into memory that held something else, for columns that do not fill what is packed at once."""
    for n, blocks in [(1, 1), (16, 3), (35, 17)]:
        k = blocks * (qtype.block if qtype.block > 1 else 11)
        rows, got = random_rows(qtype, n, k), []
        for used in ("scalar", level):
            _native.use_isa(used)
            room = np.full(_native.packed_bytes(int(qtype), n, k) + 63, 0xAA, np.uint8)
            room = room[-room.ctypes.data % 64 :][: _native.packed_bytes(int(qtype), n, k)]
            got.append(packed(qtype, rows, k, data=room).data)
        np.testing.assert_array_equal(*got)


@each_type
def test_experts_stand_one_after_another(qtype: QuantType) -> None:
    n, k = 19, 2 * qtype.block
    rows = random_rows(qtype, 3 * n, k)
    want = codecs.dequantize(rows, qtype, (3, n, k))
    w = _native.Packed(int(qtype), n, k, rows.reshape(-1), experts=3)
    for expert in range(3):
        for i in (0, 15, 16, n - 1):
            np.testing.assert_array_equal(w.row(i, expert), want[expert, i])


@each_type
def test_size_and_padding(qtype: QuantType) -> None:
    n, k = 17, 8 * qtype.block
    full = packed(qtype, random_rows(qtype, 16, k), k).data
    w = packed(qtype, random_rows(qtype, n, k), k)
    assert w.data.ctypes.data % 64 == 0
    assert len(w.data) == 2 * len(full) == _native.packed_bytes(int(qtype), n, k)
    # At most 20 % (Q2_K) above the file and the planes' padding; types with a grid take 3 or 4 bits a weight and their scales.
    code = next((bits for prefix, bits in (("IQ1", 3), ("IQ2", 3), ("IQ3", 4)) if qtype.name.startswith(prefix)), 0)
    assert len(full) <= 16 * (k * (code + 0.7) / 8 if code else qtype.nbytes(k) * 1.2) + 6 * 64
    strip = w.data[len(full) :].copy()
    alone = np.concatenate([random_rows(qtype, n, k)[16:], np.zeros((15, qtype.nbytes(k)), np.uint8)])
    if qtype.is_float:
        np.testing.assert_array_equal(strip, packed(qtype, alone, k).data)
    assert np.count_nonzero(strip) <= qtype.nbytes(k) * 2


@each_quantized
def test_nonfinite_scales_are_refused(qtype: QuantType) -> None:
    for at in scale_offsets(qtype):
        for bad in (0x7C00, 0xFC00, 0x7E00):
            rows = random_rows(qtype, 3, 4 * qtype.block)
            write_scale(rows[2, -qtype.block_bytes :], qtype, at, np.uint16(bad))
            with pytest.raises(ValueError, match="NaN or infinity"):
                packed(qtype, rows, 4 * qtype.block)


def test_bad_plans_are_refused() -> None:
    rows = np.zeros(1024, np.uint8)
    known = {int(t) for t in TYPES}
    with pytest.raises(RuntimeError, match="not supported"):
        _native.Packed(next(i for i in range(256) if i not in known), 1, 32, rows)
    for n, k, experts in [(0, 32, 1), (1, 0, 1), (1, 32, 0), (-1, 32, 1), (1, 33, 1), (2**40, 2**34, 1), (2**31, 2**31, 2**31)]:
        with pytest.raises(ValueError, match="out of its range"):
            _native.Packed(int(QuantType.Q4_0), n, k, rows, experts)
    with pytest.raises(ValueError, match="bytes are not"):
        _native.Packed(int(QuantType.Q4_0), 1, 64, rows)
    with pytest.raises(ValueError, match="wrong size"):
        _native.Packed(int(QuantType.F32), 1, 256, rows, data=np.zeros(64, np.uint8))
    w = _native.Packed(int(QuantType.F32), 1, 256, rows)
    for row, expert in [(1, 0), (-1, 0), (0, 1)]:
        with pytest.raises(IndexError):
            w.row(row, expert)
