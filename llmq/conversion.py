"""Converting a model to GGUF in a float type, or as it is: `llmq.convert_model`."""

from __future__ import annotations

import os

from llmq.quant.quantizer import Progress, quantize_model
from llmq.quant.recipes import COPY
from llmq.quant.report import QuantReport

__all__ = ["CONVERSIONS", "convert_model"]

CONVERSIONS = ("AUTO", "F32", "F16", "BF16")


def convert_model(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    dtype: str = "AUTO",
    *,
    n_threads: int | None = None,
    max_memory: int | None = None,
    split_max_size: str | int | None = None,
    split_max_tensors: int | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> QuantReport:
    """Write the model `src`, whatever its files are, as the GGUF file `dst` with its matrices in `dtype`: F32, F16 or BF16, to
    which quantized ones are dequantized, or AUTO: every tensor in the type it has (a split model becomes one file).

    The other arguments and what is raised are those of `quantize_model`."""
    wanted = dtype.upper()
    if wanted not in CONVERSIONS:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(CONVERSIONS)}, or quantize_model for other types")
    return quantize_model(
        src,
        dst,
        COPY.name if wanted == "AUTO" else wanted,
        allow_requantize=wanted != "AUTO",
        n_threads=n_threads,
        max_memory=max_memory,
        split_max_size=split_max_size,
        split_max_tensors=split_max_tensors,
        dry_run=dry_run,
        progress=progress,
    )
