"""`python -m llmq.convert`: the same as `llmq convert`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="convert"))
