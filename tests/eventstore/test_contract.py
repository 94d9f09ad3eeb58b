"""What every event store promises, whatever it is made of: appending, reading, following, the chain."""

from __future__ import annotations

import asyncio
import os
import random
import struct
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import (
    ChainBroken,
    Committed,
    DuplicateEventId,
    EventStore,
    EventStoreError,
    Head,
    MemoryEventStore,
    Metadata,
    NewEvent,
    RecordedEvent,
    StoreClosed,
    VersionConflict,
    chain_hash,
    from_microseconds,
    new_id,
    payload_digest,
    to_microseconds,
)
from tests.eventstore.support import collected, events, payloads
from tests.harness import ManualClock

SOON = 5.0


async def test_an_empty_log_ends_at_position_0_with_a_hash_of_zeros(store: EventStore) -> None:
    assert await store.head() == Head(0, bytes(32))
    assert await store.read_all() == ()
    assert await store.read_stream("a") == ()
    assert (await store.verify()).head == Head(0, bytes(32))


async def test_an_append_returns_what_reading_gives_back(store: EventStore) -> None:
    recorded = await store.append("a", events("one", "two"))
    assert payloads(recorded) == ["one", "two"]
    assert await store.read_stream("a") == recorded
    assert await store.read_all() == recorded
    assert await store.head() == Head(2, recorded[-1].hash)


async def test_positions_count_the_log_and_versions_the_stream_both_without_gaps(store: EventStore) -> None:
    await asyncio.gather(*(store.append(f"s{n % 3}", events("x", "y")) for n in range(30)))
    log = await store.read_all()
    assert [event.position for event in log] == list(range(1, 61))
    for stream in ("s0", "s1", "s2"):
        assert [event.version for event in await store.read_stream(stream)] == list(range(1, 21))


async def test_events_of_one_append_stand_next_to_each_other(store: EventStore) -> None:
    appended = await asyncio.gather(*(store.append("s", events("x", "y", "z")) for _ in range(20)))
    for recorded in appended:
        first = recorded[0].position
        assert [event.position for event in recorded] == [first, first + 1, first + 2]


async def test_an_append_of_nothing_changes_nothing(store: EventStore) -> None:
    assert await store.append("a", []) == ()
    assert (await store.head()).position == 0


async def test_who_observes_it_is_told_of_each_transaction_that_brought_events(store: EventStore) -> None:
    told: list[Committed] = []
    with store.observed(told.append):
        await asyncio.gather(*(store.append(f"s{n}", events("x", "y")) for n in range(10)))
        with pytest.raises(VersionConflict):
            await store.append("s0", events("x"), expected=0)
        await store.append("s0", [])
        await store.erase("s0", reason="asked for")
        await asyncio.sleep(0)
        assert sum(committed.events for committed in told) == (await store.head()).position == 21
        assert all(committed.events > 0 and 0 <= committed.seconds < 60 for committed in told)
    seen = len(told)
    await store.append("late", events("x"))
    await asyncio.sleep(0)
    assert len(told) == seen


async def test_an_observer_that_fails_keeps_nothing_from_being_appended(store: EventStore) -> None:
    def fail(_: Committed) -> None:
        raise RuntimeError("a bug")

    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, met: failures.append(str(met["exception"])))
    with store.observed(fail):
        await store.append("a", events("x"))
        assert (await store.append("a", events("y")))[0].position == 2
        await asyncio.sleep(0)
    assert failures == ["a bug", "a bug"]


async def test_reading_a_stream_can_begin_after_a_version(store: EventStore) -> None:
    await store.append("a", events("1", "2", "3"))
    await store.append("b", events("other"))
    assert payloads(await store.read_stream("a", after=1)) == ["2", "3"]
    assert await store.read_stream("a", after=3) == ()


async def test_reading_all_gives_pages_in_order(store: EventStore) -> None:
    for number in range(7):
        await store.append(f"s{number % 2}", events(str(number)))
    assert payloads(await store.read_all(limit=3)) == ["0", "1", "2"]
    assert payloads(await store.read_all(after=3, limit=3)) == ["3", "4", "5"]
    assert payloads(await store.read_all(after=6, limit=3)) == ["6"]


async def test_an_append_at_the_expected_version_succeeds(store: EventStore) -> None:
    await store.append("a", events("1"), expected=0)
    await store.append("a", events("2", "3"), expected=1)
    await store.append("a", events("4"), expected=3)
    assert payloads(await store.read_stream("a")) == ["1", "2", "3", "4"]


