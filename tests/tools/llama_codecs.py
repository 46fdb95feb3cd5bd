"""What llama.cpp's codecs do, for test_codecs.py to hold ours against.

    python tests/tools/llama_codecs.py .../libggml-base.so VERSION

Writes tests/data/llama_codecs.npz:
- `cases` (names of codec_cases.every_case), `version`, and per type NAME, float64 (cases, 2): llama-quantize's mean relative
  squared errors (codec_cases.relative_errors) without importances, and with codec_cases.column_importances as importance
  matrix;
- per type that the gguf package does not decode, NAME_blocks uint8 (n, bytes) and NAME_weights float32 (n, block): random
  blocks and what llama.cpp decodes them to.
Needs the library of a llama.cpp build (llama-cpp-python has one); run by hand when types or cases are added.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from codec_cases import every_case, random_blocks

from llmq.quant.types import QuantType

OUT = Path(__file__).parent.parent / "data" / "llama_codecs.npz"


def main(library: str, version: str) -> None:
    ggml = ctypes.CDLL(library)
    pointer, i64 = ctypes.c_void_p, ctypes.c_int64
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, i64, i64, i64, pointer]
    ggml.ggml_quantize_init.argtypes = [ctypes.c_int]

    def decode(blocks: np.ndarray, qtype: QuantType) -> np.ndarray:
        out = np.empty((len(blocks), qtype.block), np.float32)
        function = getattr(ggml, f"dequantize_row_{qtype.name.lower().replace('_k', '_K')}")
        function.argtypes, function.restype = [pointer, pointer, i64], None
        function(blocks.ctypes.data, out.ctypes.data, out.size)
        return out

    def round_trip(x: np.ndarray, weight: np.ndarray | None, qtype: QuantType) -> np.ndarray:
        out = np.zeros((len(x), qtype.nbytes(x.shape[1])), np.uint8)
        importances = None if weight is None else weight.ctypes.data
        ggml.ggml_quantize_chunk(int(qtype), x.ctypes.data, out.ctypes.data, 0, *x.shape, importances)
        return decode(out.reshape(-1, qtype.block_bytes), qtype).reshape(x.shape)

    golden: dict[str, object] = {"cases": list(every_case(lambda x, w: x)), "version": version}
    for qtype in (t for t in QuantType if not t.is_float):
        ggml.ggml_quantize_init(int(qtype))
        golden[qtype.name] = list(every_case(lambda x, w, t=qtype: round_trip(x, w, t)).values())
        try:
            gguf.dequantize(np.zeros(qtype.block_bytes, np.uint8), gguf.GGMLQuantizationType(int(qtype)))
        except (NotImplementedError, ValueError):
            blocks = random_blocks(qtype, 256)
            golden |= {f"{qtype.name}_blocks": blocks, f"{qtype.name}_weights": decode(blocks, qtype)}
    np.savez_compressed(OUT, **golden)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
