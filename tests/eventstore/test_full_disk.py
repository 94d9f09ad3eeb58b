"""A disk with no room left: a real one, two megabytes in memory. Where nothing may be mounted, no tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from eventstore import (
    EventStore,
    NewEvent,
    RecordedEvent,
    SQLiteEventLog,
    SQLiteEventStore,
    StoreFull,
    StoreUnavailable,
)
from tests.disks import Disk, mounted
from tests.eventstore.support import events


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", 2 << 20) as disk:
        yield disk


@pytest.fixture
async def store(disk: Disk) -> AsyncIterator[SQLiteEventStore]:
    store = await SQLiteEventStore.open(disk.path / "events.db")
    await store.append("before", events("before"))
    yield store
    await store.close()


def large() -> list[NewEvent]:
    return [NewEvent(type="Said", data=b"x" * 20_000)]


async def log_of(store: EventStore) -> tuple[RecordedEvent, ...]:
    return await store.read_all(limit=10_000)


async def test_a_full_disk_is_told_nothing_acknowledged_is_lost_and_reading_goes_on(
    store: SQLiteEventStore, disk: Disk
) -> None:
    (before,) = await log_of(store)
    disk.fill(leave=300_000)
    outcomes = await asyncio.gather(
        *(store.append(f"s{n}", large()) for n in range(100)), return_exceptions=True
    )
    outcomes += [await _outcome(store.append(f"t{n}", large())) for n in range(100)]
    acknowledged = [event for outcome in outcomes if isinstance(outcome, tuple) for event in outcome]
    refused = [outcome for outcome in outcomes if not isinstance(outcome, tuple)]
    assert acknowledged
    assert refused
    assert {type(outcome) for outcome in refused} == {StoreFull}
    assert await log_of(store) == (before, *acknowledged)
    assert await store.read_stream("before") == (before,)
    assert (await store.verify()).events == 1 + len(acknowledged)
    beside = await SQLiteEventLog.read(disk.path / "events.db")
    assert await log_of(beside) == (before, *acknowledged)
    await beside.close()
    disk.empty()
    acknowledged += await store.append("after", large())
    await store.close()
    again = await SQLiteEventStore.open(disk.path / "events.db")
    assert await log_of(again) == (before, *acknowledged)
    await again.verify()
    await again.close()


async def _outcome(appending: Awaitable[object]) -> object:
    (outcome,) = await asyncio.gather(appending, return_exceptions=True)
    return outcome


async def test_a_log_that_has_filled_the_disk_is_writable_again_as_soon_as_there_is_room(
    store: SQLiteEventStore, disk: Disk
) -> None:
    disk.fill()
    await store.check_writable()  # nobody has noticed yet
    for _ in range(3):
        with pytest.raises(StoreFull):
            await store.append("a", large())
        with pytest.raises(StoreFull):
            await store.check_writable()
    disk.empty()
    await store.check_writable()
    assert (await store.head()).position == 1, "to check is of no effect"
    await store.append("a", large())


async def test_a_copy_that_has_filled_the_disk_is_not_taken_for_whole_when_there_is_room(
    store: SQLiteEventStore, disk: Disk
) -> None:
    await store._mark(under_way=True)
    disk.fill()
    with pytest.raises(StoreFull):
        await store.append("a", large())
    disk.empty()
    await store.check_writable()
    await store.close()
    with pytest.raises(StoreUnavailable, match="a copy to here was begun"):
        await SQLiteEventStore.open(disk.path / "events.db")


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.erase("before", reason=""),
        lambda store: store.prune(1, ended_by={"Said"}, reason=""),
    ],
    ids=["erase", "prune"],
)
async def test_what_there_is_no_room_for_is_not_erased_or_pruned(
    store: SQLiteEventStore, disk: Disk, change: Callable[[EventStore], Awaitable[RecordedEvent]]
) -> None:
    before = await log_of(store)
    disk.fill()
    with pytest.raises(StoreFull):
        await change(store)
    assert await log_of(store) == before
    disk.empty()
    assert (await change(store)).position == 2
    await store.verify()


async def test_a_pruning_with_no_room_to_give_room_back_is_done_and_can_be_repeated(
    store: SQLiteEventStore, disk: Disk
) -> None:
    await store.append("kept", [NewEvent(type="Kept", data=bytes(400_000))])
    await store.append("before", large())
    disk.fill(leave=200_000)
    with pytest.raises(StoreFull, match="it is done, but older pages are left on disk: repeat it"):
        await store.prune(3, ended_by={"Said"}, reason="")
    assert (await store.head()).position == 4
    assert [event.position for event in await log_of(store)] == [2, 4]
    await store.verify()
    disk.empty()
    await store.prune(4, ended_by={"Said"}, reason="")
    assert sum(file.stat().st_size for file in disk.path.iterdir()) < 500_000
    await store.verify()


@pytest.mark.parametrize("there", ["nothing", "a lock", "a log"])
async def test_a_store_that_cannot_be_opened_for_want_of_room_can_be_when_there_is(
    disk: Disk, there: str
) -> None:
    path = disk.path / "events.db"
    if there == "a lock":
        path.with_name("events.db.lock").touch()
    if there == "a log":
        store = await SQLiteEventStore.open(path)
        await store.append("before", events("before"))
        await store.close()
        path.with_name("events.db.lock").unlink()
    disk.fill()
    for _ in range(2):
        with pytest.raises(StoreUnavailable if there == "a log" else StoreFull):
            await SQLiteEventStore.open(path)
    disk.empty()
    store = await SQLiteEventStore.open(path)
    assert len(await log_of(store)) == (there == "a log")
    await store.append("after", events("after"))
    await store.close()
