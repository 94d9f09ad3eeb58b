"""What only the store on disk can show: reopening, locks, files that are no logs, load and failure."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventstore import (
    Head,
    NewEvent,
    Overloaded,
    SQLiteEventLog,
    SQLiteEventStore,
    StoreClosed,
    StoreFull,
    StoreLocked,
    StoreUnavailable,
    VersionConflict,
)
from eventstore import _failpoints as failpoint


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
    assert await store.head() == head == (await store.verify()).head
    with pytest.raises(VersionConflict):
        await store.append("a", [event()], expected=1)
    (following,) = await store.append("a", [event("4")], expected=2)
    assert (following.position, following.version) == (4, 3)
    assert (await store.verify()).head.position == 4
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


_FORK = """
import asyncio, os, signal, sys
from pathlib import Path
from eventstore import SQLiteEventStore

async def main():
    await SQLiteEventStore.open(Path(sys.argv[1]))
    if os.fork() == 0:
        os.read(0, 1)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_the_child_that_a_killed_holder_was_making_a_program_of_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with subprocess.Popen([sys.executable, "-c", _FORK, path], stdin=subprocess.PIPE) as holder:
        await asyncio.to_thread(holder.wait)
        opening = asyncio.create_task(SQLiteEventStore.open(path))
        await asyncio.sleep(0)
        assert not opening.done()
    await (await opening).close()


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


async def test_a_database_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with closing(sqlite3.connect(path)) as other:
        other.executescript("CREATE TABLE diary (page TEXT); INSERT INTO diary VALUES ('Dear diary')")
    before = path.read_bytes()
    for opening in (SQLiteEventStore.open(path), SQLiteEventLog.read(path)):
        with pytest.raises(
            StoreUnavailable, match=r"events\.db: the log has format 0, this program knows format 1"
        ):
            await opening
    assert path.read_bytes() == before


async def test_a_log_of_a_later_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    store = await SQLiteEventStore.open(path)
    await store.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    for opening in (SQLiteEventStore.open(path), SQLiteEventLog.read(path)):
        with pytest.raises(
            StoreUnavailable, match=r"events\.db: the log has format 99, this program knows format 1"
        ):
            await opening
    assert path.read_bytes() == before


async def test_an_empty_file_becomes_a_log(tmp_path: Path) -> None:
    """A process may have been killed between making the file and filling it."""
    path = tmp_path / "events.db"
    path.touch()
    store = await SQLiteEventStore.open(path)
    await store.append("a", [event()])
    await store.close()


async def test_nobody_else_may_read_what_users_sent(tmp_path: Path) -> None:
    store = await SQLiteEventStore.open(tmp_path / "events.db")
    await store.append("a", [event()])
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    await store.close()


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


def refusing(action: int, name: str | None = None) -> Callable[..., int]:
    """Return an authorizer that lets SQLite do everything but this."""

    def decide(asked: int, argument: str | None, *_: str | None) -> int:
        refused = asked == action and name in (None, argument)
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    return decide


FAILURES = {
    "to begin": refusing(sqlite3.SQLITE_TRANSACTION, "BEGIN"),
    "to read": refusing(sqlite3.SQLITE_SELECT),
    "to write": refusing(sqlite3.SQLITE_INSERT, "event"),
    "to commit": refusing(sqlite3.SQLITE_TRANSACTION, "COMMIT"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))
