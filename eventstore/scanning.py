"""Reading a log from one end to the other, in a process or thread that does nothing else meanwhile."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import msgspec

from . import _ledger as ledger
from ._chain import EMPTY
from ._types import Head, RecordedEvent
from .addresses import named
from .connection import connect_for_reading, fetch, translated

_PAGE = 2000


class LogScan(ABC):
    """A log that is read beside whoever writes it. All methods block, and raise `StoreUnavailable`."""

    @abstractmethod
    def read(self, *, after: int, limit: int) -> list[RecordedEvent]:
        """Return at most ``limit`` events above a position, without what proves them.

        ``id``, ``digest`` and ``hash`` are empty, and of ``salt`` there is only whether it is empty;
        metadata and data of erased events are zeros or empty.
        """

    @abstractmethod
    def read_stream(self, stream: str) -> list[RecordedEvent]:
        """Return all events of ``stream``, in order."""

    def streams(self, first: str, below: str, *, through: int) -> Iterator[list[RecordedEvent]]:
        """Yield all events of each stream from ``first`` on and ``below`` another, in the order of names.

        They are those up to the position ``through``, as `read` gives them. It takes the memory that the
        longest stream does.
        """
        for _, events in groupby(self._in_order(first, below, through), lambda event: event.stream):
            yield [*events]

    def _in_order(self, first: str, below: str, through: int) -> Iterator[RecordedEvent]:
        after = (first, 0)
        while True:
            page = self._page(after, below, through)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].stream, page[-1].version

    @abstractmethod
    def _page(self, after: tuple[str, int], below: str, through: int) -> list[RecordedEvent]:
        """Return `_PAGE` events behind a version of a stream, in the order of streams and versions."""

    @abstractmethod
    def tips(self, first: str, below: str) -> Iterator[RecordedEvent]:
        """Yield the last event of each stream from ``first`` on and ``below`` another."""

    @abstractmethod
    def stream_at(self, position: int, first: str, below: str) -> str | None:
        """Return the stream of the first event at a position or behind it, of those between two names."""

    @abstractmethod
    def missing(self) -> int:
        """Return how many events were pruned."""

    @abstractmethod
    def has_any(self, types: Iterable[str], *, after: int) -> bool:
        """Whether there is an event of any of these types above a position."""

    @abstractmethod
    def head(self) -> Head:
        """Return the end of the log."""

    @abstractmethod
    def close(self) -> None:
        """Release what it is read through."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def scan_log(place: Path | str) -> LogScan:
    """Open the log in a file, or in the database of a URL."""
    return DatabaseScan(place) if isinstance(place, str) else FileScan(place)


def parse_place(text: str) -> Path | str:
    """Return the place that another process was told of as text."""
    return text if "://" in text else Path(text)


_STREAM_AT = (
    "SELECT stream FROM event WHERE position >= ? AND stream >= ? AND stream < ? ORDER BY position LIMIT 1"
)
_NEXT_STREAM = "SELECT stream FROM event WHERE stream > ? AND stream < ? ORDER BY stream LIMIT 1"
_LAST = "SELECT * FROM event WHERE stream = ? ORDER BY version DESC LIMIT 1"
_MISSING = """
SELECT coalesce(sum(anchor.position - coalesce(
    (SELECT position FROM event WHERE event.position < anchor.position ORDER BY position DESC LIMIT 1), 0
)), 0) FROM anchor
"""
_ANY_OF = "SELECT 1 FROM event WHERE position > ? AND type IN (SELECT value FROM json_each(?)) LIMIT 1"


