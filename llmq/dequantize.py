"""`python -m llmq.dequantize`: the same as `llmq dequantize`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="dequantize"))
