"""`python -m llmq.tokenize`: the same as `llmq tokenize`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="tokenize"))
