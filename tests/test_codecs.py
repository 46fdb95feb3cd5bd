"""Every tensor type of the build: C against NumPy against the gguf package, and no worse than llama-quantize."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from codec_cases import (
    ROW,
    adversarial_rows,
    byte_scales,
    our_errors,
    random_blocks,
    scale_offsets,
    storyteller_rows,
    write_scale,
)
from tools import formats_table

from llmq import _native
from llmq.quant import rows
from llmq.quant.codecs import QuantizedCodec, codec_of, quantize_x8
from llmq.quant.grids import GridCodec
from llmq.quant.types import QuantType

TYPES = list(QuantType)
QUANTIZED = [t for t in TYPES if not t.is_float]
PEER = Path(__file__).parent / "data" / "llama_codecs.npz"

each_type = pytest.mark.parametrize("qtype", TYPES, ids=lambda t: t.name)
each_quantized = pytest.mark.parametrize("qtype", QUANTIZED, ids=lambda t: t.name)


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    """Equal bits, any NaN equal to any other."""
    assert got.dtype == want.dtype and got.shape == want.shape
    if got.dtype == np.float32:
        nan = np.isnan(want)
        np.testing.assert_array_equal(np.isnan(got), nan)
        got, want = (np.where(nan, np.float32(0), v).view(np.uint32) for v in (got, want))
    np.testing.assert_array_equal(got, want)


@each_type
def test_sizes_are_the_formats(qtype: QuantType) -> None:
    try:
        theirs = gguf.GGMLQuantizationType(int(qtype))
    except ValueError:  # a type younger than the gguf package: llama.cpp's blocks
        with np.load(PEER) as peer:
            sizes = peer[f"{qtype.name}_weights"].shape[1], peer[f"{qtype.name}_blocks"].shape[1]
    else:
        assert theirs.name == qtype.name
        sizes = gguf.GGML_QUANT_SIZES[theirs]
    assert sizes == (qtype.block, qtype.block_bytes)


@each_type
@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
def test_dequantize_is_the_gguf_packages(qtype: QuantType) -> None:
    blocks = random_blocks(qtype, 2048)
    try:
        want = gguf.dequantize(blocks.reshape(-1), gguf.GGMLQuantizationType(int(qtype))).reshape(len(blocks), -1)
    except (NotImplementedError, ValueError):  # which it does not decode yet, and llama.cpp does
        with np.load(PEER) as peer:
            blocks, want = peer[f"{qtype.name}_blocks"], peer[f"{qtype.name}_weights"]
    assert_same(codec_of(qtype).dequantize(blocks), want)
    assert_same(rows.dequantize(blocks, qtype, want.shape), want)
    odd = np.concatenate([np.zeros(1, np.uint8), blocks.reshape(-1)])[1:]  # an odd address
    assert_same(rows.dequantize(odd, qtype, want.shape), want)


@each_quantized
def test_levels_are_the_weights(qtype: QuantType) -> None:
    codec = codec_of(qtype)
    assert isinstance(codec, QuantizedCodec)
    _, group, off, has_min = _native.codec_facts(int(qtype))
    assert (group, off, has_min) == (codec.group, codec.off, codec.has_min)
    blocks = random_blocks(qtype, 2048)
    got, want = rows.levels(blocks, qtype), codec.levels(blocks)
    for field in ("q", "sc", "m", "d", "dmin"):
        assert_same(getattr(got, field), getattr(want, field))
    blocks = blocks[:1024][rows_are_finite(blocks[:1024], qtype)]
    at = codec.levels(blocks)
    sc, m = (np.repeat(v.astype(np.float64), group, axis=1) for v in (codec.scales(at.sc), at.m))
    scaled = at.d[:, None] * sc * (at.q.astype(np.float64) - off)
    weights = codec.dequantize(blocks)
    room = 2.0**-22 * (np.abs(scaled) + np.abs(at.dmin[:, None] * m)) + 1e-45
    assert np.all(np.abs(weights - (scaled - at.dmin[:, None] * m)) <= room)


def rows_are_finite(blocks: np.ndarray, qtype: QuantType) -> np.ndarray:
    """Which blocks have finite scales; the native check must say the same of each."""
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(codec_of(qtype).dequantize(blocks)).all(axis=1)
    return finite & np.array([_native.check_blocks(int(qtype), b) for b in blocks])


@each_type
def test_check_finds_every_non_finite_scale(qtype: QuantType) -> None:
    x = np.linspace(-1, 1, ROW, dtype=np.float32)
    good = rows.quantize(x, qtype)
    assert _native.check_blocks(int(qtype), good)
    for at in scale_offsets(qtype):
        for start in range(at, len(good), qtype.block_bytes):
            for bits in (0x7C00, 0xFC00, 0x7E00, 0x7C01):
                bad = good.copy()
                write_scale(bad[start - at :][: qtype.block_bytes], qtype, at, np.uint16(bits))
                assert not _native.check_blocks(int(qtype), bad)
    scales = byte_scales(qtype)
    for at in scales.at:
        for code in (*scales.extreme, *scales.bad):
            changed = good.copy()
            changed[at + qtype.block_bytes] = code
            assert _native.check_blocks(int(qtype), changed) == (code not in scales.bad)


@each_type
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_quantize_is_the_numpy_codecs(qtype: QuantType, weighted: bool) -> None:
    x = np.concatenate([*adversarial_rows().values(), storyteller_rows()[::64].reshape(-1, ROW)])
    if isinstance(codec_of(qtype), GridCodec):  # NumPy tries every point
        x = x[::8]
    weight = np.exp(2 * np.random.RandomState(3).standard_normal(x.shape)).astype(np.float32) if weighted else None
    spread = None if weight is None else weight.reshape(-1, qtype.block)
    want = codec_of(qtype).quantize(x.reshape(-1, qtype.block), spread)
    used = _native.isa_used()
    try:
        for level in _native.isa_levels():
            _native.use_isa(level)
            assert_same(rows.quantize(x, qtype, weight).reshape(want.shape), want)
    finally:
        _native.use_isa(used)


@each_quantized
def test_a_block_does_not_depend_on_its_neighbours(qtype: QuantType) -> None:
    """Searches take many blocks at once, some ways of them only full, or only narrow weights, which those of F16 are."""
    n = 4 if isinstance(codec_of(qtype), GridCodec) else 67
    x = np.random.RandomState(4).standard_normal((n, qtype.block)).astype(np.float16).astype(np.float32)
    x[n * 2 // 3] /= 3  # the only one that is not narrow
    want = codec_of(qtype).quantize(x)
    used = _native.isa_used()
    try:
        for level in _native.isa_levels():
            _native.use_isa(level)
            for count in sorted({1, 15, 16, 17, 31, 32, 33, 48, n} & set(range(n + 1))):
                assert_same(rows.quantize(x[:count].reshape(-1), qtype), want[:count].reshape(-1))
                assert_same(rows.quantize(x[-count:].reshape(-1), qtype), want[-count:].reshape(-1))
    finally:
        _native.use_isa(used)


@each_quantized
def test_error_is_not_above_llama_quantizes(qtype: QuantType) -> None:
    with np.load(PEER) as peer:
        names, theirs = peer["cases"].tolist(), peer[qtype.name]
    ours = our_errors(qtype)
    assert list(ours) == names
    # A per mille of room: where a block is nearly constant, how its scale happens to round to binary16 decides. Three
    # signed bits cannot follow rows that lie around 1: there, whether products of level and scale happen to lie close.
    room = {"shifted": 1.01} if qtype.name == "Q3_K" else {}
    above = {
        name: (mine, peer)
        for name, pair, peers in zip(names, ours.values(), theirs, strict=True)
        for mine, peer in zip(pair, peers, strict=True)
        if not mine <= room.get(name, 1.002) * peer
    }
    assert not above
    real = zip(ours["storyteller"], theirs[names.index("storyteller")], strict=True)
    assert all(mine <= peer * (1 + 1e-6) for mine, peer in real)


@each_quantized
def test_dot_is_the_numpy_codecs(qtype: QuantType) -> None:
    rng = np.random.default_rng(7)
    for k in (qtype.block, 3 * 256):
        x = (rng.standard_normal(k) * np.repeat(10.0 ** rng.integers(-30, 3, k // 32), 32)).astype(np.float32)
        x[:32] = 0
        packed = rows.quantize(rng.standard_normal((5, k)).astype(np.float32), qtype)
        got = rows.dot(packed, qtype, x)
        assert_same(got, codec_of(qtype).dot(packed, x))
        q, dx, total = quantize_x8(x, qtype.x8_width)
        for mine, theirs in zip(_native.quantize_x8(x, qtype.x8_width), (q, dx, total), strict=True):
            assert_same(mine, theirs)
        weights = rows.dequantize(packed, qtype, (5, k)).astype(np.float64)
        steps = np.repeat(dx.astype(np.float64), qtype.x8_width)
        assert np.all(np.abs(got - weights @ x) <= 0.51 * np.abs(weights) @ steps + 1e-5 * np.abs(weights) @ np.abs(x))


@pytest.mark.parametrize("qtype", [t for t in TYPES if t.is_float], ids=lambda t: t.name)
def test_float_dot_is_the_numpy_codecs(qtype: QuantType) -> None:
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal(77).astype(np.float32), rng.standard_normal((5, 77)).astype(np.float32)
    packed = rows.quantize(w, qtype)
    assert_same(rows.dot(packed, qtype, x), codec_of(qtype).dot(packed, x))
    np.testing.assert_allclose(rows.dot(packed, qtype, x), rows.dequantize(packed, qtype, w.shape) @ x, rtol=1e-4, atol=1e-5)


@each_type
def test_quantize_refuses_what_is_not_finite(qtype: QuantType) -> None:
    x = np.ones(512, np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        for at in (0, 255, 511):
            broken = x.copy()
            broken[at] = bad
            with pytest.raises(ValueError, match="NaN or infinity"):
                rows.quantize(broken, qtype)
    importances = np.ones(512, np.float32)
    for bad, message in ((np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (-1e-3, "out of its range")):
        importances[300] = bad
        if not qtype.is_float:  # whose rounding has nothing to weigh
            with pytest.raises(ValueError, match=message):
                rows.quantize(x, qtype, importances)
    with pytest.raises(ValueError, match="fit"):
        _native.quantize(int(qtype), x, np.empty(qtype.nbytes(512) - 1, np.uint8))


@each_type
def test_quantize_keeps_zeros_and_its_bounds(qtype: QuantType) -> None:
    for zero in (np.zeros(512, np.float32), -np.zeros(512, np.float32)):
        out = np.full(qtype.nbytes(512) + 64, 0xA5, np.uint8)
        _native.quantize(int(qtype), zero, out[32:-32])
        assert np.all(rows.dequantize(out[32:-32], qtype, (512,)) == 0)
        assert np.all(out[:32] == 0xA5) and np.all(out[-32:] == 0xA5)


def test_table_of_the_docs_is_current() -> None:
    assert formats_table.PAGE.read_text() == formats_table.page(), "run python tests/tools/formats_table.py"
    for qtype in QUANTIZED:
        assert (formats_table.ROOT / "csrc" / "formats" / formats_table.drawn_in(qtype)).exists()
