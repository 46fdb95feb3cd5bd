"""llmq: quantize and run large language models on the CPU.

    import llmq

    with llmq.load("model.gguf") as llm:
        print(llm.generate("Once upon a time", max_tokens=100).text)

The public names stand here and load what they need when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmq.benchmark import BenchReport, bench
    from llmq.conversion import convert_model
    from llmq.cpu import CpuInfo, cpu_info
    from llmq.divergence import Divergence, kl_divergence
    from llmq.engine.compare import compare
    from llmq.errors import (
        Cancelled,
        ChatTemplateError,
        ContextOverflowError,
        FormatError,
        GrammarError,
        LimitError,
        LlmqError,
        ModelClosedError,
        ModelFileError,
        OutOfMemoryError,
        TruncatedError,
        UnsafeFileError,
        UnsupportedArchError,
        UnsupportedError,
        UnsupportedQuantError,
    )
    from llmq.exporting import ExportReport, export_model
    from llmq.importance import imatrix
    from llmq.inspection import Inspection, inspect
    from llmq.loading import load
    from llmq.model import LLM, Message, Progress
    from llmq.perplexity import Perplexity
    from llmq.quant.quantizer import quantize_model
    from llmq.quant.report import QuantReport, TensorReport
    from llmq.quant.types import QuantType
    from llmq.results import ChatReply, Chunk, Completion, Stream, Timings, TokenLogprob, Usage
    from llmq.sampling import Sampling
    from llmq.tensors import FileTensor, Tensors, read_tensors
    from llmq.text.tokenizer import Tokenizer

__version__ = "0.1.0"

_HOME = {
    "llmq.benchmark": ["BenchReport", "bench"],
    "llmq.conversion": ["convert_model"],
    "llmq.cpu": ["CpuInfo", "cpu_info"],
    "llmq.divergence": ["Divergence", "kl_divergence"],
    "llmq.engine.compare": ["compare"],
    "llmq.errors": [
        *("Cancelled", "ChatTemplateError", "ContextOverflowError", "FormatError", "GrammarError", "LimitError", "LlmqError"),
        *("ModelClosedError", "ModelFileError", "OutOfMemoryError", "TruncatedError", "UnsafeFileError"),
        *("UnsupportedArchError", "UnsupportedError", "UnsupportedQuantError"),
    ],
    "llmq.exporting": ["ExportReport", "export_model"],
    "llmq.importance": ["imatrix"],
    "llmq.inspection": ["Inspection", "inspect"],
    "llmq.loading": ["load"],
    "llmq.model": ["LLM", "Message", "Progress"],
    "llmq.perplexity": ["Perplexity"],
    "llmq.quant.quantizer": ["quantize_model"],
    "llmq.quant.report": ["QuantReport", "TensorReport"],
    "llmq.quant.types": ["QuantType"],
    "llmq.results": ["ChatReply", "Chunk", "Completion", "Stream", "Timings", "TokenLogprob", "Usage"],
    "llmq.sampling": ["Sampling"],
    "llmq.tensors": ["FileTensor", "Tensors", "read_tensors"],
    "llmq.text.tokenizer": ["Tokenizer"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "LLM",
    "BenchReport",
    "Cancelled",
    "ChatReply",
    "ChatTemplateError",
    "Chunk",
    "Completion",
    "ContextOverflowError",
    "CpuInfo",
    "Divergence",
    "ExportReport",
    "FileTensor",
    "FormatError",
    "GrammarError",
    "Inspection",
    "LimitError",
    "LlmqError",
    "Message",
    "ModelClosedError",
    "ModelFileError",
    "OutOfMemoryError",
    "Perplexity",
    "Progress",
    "QuantReport",
    "QuantType",
    "Sampling",
    "Stream",
    "TensorReport",
    "Tensors",
    "Timings",
    "TokenLogprob",
    "Tokenizer",
    "TruncatedError",
    "UnsafeFileError",
    "UnsupportedArchError",
    "UnsupportedError",
    "UnsupportedQuantError",
    "Usage",
    "bench",
    "compare",
    "convert_model",
    "cpu_info",
    "export_model",
    "imatrix",
    "inspect",
    "kl_divergence",
    "load",
    "quantize_model",
    "read_tensors",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'llmq' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
