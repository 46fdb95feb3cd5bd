"""What llama.cpp's codecs do, for test_codecs.py to hold ours against.

    python tests/tools/llama_codecs.py .../libggml-base.so VERSION

Writes tests/data/llama_codecs.npz:
- `cases` (names of codec_cases.every_case), `version`, and per type NAME, float64 (cases, 2): llama-quantize's mean relative
  squared errors (codec_cases.relative_errors) without importances (all 1 for the types it refuses without), and with
  codec_cases.column_importances as importance matrix; infinity where it aborts;
- per type that the gguf package does not decode, NAME_blocks uint8 (n, bytes) and NAME_weights float32 (n, block): random
  blocks and what llama.cpp decodes them to.
Needs the library of a llama.cpp build (llama-cpp-python has one); run by hand when types or cases are added.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from codec_cases import every_case, random_blocks

from llmq.quant.recipes import NEEDS_IMATRIX
from llmq.quant.types import QuantType

OUT = Path(__file__).parent.parent / "data" / "llama_codecs.npz"
POINTER, I64 = ctypes.c_void_p, ctypes.c_int64


@cache
def load(library: str) -> ctypes.CDLL:
    ggml = ctypes.CDLL(library)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, POINTER, POINTER, I64, I64, I64, POINTER]
    ggml.ggml_quantize_init.argtypes = [ctypes.c_int]
    return ggml


def decode(library: str, blocks: np.ndarray, qtype: QuantType) -> np.ndarray:
    """float32 (n, block) of blocks uint8 (n, bytes)."""
    out = np.empty((len(blocks), qtype.block), np.float32)
    function = getattr(load(library), f"dequantize_row_{qtype.name.lower().replace('_k', '_K')}")
    function.argtypes, function.restype = [POINTER, POINTER, I64], None
    function(blocks.ctypes.data, out.ctypes.data, out.size)
    return out


def round_trip(library: str, x: np.ndarray, weight: np.ndarray | None, qtype: QuantType) -> np.ndarray:
    """Rows float32 (n, k) quantized with importances (k,), decoded again."""
    ggml = load(library)
    ggml.ggml_quantize_init(int(qtype))
    x, out = np.ascontiguousarray(x), np.zeros((len(x), qtype.nbytes(x.shape[1])), np.uint8)
    if weight is None and qtype.name in NEEDS_IMATRIX:
        weight = np.ones(x.shape[1], np.float32)
    importances = None if weight is None else weight.ctypes.data
    ggml.ggml_quantize_chunk(int(qtype), x.ctypes.data, out.ctypes.data, 0, *x.shape, importances)
    return decode(library, out.reshape(-1, qtype.block_bytes), qtype).reshape(x.shape)


class Peer:
    """round_trip in a process of its own, since llama.cpp aborts on weights that it cannot quantize."""

    def __init__(self, library: str) -> None:
        self.library = library
        self.context = multiprocessing.get_context("spawn")
        self.process = ProcessPoolExecutor(1, self.context)

    def round_trip(self, x: np.ndarray, weight: np.ndarray | None, qtype: QuantType) -> np.ndarray:
        try:
            return self.process.submit(round_trip, self.library, x, weight, qtype).result()
        except BrokenProcessPool:
            self.process = ProcessPoolExecutor(1, self.context)
            return np.full_like(x, np.inf)


def main(library: str, version: str) -> None:
    os.environ["GGML_NO_BACKTRACE"] = "1"
    peer = Peer(library)
    golden: dict[str, object] = {"cases": list(every_case(lambda x, w: x)), "version": version}
    for qtype in (t for t in QuantType if not t.is_float):
        golden[qtype.name] = list(every_case(lambda x, w, t=qtype: peer.round_trip(x, w, t)).values())
        try:
            gguf.dequantize(np.zeros(qtype.block_bytes, np.uint8), gguf.GGMLQuantizationType(int(qtype)))
        except (NotImplementedError, ValueError):
            blocks = random_blocks(qtype, 256)
            golden |= {f"{qtype.name}_blocks": blocks, f"{qtype.name}_weights": decode(library, blocks, qtype)}
    np.savez_compressed(OUT, **golden)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
