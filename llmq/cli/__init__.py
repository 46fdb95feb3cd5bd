"""The command line: `llmq VERB …`, also `python -m llmq.VERB …`.

A verb is a module of this package with a docstring (its help), `add_arguments(parser)` and `run(args) -> int` (the exit code).
Names that begin with an underscore are no verbs. This frame adds --json and --verbose to each, suggests the nearest name for an
unknown verb or option, and turns errors into one line: exit code 1 for what went wrong, 2 for wrong usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import json
import logging
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import NoReturn

from llmq import __version__
from llmq.errors import Cancelled, LlmqError

__all__ = ["main", "verbs"]

_EXPECTED = (LlmqError, OSError, ValueError, TypeError, MemoryError, EOFError)


def verbs() -> list[str]:
    """Every verb, in alphabetical order."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


class _Parser(argparse.ArgumentParser):
    """argparse that suggests."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\n")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        args, extra = self.parse_known_args(argv)
        if extra and not any(e.startswith("-") for e in extra):  # options between arguments that may be left out
            args, extra = self.parse_known_intermixed_args(argv)
        if extra:
            options = [o for action in self._actions for o in action.option_strings]
            unknown = next((e for e in extra if e.startswith("-")), extra[0])
            self.error(f"unknown argument {unknown!r}{_nearest(unknown.split('=')[0], options)}")
        return args


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else "."


def _verb_parser(verb: str, module: ModuleType) -> _Parser:
    summary, _, rest = (module.__doc__ or "").partition("\n")
    parser = _Parser(
        prog=f"llmq {verb}",
        description=summary,
        epilog=rest.strip("\n") or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--verbose", action="store_true", help="show log messages, and where an error came from")
    return parser


def _overview() -> str:
    lines = ["usage: llmq VERB [options]", "", "Quantize and run large language models on the CPU.", "", "verbs:"]
    for verb in verbs():
        summary = (importlib.import_module(f"{__name__}.{verb}").__doc__ or "").partition("\n")[0]
        lines.append(f"  {verb:<10} {summary}")
    return "\n".join([*lines, "", "`llmq VERB --help` explains a verb, `llmq --version` prints the version.", ""])


def main(argv: Sequence[str] | None = None, verb: str | None = None) -> int:
    """Run a command line and return its exit code. `verb` is given by `python -m llmq.VERB`; else argv begins with it."""
    _prepare_streams()
    try:
        return _main(list(sys.argv[1:] if argv is None else argv), verb)
    except LlmqError as error:  # before a verb runs: LLMQ_ISA names no level that is there
        sys.stderr.write(f"llmq: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130


def _prepare_streams() -> None:
    """What was closed before the start reads and writes nothing; what an encoding does not have is written as an escape."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _main(argv: list[str], verb: str | None) -> int:
    if verb is None:
        if not argv or argv[0] in ("-h", "--help", "help"):
            sys.stdout.write(_overview())
            return 0 if argv else 2
        if argv[0] == "--version":
            sys.stdout.write(f"llmq {__version__}\n")
            return 0
        verb, *argv = argv
    if verb not in verbs():
        sys.stderr.write(f"llmq: unknown verb {verb!r}{_nearest(verb, verbs())} There are: {', '.join(verbs())}\n")
        return 2
    module = importlib.import_module(f"{__name__}.{verb}")
    try:
        args = _verb_parser(verb, module).parse(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    else:
        logging.basicConfig(level=logging.WARNING, format="llmq: %(message)s")
    return _run(verb, module, args)


def _run(verb: str, module: ModuleType, args: argparse.Namespace) -> int:
    try:
        code = int(module.run(args))
        sys.stdout.flush()
        return code
    except Cancelled as error:
        _report(verb, error, args)
        return 130
    except BrokenPipeError:  # the reader left; what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except _EXPECTED as error:
        _report(verb, error, args)
        return 1


def _report(verb: str, error: BaseException, args: argparse.Namespace) -> None:
    if args.verbose:
        traceback.print_exception(error)
    message = str(error) or type(error).__name__
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":  # bytes of an argument, kept as they were
        message = f"UTF-8 text expected, found {os.fsencode(error.object)[:80]!r}"
    if args.json:
        sys.stderr.write(json.dumps({"error": {"type": type(error).__name__, "message": message}}) + "\n")
    else:
        sys.stderr.write(f"llmq {verb}: {message}\n")
