"""`python -m llmq.bench`: the same as `llmq bench`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="bench"))
