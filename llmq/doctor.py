"""`python -m llmq.doctor`: the same as `llmq doctor`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="doctor"))
