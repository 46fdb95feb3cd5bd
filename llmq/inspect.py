"""`python -m llmq.inspect`: the same as `llmq inspect`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="inspect"))
