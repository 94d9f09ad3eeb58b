"""The back ends that the contract suite runs against. A new one joins by one more entry in `BACK_ENDS`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path

import pytest

from eventstore import EventStore, MemoryEventStore, SQLiteEventStore
from tests.harness import ManualClock

Open = Callable[[Path, Callable[[], datetime]], Awaitable[EventStore]]


async def _memory(_: Path, now: Callable[[], datetime]) -> EventStore:
    return MemoryEventStore(now)


async def _sqlite(directory: Path, now: Callable[[], datetime]) -> EventStore:
    return await SQLiteEventStore.open(directory / "events.db", now=now)


BACK_ENDS: dict[str, Open] = {"memory": _memory, "sqlite": _sqlite}


@pytest.fixture(params=BACK_ENDS)
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[EventStore]:
    """An empty store of each back end in turn."""
    store = await BACK_ENDS[request.param](tmp_path, clock.now)
    yield store
    await store.close()


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[SQLiteEventStore]:
    store = await SQLiteEventStore.open(tmp_path / "events.db")
    yield store
    await store.close()
