"""llmq: quantize and run large language models on the CPU."""

from llmq.cpu import cpu_info

__all__ = ["cpu_info"]