async def test_an_append_at_another_version_is_refused_with_both_versions(store: EventStore) -> None:
    await store.append("a", events("1", "2"))
    with pytest.raises(VersionConflict) as refusal:
        await store.append("a", events("3"), expected=1)
    assert (refusal.value.stream, refusal.value.expected, refusal.value.actual) == ("a", 1, 2)
    assert payloads(await store.read_all()) == ["1", "2"]


async def test_a_stream_that_must_not_exist_yet_is_refused_when_it_does(store: EventStore) -> None:
    await store.append("a", events("1"))
    with pytest.raises(VersionConflict):
        await store.append("a", events("again"), expected=0)


async def test_of_many_who_expect_the_same_version_one_wins(store: EventStore) -> None:
    outcomes = await asyncio.gather(
        *(store.append("a", events(str(n)), expected=0) for n in range(50)), return_exceptions=True
    )
    winners = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(winners) == 1
    assert all(isinstance(o, VersionConflict) for o in outcomes if isinstance(o, BaseException))
    assert await store.read_all() == winners[0]


async def test_a_conflict_does_not_fail_its_neighbours(store: EventStore) -> None:
    outcomes = await asyncio.gather(
        store.append("a", events("1")),
        store.append("b", events("refused"), expected=7),
        store.append("a", events("2"), expected=1),
        store.append("c", events("3")),
        return_exceptions=True,
    )
    assert [isinstance(outcome, EventStoreError) for outcome in outcomes] == [False, True, False, False]
    assert payloads(await store.read_all()) == ["1", "2", "3"]


async def test_the_same_ids_again_give_the_first_result(store: EventStore) -> None:
    batch = events("1", "2")
    first = await store.append("a", batch, expected=0)
    await store.append("a", events("3"))
    assert await store.append("a", batch, expected=0) == first
    assert payloads(await store.read_all()) == ["1", "2", "3"]


async def test_the_same_ids_at_the_same_time_are_recorded_once(store: EventStore) -> None:
    batch = events("1", "2")
    results = await asyncio.gather(*(store.append("a", batch, expected=0) for _ in range(10)))
    assert set(results) == {results[0]}
    assert payloads(await store.read_all()) == ["1", "2"]


async def test_of_repetitions_and_conflicts_at_the_same_time_each_fares_as_if_alone(
    store: EventStore,
) -> None:
    first, second, other = events("first"), events("second"), events("other")
    await store.append("a", first)
    outcomes = await asyncio.gather(
        store.append("a", first, expected=0),  # again, and by now at another version
        store.append("b", first),
        store.append("a", second, expected=1),
        store.append("a", second, expected=1),  # again, with the first of them still waiting
        store.append("a", other, expected=1),
        store.append("c", other),
        return_exceptions=True,
    )
    again, elsewhere, appended, repeated, late, neighbour = outcomes
    assert isinstance(elsewhere, DuplicateEventId)
    assert isinstance(late, VersionConflict)
    assert (late.expected, late.actual) == (1, 2)
    assert appended == repeated
    log = await store.read_all()
    assert payloads(log) == ["first", "second", "other"]
    assert [again, appended, neighbour] == [(event,) for event in log]


