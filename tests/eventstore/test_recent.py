"""Streams that are remembered are what the log says, or are not remembered."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore import NewEvent, RecordedEvent, SQLiteEventStore, StoreUnavailable
from eventstore._recent import RecentEvents, RecentStreams

STREAMS = "abcd"
ROOM = 6_000


def new() -> NewEvent:
    return NewEvent(type="E", data=b"{}")


def recorded(stream: str, version: int, size: int) -> RecordedEvent:
    return RecordedEvent(1, stream, version, f"{stream}{version}", "E", 0, b"{}", b"s", bytes(size), b"", b"")


@given(st.lists(st.tuples(st.sampled_from(STREAMS), st.integers(0, 3000), st.booleans())))
def test_a_remembered_stream_is_whole_and_all_of_them_find_room(
    steps: list[tuple[str, int, bool]],
) -> None:
    recent, log = RecentStreams(ROOM), defaultdict[str, tuple[RecordedEvent, ...]](tuple)
    for stream, size, read in steps:
        if read:
            recent.put(stream, log[stream])
        else:
            new = recorded(stream, len(log[stream]) + 1, size)
            log[stream] += (new,)
            recent.appended([new])
        known = {name: found for name in STREAMS if (found := recent.get(name))}
        assert all(found == log[name] for name, found in known.items())
        assert sum(len(one.data) + 1000 for found in known.values() for one in found) <= ROOM


def test_who_was_not_asked_for_the_longest_goes_first() -> None:
    recent = RecentStreams(ROOM)
    for stream in "abc":
        recent.put(stream, (recorded(stream, 1, 500),))
    assert recent.get("a")
    recent.put("d", (recorded("d", 1, 500),))
    assert [stream for stream in STREAMS if recent.get(stream)] == ["a", "c", "d"]


async def test_a_stream_that_was_written_is_read_without_the_file(sqlite_store: SQLiteEventStore) -> None:
    first = await sqlite_store.append("a", [new(), new()])
    await sqlite_store._reader.close()
    assert await sqlite_store.read_stream("a") == first
    assert await sqlite_store.read_stream("a", after=1) == first[1:]


async def test_what_is_appended_again_leaves_a_stream_as_it_is(tmp_path: Path) -> None:
    """The first append of a stream that is longer by now, which nobody remembers."""
    first, second = new(), new()
    store = await SQLiteEventStore.open(tmp_path / "events.db")
    await store.append("a", [first], expected=0)
    both = (*await store.read_stream("a"), *await store.append("a", [second]))
    await store.close()
    store = await SQLiteEventStore.open(tmp_path / "events.db")
    assert await store.append("a", [first], expected=0) == both[:1]
    assert await store.read_stream("a") == both
    await store.close()


async def test_a_commit_that_fails_lets_its_streams_be_read_anew(sqlite_store: SQLiteEventStore) -> None:
    """Nobody knows what came of it."""
    (first,) = await sqlite_store.append("a", [new()])
    await sqlite_store._writer.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable):
        await sqlite_store.append("a", [new()])
    assert sqlite_store._recent.get("a") is None
    assert await sqlite_store.read_stream("a") == (first,)
    await sqlite_store._writer.execute("PRAGMA query_only = OFF")


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 2500)), min_size=1), st.integers(0, 30))
def test_what_is_given_of_the_last_events_is_all_that_the_log_has_there_or_nothing(
    steps: list[tuple[int, int]], after: int
) -> None:
    """Some were written by another way, and are not among those that are remembered."""
    recent, log = RecentEvents(ROOM), list[RecordedEvent]()
    for step, size in steps:
        position = (log[-1].position if log else 0) + step
        log.append(replace(recorded("a", 1, size), position=position))
        recent.appended(log[-1:])
    end = log[-1].position
    assert recent.behind(after, end + 1) == ()
    assert recent.behind(end - 1, end) == (log[-1],)
    if known := recent.behind(after, end):
        assert known == tuple(event for event in log if event.position > after)
        assert len(known) == end - after
        assert sum(len(event.data) + 1000 for event in known) <= ROOM


async def test_who_follows_is_given_what_was_just_written_without_the_file(
    sqlite_store: SQLiteEventStore,
) -> None:
    following = aiter(sqlite_store.subscribe(after=0))
    coming = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    first = await sqlite_store.append("a", [new(), new()])
    assert await coming == first
    await sqlite_store._reader.close()
    second = await sqlite_store.append("b", [new()])
    assert await anext(following) == second


async def test_what_was_erased_is_given_to_nobody_who_follows(sqlite_store: SQLiteEventStore) -> None:
    following = aiter(sqlite_store.subscribe(after=0))
    coming = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    await sqlite_store.append("other", [new()])
    await coming
    await sqlite_store.append("a", [NewEvent(type="E", data=b'"a secret"')])
    await sqlite_store.erase("a", reason="as asked")
    assert all(b"secret" not in event.data for event in await anext(following))
