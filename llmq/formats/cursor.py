"""A bounds-checked little-endian reader over a private copy of the beginning of a file.

Nothing is parsed from a mapping, so a file that changes meanwhile cannot change what was checked. Every read states what it is
for; the error names it with its byte offset.
"""

from __future__ import annotations

import struct
from typing import cast

import numpy as np
import numpy.typing as npt

from llmq import _native
from llmq.errors import FormatError, LimitError, TruncatedError
from llmq.formats.source import Source

__all__ = ["Cursor"]

_FETCH = 1 << 20
_MAX_HEADER = 1 << 29  # ten times the largest real header


class Cursor:
    """Reads `source` from `offset` on; the copy grows as far as it is read."""

    def __init__(self, source: Source, offset: int = 0) -> None:
        self.source = source
        self.path = source.path
        self.offset = offset
        self.wide = True  # lengths and counts have 64 bits; 32 in GGUF version 1
        self._data = bytearray()

    @property
    def remaining(self) -> int:
        return self.source.size - self.offset

    def need(self, n: int, what: str) -> None:
        """Have n more bytes in the copy, or raise TruncatedError."""
        if n > self.remaining:
            raise TruncatedError(
                f"the file ends inside {what}: {n} bytes needed, {self.remaining} left", path=self.path, offset=self.offset
            )
        end = self.offset + n
        if end > _MAX_HEADER:
            raise LimitError(f"{what}: the header is longer than {_MAX_HEADER} bytes", path=self.path, offset=self.offset)
        if end > len(self._data):
            have = len(self._data)
            self._data += self.source.read(have, max(end - have, min(max(_FETCH, have), self.source.size - have)))
            if end > len(self._data):
                raise TruncatedError(f"the file became shorter while {what} was read", path=self.path, offset=len(self._data))

    def _number(self, form: str, size: int, what: str) -> int | float:
        self.need(size, what)
        value = struct.unpack_from(form, self._data, self.offset)[0]
        self.offset += size
        return cast("int | float", value)

    def u32(self, what: str) -> int:
        return cast(int, self._number("<I", 4, what))

    def u64(self, what: str) -> int:
        return cast(int, self._number("<Q", 8, what))

    def size(self, what: str) -> int:
        """A length or count."""
        return self.u64(what) if self.wide else self.u32(what)

    def numbers(self, dtype: np.dtype[np.generic], n: int, what: str) -> npt.NDArray[np.generic]:
        """n numbers as an own array of `dtype`."""
        size = n * dtype.itemsize
        self.need(size, what)
        values: npt.NDArray[np.generic] = np.frombuffer(self._data, dtype, n, self.offset).copy()
        self.offset += size
        return values

    def string(self, limit: int, what: str) -> str:
        """A length and that many bytes of UTF-8."""
        return self.text(self.size(f"the length of {what}"), limit, what)

    def text(self, n: int, limit: int, what: str) -> str:
        """n bytes of UTF-8; n was just read and is not trusted."""
        if n > self.remaining:
            raise TruncatedError(
                f"{what} announces {n} bytes, but {self.remaining} are left", path=self.path, offset=self.offset
            )
        if n > limit:
            raise LimitError(f"{what} has {n} bytes; at most {limit} are allowed", path=self.path, offset=self.offset)
        self.need(n, what)
        try:
            text = self._data[self.offset : self.offset + n].decode()
        except UnicodeDecodeError as error:
            at = self.offset + error.start
            raise FormatError(f"{what} is not UTF-8 ({error.reason})", path=self.path, offset=at) from None
        self.offset += n
        return text

    def strings(self, n: int, limit: int, what: str) -> list[str]:
        """n strings; the usual ones in one pass of C, whatever stops it (a fetch, an error) by `string`."""
        out: list[str] = []
        while len(out) < n:
            if self.wide:
                self.offset = _native.read_strings(self._data, self.offset, n - len(out), limit, out)
            if len(out) < n:
                out.append(self.string(limit, f"{what}[{len(out)}]"))
        return out
