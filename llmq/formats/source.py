"""Opening a model file: regular files only, its size, and a read-only mapping whose pages can be given back."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmq.errors import FormatError, TruncatedError, UnsafeFileError, UnsupportedError

__all__ = ["Source", "refuse_lookalike"]

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}

# What is found where a model should be, by first bytes: (magic, offset of it, what it is and the way out).
_LOOKALIKES = [
    (b"version https://git-lfs", 0, "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"PK\x03\x04", 0, "a zip archive (a PyTorch checkpoint, perhaps); give its Hugging Face folder or a GGUF file"),
    (b"\x80\x02", 0, "a Python pickle (an old PyTorch checkpoint, perhaps); give its Hugging Face folder or a GGUF file"),
    (b"\x1f\x8b", 0, "a gzip archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", 0, "a zstd archive; unpack it first"),
    (b"\xfd7zXZ", 0, "an xz archive; unpack it first"),
    (b"BZh", 0, "a bzip2 archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive; unpack it first"),
    (b"ustar", 257, "a tar archive; unpack it first"),
    (b"\x93NUMPY", 0, "a NumPy array"),
    (b"\x89HDF", 0, "an HDF5 file"),
    (b"\x08\x00\x00\x00TFL3", 0, "a TensorFlow Lite model"),
]

# llama.cpp's formats before GGUF: the magic is a little-endian uint32, so it reads backwards.
_OLD_MAGICS = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT", b"algg": "GGLA (a LoRA adapter)"}


def refuse_lookalike(head: bytes, size: int, path: Path, wanted: str) -> None:
    """Raise the error that says what a file looks like which is not `wanted`; `head` is its first bytes (512 are enough)."""
    if size == 0:
        raise TruncatedError(f"the file is empty; expected {wanted}", path=path, offset=0)
    if head[:4] in _OLD_MAGICS:
        raise UnsupportedError(
            f"this is a {_OLD_MAGICS[head[:4]]} file, llama.cpp's before August 2023, and no longer in use; of these llmq "
            "reads GGMF version 1 and GGJT 1 to 3 (GGML lacks the scores of tokens); get the model as GGUF, or convert its "
            "Hugging Face folder",
            path=path,
            offset=0,
        )
    for magic, offset, what in _LOOKALIKES:
        if head[offset : offset + len(magic)] == magic:
            raise FormatError(f"expected {wanted}, but this looks like {what}", path=path, offset=0)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise FormatError(
            f"expected {wanted}, but this looks like a web page (HTML) saved in its place; download the file itself",
            path=path,
            offset=0,
        )
    if text.startswith((b"{", b"[")):
        raise FormatError(f"expected {wanted}, but this looks like JSON", path=path, offset=0)
    if size < 4 or head[:4] in (b"GGUF",):
        raise TruncatedError(f"the file ends after {size} bytes; expected {wanted}", path=path, offset=size)
    raise FormatError(f"expected {wanted}, found a file that begins with {head[:8].hex(' ')}", path=path, offset=0)


class Source:
    """One regular file, opened once. The mapping is made on first use and is valid until `close` and the last view are gone.

    A mapped file that another program shortens makes reads of the missing pages raise SIGBUS, which ends the process: replace
    model files by renaming, never in place."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # O_NONBLOCK: a FIFO must not hang
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                kind = _KINDS.get(stat.S_IFMT(status.st_mode), "not a file")
                raise UnsafeFileError(f"expected a regular file, found {kind}", path=self.path)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self.size = status.st_size
        self.identity = (status.st_dev, status.st_ino)
        self._map: mmap.mmap | None = None

    def read(self, offset: int, n: int) -> bytes:
        """Up to n bytes, a private copy; fewer only at the end of the file."""
        parts = []
        while n > 0:
            part = os.pread(self.fd, min(n, 1 << 30), offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            n -= len(part)
        return b"".join(parts)

    def fill(self, start: int, begin: int, out: npt.NDArray[np.uint8]) -> None:
        """Read into all of `out`, from byte start + begin on, without the mapping. TruncatedError where the file has become too
        short, OSError from the disk."""
        left, offset = out.data, start + begin
        while left:
            done = os.preadv(self.fd, [left], offset)
            if done == 0:
                raise TruncatedError("the file was shortened while it was read", path=self.path, offset=offset)
            left, offset = left[done:], offset + done

    def view(self, offset: int, n: int) -> npt.NDArray[np.uint8]:
        """Read-only view of n bytes of the mapping; the caller has checked that they are inside the file."""
        if n == 0:
            return np.zeros(0, np.uint8)
        if self._map is None:
            if self.fd < 0:
                raise ValueError(f"{self.path}: the file was closed")
            if os.fstat(self.fd).st_size < self.size:
                raise TruncatedError("the file was shortened since it was opened", path=self.path, offset=offset)
            self._map = mmap.mmap(self.fd, self.size, access=mmap.ACCESS_READ)
        return np.frombuffer(self._map, np.uint8, n, offset)

    def release(self, start: int, begin: int, end: int) -> None:
        """Give back the pages of bytes start + begin to start + end, but for the last when it goes on after them."""
        page = mmap.PAGESIZE
        first, last = (start + begin) // page * page, (start + end) // page * page
        if self._map is not None and last > first and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        """Close the file and unmap it, unless views are alive: then it is unmapped with the last of them. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        mapping, self._map = self._map, None
        if mapping is not None:
            with contextlib.suppress(BufferError):  # views are alive; the mapping goes with them
                mapping.close()
