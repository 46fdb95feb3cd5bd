"""The errors llmq raises, all under `LlmqError`; each says what was expected, what was found, where, and what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence

__all__ = [
    "Cancelled",
    "ChatTemplateError",
    "ContextOverflowError",
    "FormatError",
    "GrammarError",
    "LimitError",
    "LlmqError",
    "ModelClosedError",
    "ModelFileError",
    "OutOfMemoryError",
    "TapeError",
    "TruncatedError",
    "UnsafeFileError",
    "UnsupportedArchError",
    "UnsupportedError",
    "UnsupportedQuantError",
    "printable",
    "quoted",
    "some_of",
]


def quoted(text: object, limit: int = 80) -> str:
    """Text from a file as it may stand in a message: its repr, at most `limit` characters."""
    shown = repr(text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def some_of(names: Sequence[str], limit: int = 4) -> str:
    """The first names of a list from a file, quoted, and how many more there are."""
    shown = ", ".join(map(quoted, names[:limit]))
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def printable(name: str) -> str:
    """A name from a file as it may stand in a table: itself when it is harmless, else its repr."""
    return name if name.isprintable() and name else repr(name)


class LlmqError(Exception):
    """Base of every error that llmq raises on purpose."""


class ModelFileError(LlmqError, ValueError):
    """A model file that cannot be used. `path` is the file, `offset` the byte where it went wrong (None when no single byte is
    to blame), `code` a short stable name such as "format" or "truncated"."""

    code = "model-file"

    def __init__(self, message: str, *, path: str | os.PathLike[str] | None = None, offset: int | None = None) -> None:
        where = "" if path is None else f"{os.fspath(path)}: "
        at = "" if offset is None else f" (at byte {offset})"
        super().__init__(f"{where}{message}{at}")
        self.path = None if path is None else os.fspath(path)
        self.offset = offset


class FormatError(ModelFileError):
    """The bytes break a rule of the format."""

    code = "format"


class TruncatedError(ModelFileError):
    """The file ends before what it announces."""

    code = "truncated"


class LimitError(ModelFileError):
    """A count or size beyond what any real file has."""

    code = "limit"


class UnsupportedError(ModelFileError):
    """A valid file that uses something llmq does not support."""

    code = "unsupported"


class UnsafeFileError(ModelFileError):
    """A file that asks for code to be run or for files outside its folder."""

    code = "unsafe"


class UnsupportedArchError(UnsupportedError):
    """The model's architecture is not one of llmq's families."""

    code = "unsupported-architecture"


class UnsupportedQuantError(UnsupportedError):
    """A tensor type that llmq cannot read, write or run here."""

    code = "unsupported-type"


class TapeError(LlmqError, ValueError):
    """A tape that breaks a rule of its ops: a mistake in a family's builder or a pass, found before anything runs."""


class ContextOverflowError(LlmqError, ValueError):
    """The prompt does not fit in the context: `prompt_tokens` against `n_ctx`."""

    def __init__(self, prompt_tokens: int, n_ctx: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens but the context holds {n_ctx}; shorten it, load with a larger n_ctx, "
            'or pass overflow="truncate_left" or "shift"'
        )
        self.prompt_tokens = prompt_tokens
        self.n_ctx = n_ctx


class GrammarError(LlmqError, ValueError):
    """A grammar or JSON schema that cannot be enforced."""


class ChatTemplateError(LlmqError, ValueError):
    """A chat template that is missing, invalid, unsafe, or failed while rendering."""


class ModelClosedError(LlmqError, RuntimeError):
    """The model was closed."""


class OutOfMemoryError(LlmqError, MemoryError):
    """More memory is needed than there is: `required` and `available` in bytes."""

    def __init__(self, message: str, *, required: int, available: int) -> None:
        scale, unit = (2**20, "MiB") if min(required, available) >= 2**20 else (2**10, "KiB")
        super().__init__(f"{message}: {required / scale:.0f} {unit} needed, {available / scale:.0f} {unit} available")
        self.required = required
        self.available = available


class Cancelled(LlmqError):  # noqa: N818 - the public name
    """The caller asked to stop (a progress callback returned False, Ctrl-C, or a closed iterator)."""
