"""ZIP files of which every byte follows from the names and contents of their members.

Nothing is compressed, nothing tells of times or machines; so a file that was changed in any bit, be it one
that no ZIP program looks at, is not the one that its members make. See docs/proof.md, "The container".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import BinaryIO, NamedTuple
from zlib import crc32

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_VERSION, _DATE = 20, 0x21
"""ZIP 2.0; 1980-01-01, the first day there is."""
_LARGEST = 0xFFFFFFFF
_CHUNK = 1 << 16


class Member(NamedTuple):
    """A member, whose content begins at the byte ``begin`` of the file.

    It is ``intact`` unless its CRC is that of another content.
    """

    name: str
    begin: int
    size: int
    crc: int
    sha256: str
    intact: bool = True

    @property
    def local(self) -> bytes:
        """What stands before its content."""
        fixed = (_VERSION, 0, 0, 0, _DATE, self.crc, self.size, self.size, len(self.name), 0)
        return _LOCAL.pack(b"PK\3\4", *fixed) + self.name.encode()

    @property
    def central(self) -> bytes:
        """Its entry in the directory."""
        sizes = (self.crc, self.size, self.size, len(self.name), 0, 0, 0, 0, 0)
        offset = self.begin - len(self.local)
        fixed = _CENTRAL.pack(b"PK\1\2", _VERSION, _VERSION, 0, 0, 0, _DATE, *sizes, offset)
        return fixed + self.name.encode()


def directory(members: Sequence[Member]) -> bytes:
    """Return what stands after the last member."""
    entries = b"".join(member.central for member in members)
    end = members[-1].begin + members[-1].size
    return entries + _END.pack(b"PK\5\6", 0, 0, len(members), len(members), len(entries), end, 0)


class Sink:
    """What takes the content of a member."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, sha256()
        self.begin: int = file.tell()
        self.size: int = 0
        self.crc: int = 0

    def write(self, data: bytes) -> None:
        """Raises `OverflowError` when the file becomes larger than a ZIP file can be."""
        self._file.seek(self.begin + self.size)  # others may have read meanwhile
        self.size += len(data)
        if self.begin + self.size > _LARGEST - (1 << 20):  # room for what comes after it
            raise OverflowError("it would be larger than 4 GiB")
        self.crc = crc32(data, self.crc)
        self._digest.update(data)
        self._file.write(data)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def adding(file: BinaryIO, name: str, members: list[Member]) -> Iterator[Sink]:
    """Give what takes the content of a new member at the end of ``file``; then it is one of ``members``."""
    begin = file.seek(0, 2)
    file.write(bytes(_LOCAL.size + len(name)))
    sink = Sink(file)
    yield sink
    member = Member(name, sink.begin, sink.size, sink.crc, sink.sha256)
    file.seek(begin)
    file.write(member.local)
    file.seek(0, 2)
    members.append(member)


def read_members(file: BinaryIO, names: Iterable[str]) -> list[Member]:
    """Return the members of a file that has exactly ``names``, in this order.

    Raises `ValueError`, with the place, when a byte around their contents is another than these members make.
    """
    members = []
    place = file.seek(0)
    for name in names:
        header = file.read(_LOCAL.size + len(name))
        if len(header) < _LOCAL.size:
            raise ValueError(f"byte {place}: cut off; {name} should be here")
        crc, size = struct.unpack_from("<II", header, 14)
        member = Member(name, file.tell(), size, crc, "")
        if header != member.local:
            raise ValueError(f"byte {place}: this is not how {name} begins")
        members.append(_measured(file, member))
        place = file.tell()
    expected = directory(members)
    if file.read(len(expected) + 1) != expected:
        raise ValueError(f"byte {place}: this is not the directory of what is in it")
    return members


def _measured(file: BinaryIO, member: Member) -> Member:
    """Return a member with what its content says of it."""
    digest, crc = sha256(), 0
    for chunk in chunks(file, member):
        digest.update(chunk)
        crc = crc32(chunk, crc)
    return member._replace(sha256=digest.hexdigest(), intact=crc == member.crc)


def chunks(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """Yield the content of a member; ``file`` stands behind it then."""
    left = member.size
    file.seek(member.begin)
    while left and (chunk := file.read(min(left, _CHUNK))):
        left -= len(chunk)
        yield chunk


def lines(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """Yield the lines of a member, wherever ``file`` stands between two of them."""
    place, end = member.begin, member.begin + member.size
    while place < end:
        file.seek(place)
        line = file.readline(end - place)
        place += len(line)
        yield line
