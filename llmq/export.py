"""`python -m llmq.export`: the same as `llmq export`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="export"))
