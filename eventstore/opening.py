"""A log by its place: a SQLite file, or the PostgreSQL database of a URL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from ._errors import StoreUnavailable
from ._types import EventLog, EventStore, Verified
from .addresses import named
from .membership import Alone, Member, Membership, NodeId
from .sqlite import SQLiteEventLog, SQLiteEventStore


async def open_store(
    place: Path | str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC), to_copy: bool = False
) -> EventStore:
    """Open the log at ``place`` for writing, or make one.

    Raises `StoreLocked` for a file that another process has, `StoreUnavailable`, also when a copy to it is
    under way, unless it is opened ``to_copy``.
    """
    if isinstance(place, str):
        with _of_an_extra():
            from .postgres import PostgresEventStore
        return await PostgresEventStore.open(place, now=now, to_copy=to_copy)
    return await SQLiteEventStore.open(place, now=now, to_copy=to_copy)


async def read_log(place: Path | str) -> EventLog:
    """Open the log at ``place`` for reading, beside whoever writes it. Raises `StoreUnavailable`."""
    if isinstance(place, str):
        with _of_an_extra():
            from .postgres import PostgresEventLog
        return await PostgresEventLog.read(place)
    return await SQLiteEventLog.read(place)


@asynccontextmanager
async def membership(
    store: EventStore,
    node: NodeId,
    *,
    gone_after: float,
    leased: Callable[[float], None],
    now: Callable[[], datetime],
) -> AsyncIterator[Membership]:
    """Be one of the nodes that write the log of ``store``, or the only one, while the context lasts.

    Among several, the others take it for gone when it was not heard of for ``gone_after`` seconds; ``leased``
    is told until when, in seconds of CLOCK_BOOTTIME, it counts as there whatever happens. It leads by the
    clock ``now``. Raises `NameTaken`, `ClockOff`, `StoreUnavailable`.
    """
    if not isinstance(store.place, str):
        yield Alone(store)
        return
    from .nodes import Clocks, joined

    async with joined(store, node, gone_after=gone_after, leased=leased, clocks=Clocks(wall=now)) as member:
        yield member


async def copy_log(
    source: Path | str, target: Path | str, progress: Callable[[int, int], None] = lambda done, total: None
) -> Verified:
    """Copy what the log at ``target`` lacks of the one at ``source``: see `eventstore.copying.copy`.

    The directory of a file is made where there is none. Raises what that does, what `open_store` and
    `read_log` do, and `OSError`.
    """
    with _of_an_extra():
        from .copying import CannotCopy, copy
    if source == target:
        raise CannotCopy("a log cannot be copied to where it is")
    log = await read_log(source)
    try:
        if isinstance(target, Path):
            target.parent.mkdir(mode=0o700, exist_ok=True)
        store = await open_store(target, to_copy=True)
        try:
            return await copy(cast(Any, log), cast(Any, store), progress)
        finally:
            await store.close()
    finally:
        await log.close()


async def migrate(url: str) -> list[int]:
    """Bring the database at ``url`` to the schema of this program; return the migrations that it lacked.

    Raises `StoreUnavailable`, also when a newer program was there before.
    """
    with _of_an_extra():
        from . import _database as database
    with database.translated(named(url)):
        connection = await database.connect(url)
        try:
            return await database.migrate(connection)
        finally:
            connection.terminate()


async def members(url: str) -> list[Member]:
    """Return the nodes that share, or shared, the log at ``url``, by name. Raises `StoreUnavailable`."""
    with _of_an_extra():
        from .nodes import members
    return await members(url)


async def forget(url: str, name: str, *, gone_after: float) -> None:
    """Make it so that a node that is gone never was one: see `eventstore.nodes.forget`."""
    with _of_an_extra():
        from .nodes import forget
    await forget(url, name, gone_after=gone_after)


@contextmanager
def _of_an_extra() -> Iterator[None]:
    """Say what to install where it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise StoreUnavailable(f"a log in PostgreSQL needs {error.name}: install uwsd[postgres]") from error
