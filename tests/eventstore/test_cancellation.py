"""Callers that are cancelled wherever their change has got to, and loops that end under a store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from eventstore import RecordedEvent, SQLiteEventStore, StoreClosed, StoreUnavailable
from eventstore import _failpoints as failpoint
from tests.eventstore.support import Hold, events, payloads


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteEventStore]:
    store = await SQLiteEventStore.open(path)
    await store.append("old", events("old"))
    yield store
    await store.close()


AFTER_ACKNOWLEDGE = "after acknowledge"
"""When the answer is given, but its caller has not come to take it."""


@pytest.mark.parametrize("place", [*failpoint.NAMES, AFTER_ACKNOWLEDGE])
async def test_a_cancelled_append_can_be_repeated_and_harms_no_neighbour(
    store: SQLiteEventStore, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def cancel() -> None:
        victim.add_done_callback(hold.release)
        victim.cancel()
        neighbours.append(asyncio.create_task(store.append("d", events("waits meanwhile"))))

    hold = Hold(place, cancel)
    if place == AFTER_ACKNOWLEDGE:
        hold = Hold(failpoint.BEFORE_ACKNOWLEDGE, lambda: asyncio.get_running_loop().call_soon(cancel))
    monkeypatch.setattr(failpoint, "reached", hold)
    batch = events("one", "two", "three")
    neighbours = [asyncio.create_task(store.append("b", events("before"), expected=0))]
    victim = asyncio.create_task(store.append("a", batch, expected=0))
    neighbours.append(asyncio.create_task(store.append("c", events("after"), expected=0)))
    with pytest.raises(asyncio.CancelledError):
        await victim
    recorded = await store.append("a", batch, expected=0)
    done = await asyncio.gather(*neighbours)
    assert [payloads(appended) for appended in done] == [["before"], ["after"], ["waits meanwhile"]]
    log = await store.read_all()
    assert {*recorded, *(event for appended in done for event in appended)} == {*log[1:]}
    assert len(log) == 7
    await store.verify()


CHANGES = {
    "erase": (
        lambda store: store.erase("gone", reason=""),
        ["BEGIN", "SELECT", "UPDATE event", "INSERT", "COMMIT", "PRAGMA wal_checkpoint"],
    ),
    "prune": (
        lambda store: store.prune(3, ended_by={"Ended"}, reason=""),
        ["BEGIN", "CREATE TEMP", "INSERT INTO event", "INSERT INTO anchor", "DELETE FROM event", "COMMIT",
            "VACUUM", "PRAGMA application_id = 0", "PRAGMA wal_checkpoint"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "statement"), [(name, begin) for name, (_, begins) in CHANGES.items() for begin in begins]
)
async def test_a_cancelled_erasure_or_pruning_is_done_or_not_and_can_be_repeated(
    store: SQLiteEventStore, path: Path, change: str, statement: str
) -> None:
    def cancel() -> None:
        victim.add_done_callback(hold.release)
        victim.cancel()

    await store.append("gone", [*events("marker one"), *events("marker two", type="Ended")])
    hold = Hold(statement, cancel)
    await store._writer.set_trace_callback(lambda sql: hold(sql.lstrip()))
    before = asyncio.create_task(store.append("b", events("before")))
    victim = asyncio.create_task(CHANGES[change][0](store))
    after = asyncio.create_task(store.append("c", events("after")))
    with pytest.raises(asyncio.CancelledError):
        await victim
    await asyncio.gather(before, after)
    assert hold.reached.is_set(), "there is such a statement"
    assert (await store.verify()).head == await store.head()
    assert not any(event.data for event in await store.read_stream("gone") if not event.type.startswith("$"))
    await (store.erase("old", reason="") if change == "prune" else CHANGES[change][0](store))
    assert not any(b"marker" in file.read_bytes() for file in path.parent.iterdir())
    assert payloads(await store.read_stream("b") + await store.read_stream("c")) == ["before", "after"]


@pytest.mark.parametrize("place", [failpoint.BEFORE_WRITE, failpoint.AFTER_COMMIT])
async def test_a_cancelled_close_goes_on_and_can_be_awaited_again(
    store: SQLiteEventStore, path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    hold = Hold(place, lambda: None)
    monkeypatch.setattr(failpoint, "reached", hold)
    appending = [asyncio.create_task(store.append(f"s{n}", events("accepted"))) for n in range(5)]
    await hold.reached.wait()
    appending.append(asyncio.create_task(store.append("later", events("accepted"))))
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(StoreClosed):
        await store.append("s", events("too late"))
    hold.release()
    await store.close()
    recorded = await asyncio.gather(*appending)
    assert sorted(file.name for file in path.parent.iterdir()) == ["events.db", "events.db.lock"]
    again = await SQLiteEventStore.open(path)
    assert {*(await again.read_all(after=1))} == {event for appended in recorded for event in appended}
    await again.close()


@pytest.mark.parametrize("place", failpoint.NAMES)
def test_a_loop_that_ends_under_a_store_leaves_no_caller_waiting_and_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    acknowledged: list[RecordedEvent] = []
    ended: list[int] = []
    threads = set(threading.enumerate())

    async def write(store: SQLiteEventStore, hold: Hold, number: int) -> None:
        try:
            while True:
                acknowledged.extend(await store.append(f"s{number}", events("1", "2", "3")))
        except (asyncio.CancelledError, StoreClosed):
            ended.append(number)
            hold.release()
            raise

    async def main() -> None:
        store = await SQLiteEventStore.open(path, max_batch=10)
        acknowledged.extend(await store.append("a", events("acknowledged")))
        hold = Hold(place, lambda: None)
        monkeypatch.setattr(failpoint, "reached", hold)
        writers = [asyncio.create_task(write(store, hold, number)) for number in range(25)]
        await hold.reached.wait()
        assert not any(writer.done() for writer in writers)

    asyncio.run(main())
    monkeypatch.undo()
    assert sorted(ended) == list(range(25))
    assert caplog.records == []
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
        assert not thread.is_alive()

    async def look() -> None:
        store = await SQLiteEventStore.open(path)
        log = await store.read_all(limit=10_000)
        assert {*acknowledged} <= {*log}
        assert len(log) % 3 == 1, "each append is whole or absent"
        await store.verify()
        await store.close()

    asyncio.run(look())


async def test_a_clock_that_fails_leaves_no_caller_waiting_and_the_store_outlives_it(path: Path) -> None:
    def now() -> datetime:
        if broken:
            raise RuntimeError("no time")
        return datetime(2026, 1, 1, tzinfo=UTC)

    broken = False
    store = await SQLiteEventStore.open(path, now=now, max_batch=2)
    (before,) = await store.append("a", events("before"))
    broken = True
    appending = (store.append("a", events(f"{number}")) for number in range(3))
    outcomes = await asyncio.gather(*appending, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    assert all("no time" in str(outcome) for outcome in outcomes)
    broken = False
    (after,) = await store.append("a", events("after"), expected=1)
    assert await store.read_all() == (before, after)
    await store.close()
