"""Archives: a stretch of the log in one compressed file that can be verified without a store.

An archive is gzip over lines of JSON: a header that says after which position and hash the stretch begins,
one line for each event in order, and a trailer with the head of the stretch, the number of events, and a
signed checkpoint where there is one. A file without trailer was cut off.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import secrets
import zlib
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from ._chain import EMPTY, Walk, row
from ._errors import ChainBroken, EventStoreError
from ._types import Head, Pruned, RecordedEvent, to_microseconds

FORMAT = "eventstore-archive/1"
_PAGE = 2000


class ArchiveError(EventStoreError):
    """A file is no archive, or cannot be made one."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class Readable(Protocol):
    """What an archive is made from: the part of `EventStore` that reads."""

    async def read_stream(self, stream: str, *, after: int = 0) -> tuple[RecordedEvent, ...]: ...

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]: ...


class Contents(NamedTuple):
    """What an archive holds: ``events`` events after ``after`` up to ``head``.

    ``erased`` of them have no payload; of ``unrecorded`` ones of these the archive does not tell why, because
    they were erased after its end. ``checkpoint`` is the signed note of its end, or empty.
    """

    after: Head
    head: Head
    events: int
    erased: int
    unrecorded: int
    checkpoint: str


class _Place(msgspec.Struct, forbid_unknown_fields=True):
    position: int
    hash: str

    @classmethod
    def of(cls, head: Head) -> _Place:
        return cls(head.position, head.hash.hex())

    @property
    def head(self) -> Head:
        return Head(self.position, bytes.fromhex(self.hash))


class _Header(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format: str
    after: _Place


class _Event(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An event as a line. ``data`` is text where the payload is UTF-8, else ``data_base64`` has it.

    An erased event has no ``salt``, ``metadata`` and ``data``.
    """

    position: int
    stream: str
    version: int
    id: str
    type: str
    time: int
    metadata: str = ""
    salt: str = ""
    data: str = ""
    data_base64: str = ""
    digest: str
    hash: str


class _Trailer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    head: _Place
    events: int
    checkpoint: str


_encode = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(_Event).decode


async def beginning(log: Readable) -> Head:
    """Return where the next archive of ``log`` begins: where it was pruned last, or at its very beginning."""
    recorded = await log.read_stream(Pruned.stream)
    prunings = [event for event in recorded if event.type == Pruned.type]
    if not prunings:
        return EMPTY
    last = msgspec.json.decode(prunings[-1].data, type=Pruned)
    return Head(last.through, bytes.fromhex(last.hash))


async def write_archive(
    log: Readable,
    path: Path,
    *,
    until: datetime | None = None,
    checkpoint: Callable[[Head], str] = lambda head: "",
    progress: Callable[[int], None] = lambda count: None,
) -> Contents:
    """Write what stands in ``log`` before the first event later than ``until`` into a new file at ``path``.

    The chain is checked on the way. ``checkpoint`` is given the end of the stretch and returns its note;
    ``progress`` is called now and then with the number of events since the last call. When this returns, the
    file is complete and on disk; cancelled or failed, there is none. Raises `ChainBroken`, `ArchiveError`
    when there is nothing to write or ``path`` exists, `OSError`.
    """
    if path.exists():
        raise ArchiveError(path, "there is such a file already; archives are never overwritten")
    after = await beginning(log)
    walk = Walk(after)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
            file.write(_line(_Header(format=FORMAT, after=_Place.of(after))))
            async for page in _pages(log, after, until):
                walk.feed(map(row, page))
                await asyncio.to_thread(file.write, b"".join(map(_event_line, page)))
                progress(len(page))
            if not walk.events:
                raise ArchiveError(path, "there is nothing to archive: no event is that old")
            note = checkpoint(walk.head)
            file.write(_line(_Trailer(head=_Place.of(walk.head), events=walk.events, checkpoint=note)))
            file.close()
            raw.flush()
            await asyncio.to_thread(os.fsync, raw.fileno())
        os.link(partial, path)
        _sync_directory(path.parent)
    except FileExistsError:
        raise ArchiveError(path, "there is such a file already; archives are never overwritten") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return Contents(after, walk.head, walk.events, len(walk.erased), len(walk.unrecorded()), note)


def verify_archive(path: Path, progress: Callable[[int], None] = lambda count: None) -> Contents:
    """Read an archive to its end and recompute its chain.

    That it begins and ends where it should is for the caller to hold against a checkpoint or the archive
    before. Raises `ChainBroken`, `ArchiveError`, `OSError`.
    """
    walk: Walk | None = None
    after, end, page = EMPTY, EMPTY, []
    trailer: _Trailer | None = None
    for number, line in enumerate(_lines(path), start=1):
        if trailer:
            raise ArchiveError(path, f"line {number}: there is something after the trailer")
        try:
            if walk is None:
                after = _header(line).after.head
                walk = Walk(after)
            elif line.startswith(b'{"head"'):
                trailer = msgspec.json.decode(line, type=_Trailer)
                end = trailer.head.head
            else:
                page.append(_event(line))
        except (msgspec.MsgspecError, ValueError) as error:
            raise ArchiveError(path, f"line {number}: {error}") from None
        if walk and (trailer or len(page) == _PAGE):
            walk.feed(map(row, page))
            progress(len(page))
            page.clear()
    if walk is None or trailer is None:
        raise ArchiveError(path, "it was cut off: there is no trailer")
    if end != walk.head or trailer.events != walk.events:
        raise ChainBroken(
            walk.head.position + 1,
            f"the trailer tells of {trailer.events} events up to position {end.position}",
        )
    return Contents(
        after, walk.head, walk.events, len(walk.erased), len(walk.unrecorded()), trailer.checkpoint
    )


async def _pages(
    log: Readable, after: Head, until: datetime | None
) -> AsyncIterator[tuple[RecordedEvent, ...]]:  # fmt: skip
    latest = to_microseconds(until) if until else None
    position = after.position
    while page := await log.read_all(after=position, limit=_PAGE):
        position = page[-1].position
        wanted = page if latest is None else tuple(takewhile(lambda event: event.time <= latest, page))
        if wanted:
            yield wanted
        if len(wanted) < len(page):
            return


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ArchiveError(path, f"it cannot be unpacked: {error}") from None


def _header(line: bytes) -> _Header:
    header = msgspec.json.decode(line, type=_Header)
    if header.format != FORMAT:
        raise ValueError(f"the format is {header.format}; {FORMAT} can be read")
    return header


def _line(value: Any) -> bytes:
    return _encode(value) + b"\n"


def _event_line(event: RecordedEvent) -> bytes:
    try:
        text, binary = event.data.decode(), ""
    except UnicodeDecodeError:
        text, binary = "", b64encode(event.data).decode()
    return _line(
        _Event(
            position=event.position, stream=event.stream, version=event.version, id=event.id, type=event.type,
            time=event.time, metadata=event.metadata.decode(), salt=event.salt.hex(),
            data=text, data_base64=binary, digest=event.digest.hex(), hash=event.hash.hex(),
        )
    )  # fmt: skip


def _event(line: bytes) -> RecordedEvent:
    event = _decode_event(line)
    return RecordedEvent(
        position=event.position, stream=event.stream, version=event.version, id=event.id, type=event.type,
        time=event.time, metadata=event.metadata.encode(), salt=bytes.fromhex(event.salt),
        data=b64decode(event.data_base64) if event.data_base64 else event.data.encode(),
        digest=bytes.fromhex(event.digest), hash=bytes.fromhex(event.hash),
    )  # fmt: skip


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