async def test_a_failure_is_told_and_the_store_goes_on_afterwards(
    sqlite_store: SQLiteEventStore, failure: Callable[..., int]
) -> None:
    await sqlite_store.append("a", [event("before")])
    await sqlite_store._writer.set_authorizer(failure)
    outcomes = await asyncio.gather(
        *(sqlite_store.append(f"s{n}", [event()]) for n in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    assert "not authorized" in str(outcomes[0])
    assert [recorded.data for recorded in await sqlite_store.read_all()] == [b"before"]
    assert (await sqlite_store.head()).position == 1
    await sqlite_store._writer.set_authorizer(None)
    (after,) = await sqlite_store.append("a", [event("after")], expected=1)
    assert after.position == 2
    assert (await sqlite_store.verify()).head.position == 2


@pytest.mark.parametrize("place", [failpoint.BEFORE_WRITE, failpoint.AFTER_WRITE, failpoint.BEFORE_COMMIT])
async def test_what_fails_before_it_is_committed_leaves_nothing(
    sqlite_store: SQLiteEventStore, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def reached(name: str) -> None:
        if name == place:
            raise OSError(errno.EIO, "the disk is gone")

    batch = [event("1"), event("2")]
    with monkeypatch.context() as patch:
        patch.setattr(failpoint, "reached", reached)
        with pytest.raises(StoreUnavailable, match="the disk is gone"):
            await sqlite_store.append("a", batch)
    assert await sqlite_store.read_all() == ()
    recorded = await sqlite_store.append("a", batch, expected=0)
    assert await sqlite_store.read_all() == recorded


CHANGES: dict[str, Callable[[SQLiteEventStore], Awaitable[object]]] = {
    "append": lambda store: store.append("a", [event()]),
    "erase": lambda store: store.erase("a", reason=""),
    "prune": lambda store: store.prune(1, ended_by={"Said"}, reason=""),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
async def test_what_cannot_be_written_changes_nothing_and_writing_recovers_by_itself(
    sqlite_store: SQLiteEventStore, change: Callable[[SQLiteEventStore], Awaitable[object]]
) -> None:
    (before,) = await sqlite_store.append("a", [event("before")])
    await sqlite_store._writer.execute("PRAGMA query_only = ON")
    await sqlite_store.check_writable()  # nobody has noticed yet
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="readonly"):
            await change(sqlite_store)
        with pytest.raises(StoreUnavailable, match="readonly"):
            await sqlite_store.check_writable()
    assert await sqlite_store.read_all() == (before,)
    await sqlite_store.verify()
    await sqlite_store._writer.execute("PRAGMA query_only = OFF")
    await sqlite_store.check_writable()
    assert await sqlite_store.head() == Head(1, before.hash), "the attempt had no effect"
    await change(sqlite_store)


async def test_a_log_that_may_not_grow_is_told_and_goes_on_when_it_may(
    sqlite_store: SQLiteEventStore,
) -> None:
    await sqlite_store.append("a", [event("before")])
    ((pages,),) = await sqlite_store._writer.execute_fetchall("PRAGMA page_count")
    await sqlite_store._writer.execute_fetchall(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFull):
        await sqlite_store.append("a", [event("y" * 100_000)])
    await sqlite_store.append("a", [event("there is room for that")])
    await sqlite_store._writer.execute_fetchall("PRAGMA max_page_count = 1000000")
    (after,) = await sqlite_store.append("a", [event("z" * 100_000)])
    assert after.position == 3
    assert (await sqlite_store.verify()).head.position == 3


READS: dict[str, Callable[[SQLiteEventStore], Awaitable[object]]] = {
    "read_all": lambda store: store.read_all(),
    "read_stream": lambda store: store.read_stream("b"),  # which nobody remembers
    "subscribe": lambda store: anext(aiter(store.subscribe(after=0))),
    "verify": lambda store: store.verify(),
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
async def test_what_cannot_be_read_is_told_and_reading_recovers_by_itself(
    sqlite_store: SQLiteEventStore, read: Callable[[SQLiteEventStore], Awaitable[object]]
) -> None:
    await sqlite_store.append("a", [event()])
    await sqlite_store._reader.set_authorizer(refusing(sqlite3.SQLITE_SELECT))
    with pytest.raises(StoreUnavailable, match="the log cannot be read: not authorized"):
        await read(sqlite_store)
    await sqlite_store._reader.set_authorizer(None)
    await read(sqlite_store)


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
async def test_a_closed_store_is_not_read(
    sqlite_store: SQLiteEventStore, read: Callable[[SQLiteEventStore], Awaitable[object]]
) -> None:
    await sqlite_store.append("a", [event()])
    await sqlite_store.close()
    with pytest.raises((StoreClosed, StopAsyncIteration)):
        await read(sqlite_store)


async def test_a_log_is_locked_under_all_its_names(sqlite_store: SQLiteEventStore, tmp_path: Path) -> None:
    (tmp_path / "alias.db").symlink_to(tmp_path / "events.db")
    with pytest.raises(StoreLocked):
        await SQLiteEventStore.open(tmp_path / "alias.db")
