"""Rows that the codec tests quantize: real ones and adversarial ones. Also read by tests/tools/peer_quant_errors.py."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import gguf
import numpy as np

from llmq.quant.types import QuantType

ROW = 512
MODEL = Path(__file__).parent.parent / "models" / "storyteller" / "model.safetensors"


def scale_offsets(qtype: QuantType) -> list[int]:
    """Where a block of the type has its binary16 scales: found by asking which bytes make everything non-finite."""
    if qtype.is_float:
        return [0] if qtype.name == "F16" else []
    found = []
    for at in range(qtype.block_bytes - 1):
        block = np.full(qtype.block_bytes, 0x11, np.uint8)
        block[at : at + 2] = np.array([0x7E00], np.uint16).view(np.uint8)
        with np.errstate(invalid="ignore"):
            if np.isnan(gguf.dequantize(block, gguf.GGMLQuantizationType(int(qtype)))).all():
                found.append(at)
    return found


def storyteller_rows(name: str, step: int) -> np.ndarray:
    """Every step-th row of a tensor of the embedded model (bfloat16 in the file), float32."""
    data = MODEL.read_bytes()
    head = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + head])[name]
    start, end = (8 + head + at for at in entry["data_offsets"])
    bits = np.frombuffer(data[start:end], np.uint16).reshape(entry["shape"])[::step]
    return (bits.astype(np.uint32) << 16).view(np.float32)


@cache
def rows_by_case() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name -> (float32 (n, ROW), importances float32 (n, ROW)); the same on every machine."""
    rng = np.random.default_rng(2)

    def normal(n: int = 8) -> np.ndarray:
        return rng.standard_normal((n, ROW)).astype(np.float32)

    outlier = normal() * np.float32(0.01)
    outlier[:, ::97] = 3
    huge_outlier = normal()
    huge_outlier[:, 5::128] = np.float32(1e30)
    alternating = np.where(np.arange(ROW) % 2 == 0, 1, -1).astype(np.float32) * np.float32(10) ** np.arange(-4, 4)[:, None]
    sparse = normal() * (rng.random((8, ROW)) < 0.05)
    cases = {
        "normal": normal(32) * np.float32(0.02),
        "heavy-tailed": rng.standard_t(2, (32, ROW)).astype(np.float32) * np.float32(0.02),
        "uniform": rng.random((8, ROW), np.float32),
        "shifted": normal() * np.float32(0.01) + 1,
        "one sign": -np.abs(normal()),
        "constant": np.repeat(np.array([1, -1, 0.3, -0.7, 1e-3, 3e4, 65504, 1e-7], np.float32)[:, None], ROW, axis=1),
        "one outlier": outlier,
        "huge outlier": huge_outlier,
        "sparse": sparse,
        "alternating": alternating.astype(np.float32),
        "ramp": np.linspace(-1, 1, 8 * ROW, dtype=np.float32).reshape(8, ROW),
        "tiny": normal() * np.float32(1e-6),
        "below half": normal() * np.float32(2e-8),
        "huge": normal() * np.float32(1e6),
        "enormous": normal() * np.float32(1e37),
        "denormal": normal() * np.float32(1e-40),
        "zeros": np.zeros((8, ROW), np.float32),
        "some zero blocks": normal() * np.repeat(rng.random((8, ROW // 32)) < 0.5, 32, axis=1),
    }
    rows = {name: x.astype(np.float32) for name, x in cases.items()}
    return {name: (x, np.exp(2 * rng.standard_normal(x.shape)).astype(np.float32)) for name, x in rows.items()}