@given(names=st.sets(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_ids_are_any_text_and_are_known_again(store: EventStore, names: set[str]) -> None:
    stream = new_id()  # one example after the other goes into the same store
    batch = [NewEvent(type="T", data=b"", id=f"{stream}{name}") for name in names]
    recorded = await store.append(stream, batch)
    assert [event.id for event in recorded] == [event.id for event in batch]
    assert await store.append(stream, batch, expected=0) == recorded


async def test_ids_that_are_partly_repeated_are_refused(store: EventStore) -> None:
    old, new = events("1", "2")
    await store.append("a", [old])
    with pytest.raises(DuplicateEventId) as refusal:
        await store.append("a", [new, old])
    assert (refusal.value.event_id, refusal.value.stream) == (old.id, "a")
    assert payloads(await store.read_all()) == ["1"]


async def test_ids_of_another_stream_are_refused(store: EventStore) -> None:
    batch = events("1")
    await store.append("a", batch)
    with pytest.raises(DuplicateEventId) as refusal:
        await store.append("b", batch)
    assert (refusal.value.event_id, refusal.value.stream) == (batch[0].id, "a")
    assert await store.read_stream("b") == ()


REFUSED = {
    "a stream that is not UTF-8": ("\ud800", NewEvent(type="t", data=b"")),
    "a type that is not UTF-8": ("b", NewEvent(type="\ud800", data=b"")),
    "an id that is not UTF-8": ("b", NewEvent(type="t", data=b"", id="\ud800")),
    "metadata that are not UTF-8": ("b", NewEvent(type="t", data=b"", metadata=Metadata(actor="\ud800"))),
    "a stream with a NUL": ("b\0", NewEvent(type="t", data=b"")),
    "a type with a NUL": ("b", NewEvent(type="t\0", data=b"")),
    "an id with a NUL": ("b", NewEvent(type="t", data=b"", id="i\0")),
    "a type of the store's own": ("b", NewEvent(type="$erased", data=b"{}")),
    "a type that may become its own": ("b", NewEvent(type="$", data=b"{}")),
    "the store's own stream": ("$log", NewEvent(type="t", data=b"")),
}


@pytest.mark.parametrize(("stream", "event"), REFUSED.values(), ids=list(REFUSED))
async def test_names_that_cannot_be_are_refused_and_fail_no_neighbour(
    store: EventStore, stream: str, event: NewEvent
) -> None:
    outcomes = await asyncio.gather(
        store.append("a", events("before")),
        store.append(stream, [*events("with it"), event]),
        store.append("c", events("after")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], ValueError)
    assert payloads(await store.read_all()) == ["before", "after"]


async def test_an_id_twice_in_one_append_is_refused_and_fails_no_neighbour(store: EventStore) -> None:
    (event,) = events("twice")
    outcomes = await asyncio.gather(
        store.append("a", [event, event]), store.append("b", events("fine")), return_exceptions=True
    )
    assert isinstance(outcomes[0], DuplicateEventId)
    assert payloads(await store.read_all()) == ["fine"]
    await store.append("a", [event])


async def test_events_carry_the_servers_time_in_microseconds(store: EventStore, clock: ManualClock) -> None:
    clock.advance(microseconds=123_457)
    (event,) = await store.append("a", events("1"))
    assert event.recorded_at == clock.now() == datetime(2026, 1, 1, 0, 0, 0, 123_457, tzinfo=UTC)


async def test_time_never_runs_backwards_within_a_stream(store: EventStore, clock: ManualClock) -> None:
    (before,) = await store.append("a", events("1"))
    clock.advance(seconds=-60)
    (after,) = await store.append("a", events("2"))
    (other,) = await store.append("b", events("3"))
    assert after.time == before.time
    assert other.recorded_at == clock.now()


async def test_metadata_comes_back_as_it_went_in(store: EventStore) -> None:
    full = Metadata(
        actor="ada ü \U0001f52d\0", request_id="r", client="c/1", correlation_id="x", causation_id="y",
        command="c", occurred=-1, source="s", schema=3,
    )  # fmt: skip
    assert None not in msgspec.structs.astuple(full), "a field is missing here"
    recorded = await store.append(
        "a", [NewEvent(type="T", data=b"", metadata=metadata) for metadata in (full, Metadata())]
    )
    assert [event.about for event in recorded] == [full, Metadata()]
    assert [event.about for event in await store.read_all()] == [full, Metadata()]


@pytest.mark.parametrize("data", [b"", b"\0\xff'\"", "ü\U0001f52d".encode(), b"x" * 1_000_000])
async def test_payloads_are_any_bytes(store: EventStore, data: bytes) -> None:
    await store.append("a", [NewEvent(type="T", data=data)])
    (event,) = await store.read_stream("a")
    assert event.data == data


async def test_stream_names_are_any_text(store: EventStore) -> None:
    for stream in ("ü/\U0001f52d", "'; DROP TABLE event; --", 'a"b', "A", "a"):
        await store.append(stream, events(stream))
        assert payloads(await store.read_stream(stream)) == [stream]


def test_new_ids_are_unlike_all_others_and_begin_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = {new_id() for _ in range(1000)}
    after = time.time_ns() // 1_000_000
    assert len(ids) == 1000
    assert all(len(id_) == 32 and before <= int(id_[:12], 16) <= after for id_ in ids)


async def test_positions_and_hashes_are_those_of_the_events_and_of_what_was_pruned_before_one(
    store: EventStore,
) -> None:
    log = [(await store.append(stream, events("x")))[0] for stream in "abacab"]
    assert await store.positions("a") == [1, 3, 5]
    assert await store.positions("z") == []
    zero = {0: bytes(32)}
    assert await store.hashes_at([0, 2, 6, 7]) == {**zero, 2: log[1].hash, 6: log[5].hash}
    assert await store.hashes_at([]) == zero
    await store.append("b", events("over", type="Over"))
    await store.prune(7, ended_by=["Over"], reason="archived")
    assert await store.positions("b") == []
    assert await store.hashes_at([1, 2, 5, 6, 7]) == {
        **zero,
        **{position: log[position - 1].hash for position in (1, 2, 5)},
        7: (await store.hashes_at([7]))[7],
    }


# Subscriptions


async def test_every_subscriber_sees_every_event_once_in_order_wherever_it_joins(store: EventStore) -> None:
    """10^5 events from 16 writers; of 8 subscribers some join ahead, some behind, some at the head."""
    writers, appends, each = 16, 125, 50
    total = writers * appends * each
    dice = random.Random(5)
    joins = sorted(dice.choices(range(1, total), k=6))  # at the latest, when the log has so many events

    async def write(writer: int) -> None:
        for number in range(appends):
            recorded = await store.append(f"w{writer}", events(*[f"{number}"] * each))
            while joins and recorded[-1].position >= joins[0]:
                position = joins.pop(0)
                after = dice.choice([recorded[-1].position, dice.randrange(position)])
                following.append(group.create_task(follow(after)))
            await asyncio.sleep(0)  # a store that never waits would let nobody else come in between

    async def follow(after: int) -> tuple[int, bytes]:
        """Return where it joined and, as one digest, what it saw."""
        last, seen = after, sha256()
        async for batch in store.subscribe(after=after):
            for event in batch:
                last += 1
                assert event.position == last
                seen.update(event.hash + event.data)
            if last == total:
                break
        return after, seen.digest()

    async with asyncio.TaskGroup() as group:
        following = [group.create_task(follow(after)) for after in (0, total // 2)]
        for writer in range(writers):
            group.create_task(write(writer))
    assert len(following) == 8
    log = await store.read_all(limit=total + 1)
    assert [event.position for event in log] == list(range(1, total + 1))
    for after, seen in {task.result() for task in following}:
        assert seen == sha256(b"".join(event.hash + event.data for event in log[after:])).digest()


async def test_a_slow_subscriber_misses_nothing_that_comes_while_it_is_busy(store: EventStore) -> None:
    await store.append("a", events("1"))
    seen: list[str] = []
    async for batch in store.subscribe(after=0):
        seen += payloads(batch)
        if len(seen) == 1:
            await store.append("a", events("2"))
            await store.append("a", events("3"))
        if len(seen) == 3:
            break
    assert seen == ["1", "2", "3"]


async def test_a_long_log_comes_in_batches_without_a_seam(store: EventStore) -> None:
    await store.append("a", events(*map(str, range(2500))))
    assert payloads(await collected(store, after=10, until=2500)) == [str(n) for n in range(10, 2500)]


async def test_who_is_woken_does_not_share_what_was_read_before() -> None:
    class Slow(MemoryEventStore):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.goes_on = asyncio.Event(), asyncio.Event()

        @property
        def end(self) -> None:  # as that of a database, which others write, too
            return None

        async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]:
            found = await super().read_all(after=after, limit=limit)
            self.read.set()
            await self.goes_on.wait()
            return found

    store = Slow()
    before = asyncio.create_task(collected(store, after=0, until=1))
    await store.read.wait()
    await store.append("a", events("new"))
    later = asyncio.create_task(collected(store, after=0, until=1))
    await asyncio.sleep(0)
    store.goes_on.set()
    async with asyncio.timeout(SOON):
        assert payloads(await before) == payloads(await later) == ["new"]
    await store.close()


async def test_subscriptions_end_when_the_store_is_closed(store: EventStore) -> None:
    await store.append("a", events("1"))
    waiting = asyncio.create_task(collected(store, after=1, until=99))
    behind = asyncio.create_task(collected(store, after=0, until=99))
    while not behind.done() and not waiting.done():
        await store.close()
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await waiting == []
        await behind


async def test_a_closed_store_takes_nothing_and_may_be_closed_again(store: EventStore) -> None:
    await store.close()
    with pytest.raises(StoreClosed):
        await store.append("a", events("1"))
    await store.close()


async def test_closing_commits_what_was_accepted(store: EventStore) -> None:
    appending = [asyncio.create_task(store.append("a", events(str(n)))) for n in range(20)]
    await asyncio.sleep(0)
    await store.close()
    recorded = await asyncio.gather(*appending)
    assert [event.version for (event,) in recorded] == list(range(1, 21))


async def test_a_cancelled_append_is_whole_or_absent_and_can_be_repeated(store: EventStore) -> None:
    batches = [events(f"{n}a", f"{n}b", f"{n}c") for n in range(40)]
    for number, batch in enumerate(batches):
        task = asyncio.create_task(store.append("a", batch))
        for _ in range(number % 8):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(await store.read_stream("a")) % 3 == 0
    for batch in batches:
        assert payloads(await store.append("a", batch)) == [event.data.decode() for event in batch]
    assert len(await store.read_all()) == 3 * len(batches)
    await store.verify()


# The chain


async def test_the_chain_is_what_the_documentation_says(store: EventStore) -> None:
    """Recomputed from the documented form, with nothing of the package's own."""
    await store.append("a", events("1", "2"))
    await store.append("ü", [NewEvent(type="T", data=b"\0", metadata=Metadata(actor="ada", schema=2))])
    previous = bytes(32)
    for event in await store.read_all():
        fields = [
            previous,
            event.position.to_bytes(8, "big"),
            event.version.to_bytes(8, "big"),
            event.time.to_bytes(8, "big"),
            sha256(_with_lengths(event.salt, event.metadata, event.data)).digest(),
            event.stream.encode(),
            event.id.encode(),
            event.type.encode(),
        ]
        assert event.digest == fields[4]
        previous = sha256(_with_lengths(*fields)).digest()
        assert event.hash == previous
    assert (await store.head()).hash == previous


def _with_lengths(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">Q", len(field)) + field for field in fields)


async def test_equal_payloads_have_different_salts_and_digests(store: EventStore) -> None:
    first, second = await store.append("a", events("same", "same"))
    assert first.salt != second.salt
    assert first.digest != second.digest
    assert len(first.salt) == 16


def test_the_digest_tells_salt_metadata_and_payload_apart() -> None:
    salt = bytes(16)
    assert payload_digest(salt, b"ab", b"c") != payload_digest(salt, b"a", b"bc")
    assert payload_digest(salt, b"", b"abc") != payload_digest(salt, b"abc", b"")


async def test_every_field_is_covered_by_the_hash(store: EventStore) -> None:
    (event,) = await store.append("a", events("1"))
    previous = bytes(32)
    assert chain_hash(previous, event) == event.hash
    changes = {
        "position": 2, "stream": "b", "version": 2, "id": "x", "type": "y", "time": 0, "digest": bytes(32),
    }  # fmt: skip
    for field, value in changes.items():
        assert chain_hash(previous, msgspec.structs.replace(event, **{field: value})) != event.hash, field
    assert chain_hash(b"\1" * 32, event) != event.hash


def test_chain_broken_names_position_and_reason() -> None:
    error = ChainBroken(7, "gone")
    assert (error.position, error.reason, str(error)) == (7, "gone", "position 7: gone")


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)))
def test_microseconds_are_exact(naive: datetime) -> None:
    time = naive.replace(tzinfo=UTC)
    micros = to_microseconds(time)
    assert from_microseconds(micros) == time
    assert from_microseconds(micros + 1) == time + timedelta(microseconds=1)


async def test_an_event_is_found_by_its_id(store: EventStore) -> None:
    _, second = await store.append("a", events("1", "2"))
    assert await store.read_event(second.id) == second
    assert await store.read_event("another") is None


@pytest.mark.parametrize("data", ["text", None, bytes((1 << 26) + 1)], ids=["text", "nothing", "too large"])
async def test_what_can_be_no_payload_is_refused_and_its_neighbours_are_not(
    store: EventStore, data: object
) -> None:
    outcomes = await asyncio.gather(
        store.append("a", [NewEvent(type="Said", data=data)]),  # type: ignore[arg-type]
        store.append("b", events("1")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], ValueError)
    assert str(outcomes[0]) == "the payload of a Said is not bytes, 67108864 at most"
    assert isinstance(outcomes[1], tuple)
    await store.check_writable()


async def test_the_size_of_a_log_grows_with_what_it_holds(store: EventStore) -> None:
    await store.append("job/1", events("a"))
    small = await store.size()
    await store.append("job/2", events(*(os.urandom(5_000).hex() for _ in range(20))))
    assert await store.size() - small > 100_000
