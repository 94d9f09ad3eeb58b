"""Pruning the log of what is in an archive of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from eventstore import ChainBroken, Metadata, NewEvent, SQLiteEventStore
from eventstore.checkpoint import SigningKey
from tests.harness import ManualClock
from uws.audit import archive, prune

WHO = Metadata(actor="auditor")


@asynccontextmanager
async def log_of_a_destroyed_job(
    directory: Path, key: SigningKey, clock: ManualClock
) -> AsyncIterator[SQLiteEventStore]:
    """Open a log, which is also in the archive ``log.gz`` beside it."""
    directory.mkdir()
    store = await SQLiteEventStore.open(directory / "events.db", now=clock.now)
    try:
        await store.append("job/1", [NewEvent(type="JobCreated", data=b"{}")])
        await store.append("job/1", [NewEvent(type="JobDestroyed", data=b"{}")])
        await archive(store, directory / "log.gz", key, clock.now(), until=None)
        yield store
    finally:
        await store.close()


async def test_the_archive_of_another_log_is_refused_and_nothing_is_pruned(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Both are signed by the same key: only their hashes tell the two apart."""
    key = SigningKey.load_or_create(tmp_path / "key", "example.org")
    async with log_of_a_destroyed_job(tmp_path / "theirs", key, clock):
        pass
    async with log_of_a_destroyed_job(tmp_path / "ours", key, clock) as store:
        before = await store.read_all()
        with pytest.raises(ChainBroken):
            await prune(store, tmp_path / "theirs" / "log.gz", key.verifier, metadata=WHO)
        assert await store.read_all() == before
        await prune(store, tmp_path / "ours" / "log.gz", key.verifier, metadata=WHO)
        assert [event.type for event in await store.read_all()] == ["$pruned"]
