"""A log that moves from a file to a database and back is the same log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventstore import EventStore, SQLiteEventLog, SQLiteEventStore
from eventstore.copying import CannotCopy, copy
from eventstore.postgres import PostgresEventLog, PostgresEventStore
from tests.databases import Server, emptied, needs_postgres
from tests.eventstore.support import events

pytestmark = needs_postgres


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SQLiteEventStore]:
    store = await SQLiteEventStore.open(tmp_path / "events.db")
    yield store
    await store.close()


@pytest.fixture
async def database(postgres_server: Server) -> AsyncIterator[PostgresEventStore]:
    store = await PostgresEventStore.open(await emptied(postgres_server))
    yield store
    await store.close()


async def fill(store: EventStore) -> None:
    """Give a log all that one can have: text of all kinds, an erased stream, a gap."""
    for number in range(30):
        for stream in ("job/1", "job/2", "job/ü", "job/3"):
            await store.append(stream, events(f"{stream} {number} ✓", "", "\0\N{PILE OF POO}"))
    await store.append("job/3", events("over", type="Over"))
    await store.erase("job/2", reason="asked for")
    await store.prune(361, ended_by=["Over"], reason="archived")
    await store.append("job/1", events("after all that"))


async def test_a_log_goes_to_a_database_and_comes_back_with_its_chain(
    tmp_path: Path, file: SQLiteEventStore, database: PostgresEventStore
) -> None:
    await fill(file)
    verified = await copy(file, database)
    assert verified == await file.verify()
    assert verified.pruned
    assert verified.erased
    log = await file.read_all(limit=10_000)
    assert await database.read_all(limit=10_000) == log
    back = await SQLiteEventStore.open(tmp_path / "back.db")
    try:
        assert await copy(database, back) == verified
        assert await back.read_all(limit=10_000) == log
        for store in (database, back):  # each goes on where the copy ends
            (event,) = await store.append("job/1", events("next"), expected=91)
            assert event.position == verified.head.position + 1
            await store.verify(contains=[verified.head])
    finally:
        await back.close()


async def test_what_was_begun_is_gone_on_with(
    file: SQLiteEventStore, database: PostgresEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await file.append("a", events(*"x" * 50))
    monkeypatch.setattr("eventstore.copying._PAGE", 7)
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done >= 21:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await copy(file, database, stop)
    assert told == [(7, 50), (14, 50), (21, 50)]
    await file.append("b", events("y"))
    verified = await copy(file, database)
    assert (verified.events, verified.head) == (51, await file.head())
    assert await copy(file, database) == verified, "once more changes nothing"


async def test_another_log_is_not_written_over(file: SQLiteEventStore, database: PostgresEventStore) -> None:
    await file.append("a", events("x", "y"))
    await database.append("a", events("x"))
    before = await database.read_all()
    with pytest.raises(CannotCopy, match="holds another log: position 1: "):
        await copy(file, database)
    assert await database.read_all() == before


async def test_what_was_erased_since_it_was_copied_does_not_stay_in_the_copy_unnoticed(
    file: SQLiteEventStore, database: PostgresEventStore
) -> None:
    await file.append("a", events("secret"))
    await copy(file, database)
    await file.erase("a", reason="asked for")
    with pytest.raises(CannotCopy, match="erased or pruned since"):
        await copy(file, database)


async def test_a_log_that_is_only_read_can_be_copied(
    tmp_path: Path, file: SQLiteEventStore, database: PostgresEventStore, postgres_server: Server
) -> None:
    await fill(file)
    reader = await SQLiteEventLog.read(tmp_path / "events.db")
    await copy(reader, database)
    await reader.close()
    mirror = await PostgresEventLog.read(postgres_server.url())
    back = await SQLiteEventStore.open(tmp_path / "back.db")
    assert await copy(mirror, back) == await file.verify()
    await mirror.close()
    await back.close()
