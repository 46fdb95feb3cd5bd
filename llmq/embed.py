"""`python -m llmq.embed`: the same as `llmq embed`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="embed"))
