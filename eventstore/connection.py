"""Connections to the SQLite file, each with the one errors table that all share."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import aiosqlite

from ._errors import StoreFull, StoreUnavailable

P = ParamSpec("P")
R = TypeVar("R")
_ROWS_AT_ONCE = 64
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)


class Connection(aiosqlite.Connection):
    """A connection that carries out plain functions of `sqlite3.Connection`, each in one go."""

    _stopped: asyncio.Future[Any] | None = None

    async def run(
        self, function: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run ``function`` in the connection's thread. One that was begun ends, whoever is cancelled."""
        result: R = await self._execute(function, self._conn, *args, **kwargs)  # type: ignore[no-untyped-call]
        return result

    async def opened(self) -> Self:
        """Open the connection and return it. When that fails, its thread has ended, too."""
        try:
            await self
        except BaseException:
            if self._stopped:
                await self._stopped
            raise
        return self

    def stop(self) -> asyncio.Future[Any] | None:
        """See `aiosqlite.Connection.stop`."""
        self._stopped = super().stop()
        return self._stopped

    async def __aenter__(self) -> Self:
        return await self.opened()


def writing(path: Path) -> Connection:
    """Return a connection that creates and changes the file, not opened yet."""
    return Connection(lambda: sqlite3.connect(path, isolation_level=None), _ROWS_AT_ONCE)


def reading(path: Path) -> Connection:
    """Return a connection that only reads, not opened yet."""
    return Connection(lambda: connect_for_reading(path), _ROWS_AT_ONCE)


def connect_for_reading(path: Path) -> sqlite3.Connection:
    """Open the file for reading only, beside whoever writes it.

    It is opened read-only, so that SQLite does not checkpoint when it is closed: up to 3.51.2 a WAL that
    two connections reset at once can be corrupted.
    """
    location = path.absolute().as_uri()
    connection = sqlite3.connect(f"{location}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1")
    except sqlite3.Error as error:
        connection.close()
        beside = (path.with_name(f"{path.name}-{part}") for part in ("wal", "journal"))
        if result_code(error) not in _NOT_WRITABLE or any(map(_has_content, beside)):
            raise
        # Where no shared memory can be made, on a medium that is full or read-only, nobody writes either.
        # Read-only all the same: else a file that has just been deleted would be made again, empty.
        connection = sqlite3.connect(f"{location}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return connection


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what SQLite and the system say into `StoreFull` and `StoreUnavailable`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        full = (
            error.errno in _NO_ROOM
            if isinstance(error, OSError)
            else result_code(error) == sqlite3.SQLITE_FULL
        )
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise (StoreFull if full else StoreUnavailable)(f"{doing}: {said}") from error
    except ValueError as error:
        if str(error) != "Connection closed":
            raise
        raise StoreUnavailable(f"{doing}: {error}") from error


def result_code(error: BaseException | None) -> int:
    """Return SQLite's primary result code, 0 for errors that have none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Do all that is done within, or nothing."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a failed commit may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


def fetch(connection: sqlite3.Connection, sql: str, arguments: Any) -> list[Any]:
    """Return all rows of a query."""
    return connection.execute(sql, arguments).fetchall()


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
