"""llmq: quantize and run large language models on the CPU."""
