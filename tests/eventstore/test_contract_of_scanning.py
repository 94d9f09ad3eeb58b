"""What a log that others write gives to a process that reads it from one end to the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import pytest

from eventstore import EventStore, Head, RecordedEvent, StoreUnavailable
from eventstore.scanning import LogScan, parse_place, scan_log
from tests.databases import needs_postgres
from tests.eventstore.support import events

R = TypeVar("R")
pytestmark = pytest.mark.parametrize(
    "store", ["sqlite", pytest.param("postgres", marks=needs_postgres)], indirect=True
)


async def scanned(store: EventStore, ask: Callable[[LogScan], R]) -> R:
    """Ask somebody who knows no more of the log than where it is, and does not share the event loop."""

    def look() -> R:
        with scan_log(parse_place(str(store.place))) as log:
            return ask(log)

    return await asyncio.to_thread(look)


async def filled(store: EventStore) -> list[RecordedEvent]:
    """Fill a log with streams of which one is erased and one is pruned; return what then stands in it."""
    for number in range(4):
        for stream in ("a/1", "a/2", "b/1", "c/1"):
            await store.append(stream, events(f"{stream} {number}"))
    await store.append("c/1", events("over", type="Over"))
    await store.prune(17, ended_by=["Over"], reason="archived")
    await store.erase("a/2", reason="asked for")
    return [*await store.read_all()]


async def test_the_events_are_those_of_the_log_without_what_proves_them(store: EventStore) -> None:
    log = await filled(store)
    read = await scanned(store, lambda log: [*log.read(after=2, limit=3), *log.read(after=6, limit=1000)])
    assert [event.position for event in read] == [event.position for event in log if event.position > 2]
    for event in read:
        (right,) = (other for other in log if other.position == event.position)
        assert (event.stream, event.version, event.type, event.time, event.erased, event.about) == (
            right.stream, right.version, right.type, right.time, right.erased, right.about
        )  # fmt: skip
        assert event.erased or event.data == right.data
        assert (event.id, event.digest, event.hash) == ("", b"", b"")


async def test_streams_come_whole_in_the_order_of_their_names(store: EventStore) -> None:
    await filled(store)
    found = await scanned(store, lambda log: [*log.streams("a/", "b/2", through=12)])
    assert [(events[0].stream, [event.version for event in events]) for events in found] == [
        ("a/1", [1, 2, 3]),
        ("a/2", [1, 2, 3]),
        ("b/1", [1, 2, 3]),
    ]


async def test_more_than_a_page_of_a_stream_comes_whole(store: EventStore) -> None:
    await store.append("a", events(*"x" * 2500))
    await store.append("b", events("y"))
    found = await scanned(store, lambda log: [*log.streams("", "z", through=10_000)])
    assert [(len(events), events[-1].version) for events in found] == [(2500, 2500), (1, 1)]


async def test_a_stream_and_the_last_of_each_are_as_in_the_log(store: EventStore) -> None:
    log = await filled(store)
    assert await scanned(store, lambda log: log.read_stream("b/1")) == [e for e in log if e.stream == "b/1"]
    tips = await scanned(store, lambda log: [*log.tips("a/", "z")])
    assert [(tip.stream, tip.version, tip.type) for tip in tips] == [
        ("a/1", 4, "Said"),
        ("a/2", 5, "$erased"),
        ("b/1", 4, "Said"),
    ]
    assert tips[0] == next(event for event in reversed(log) if event.stream == "a/1")


async def test_what_is_missing_and_what_stands_where_is_told(store: EventStore) -> None:
    assert await scanned(store, lambda log: (log.head(), log.missing())) == (Head(0, bytes(32)), 0)
    log = await filled(store)

    def ask(log: LogScan) -> tuple[object, ...]:
        return (
            log.head(),
            log.missing(),
            log.stream_at(3, "a/", "a/2"),
            log.stream_at(3, "a/", "b/"),
            log.stream_at(1, "x", "z"),
            log.has_any(["$erased", "Over"], after=17),
            log.has_any(["$erased", "Over"], after=log.head().position),
        )

    assert await scanned(store, ask) == (
        Head(log[-1].position, log[-1].hash), 5, "a/1", "a/1", None, True, False
    )  # fmt: skip


async def test_a_place_without_a_log_is_told_in_words(store: EventStore) -> None:
    place = parse_place(f"{store.place}x")
    with pytest.raises(StoreUnavailable, match=r"(there is no log|does not exist)"):
        await asyncio.to_thread(scan_log, place)
