"""`python -m llmq.chat`: the same as `llmq chat`."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main(verb="chat"))
