"""`python -m llmq.ppl`: the same as `llmq ppl`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="ppl"))
