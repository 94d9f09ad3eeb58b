"""Reading a SQLite log from one end to the other, in a process that does nothing else meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from . import _ledger as ledger
from ._types import RecordedEvent
from .connection import connect_for_reading, fetch, translated


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

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
