"""The back ends that the contract suite runs against. A new one joins by one more entry in `BACK_ENDS`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path

import pytest

from eventstore import EventStore, MemoryEventStore, SQLiteEventStore
from eventstore.postgres import PostgresEventStore
from tests.databases import emptied, needs_postgres
from tests.harness import ManualClock

Open = Callable[[pytest.FixtureRequest, Callable[[], datetime]], Awaitable[EventStore]]


async def _memory(_: pytest.FixtureRequest, now: Callable[[], datetime]) -> EventStore:
    return MemoryEventStore(now)


async def _sqlite(request: pytest.FixtureRequest, now: Callable[[], datetime]) -> EventStore:
    return await SQLiteEventStore.open(request.getfixturevalue("tmp_path") / "events.db", now=now)


async def _postgres(request: pytest.FixtureRequest, now: Callable[[], datetime]) -> EventStore:
    url = await emptied(request.getfixturevalue("postgres_server"))
    return await PostgresEventStore.open(url, now=now)


BACK_ENDS: dict[str, Open] = {"memory": _memory, "sqlite": _sqlite, "postgres": _postgres}


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=needs_postgres)])
async def store(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[EventStore]:
    """An empty store of each back end in turn."""
    store = await BACK_ENDS[request.param](request, clock.now)
    yield store
    await store.close()


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[SQLiteEventStore]:
    store = await SQLiteEventStore.open(tmp_path / "events.db")
    yield store
    await store.close()
