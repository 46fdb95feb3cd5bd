"""The matmul at every level of the ladder: quantized weights give the dot's definition bit for bit, float weights are within
the bound of their chains, tiles within bfloat16 rounding; for any number of rows and threads; nothing else is touched."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest
from kernel_cases import FLOATS, TYPES, each_float, each_quantized, each_type, finite_scales, level, packed, random_rows  # noqa: F401

from llmq import _native
from llmq.quant import rows as codecs
from llmq.quant.types import QuantType

TILES = "tiles"
FC = 256  # LLMQ_FC


def run(w: _native.Packed, x: np.ndarray, bias: np.ndarray | None = None, n_threads: int = 1, expert: int = 0) -> np.ndarray:
    out = np.full((len(x), w.shape[1]), np.nan, np.float32)
    _native.matmul(w, x, out, bias, expert, n_threads)
    return out


def exact(qtype: QuantType, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The definition: csrc/formats/dot.c, one row and one token at a time."""
    out = np.empty((len(x), len(rows)), np.float32)
    for t in range(len(x)):
        _native.dot(int(qtype), rows.reshape(-1), x[t], out[t])
    return out


def activations(m: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([m, k, seed])
    return (rng.standard_normal((m, k)) * 2 ** rng.uniform(-8, 8, (m, 1))).astype(np.float32)


def assert_equal_bits(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


def assert_within(got: np.ndarray, w: np.ndarray, x: np.ndarray, relative: float) -> None:
    """|got - w.x| <= relative * sum |w x|, in float64."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    assert (np.abs(got - x @ w.T) <= relative * (np.abs(x) @ np.abs(w).T) + 1e-30).all()


def test_activations(level: str) -> None:  # noqa: F811
    """Any bits as activations come out as the definition has them: seen through a weight matrix that is the identity."""
    k = 256
    rng = np.random.default_rng(7)
    rows = codecs.quantize(np.eye(k, dtype=np.float32), QuantType.Q8_0)
    w = packed(QuantType.Q8_0, rows, k)
    x = rng.integers(0, 2**32, (31, k), np.uint32).view(np.float32)
    x = np.where(np.isfinite(x) & (np.abs(x) < 1e34), x, 0).astype(np.float32)
    x[0], x[1, 32:64], x[2] = 0, 0, 1e-40
    x[3, :32] = np.arange(32, dtype=np.float32) + 0.5  # ties
    x[3, 0] = 127
    x[4] = np.where(np.arange(k) % 2, 1e-37, -3e-37)  # scales below the smallest normal number
    assert_equal_bits(run(w, x), exact(QuantType.Q8_0, rows, x))


@each_quantized
def test_bit_exact(qtype: QuantType, level: str) -> None:  # noqa: F811
    for n, blocks, m in [(1, 1, 1), (16, 2, 2), (35, 3, 5), (33, 5, 31), (48, 2048 // qtype.block + 1, 7)]:
        k = blocks * qtype.block
        rows, x = random_rows(qtype, n, k), activations(m, k)
        assert_equal_bits(run(packed(qtype, rows, k), x), exact(qtype, rows, x))


@each_quantized
def test_any_number_of_rows_and_threads(qtype: QuantType, level: str) -> None:  # noqa: F811
    n, k = 67, 256
    rows, x = random_rows(qtype, n, k), activations(33, k)
    bias = activations(1, n)[0]
    w = packed(qtype, rows, k)
    want = exact(qtype, rows, x) + bias
    for m in range(1, 34):
        if w.kind(m) != TILES:
            assert_equal_bits(run(w, x[:m], bias, 1 + m % 5), want[:m])


@each_quantized
def test_saturation(qtype: QuantType, level: str) -> None:  # noqa: F811
    """The largest integers that weights and activations can have, in every combination of signs."""
    k = 2 * 256
    fills = np.array([0x00, 0xFF, 0x7F, 0x80, 0x0F, 0xF0, 0x77, 0x88, 0x3F, 0x55, 0xAA], np.uint8)
    rows = np.repeat(fills[:, None], qtype.nbytes(k), axis=1)
    finite_scales(qtype, rows.reshape(-1, qtype.block_bytes), np.random.default_rng(int(qtype)))
    column = np.arange(k)
    signs = [np.ones(k), -np.ones(k), *(np.where(column // length % 2, 1, -1) for length in (1, 2, 4, 16, 32, 256))]
    x = (np.array(signs) * 127).astype(np.float32)
    assert_equal_bits(run(packed(qtype, rows, k), x), exact(qtype, rows, x))


@each_float
def test_float_weights(qtype: QuantType, level: str) -> None:  # noqa: F811
    for n, k, m in [(1, 1, 1), (17, 7, 3), (70, 255, 4), (16, 257, 31), (129, 640, 13), (64, 1023, 1)]:
        rows, x = random_rows(qtype, n, k), activations(m, k)
        bias = activations(1, n)[0]
        w = packed(qtype, rows, k)
        got = run(w, x, n_threads=2)
        assert_within(got, codecs.dequantize(rows, qtype, (n, k)), x, (min(k, FC) + k / FC + 2) * 2.0**-24)
        assert_equal_bits(run(w, x, bias), got + bias)
        for t in range(m):  # a row's result does not depend on the rows beside it
            assert_equal_bits(run(w, x[t : t + 1]), got[t : t + 1])


@each_type
def test_large_batches(qtype: QuantType, level: str) -> None:  # noqa: F811
    """Past the point where a tile unit takes over; without one the result is still that of single rows."""
    n, k, m = 83, 2 * qtype.block + 256, 203
    rows, x = random_rows(qtype, n, k), activations(m, k)
    w = packed(qtype, rows, k)
    for count in (32, 47, 203):
        got = run(w, x[:count], n_threads=2)
        if w.kind(count) == TILES:
            assert_within(got, codecs.dequantize(rows, qtype, (n, k)), x[:count], 2.0**-7.9)
        else:
            for t in (0, 31, count - 1):
                assert_equal_bits(got[t : t + 1], run(w, x[t : t + 1]))


@pytest.mark.parametrize("qtype", [QuantType.Q4_0, QuantType.Q4_K, QuantType.BF16, QuantType.F16])
@pytest.mark.parametrize("m", [33, 100])
def test_turns(qtype: QuantType, m: int, level: str) -> None:  # noqa: F811
    """Many strips, shared out in turns of several sizes: each row of weights gives what it gives among few."""
    n, k = 1130, 512 if qtype.block > 1 else 545
    rows, x = random_rows(qtype, n, k), activations(m, k)
    few = [run(packed(qtype, rows[first : first + 83], k), x) for first in (0, 528, 1072)]
    for n_threads in (1, 3):
        got = run(packed(qtype, rows, k), x, n_threads=n_threads)
        for first, want in zip((0, 528, 1072), few, strict=True):
            assert_equal_bits(np.ascontiguousarray(got[:, first : first + 83]), want)


@each_type
def test_nonfinite_activations_stay_in_their_row(qtype: QuantType, level: str) -> None:  # noqa: F811
    n, k = 18, 256
    rows, x = random_rows(qtype, n, k), activations(40, k)
    w = packed(qtype, rows, k)
    for m in (3, 40):
        clean = run(w, x[:m])
        for bad in (np.nan, -np.nan, np.inf, -np.inf):
            dirty = x[:m].copy()
            dirty[1, 77] = bad
            got = run(w, dirty)
            assert not np.isfinite(got[1]).any()
            assert_equal_bits(np.delete(got, 1, 0), np.delete(clean, 1, 0))


@each_type
def test_strides_and_experts(qtype: QuantType, level: str) -> None:  # noqa: F811
    n, k, m = 21, 256, 3
    rows = random_rows(qtype, 2 * n, k)
    w = _native.Packed(int(qtype), n, k, rows.reshape(-1), experts=2)
    x, out = activations(m, k + 5), np.full((m, n + 9), 7, np.float32)
    for expert in range(2):
        _native.matmul(w, x[:, :k], out[:, :n], expert=expert, n_threads=3)
        alone = packed(qtype, rows[expert * n : (expert + 1) * n], k)
        assert_equal_bits(out[:, :n].copy(), run(alone, np.ascontiguousarray(x[:, :k])))
        assert (out[:, n:] == 7).all()


@pytest.fixture(scope="module")
def guarded():  # type: ignore[no-untyped-def]
    """guarded(array or byte count): a copy whose last byte is the last before a page that cannot be read or written."""
    libc = ctypes.CDLL(None, use_errno=True)
    keep = []

    def place(source: np.ndarray | int) -> np.ndarray:
        nbytes = source if isinstance(source, int) else source.nbytes
        size = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(-1, size + mmap.PAGESIZE)
        whole = np.frombuffer(memory, np.uint8)
        keep.append((memory, whole))
        assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + size), mmap.PAGESIZE, 0) == 0, ctypes.get_errno()
        part = whole[size - nbytes : size]
        if isinstance(source, int):
            return part
        part[:] = np.ascontiguousarray(source).reshape(-1).view(np.uint8)
        return part.view(source.dtype).reshape(source.shape)

    yield place
    for _, whole in keep:
        libc.mprotect(ctypes.c_void_p(whole.ctypes.data + len(whole) - mmap.PAGESIZE), mmap.PAGESIZE, 3)


@each_type
def test_nothing_is_touched_past_the_ends(qtype: QuantType, level: str, guarded) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    for n, k, m in [(17, qtype.block, 1), (5, 256, 3), (49, 3 * qtype.block, 9), (18, 256, 37)]:
        rows, x = random_rows(qtype, n, k), activations(m, k)
        data = guarded(_native.packed_bytes(int(qtype), n, k))
        w = packed(qtype, guarded(rows), k, data=data)
        out = guarded(np.zeros((m, n), np.float32))
        _native.matmul(w, guarded(x), out, guarded(np.zeros(n, np.float32)), 0, 2, scratch=guarded(w.scratch_bytes(m, 2)))
        assert_equal_bits(out, run(w, x) + np.float32(0))


def test_wrong_arguments() -> None:
    w = packed(QuantType.F32, random_rows(QuantType.F32, 4, 8), 8)
    x, out = np.zeros((2, 8), np.float32), np.zeros((2, 4), np.float32)
    calls = [
        lambda: _native.matmul(w, x[:, :7], out),
        lambda: _native.matmul(w, x, out[:1]),
        lambda: _native.matmul(w, x, out, np.zeros(3, np.float32)),
        lambda: _native.matmul(w, x, out, expert=1),
        lambda: _native.matmul(w, x, out, n_threads=0),
        lambda: _native.matmul(w, np.zeros((2, 16), np.float32)[:, ::2], out),
        lambda: _native.matmul(w, x, out, scratch=np.zeros(64, np.uint8)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="matmul"):
            call()
    _native.matmul(w, x[:0], out[:0])


def test_every_type_has_a_kernel_at_every_level(level: str) -> None:  # noqa: F811
    slots = _native.kernel_slots()
    assert set(slots.values()) <= set(_native.isa_levels())
    assert len(FLOATS) == 3 and {"x8", "mm_f32", "mm_f16", "mm_bf16"} <= set(slots)
    for qtype in TYPES:
        assert packed(qtype, random_rows(qtype, 1, 256), 256).kind(1) in ("x8_32", "x8_256", "floats")