class FileScan(LogScan):
    """A log in a SQLite file."""

    def __init__(self, path: Path) -> None:
        with translated(str(path)):
            if not path.is_file():
                raise FileNotFoundError("there is no log")
            self._connection = connect_for_reading(path)

    def read(self, *, after: int, limit: int) -> list[RecordedEvent]:
        with translated("the log cannot be read"):
            return ledger.read_unproved(self._connection, after, limit)

    def read_stream(self, stream: str) -> list[RecordedEvent]:
        with translated("the log cannot be read"):
            return [*map(ledger.event_of, fetch(self._connection, ledger.STREAM, (stream, 0)))]

    def _page(self, after: tuple[str, int], below: str, through: int) -> list[RecordedEvent]:
        with translated("the log cannot be read"):
            return ledger.read_streams_unproved(self._connection, after, below, through, _PAGE)

    def tips(self, first: str, below: str) -> Iterator[RecordedEvent]:
        stream = first
        while found := self._fetch(_NEXT_STREAM, stream, below):
            stream = found[0]
            if last := self._fetch(_LAST, stream):
                yield ledger.event_of(last)

    def stream_at(self, position: int, first: str, below: str) -> str | None:
        found = self._fetch(_STREAM_AT, position, first, below)
        return found[0] if found else None

    def missing(self) -> int:
        found = self._fetch(_MISSING)
        return int(found[0]) if found else 0

    def has_any(self, types: Iterable[str], *, after: int) -> bool:
        return self._fetch(_ANY_OF, after, msgspec.json.encode([*types]).decode()) is not None

    def head(self) -> Head:
        with translated("the log cannot be read"):
            return ledger.read_head(self._connection)

    def _fetch(self, sql: str, *arguments: str | int) -> Sequence[Any] | None:
        with translated("the log cannot be read"):
            found: Sequence[Any] | None = self._connection.execute(sql, arguments).fetchone()
        return found

    def close(self) -> None:
        self._connection.close()


_UNPROVED = "SELECT position, stream, version, type, time, metadata, data FROM event WHERE "
_ABOVE = _UNPROVED + "position > $1 ORDER BY position LIMIT $2"
_IN_STREAMS = _UNPROVED + (
    "(stream, version) > ($1, $2) AND stream < $3 AND position + 0 <= $4 ORDER BY stream, version LIMIT $5"
)


class DatabaseScan(LogScan):
    """A log in a PostgreSQL database, read through an event loop of its own."""

    def __init__(self, url: str) -> None:
        from . import _database as database  # of an extra, which is not there everywhere

        self._translated = database.translated
        self._runner = asyncio.Runner()
        try:
            with self._translated(named(url)):
                self._connection = self._runner.run(database.connect(url))
        except BaseException:
            self._runner.close()
            raise

    def read(self, *, after: int, limit: int) -> list[RecordedEvent]:
        return self._unproved(_ABOVE, after, limit)

    def read_stream(self, stream: str) -> list[RecordedEvent]:
        found = self._fetch("SELECT * FROM event WHERE stream = $1 ORDER BY version", stream)
        return [RecordedEvent(*row) for row in found]

    def _page(self, after: tuple[str, int], below: str, through: int) -> list[RecordedEvent]:
        return self._unproved(_IN_STREAMS, *after, below, through, _PAGE)

    def tips(self, first: str, below: str) -> Iterator[RecordedEvent]:
        stream = first
        while found := self._fetch(
            "SELECT * FROM event WHERE stream = (SELECT stream FROM event WHERE stream > $1 AND stream < $2 "
            "ORDER BY stream LIMIT 1) ORDER BY version DESC LIMIT 1",
            stream,
            below,
        ):
            last = RecordedEvent(*found[0])
            stream = last.stream
            yield last

    def stream_at(self, position: int, first: str, below: str) -> str | None:
        found = self._fetch(
            "SELECT stream FROM event WHERE position >= $1 AND stream >= $2 AND stream < $3 "
            "ORDER BY position LIMIT 1",
            position,
            first,
            below,
        )
        return found[0][0] if found else None

    def missing(self) -> int:
        return int(self._fetch(_MISSING)[0][0])

    def has_any(self, types: Iterable[str], *, after: int) -> bool:
        found = self._fetch(
            "SELECT FROM event WHERE position > $1 AND type = ANY ($2) LIMIT 1", after, [*types]
        )
        return bool(found)

    def head(self) -> Head:
        found = self._fetch("SELECT position, hash FROM event ORDER BY position DESC LIMIT 1")
        return Head(*found[0]) if found else EMPTY

    def _unproved(self, sql: str, *arguments: Any) -> list[RecordedEvent]:
        return [
            RecordedEvent(position, stream, version, "", type_, time, about, about, data, b"", b"")
            for position, stream, version, type_, time, about, data in self._fetch(sql, *arguments)
        ]

    def _fetch(self, sql: str, *arguments: Any) -> list[Any]:
        with self._translated("the log cannot be read"):
            found: list[Any] = self._runner.run(self._connection.fetch(sql, *arguments))
        return found

    def close(self) -> None:
        self._connection.terminate()
        self._runner.close()
