"""`python -m llmq.kld`: the same as `llmq kld`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="kld"))
