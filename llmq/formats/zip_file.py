"""The members of a zip archive as PyTorch writes them: stored, never compressed, so that each is a range of the file.

    member     "PK\\3\\4" ... u16 name length | u16 extra length | name | extra | data
    directory  per member "PK\\1\\2" ... flags, method, sizes, lengths, offset of the member ... name | extra | comment
    end        "PK\\6\\6" counts, size and offset of the directory in 64 bits and "PK\\6\\7" their offset, when needed;
               "PK\\5\\6" the same in 16 and 32 bits

Source: PKWARE's APPNOTE.TXT 6.3, sections 4.3.7 to 4.5.3.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass

from llmq.errors import FormatError, LimitError, TruncatedError, quoted
from llmq.formats.source import Source

__all__ = ["MAGIC", "Member", "read_members"]

MAGIC = b"PK\x03\x04"
_ENTRY = struct.Struct("<4s4xHH8xIIHHH8xI")  # magic, flags, method, two sizes, three lengths, offset
_LOCAL = struct.Struct("<4s22xHH")  # magic, two lengths
_END = struct.Struct("<4s6xHII2x")  # magic, entries, size, offset
_LOCATOR = struct.Struct("<4s4xQ4x")  # magic, offset of
_END64 = struct.Struct("<4s28xQQQ")  # magic, entries, size, offset
_MAX_COMMENT = 65_535
_MAX_DIRECTORY = 64 << 20
_ENCRYPTED = 1
_IN_EXTRA = 0xFFFFFFFF  # the field is in the extra block of id 1, in 64 bits


@dataclass(frozen=True)
class Member:
    """`size` bytes of data from `offset` of the file on."""

    name: str
    offset: int
    size: int


def read_members(source: Source) -> dict[str, Member]:
    """The members by name. Raises FormatError (compressed, encrypted, overlapping, named twice, beyond the file), LimitError
    and TruncatedError."""
    count, size, start = _directory(source)
    if start + size > source.size:
        raise TruncatedError(
            "the zip directory reaches beyond the file; download it again", path=source.path, offset=source.size
        )
    if size > _MAX_DIRECTORY or count * _ENTRY.size > size:
        raise LimitError(f"a zip directory of {count} members in {size} bytes", path=source.path, offset=start)
    data = source.read(start, size)
    members: dict[str, Member] = {}
    at = 0
    for i in range(count):
        if len(data) - at < _ENTRY.size or data[at : at + 4] != b"PK\x01\x02":
            raise FormatError(f"the zip directory ends at member {i} of {count}", path=source.path, offset=start + at)
        _, flags, method, packed, unpacked, n_name, n_extra, n_comment, where = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        raw_name, extra = data[at : at + n_name], data[at + n_name : at + n_name + n_extra]
        at += n_name + n_extra + n_comment
        name = raw_name.decode(errors="backslashreplace")
        unpacked, packed, where = _widened(extra, (unpacked, packed, where))
        problem = None
        if name in members:
            problem = "appears twice"
        elif method != 0 or packed != unpacked:
            problem = "is compressed, so this is no checkpoint of tensors (a TorchScript program, perhaps: save its state_dict)"
        elif flags & _ENCRYPTED:
            problem = "is encrypted"
        else:
            begin = _data_offset(source, raw_name, where)
            members[name] = Member(name, begin, unpacked)
            if begin < 0:
                problem = "is not where the directory says"
            elif begin + unpacked > start:
                problem = f"reaches beyond its archive: {unpacked} bytes from byte {begin} on"
        if problem:
            raise FormatError(f"zip member {quoted(name)} {problem}", path=source.path, offset=start)
    ordered = sorted(members.values(), key=lambda m: (m.offset, m.size))
    for before, after in itertools.pairwise(ordered):
        if before.offset + before.size > after.offset:
            raise FormatError(
                f"zip members {quoted(before.name)} and {quoted(after.name)} overlap", path=source.path, offset=after.offset
            )
    return members


def _directory(source: Source) -> tuple[int, int, int]:
    """Entries, size and offset of the directory."""
    first = max(0, source.size - _END.size - _MAX_COMMENT)
    tail = source.read(first, source.size - first)
    at = tail.rfind(b"PK\x05\x06", 0, len(tail) - _END.size + 4)
    if at < 0:
        raise TruncatedError(
            "the zip archive has no directory at its end; download it again", path=source.path, offset=source.size
        )
    _, count, size, start = _END.unpack_from(tail, at)
    locator = source.read(max(0, first + at - _LOCATOR.size), _LOCATOR.size)
    if locator[:4] == b"PK\x06\x07" and len(locator) == _LOCATOR.size:
        wide = source.read(_LOCATOR.unpack(locator)[1], _END64.size) if _LOCATOR.unpack(locator)[1] < source.size else b""
        if wide[:4] != b"PK\x06\x06" or len(wide) < _END64.size:
            raise FormatError("the zip64 directory is not where its locator says", path=source.path, offset=first + at)
        _, count, size, start = _END64.unpack(wide)
    return count, size, start


def _widened(extra: bytes, fields: tuple[int, ...]) -> tuple[int, ...]:
    """The fields with those in 64 bits that the extra block has."""
    while len(extra) >= 4:
        kind, n = struct.unpack("<HH", extra[:4])
        if kind == 1:
            wide = [int.from_bytes(extra[i : i + 8], "little") for i in range(4, min(4 + n, len(extra)) - 7, 8)]
            return tuple(wide.pop(0) if value == _IN_EXTRA and wide else value for value in fields)
        extra = extra[4 + n :]
    return fields


def _data_offset(source: Source, name: bytes, where: int) -> int:
    """Where the data of a member begins whose own header is at `where`, or -1 when it is not there."""
    head = source.read(where, _LOCAL.size + len(name)) if where < source.size else b""
    if len(head) < _LOCAL.size + len(name) or not head.startswith(MAGIC) or head[_LOCAL.size :] != name:
        return -1
    _, n_name, n_extra = _LOCAL.unpack_from(head)
    return where + _LOCAL.size + n_name + n_extra if n_name == len(name) else -1
