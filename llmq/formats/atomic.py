"""A file that appears whole or not at all.

The bytes go to an unnamed file in the destination's folder (O_TMPFILE; a hidden named one where the system has no such thing),
are synced to the disk, and only then take the destination's name by rename, which is atomic. Any error removes them; a kill at
any instant leaves the destination absent, old or complete, and an unnamed file vanishes with its process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

__all__ = ["AtomicFile", "check_destination"]

_BEHIND = 8 << 20  # bytes after which the system is asked to begin writing: else all of it waits for the sync at the end


def _let_go(fd: int) -> None:
    """Close a file in a thread of its own: when it was replaced that frees its blocks, and the disk may take its time."""
    if fd >= 0:
        try:
            threading.Thread(target=os.close, args=(fd,), name="llmq-close").start()
        except RuntimeError:  # no thread to be had
            os.close(fd)


def check_destination(path: str | os.PathLike[str], inputs: Iterable[tuple[int, int]] = ()) -> None:
    """ValueError for what is there and is no regular file, or is one of `inputs`, the (st_dev, st_ino) of files that must not
    be overwritten; OSError for a folder. For those whose work comes before AtomicFile, which asks too."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "the destination is a folder; give the name of a file", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{os.fspath(path)}: the destination exists and is not a regular file")
    if (status.st_dev, status.st_ino) in set(inputs):
        raise ValueError(f"{os.fspath(path)}: the destination is one of the source's files; write to another name")


class AtomicFile:
    """`with AtomicFile(path, inputs=[...]) as f: f.write(...)`; the file is there after the block and unchanged when the block
    raises.

    `path` may exist as a regular file and is replaced; a link is followed. Missing parent folders are made. Raises what
    check_destination does, and OSError for what the system refuses."""

    def __init__(self, path: str | os.PathLike[str], inputs: Iterable[tuple[int, int]] = ()) -> None:
        check_destination(path, inputs)
        self.path = Path(os.path.realpath(path))
        self.size = self._begun = 0
        self._fd = self._folder = self._old = -1
        self._temporary: str | None = None  # its name in the folder, while it has one

    def __enter__(self) -> AtomicFile:
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # the file to be replaced, perhaps one that cannot be read
                self._old = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            if self._can_stay_unnamed():
                self._fd = self._open_unnamed()
            else:
                name = self._free_name()
                self._fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=self._folder)
                self._temporary = name
        except BaseException as error:
            self._close(self._folder, self._old)
            if isinstance(error, OSError):
                error.filename = os.fspath(self.path)  # not a name that nobody gave
            raise
        return self

    def _free_name(self) -> str:
        return f".{os.fsdecode(os.fsencode(self.path.name)[:200])}.{os.urandom(6).hex()}.tmp"

    def _open_unnamed(self) -> int:
        return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=self._folder)

    def _name_it(self, fd: int, name: str) -> None:
        # With a src_dir_fd this is linkat(.., AT_SYMLINK_FOLLOW), the documented way to name an unnamed file.
        os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=self._folder, dst_dir_fd=self._folder, follow_symlinks=True)

    def _can_stay_unnamed(self) -> bool:
        # Naming may fail (no /proc, a file system without it), and at the end it would be too late: try it on an empty file.
        if not hasattr(os, "O_TMPFILE"):
            return False
        try:
            fd = self._open_unnamed()
        except OSError:
            return False
        try:
            name = self._free_name()
            self._name_it(fd, name)
            os.unlink(name, dir_fd=self._folder)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`. Raises OSError (ENOSPC, EIO, …)."""
        self.put(self.take(len(data)), data)
        self.settle(self.size)

    def take(self, n: int) -> int:
        """Set the next n bytes aside and return where they begin, for `put` from any thread, in any order."""
        offset = self.size
        self.size += n
        return offset

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` where `take` said. Raises OSError."""
        left = memoryview(data).cast("B")
        while left:
            try:
                done = os.pwrite(self._fd, left[: 1 << 26], offset)
            except OSError as error:
                error.filename = os.fspath(self.path)
                raise
            left, offset = left[done:], offset + done

    def settle(self, end: int) -> None:
        """To be told now and then that all bytes before `end` are there."""
        if end - self._begun >= _BEHIND and hasattr(os, "posix_fadvise"):
            # Pages that are not written yet are not dropped by this; Linux begins to write them.
            os.posix_fadvise(self._fd, self._begun, end - self._begun, os.POSIX_FADV_DONTNEED)
            if self._old >= 0:  # what is about to go makes room in memory for what comes
                os.posix_fadvise(self._old, self._begun, end - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = end

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            if self._temporary is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._temporary, dir_fd=self._folder)
            self._close(self._fd, self._folder)
            _let_go(self._old)

    @staticmethod
    def _close(*fds: int) -> None:
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def _publish(self) -> None:
        os.fsync(self._fd)
        if self._temporary is None:
            name = self._free_name()
            self._name_it(self._fd, name)
            self._temporary = name
        os.replace(self._temporary, self.path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._temporary = None
        os.fsync(self._folder)
