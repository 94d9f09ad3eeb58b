"""Archives: a stretch of the log in one compressed file that can be verified without a store.

An archive is gzip over lines of JSON: a header that says after which position and hash the stretch begins,
one line for each event in order, and a trailer with the head of the stretch, the number of events, the
SHA-256 of all lines before, and a checkpoint where there is one, which signs that digest, too. A file without
trailer was cut off.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from ._chain import EMPTY, RESERVED, Walk, row
from ._errors import ChainBroken, EventStoreError
from ._lines import EventLine, fields_of
from ._types import EventLog, Head, Pruned, RecordedEvent, to_microseconds
from .publishing import published, replace_durably

FORMAT = "eventstore-archive/1"
_PAGE = 2000


class ArchiveError(EventStoreError):
    """A file is no archive, or cannot be made one."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Contents(NamedTuple):
    """What an archive holds: ``events`` events after ``after`` up to ``head``.

    ``erased`` of them have no payload; of ``unrecorded`` ones of these the archive does not tell why, because
    they were erased after its end. ``sha256`` is the digest (hexadecimal) of all of it, ``checkpoint`` the
    signed note of its end, or empty.
    """

    after: Head
    head: Head
    events: int
    erased: int
    unrecorded: int
    sha256: str
    checkpoint: str

    @property
    def extension(self) -> str:
        """The line of the checkpoint that signs the archive as a whole."""
        return extension(self.sha256)


def extension(sha256: str) -> str:
    """Return the line with which a checkpoint signs an archive."""
    return f"archive {sha256}"


class _Place(msgspec.Struct, forbid_unknown_fields=True):
    position: int
    hash: str

    @classmethod
    def of(cls, head: Head) -> _Place:
        return cls(head.position, head.hash.hex())

    @property
    def head(self) -> Head:
        hash_ = bytes.fromhex(self.hash)
        if len(hash_) != len(EMPTY.hash):
            raise ValueError(f"{self.hash!r} is no hash")
        return Head(self.position, hash_)


