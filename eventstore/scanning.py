"""Reading a SQLite log from one end to the other, in a process that does nothing else meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import msgspec

from . import _ledger as ledger
from ._types import Head, RecordedEvent
from .connection import connect_for_reading, fetch, translated

_PAGE = 2000
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


class LogScan:
    """A log that is read beside whoever writes it. All methods block, and raise `StoreUnavailable`."""

    def __init__(self, path: Path) -> None:
        with translated(str(path)):
            self._connection = connect_for_reading(path)

    def read(self, *, after: int, limit: int) -> list[RecordedEvent]:
        """Return at most ``limit`` events above a position, without what proves them.

        ``id``, ``digest`` and ``hash`` are empty, and of ``salt`` there is only whether it is empty;
        metadata and data of erased events are zeros.
        """
        with translated("the log cannot be read"):
            return ledger.read_unproved(self._connection, after, limit)

    def read_stream(self, stream: str) -> list[RecordedEvent]:
        """Return all events of ``stream``, in order."""
        with translated("the log cannot be read"):
            return [*map(ledger.event_of, fetch(self._connection, ledger.STREAM, (stream, 0)))]

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
            with translated("the log cannot be read"):
                page = ledger.read_streams_unproved(self._connection, after, below, through, _PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].stream, page[-1].version

    def tips(self, first: str, below: str) -> Iterator[RecordedEvent]:
        """Yield the last event of each stream from ``first`` on and ``below`` another."""
        stream = first
        while found := self._fetch(_NEXT_STREAM, stream, below):
            stream = found[0]
            if last := self._fetch(_LAST, stream):
                yield ledger.event_of(last)

    def stream_at(self, position: int, first: str, below: str) -> str | None:
        """Return the stream of the first event at a position or behind it, of those between two names."""
        found = self._fetch(_STREAM_AT, position, first, below)
        return found[0] if found else None

    def missing(self) -> int:
        """Return how many events were pruned."""
        found = self._fetch(_MISSING)
        return int(found[0]) if found else 0

    def has_any(self, types: Iterable[str], *, after: int) -> bool:
        """Whether there is an event of any of these types above a position."""
        return self._fetch(_ANY_OF, after, msgspec.json.encode([*types]).decode()) is not None

    def head(self) -> Head:
        """Return the end of the log."""
        with translated("the log cannot be read"):
            return ledger.read_head(self._connection)

    def _fetch(self, sql: str, *arguments: str | int) -> Sequence[Any] | None:
        with translated("the log cannot be read"):
            found: Sequence[Any] | None = self._connection.execute(sql, arguments).fetchone()
        return found

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
