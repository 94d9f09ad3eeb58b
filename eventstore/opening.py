"""A log by its place: a SQLite file, or the PostgreSQL database of a URL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ._errors import StoreUnavailable
from ._types import EventLog, EventStore
from .membership import Alone, Membership, NodeId
from .sqlite import SQLiteEventLog, SQLiteEventStore


async def open_store(
    place: Path | str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> EventStore:
    """Open the log at ``place`` for writing, or make one.

    Raises `StoreLocked` for a file that another process has, `StoreUnavailable`.
    """
    if isinstance(place, str):
        with _of_an_extra():
            from .postgres import PostgresEventStore
        return await PostgresEventStore.open(place, now=now)
    return await SQLiteEventStore.open(place, now=now)


async def read_log(place: Path | str) -> EventLog:
    """Open the log at ``place`` for reading, beside whoever writes it. Raises `StoreUnavailable`."""
    if isinstance(place, str):
        with _of_an_extra():
            from .postgres import PostgresEventLog
        return await PostgresEventLog.read(place)
    return await SQLiteEventLog.read(place)


@asynccontextmanager
async def membership(
    store: EventStore, node: NodeId, *, gone_after: float, leased: Callable[[float], None]
) -> AsyncIterator[Membership]:
    """Be one of the nodes that write the log of ``store``, or the only one, while the context lasts.

    Among several, the others take it for gone when it was not heard of for ``gone_after`` seconds; ``leased``
    is told until when, in seconds of CLOCK_BOOTTIME, it counts as there whatever happens. Raises `NameTaken`,
    `StoreUnavailable`.
    """
    if not isinstance(store.place, str):
        yield Alone(store)
        return
    from .nodes import joined

    async with joined(store, node, gone_after=gone_after, leased=leased) as member:
        yield member


@contextmanager
def _of_an_extra() -> Iterator[None]:
    """Say what to install where it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise StoreUnavailable(f"a log in PostgreSQL needs {error.name}: install uwsd[postgres]") from error
