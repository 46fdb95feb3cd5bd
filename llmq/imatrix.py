"""`python -m llmq.imatrix`: the same as `llmq imatrix`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="imatrix"))
