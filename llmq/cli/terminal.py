"""What every verb shows alike: a progress bar, and errors as one line instead of a traceback."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TextIO

from llmq.errors import LlmqError

__all__ = ["ProgressBar", "byte_size", "guarded"]

_WIDTH = 30
_SUFFIXES = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class ProgressBar:
    """A callback `(stage, done, total)` that draws on a terminal, from one second on, at most ten times a second; silent
    elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.active = self.stream.isatty()
        self.started = time.monotonic()
        self.drawn = self.started + 0.9  # first drawing: a second after the start
        self.shown = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if not self.active or (now - self.drawn < 0.1 and not (self.shown and done == total)):
            return
        self.drawn = now
        self.shown = True
        share = done / total if total else 1.0
        left = (now - self.started) * (1 - share) / share if share > 0 else 0.0
        bar = "#" * round(_WIDTH * share)
        self.stream.write(f"\r{stage} [{bar:<{_WIDTH}}] {100 * share:3.0f} % {left:4.0f} s left ")
        self.stream.flush()

    def close(self) -> None:
        """Remove the bar."""
        if self.shown:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self.shown = False


def byte_size(text: str) -> int:
    """A number of bytes as people write it: 1500000000, 800M, 1.5G (powers of 1024). An argparse type."""
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    suffix = number[-1:] if number[-1:] in _SUFFIXES else ""
    try:
        size = float(number.removesuffix(suffix)) * 2 ** _SUFFIXES[suffix]
        if not 0 < size < 2**63:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a size such as 800M or 1.5G, found {text!r}") from None
    return int(size)


def guarded(run: Callable[[], int]) -> int:
    """Run a verb: its exit code, 1 after an error of llmq or of the system (one line on stderr), 130 after Ctrl-C."""
    try:
        return run()
    except KeyboardInterrupt:
        print("llmq: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:
        return 1
    except (LlmqError, OSError, ValueError) as error:
        print(f"llmq: error: {error}".encode(errors="backslashreplace").decode(), file=sys.stderr)  # noqa: T201
        return 1
