"""Rows that the codec tests quantize: real ones and adversarial ones. Also read by tests/tools/llama_codecs.py,
which measured llama-quantize on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from llmq.quant import rows
from llmq.quant.types import QuantType

ROW = 512
SPECIAL_F16 = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E01, 0x7C01], np.uint16)
MODEL = Path(__file__).parent.parent / "models" / "storyteller" / "model.safetensors"


@cache
def scale_offsets(qtype: QuantType) -> list[int]:
    """Where a block of the type has its binary16 scales: found by asking which bytes make everything NaN."""
    if qtype.is_float:
        return [0] if qtype.name == "F16" else []
    if qtype.name == "IQ1_M":  # in four parts
        return [48]
    found = []
    for at in range(qtype.block_bytes - 1):
        block = np.full(qtype.block_bytes, 0x11, np.uint8)
        block[at : at + 2] = np.array([0x7E00], np.uint16).view(np.uint8)
        if np.isnan(rows.dequantize(block, qtype, (qtype.block,))).all():
            found.append(at)
    return found


def write_scale(blocks: np.ndarray, qtype: QuantType, at: int, scale: np.ndarray) -> None:
    """Put binary16 numbers, uint16 of blocks.shape[:-1], where blocks, uint8 (..., bytes), have their scale at `at`."""
    if qtype.name == "IQ1_M":
        quarters = (scale[..., None] >> np.arange(0, 16, 4, dtype=np.uint16) & np.uint16(15)).astype(np.uint8)
        blocks[..., at + 1 :: 2] = blocks[..., at + 1 :: 2] & 15 | quarters << 4
        return
    blocks[..., at] = scale & 255
    blocks[..., at + 1] = scale >> 8


@dataclass(frozen=True)
class ByteScales:
    """Scales of one byte: where they are in a block, a range of moderate ones, extreme ones, and codes that are no numbers."""

    at: tuple[int, ...] = ()
    moderate: tuple[int, int] = (0, 0)
    extreme: tuple[int, ...] = ()
    bad: tuple[int, ...] = ()


BYTE_SCALES = {
    "MXFP4": ByteScales((0,), (118, 130), (0, 1, 252), (253, 255)),
    "NVFP4": ByteScales((0, 1, 2, 3), (1, 100), (0, 0x7E, 0x80, 0xFE), (0x7F, 0xFF)),
}


def byte_scales(qtype: QuantType) -> ByteScales:
    return BYTE_SCALES.get(qtype.name, ByteScales())


def random_blocks(qtype: QuantType, n: int) -> np.ndarray:
    """n random blocks; after the first half, with extreme numbers in the places of the scales."""
    rng = np.random.RandomState(int(qtype))
    blocks = rng.randint(0, 256, (n, qtype.block_bytes)).astype(np.uint8)
    for at in scale_offsets(qtype):
        write_scale(blocks[n // 2 :], qtype, at, SPECIAL_F16[rng.randint(0, len(SPECIAL_F16), n - n // 2)])
    return blocks


def column_importances(k: int) -> np.ndarray:
    """What an importance matrix holds for a tensor of k columns, float32 (k,): spread over two decades."""
    return np.exp(1.2 * np.random.RandomState(k).standard_normal(k)).astype(np.float32)


@cache
def storyteller_rows() -> np.ndarray:
    """Every eighth 256 weights of the embedded model's matrices (bfloat16 in the file), float32 (n, 256)."""
    data = MODEL.read_bytes()
    head = int.from_bytes(data[:8], "little")
    parts = []
    for name, entry in sorted(json.loads(data[8 : 8 + head]).items()):
        if name != "__metadata__" and len(entry["shape"]) == 2:
            start, end = (8 + head + at for at in entry["data_offsets"])
            parts.append(np.frombuffer(data[start:end], np.uint16).reshape(-1, 256)[::8])
    return (np.concatenate(parts).astype(np.uint32) << 16).view(np.float32)


@cache
def adversarial_rows() -> dict[str, np.ndarray]:
    """name -> float32 (n, ROW); the same on every machine (RandomState's streams are frozen)."""
    rng = np.random.RandomState(2)

    def normal(n: int = 8) -> np.ndarray:
        return rng.standard_normal((n, ROW))

    outlier, huge_outlier = normal() * 0.01, normal()
    outlier[:, ::97] = 3
    huge_outlier[:, 5::128] = 1e30
    cases = {
        "normal": normal(32) * 0.02,
        "heavy-tailed": rng.standard_t(2, (32, ROW)) * 0.02,
        "uniform": rng.random_sample((8, ROW)),
        "shifted": normal() * 0.01 + 1,
        "one sign": -np.abs(normal()),
        "constant": np.repeat([[1], [-1], [0.3], [-0.7], [1e-3], [3e4], [65504], [1e-7]], ROW, axis=1),
        "one outlier": outlier,
        "huge outlier": huge_outlier,
        "sparse": normal() * (rng.random_sample((8, ROW)) < 0.05),
        "alternating": np.where(np.arange(ROW) % 2 == 0, 1, -1) * 10.0 ** np.arange(-4, 4)[:, None],
        "ramp": np.linspace(-1, 1, 8 * ROW).reshape(8, ROW),
        "integers": rng.randint(-7, 8, (8, ROW)) * 0.5,
        "tiny": normal() * 1e-6,
        "beside the least scale": normal() * 2e-7,
        "below the least scale": normal() * 2e-8,
        "huge": normal() * 1e6,
        "enormous": normal() * 1e37,
        "denormal": normal() * 1e-40,
        "zeros": np.zeros((8, ROW)),
        "some zero blocks": normal() * np.repeat(rng.random_sample((8, ROW // 32)) < 0.5, 32, axis=1),
    }
    return {name: x.astype(np.float32) for name, x in cases.items()}


Quantizer = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]


def every_case(round_trip: Quantizer) -> dict[str, tuple[float, float]]:
    """name -> the relative errors without and with importances, of a quantizer that gives back what it makes of (x, weight)."""
    cases = {"storyteller": storyteller_rows(), **adversarial_rows()}
    return {name: both_errors(x, round_trip) for name, x in cases.items()}


def both_errors(x: np.ndarray, round_trip: Quantizer) -> tuple[float, float]:
    weight = column_importances(x.shape[1])
    return relative_errors(x, round_trip(x, None), None), relative_errors(x, round_trip(x, weight), weight)


@cache
def our_errors(qtype: QuantType) -> dict[str, tuple[float, float]]:
    """every_case of ours."""
    return every_case(lambda x, w: rows.dequantize(rows.quantize(x, qtype, w), qtype, x.shape))


def relative_errors(x: np.ndarray, back: np.ndarray, weight: np.ndarray | None) -> float:
    """Mean over rows of sum w (x - back)^2 / sum w x^2; a row of zeros that stays zero counts 0, one that does not infinity."""
    w = np.ones(x.shape[1]) if weight is None else weight.astype(np.float64)
    x = x.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        wrong, size = (w * (back - x) ** 2).sum(axis=1), (w * x**2).sum(axis=1)
        ratio = np.divide(wrong, size, out=np.where(wrong > 0, np.inf, 0.0), where=size > 0)
    return float(np.nan_to_num(ratio, nan=np.inf).mean())
