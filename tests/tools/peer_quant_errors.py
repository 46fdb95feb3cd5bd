"""Measures llama-quantize's error on the rows of codec_cases.py, for test_codecs.py to hold ours against.

    python tests/tools/peer_quant_errors.py .../libggml-base.so VERSION

Writes tests/data/llama_quantize_errors.npz: `cases` (names), `version`, and per type float64 (cases, 2): the mean relative
squared error (codec_cases.relative_errors) without importances, and with those of codec_cases.column_importances as importance
matrix. Needs the library of a llama.cpp build (llama-cpp-python has one); run by hand when types or cases are added.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from codec_cases import every_case

from llmq.quant.types import QuantType

OUT = Path(__file__).parent.parent / "data" / "llama_quantize_errors.npz"


def main(library: str, version: str) -> None:
    ggml = ctypes.CDLL(library)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer, i64 = ctypes.c_void_p, ctypes.c_int64
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, i64, i64, i64, pointer]

    def quantize(x: np.ndarray, qtype: QuantType, weight: np.ndarray | None) -> np.ndarray:
        out = np.zeros((len(x), qtype.nbytes(x.shape[1])), np.uint8)
        importances = None if weight is None else weight.ctypes.data
        ggml.ggml_quantize_chunk(int(qtype), x.ctypes.data, out.ctypes.data, 0, *x.shape, importances)
        with np.errstate(invalid="ignore", over="ignore"):
            return gguf.dequantize(out, gguf.GGMLQuantizationType(int(qtype))).reshape(x.shape)

    types = [t for t in QuantType if not t.is_float]
    errors = {t.name: list(every_case(lambda x, w, t=t: quantize(x, t, w)).values()) for t in types}
    names = list(every_case(lambda x, w: x))
    np.savez_compressed(OUT, cases=names, version=version, **errors)


if __name__ == "__main__":
    main(*sys.argv[1:])