class _Header(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format: str
    after: _Place


class _Trailer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    head: _Place
    events: int
    sha256: str
    checkpoint: str


_encode = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(EventLine).decode


async def beginning(log: EventLog) -> Head:
    """Return where the next archive of ``log`` begins: where it was pruned last, or at its very beginning."""
    recorded = await log.read_stream(Pruned.stream)
    prunings = [event for event in recorded if event.type == Pruned.type]
    if not prunings:
        return EMPTY
    last = msgspec.json.decode(prunings[-1].data, type=Pruned)
    return Head(last.through, bytes.fromhex(last.hash))


async def write_archive(
    log: EventLog,
    path: Path,
    *,
    after: Head | None = None,
    until: datetime | None = None,
    withheld: Callable[[str], bool] = lambda stream: False,
    sign: Callable[[Head, str], str] = lambda head, extension: "",
    progress: Callable[[int], None] = lambda count: None,
) -> Contents:
    """Write what stands in ``log`` before the first event later than ``until`` into a new file at ``path``.

    It begins behind ``after``, by default where the log was pruned last. Of the events of streams that are
    ``withheld`` it has what erased ones have: all but salt, metadata and data.

    The chain is checked on the way. ``sign`` is given the end of the stretch and a line that stands for the
    whole file, and returns a note of both; ``progress`` is called now and then with the number of events
    since the last call. When this returns, the file is complete and on disk, for its owner alone to read;
    cancelled or failed, there is none. Raises `ChainBroken`, `ArchiveError` when there is nothing to write or
    ``path`` exists, `OSError`.
    """
    after = after or await beginning(log)
    walk, digest = Walk(after), hashlib.sha256()
    if path.exists():
        raise _exists(path)
    try:
        with published(path) as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:

            def put(lines: bytes) -> None:
                digest.update(lines)
                file.write(lines)

            put(_line(_Header(format=FORMAT, after=_Place.of(after))))
            async for whole in _pages(log, after, until):
                page = [_emptied(event) if withheld(event.stream) else event for event in whole]
                walk.feed(map(row, page))
                await asyncio.to_thread(lambda page: put(b"".join(map(_event_line, page))), page)
                progress(len(page))
            if not walk.events:
                raise ArchiveError(path, "there is nothing to archive: no event is that old")
            note = sign(walk.head, extension(digest.hexdigest()))
            contents = _contents(after, walk, digest.hexdigest(), note)
            end = _Place.of(walk.head)
            file.write(_line(_Trailer(head=end, events=walk.events, sha256=contents.sha256, checkpoint=note)))
    except FileExistsError:
        raise _exists(path) from None
    return contents


def withhold(path: Path, withheld: Callable[[str], bool], sign: Callable[[Head, str], str]) -> Contents:
    """Write an archive anew without what streams that are ``withheld`` hold, as `write_archive` does.

    The old one stands until the new one is verified and takes its place. Raises what `verify_archive` does.
    """
    before = verify_archive(path)
    digest = hashlib.sha256()
    draft = path.with_name(f".{path.name}.anew")
    draft.unlink(missing_ok=True)
    with published(draft) as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        for number, line in enumerate(_lines(path)):
            if number == before.events + 1:
                break
            event = _decode_event(line).event if number else None
            if event and withheld(event.stream):
                line = _event_line(_emptied(event))  # noqa: PLW2901
            digest.update(line)
            file.write(line)
        note = sign(before.head, extension(digest.hexdigest()))
        end = _Place.of(before.head)
        trailer = _Trailer(head=end, events=before.events, sha256=digest.hexdigest(), checkpoint=note)
        file.write(_line(trailer))
    contents = verify_archive(draft)
    replace_durably(draft, path)
    return contents


def verify_archive(
    path: Path,
    *,
    contains: Iterable[Head] = (),
    progress: Callable[[int], None] = lambda count: None,
) -> Contents:
    """Read an archive to its end, recompute its chain, and show that it holds what ``contains`` saw.

    That all of it is what the server wrote, only the signature of its checkpoint shows: `Contents.extension`
    must be in there. Raises `ChainBroken`; `ArchiveError`, also when a head lies outside of the archive;
    `OSError`.
    """
    walk: Walk | None = None
    digest = hashlib.sha256()
    wanted = {head.position: head for head in contains}
    after, end, page = EMPTY, EMPTY, []
    trailer: _Trailer | None = None
    for number, line in enumerate(_lines(path), start=1):
        if trailer:
            raise ArchiveError(path, f"line {number}: there is something after the trailer")
        try:
            if walk is None:
                after = _header(line).after.head
                walk = Walk(after)
                _compare(after, wanted)
            elif line.startswith(b'{"head"'):
                trailer = msgspec.json.decode(line, type=_Trailer)
                end = trailer.head.head
            else:
                page.append(_decode_event(line).event)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ArchiveError(path, f"line {number}: {error}") from None
        if not trailer:
            digest.update(line)
        if trailer or len(page) == _PAGE:
            walk.feed(map(row, page))
            for event in page:
                _compare(Head(event.position, event.hash), wanted)
            progress(len(page))
            page.clear()
    if walk is None or trailer is None:
        raise ArchiveError(path, "it was cut off: there is no trailer")
    if end != walk.head or trailer.events != walk.events:
        raise ChainBroken(
            walk.head.position + 1,
            f"the trailer tells of {trailer.events} events up to position {end.position}",
        )
    if trailer.sha256 != digest.hexdigest():
        raise ArchiveError(path, "it was changed: its digest is not the one in its trailer")
    if wanted:
        raise ArchiveError(
            path, f"position {min(wanted)} is not in it: it has {after.position + 1} to {walk.head.position}"
        )
    return _contents(after, walk, trailer.sha256, trailer.checkpoint)


def _emptied(event: RecordedEvent) -> RecordedEvent:
    """Return an event as it is when it is erased; the store's own never are."""
    own = event.type.startswith(RESERVED)
    return event if own else replace(event, metadata=b"", salt=b"", data=b"")


def _compare(there: Head, wanted: dict[int, Head]) -> None:
    if wanted.pop(there.position, there) != there:
        raise ChainBroken(there.position, "not the event that once stood here: the log was rewritten")


def _contents(after: Head, walk: Walk, sha256: str, note: str) -> Contents:
    return Contents(after, walk.head, walk.events, len(walk.erased), len(walk.unrecorded()), sha256, note)


def _exists(path: Path) -> ArchiveError:
    return ArchiveError(path, "there is such a file already; archives are never overwritten")


async def _pages(
    log: EventLog, after: Head, until: datetime | None
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
    return _line(EventLine(**fields_of(event)))
