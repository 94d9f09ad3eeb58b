"""What only the store on disk can show: edits behind its back, locks, errors of the disk, reopening."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import aiosqlite
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    ChainBroken,
    MemoryEventStore,
    NewEvent,
    Overloaded,
    SQLiteEventStore,
    StoreLocked,
    StoreUnavailable,
    VersionConflict,
)
from eventstore._errors import EventStoreError


def event(text: str = "x") -> NewEvent:
    return NewEvent(type="Said", data=text.encode())


async def test_reopening_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    store = await SQLiteEventStore.open(path)
    await store.append("a", [event("1"), event("2")])
    await store.append("b", [event("3")])
    log, head = await store.read_all(), await store.head()
    await store.close()
    store = await SQLiteEventStore.open(path)
    assert await store.read_all() == log
    assert await store.head() == head == await store.verify()
    with pytest.raises(VersionConflict):
        await store.append("a", [event()], expected=1)
    (following,) = await store.append("a", [event("4")], expected=2)
    assert (following.position, following.version) == (4, 3)
    assert (await store.verify()).position == 4
    await store.close()


async def test_a_closed_log_is_a_single_file(tmp_path: Path) -> None:
    store = await SQLiteEventStore.open(tmp_path / "events.db")
    await store.append("a", [event()])
    await store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.db", "events.db.lock"]


async def test_appends_reach_the_disk_before_they_are_acknowledged(tmp_path: Path) -> None:
    """Another connection, as after a crash of this process, sees what was acknowledged."""
    store = await SQLiteEventStore.open(tmp_path / "events.db")
    await store.append("a", [event("kept")])
    with closing(sqlite3.connect(tmp_path / "events.db")) as other:
        assert other.execute("SELECT data FROM event").fetchall() == [(b"kept",)]
    assert await _pragma(store, "synchronous") == 2  # FULL
    assert await _pragma(store, "journal_mode") == "wal"
    await store.close()


async def _pragma(store: SQLiteEventStore, name: str) -> object:
    ((value,),) = await store._writer.execute_fetchall(f"PRAGMA {name}")
    return value


async def test_waiting_appends_share_a_transaction(sqlite_store: SQLiteEventStore) -> None:
    commits = []
    trace: Callable[[str], None] = lambda sql: commits.append(sql) if sql == "COMMIT" else None  # noqa: E731
    await sqlite_store._writer.set_trace_callback(trace)
    await asyncio.gather(*(sqlite_store.append(f"s{n}", [event()]) for n in range(100)))
    assert 1 <= len(commits) <= 3


# Changes behind the store's back

EDITS = {
    "a payload": (2, "UPDATE event SET data = x'00' WHERE position = 2"),
    "a payload and its digest": (2, "UPDATE event SET data = x'00', salt = x'', digest = "
        "x'6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d' WHERE position = 2"),
    "a salt": (2, "UPDATE event SET salt = zeroblob(16) WHERE position = 2"),
    "metadata": (2, "UPDATE event SET metadata = x'7b207d' WHERE position = 2"),
    "a type": (2, "UPDATE event SET type = 'Sung' WHERE position = 2"),
    "a time": (2, "UPDATE event SET time = time + 1 WHERE position = 2"),
    "an id": (2, "UPDATE event SET id = 'x' WHERE position = 2"),
    "a stream": (2, "UPDATE event SET stream = 'b' WHERE position = 2"),
    "a version": (2, "UPDATE event SET version = 9 WHERE position = 2"),
    "a hash": (2, "UPDATE event SET hash = zeroblob(32) WHERE position = 2"),
    "a row removed": (3, "DELETE FROM event WHERE position = 3"),
    "the first row removed": (1, "DELETE FROM event WHERE position = 1"),
    "the row before the last removed": (4, "DELETE FROM event WHERE position = 4"),
    "the last row removed while the store is open": (5, "DELETE FROM event WHERE position = 5"),
    "two rows swapped": (2, "UPDATE event SET position = -position WHERE position IN (2, 3);"
        "UPDATE event SET position = 5 + position WHERE position IN (-2, -3)"),
}  # fmt: skip


@pytest.mark.parametrize(("position", "edit"), EDITS.values(), ids=list(EDITS))
async def test_verify_names_the_first_position_that_was_changed(
    sqlite_store: SQLiteEventStore, tmp_path: Path, position: int, edit: str
) -> None:
    await sqlite_store.append("a", [event(str(n)) for n in range(5)])
    await sqlite_store.verify()
    with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None)) as other:
        other.executescript(edit)
    with pytest.raises(ChainBroken) as found:
        await sqlite_store.verify()
    assert found.value.position == position


# One process at a time

_HOLD = """
import asyncio, sys
from pathlib import Path
from eventstore import SQLiteEventStore, NewEvent

