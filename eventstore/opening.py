"""A log by its place: a SQLite file, or the PostgreSQL database of a URL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from ._errors import StoreUnavailable
from ._types import EventLog, EventStore
from .sqlite import SQLiteEventLog, SQLiteEventStore


async def open_store(
    place: Path | str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> EventStore:
    """Open the log at ``place`` for writing, or make one.

    Raises `StoreLocked` for a file that another process has, `StoreUnavailable`.
    """
    if isinstance(place, str):
        return await _postgres().PostgresEventStore.open(place, now=now)  # type: ignore[no-any-return]
    return await SQLiteEventStore.open(place, now=now)


async def read_log(place: Path | str) -> EventLog:
    """Open the log at ``place`` for reading, beside whoever writes it. Raises `StoreUnavailable`."""
    if isinstance(place, str):
        return await _postgres().PostgresEventLog.read(place)  # type: ignore[no-any-return]
    return await SQLiteEventLog.read(place)


def _postgres() -> ModuleType:
    try:
        from . import postgres
    except ModuleNotFoundError as error:
        raise StoreUnavailable(f"a log in PostgreSQL needs {error.name}: install uwsd[postgres]") from error
    return postgres
