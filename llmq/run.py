"""`python -m llmq.run`: the same as `llmq run`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="run"))