async def main():
    store = await SQLiteEventStore.open(Path(sys.argv[1]))
    await store.append("a", [NewEvent(type="T", data=b"acknowledged")])
    print("open", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


async def test_a_second_opener_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin
    assert holder.stdout
    try:
        assert await asyncio.to_thread(holder.stdout.readline) == b"open\n"
        with pytest.raises(StoreLocked, match=f"in use by process {holder.pid}") as refusal:
            await SQLiteEventStore.open(path)
        assert refusal.value.pid == holder.pid
    finally:
        holder.kill()
        holder.stdin.close()
        holder.stdout.close()
        await asyncio.to_thread(holder.wait)
    # It was killed: its lock file is still there, and no obstacle; what it had acknowledged is there, too.
    assert (tmp_path / "events.db.lock").read_text() == f"{holder.pid}\n"
    store = await SQLiteEventStore.open(path)
    assert [recorded.data for recorded in await store.read_all()] == [b"acknowledged"]
    await store.verify()
    await store.close()


async def test_a_store_is_locked_within_its_own_process_too(
    sqlite_store: SQLiteEventStore, tmp_path: Path
) -> None:
    with pytest.raises(StoreLocked):
        await SQLiteEventStore.open(tmp_path / "events.db")
    await sqlite_store.append("a", [event()])


async def test_closing_gives_the_lock_back(tmp_path: Path) -> None:
    for _ in range(3):
        store = await SQLiteEventStore.open(tmp_path / "events.db")
        await store.close()


async def test_a_file_that_is_no_log_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.write_text("Dear diary, " * 1000)
    for _ in range(2):  # the lock was given back
        with pytest.raises(StoreUnavailable, match="not a database"):
            await SQLiteEventStore.open(path)
    assert path.read_text().startswith("Dear diary")


async def test_a_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        await SQLiteEventStore.open(tmp_path / "nowhere" / "events.db")


# Load and failure


async def test_more_appends_than_may_wait_are_refused_and_the_others_are_recorded(tmp_path: Path) -> None:
    store = await SQLiteEventStore.open(tmp_path / "events.db", max_waiting=10)
    outcomes = await asyncio.gather(
        *(store.append("a", [event()]) for _ in range(25)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
    assert len(refused) == 15
    assert (refused[0].waiting, refused[0].retry_after) == (10, 1)
    assert len(await store.read_all()) == 10
    await store.append("a", [event()])
    await store.close()


@pytest.mark.parametrize("failing", ["BEGIN IMMEDIATE", "COMMIT", "INSERT", "SELECT"])
async def test_an_error_of_the_disk_is_told_and_the_store_goes_on_afterwards(
    sqlite_store: SQLiteEventStore, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    await sqlite_store.append("a", [event("before")])
    for method in ("execute", "executemany", "execute_fetchall"):
        monkeypatch.setattr(sqlite_store._writer, method, _failing(sqlite_store._writer, method, failing))
    outcomes = await asyncio.gather(
        *(sqlite_store.append(f"s{n}", [event()]) for n in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    assert "disk I/O error" in str(outcomes[0])
    assert [recorded.data for recorded in await sqlite_store.read_all()] == [b"before"]
    monkeypatch.undo()
    (after,) = await sqlite_store.append("a", [event("after")], expected=1)
    assert after.position == 2
    assert (await sqlite_store.verify()).position == 2


def _failing(connection: aiosqlite.Connection, method: str, beginning: str) -> Callable[..., object]:
    original = getattr(connection, method)

    async def call(sql: str, *arguments: object) -> object:
        if sql.lstrip().startswith(beginning):
            raise sqlite3.OperationalError("disk I/O error")
        return await original(sql, *arguments)

    return call


async def test_a_full_disk_is_told_and_the_store_goes_on_when_there_is_room(
    sqlite_store: SQLiteEventStore,
) -> None:
    await sqlite_store.append("a", [event("before")])
    ((pages,),) = await sqlite_store._writer.execute_fetchall("PRAGMA page_count")
    await sqlite_store._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="full"):
        await sqlite_store.append("a", [event("y" * 100_000)])
    await sqlite_store._writer.execute("PRAGMA max_page_count = 1000000")
    (after,) = await sqlite_store.append("a", [event("z" * 100_000)])
    assert after.position == 2
    assert (await sqlite_store.verify()).position == 2


async def test_reading_errors_are_translated(
    sqlite_store: SQLiteEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sqlite_store._reader, "execute_fetchall", _failing(sqlite_store._reader, "execute_fetchall", "SELECT")
    )
    with pytest.raises(StoreUnavailable, match="disk I/O error"):
        await sqlite_store.read_all()
    with pytest.raises(StoreUnavailable):
        await sqlite_store.read_stream("a")


# Against the memory store

_append = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.integers(0, 12), max_size=3),
    st.one_of(st.none(), st.integers(0, 5)),
)


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(_append, min_size=1, max_size=6), max_size=6))
def test_random_appends_fare_as_they_do_in_memory(
    batches: list[list[tuple[str, list[int], int | None]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Ids are drawn from few, so that they collide; each inner list is appended at once."""

    async def run() -> None:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        memory = MemoryEventStore(lambda: moment)
        sqlite = await SQLiteEventStore.open(tmp_path_factory.mktemp("log") / "events.db", now=lambda: moment)
        try:
            for batch in batches:
                outcomes = []
                for store in (memory, sqlite):
                    appends = (
                        store.append(
                            stream,
                            [NewEvent(type="T", data=b"%d" % n, id=f"id-{n}") for n in ids],
                            expected=expected,
                        )
                        for stream, ids, expected in batch
                    )
                    outcomes.append(await asyncio.gather(*appends, return_exceptions=True))
                assert [_shape(o) for o in outcomes[0]] == [_shape(o) for o in outcomes[1]]
            assert _shape(await memory.read_all()) == _shape(await sqlite.read_all())
            for stream in "abc":
                assert _shape(await memory.read_stream(stream)) == _shape(await sqlite.read_stream(stream))
            assert (await sqlite.verify()).position == (await memory.verify()).position
        finally:
            await sqlite.close()

    asyncio.run(run())


def _shape(outcome: object) -> object:
    """All of an outcome but salts and what follows from them."""
    if isinstance(outcome, tuple):
        return [(e.position, e.stream, e.version, e.id, e.type, e.time, e.metadata, e.data) for e in outcome]
    assert isinstance(outcome, EventStoreError)
    return type(outcome), str(outcome)
