"""`python -m llmq.quantize`: the same as `llmq quantize`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="quantize"))
