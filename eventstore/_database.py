"""The database of a log: connections to it, its schema, and the one errors table that all share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, TypeAlias

import asyncpg

from ._errors import NOT_WHOLE, StoreFull, StoreUnavailable

Connection: TypeAlias = Any
"""An asyncpg connection: what its library says of its types is not enough for ours."""
SCHEMA = "uwsd"
"""The schema of the database in which the log is."""
PATIENCE = 10.0
"""Seconds after which a database that does not answer is taken for gone."""
LONG = 24 * 3600.0
"""Seconds that what reads or writes much of the log may take."""
_READERS = 4
_MIGRATING = 8603146279045310002
_SETTINGS = {
    "search_path": SCHEMA,
    "synchronous_commit": "on",
    "jit": "off",
    "application_name": "uwsd",
    # Whoever is cut off is let go of in a quarter of a minute, with all locks.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "5",
    "tcp_user_timeout": "15000",
}
_IN_USE = "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace($1))"
_HAS_VERSION = """
SELECT EXISTS (SELECT FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
    WHERE relnamespace = to_regnamespace($1) AND relname = 'migration' AND attname = 'number')
"""
_MARK = "copy_under_way"
"""A table that is there as long as a copy to this log is under way."""
_IS_MARKED = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = $2)"
LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    ConnectionError,
)
"""What tells that a connection is lost, and with it the outcome of what was sent."""


# The schema


async def version_of(connection: Connection) -> int:
    """Return the number of the last migration of a database; 0 when there is no log in it."""
    if not await connection.fetchval(_HAS_VERSION, SCHEMA):
        return 0
    return int(await connection.fetchval("SELECT max(number) FROM migration"))


async def migrate(connection: Connection) -> list[int]:
    """Bring a database to the schema that this program has; return the numbers of what was applied.

    All of it is done, or nothing. Raises `StoreUnavailable` when a newer program was there before.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATING)
        found = await version_of(connection)
        if found == 0:
            if await connection.fetchval(_IN_USE, SCHEMA):
                raise StoreUnavailable(
                    f"the schema {SCHEMA} of this database has tables that are no log's: "
                    "give the log a database of its own, or drop that schema"
                )
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            await connection.execute("CREATE TABLE migration (number int PRIMARY KEY)")
        wanted = {number: sql for number, sql in _migrations().items() if number > found}
        for number, sql in wanted.items():
            await connection.execute(sql, timeout=LONG)
            await connection.execute("INSERT INTO migration VALUES ($1)", number)
        await check_migrated(connection)
    return [*wanted]


async def check_migrated(connection: Connection) -> None:
    """Raise `StoreUnavailable` when a database does not have the schema that this program has."""
    found, needed = await version_of(connection), max(_migrations())
    if found == 0:
        raise StoreUnavailable("there is no log in this database")
    if found < needed:
        raise StoreUnavailable(f"the log has schema {found}, this program needs {needed}: run uwsd migrate")
    if found > needed:
        raise StoreUnavailable(f"the log has schema {found}, of a newer program; this one knows {needed}")


async def check_whole(connection: Connection) -> None:
    """Raise `StoreUnavailable` when a log is not all there."""
    if await connection.fetchval(_IS_MARKED, SCHEMA, _MARK):
        raise StoreUnavailable(NOT_WHOLE)


async def mark(connection: Connection, *, under_way: bool) -> None:
    """Note whether a copy to this log is under way."""
    await connection.execute(
        f"CREATE TABLE IF NOT EXISTS {_MARK} ()" if under_way else f"DROP TABLE IF EXISTS {_MARK}"
    )


def _migrations() -> dict[int, str]:
    """Return all there are, by number, in order."""
    folder = resources.files(__package__).joinpath("migrations")
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return {int(name.partition("_")[0]): folder.joinpath(name).read_text() for name in files}


# Connections


async def connect(url: str) -> Connection:
    """Open a connection to the database of a log. Raises what asyncpg does, and `OSError`."""
    return await asyncpg.connect(url, timeout=PATIENCE, command_timeout=PATIENCE, server_settings=_SETTINGS)


def pooled(url: str) -> Any:
    """Return a pool of connections for who reads, made when they are needed.

    It has none at its start, and makes none of its own accord: what cannot be made is told to who needs it.
    """

    async def as_it_is(_: object) -> None:
        """Leave a connection that goes back to the others: who reads has changed nothing about it."""

    return asyncpg.create_pool(
        url, min_size=0, max_size=_READERS, timeout=PATIENCE, command_timeout=PATIENCE,
        server_settings=_SETTINGS, reset=as_it_is,
    )  # fmt: skip


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the database and the system say into `StoreFull` and `StoreUnavailable`."""
    try:
        yield
    except asyncpg.DiskFullError as error:
        raise StoreFull(f"{doing}: {error}") from error
    except TimeoutError as error:
        raise StoreUnavailable(f"{doing}: the database does not answer") from error
    except asyncpg.InternalClientError as error:  # whose words are of its inner workings
        raise StoreUnavailable(f"{doing}: the connection to the database is lost") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise StoreUnavailable(f"{doing}: {error}") from error
