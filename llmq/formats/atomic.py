"""A file that appears whole or not at all.

The bytes go to an unnamed file in the destination's folder (O_TMPFILE; a hidden named one where the system has no such thing), are
synced to the disk, and only then take the destination's name by rename, which is atomic. Any error removes them; a kill at any instant
leaves the destination absent, old or complete, and an unnamed file vanishes with its process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

__all__ = ["AtomicFile"]


class AtomicFile:
    """`with AtomicFile(path, inputs=[...]) as f: f.write(...)`; the file is there after the block and unchanged when the block raises.

    `path` may exist as a regular file and is replaced; a link is followed. Missing parent folders are made. `inputs` are the
    (st_dev, st_ino) of files that must not be overwritten. Raises ValueError for these, OSError for what the system refuses."""

    def __init__(self, path: str | os.PathLike[str], inputs: Iterable[tuple[int, int]] = ()) -> None:
        self.path = Path(os.path.realpath(path))
        with contextlib.suppress(FileNotFoundError):
            status = self.path.stat()
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, "the destination is a folder; give the name of a file", str(path))
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{path}: the destination exists and is not a regular file")
            if (status.st_dev, status.st_ino) in set(inputs):
                raise ValueError(f"{path}: the destination is one of the source's files; write to another name")
        self.size = 0
        self._fd = -1
        self._temporary: Path | None = None

    def __enter__(self) -> AtomicFile:
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(os, "O_TMPFILE"):
            with contextlib.suppress(OSError):
                self._fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        if self._fd < 0:
            self._temporary = self._free_name()
            self._fd = os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        return self

    def _free_name(self) -> Path:
        return self.path.with_name(f".{self.path.name[:200]}.{os.urandom(6).hex()}.tmp")

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`. Raises OSError (ENOSPC, EIO, …)."""
        left = memoryview(data).cast("B")
        while left:
            done = os.write(self._fd, left[: 1 << 26])
            left = left[done:]
            self.size += done

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            fd, self._fd = self._fd, -1
            os.close(fd)
            if self._temporary is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._temporary)

    def _publish(self) -> None:
        os.fsync(self._fd)
        if self._temporary is None:
            # rename needs a name: give the unnamed file one for the moment between the two calls
            self._temporary = self._free_name()
            os.link(f"/proc/self/fd/{self._fd}", self._temporary, follow_symlinks=True)
        os.replace(self._temporary, self.path)
        self._temporary = None
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
