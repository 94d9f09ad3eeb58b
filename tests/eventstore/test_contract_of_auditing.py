"""What every event store promises to auditors: erasing, pruning, verifying."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from hashlib import sha256

import msgspec
import pytest

import eventstore._following
from eventstore import (
    ChainBroken,
    Erased,
    EventStore,
    Head,
    Metadata,
    NewEvent,
    PositionPruned,
    Pruned,
    RecordedEvent,
    StoreClosed,
    StreamNotFound,
    VersionConflict,
)
from tests.eventstore.support import collected, events, payloads, positions
from tests.harness import ManualClock

ADA = Metadata(actor="ada")
ENDED = {"Ended"}


def secret(text: str, type: str = "Said") -> NewEvent:
    return NewEvent(type=type, data=text.encode(), metadata=Metadata(actor="eve", client="192.0.2.1"))


def ended(*texts: str) -> list[NewEvent]:
    """Return events of which the last one ends its stream."""
    return [*events(*texts[:-1]), *events(texts[-1], type="Ended")]


async def prune(store: EventStore, through: int, **options: object) -> Pruned:
    event = await store.prune(through, **{"ended_by": ENDED, "reason": "old", **options})  # type: ignore[arg-type]
    return msgspec.json.decode(event.data, type=Pruned)


async def everything(store: EventStore) -> tuple[RecordedEvent, ...]:
    return await store.read_all(limit=1_000_000)


# Erasing


async def test_what_is_erased_is_gone_from_all_that_is_read_and_all_else_stays(store: EventStore) -> None:
    before = await store.append("a", [secret("one"), secret("two")])
    await store.erase("a", reason="asked to")
    read = await store.read_stream("a")
    assert read == await everything(store) == tuple(await collected(store, after=0, until=3))
    for was, event in zip(before, read, strict=False):
        assert event.erased
        assert event.about == Metadata()
        assert event == msgspec.structs.replace(was, metadata=b"", salt=b"", data=b"")


async def test_the_log_says_what_was_erased_who_did_it_and_why(
    store: EventStore, clock: ManualClock
) -> None:  # fmt: skip
    await store.append("a", [secret("one"), secret("two")])
    clock.advance(seconds=5)
    event = await store.erase("a", reason="asked to", metadata=ADA)
    assert event == (await everything(store))[-1]
    assert (event.type, event.stream, event.version) == ("$erased", "a", 3)
    assert msgspec.json.decode(event.data, type=Erased) == Erased(reason="asked to", through=2)
    assert event.about == ADA
    assert event.recorded_at == clock.now()
    assert await store.head() == Head(event.position, event.hash)


async def test_other_streams_are_as_they_were(store: EventStore) -> None:
    await asyncio.gather(*(store.append(f"s{n}", [secret("x"), secret("y")]) for n in range(5)))
    others = [event for event in await everything(store) if event.stream != "s2"]
    await store.erase("s2", reason="")
    assert [event for event in await everything(store) if event.stream != "s2"] == others
    assert not any(event.erased for event in others)


async def test_the_chain_holds_over_what_was_erased(store: EventStore) -> None:
    for number in range(6):
        await store.append(f"s{number % 2}", [secret("x"), secret("")])
    before = await store.head()
    event = await store.erase("s1", reason="")
    verified = await store.verify(contains=[before])
    assert verified.head == Head(event.position, event.hash)
    assert (verified.events, verified.erased, verified.pruned) == (13, 6, 0)


async def test_a_subscriber_who_waits_learns_of_an_erasure(store: EventStore) -> None:
    await store.append("a", [secret("x")])
    waiting = asyncio.create_task(collected(store, after=1, until=2))
    await asyncio.sleep(0)
    event = await store.erase("a", reason="")
    assert await waiting == [event]


async def test_erasing_again_erases_what_came_since_and_leaves_what_was_said_of_it(store: EventStore) -> None:
    await store.append("a", [secret("x")])
    await store.erase("a", reason="first", metadata=ADA)
    await store.append("a", [secret("y")], expected=2)
    await store.erase("a", reason="second")
    await store.erase("a", reason="third")
    one, first, two, second, third = await store.read_stream("a")
    assert one.erased
    assert two.erased
    assert first.about == ADA
    notes = [msgspec.json.decode(event.data, type=Erased) for event in (first, second, third)]
    assert [(note.reason, note.through) for note in notes] == [("first", 1), ("second", 3), ("third", 4)]
    assert (await store.verify()).erased == 2


async def test_a_stream_goes_on_after_it_was_erased(store: EventStore) -> None:
    await store.append("a", [secret("x")])
    await store.erase("a", reason="")
    with pytest.raises(VersionConflict):
        await store.append("a", events("late"), expected=1)
    await store.append("a", events("next"), expected=2)
    assert payloads(await store.read_stream("a", after=2)) == ["next"]
    assert (await store.verify()).erased == 1


async def test_ids_of_erased_events_are_known_still(store: EventStore) -> None:
    batch = [secret("x"), secret("y")]
    await store.append("a", batch)
    await store.erase("a", reason="")
    again = await store.append("a", batch)
    assert again == (await store.read_stream("a"))[:2]
    assert all(event.erased for event in again)


async def test_an_event_of_nothing_but_zeros_is_not_taken_for_an_erased_one(store: EventStore) -> None:
    (event,) = await store.append("a", [NewEvent(type="T", data=bytes(40))])
    assert not event.erased
    assert await store.read_stream("a") == (event,)
    assert (await store.verify()).erased == 0


async def test_a_stream_that_is_not_there_cannot_be_erased(store: EventStore) -> None:
    await store.append("a", events("x"))
    with pytest.raises(StreamNotFound) as refusal:
        await store.erase("b", reason="")
    assert refusal.value.stream == "b"
    assert (await store.head()).position == 1


async def test_an_erasure_that_cannot_be_put_on_record_erases_nothing(store: EventStore) -> None:
    before = await store.append("a", [secret("x")])
    for options in ({"reason": "\ud800"}, {"reason": "", "metadata": Metadata(actor="\ud800")}):
        with pytest.raises(ValueError, match="surrogates"):
            await store.erase("a", **options)  # type: ignore[arg-type]
    assert await everything(store) == before


# Pruning


async def test_streams_that_had_ended_go_and_all_others_stay_whole(store: EventStore) -> None:
    await store.append("running", events("r1"))
    await store.append("over", events("o1"))
    await store.append("running", events("r2"))
    await store.append("over", ended("o2", "o3"))
    await store.append("later", ended("l1"))
    await store.append("revived", ended("v1"))
    through = (await store.head()).position
    await store.append("later", ended("l2"))
    await store.append("revived", events("v2"))
    stay = [event for event in await everything(store) if event.stream != "over"]
    await prune(store, through)
    assert (await everything(store))[:-1] == tuple(stay)
    assert await store.read_stream("over") == ()
    assert payloads(await store.read_stream("running")) == ["r1", "r2"]
    assert payloads(await store.read_stream("later")) == ["l1", "l2"]


def missing(*gaps: tuple[int, int]) -> str:
    """What `$pruned` says of gaps, from the words of the documentation."""
    return sha256(b"".join(struct.pack(">qq", *gap) for gap in gaps)).hexdigest()


async def test_the_log_says_what_was_pruned_who_did_it_and_why(store: EventStore) -> None:
    await store.append("running", events("r1"))
    await store.append("over", ended("o1", "o2"))
    through = await store.head()
    await store.append("running", events("r2"))
    event = await store.prune(
        through.position, ended_by=ENDED, reason="archived", checkpoint="signed", metadata=ADA
    )
    assert event == (await everything(store))[-1]
    assert (event.type, event.stream, event.version, event.position) == ("$pruned", "$log", 1, 5)
    assert msgspec.json.decode(event.data, type=Pruned) == Pruned(
        through=3, hash=through.hash.hex(), gaps=missing((2, 3)), reason="archived", checkpoint="signed"
    )
    assert event.about == ADA
    assert await store.head() == Head(event.position, event.hash)


async def test_positions_and_versions_go_on_after_a_pruning(store: EventStore) -> None:
    await store.append("running", events("1"))
    await store.append("over", ended("1"))
    await prune(store, 2)
    assert (await store.read_stream("$log"))[-1].position == 3
    (next_,) = await store.append("running", events("2"), expected=1)
    assert (next_.position, next_.version) == (4, 2)
    (again,) = await store.append("over", events("anew"), expected=0)
    assert again.position == 5
    await prune(store, 5)
    assert [event.version for event in await store.read_stream("$log")] == [1, 2]


async def _pruned(store: EventStore) -> None:
    """Make a log of 31 positions with gaps at 2-4, 7-9, … 27-29 and after 30."""
    for number in range(6):
        await store.append("running", events(f"r{number}", "r"))
        await store.append(f"over{number}", ended("1", "2", "3"))
    await prune(store, 30)


async def test_what_is_left_is_read_and_followed_over_the_gaps(store: EventStore) -> None:
    await _pruned(store)
    there = [1, 2, 6, 7, 11, 12, 16, 17, 21, 22, 26, 27, 31]
    assert positions(await everything(store)) == there
    for after in range(32):
        rest = [position for position in there if position > after]
        assert positions(await store.read_all(after=after, limit=4)) == rest[:4]
        assert positions(await collected(store, after=after, until=31)) == rest


async def test_the_chain_holds_over_the_gaps(store: EventStore) -> None:
    await _pruned(store)
    verified = await store.verify()
    assert verified[:4] == (await store.head(), 13, 0, 18)


async def test_pruning_again_takes_what_has_ended_since(store: EventStore) -> None:
    await store.append("over", ended("1"))
    await store.append("running", events("1"))
    await store.append("running too", events("1"))
    assert (await prune(store, 3)).gaps == missing((1, 1))
    assert (await prune(store, 3)).gaps == missing((1, 1))
    await store.append("running", ended("2"))
    # What runs still stays, and what is said of prunings.
    assert (await prune(store, 6)).gaps == missing((1, 2), (6, 6))
    assert positions(await everything(store)) == [3, 4, 5, 7]
    assert (await store.verify()).pruned == 3


async def test_a_log_can_be_pruned_to_its_head(store: EventStore) -> None:
    await store.append("over", ended("1", "2", "3"))
    head = await store.head()
    note = await prune(store, 3)
    assert (note.through, note.hash, note.gaps) == (3, head.hash.hex(), missing((1, 3)))
    assert positions(await everything(store)) == [4]
    verified = await store.verify(contains=[head, Head(0, bytes(32))])
    assert (verified.head.position, verified.events, verified.pruned) == (4, 1, 3)
    assert verified.pruning == note
    await store.append("over", events("anew"), expected=0)
    assert (await store.verify()).head.position == 5


async def test_appending_and_erasing_go_on_after_a_pruning(store: EventStore) -> None:
    await _pruned(store)
    await store.append("running", [secret("x")])
    await store.append("next", [secret("y")])
    await store.erase("running", reason="")
    verified = await store.verify()
    assert (verified.head.position, verified.erased, verified.pruned) == (34, 13, 18)
    assert (await store.read_stream("next"))[0].data == b"y"


async def test_what_was_erased_is_pruned_when_the_caller_takes_that_for_an_end(store: EventStore) -> None:
    await store.append("over", ended("x"))
    await store.erase("over", reason="")
    await prune(store, 2)
    assert len(await store.read_stream("over")) == 2
    await prune(store, 2, ended_by={"Ended", "$erased"})
    assert await store.read_stream("over") == ()
    assert (await store.verify())[:4] == (await store.head(), 2, 0, 2)


async def test_what_the_log_says_of_its_prunings_is_never_pruned(store: EventStore) -> None:
    await store.append("over", ended("x"))
    await prune(store, 1, ended_by={"Ended", "$pruned"})
    await store.append("over", ended("y"))
    await prune(store, 3, ended_by={"Ended", "$pruned"})
    assert positions(await store.read_stream("$log")) == [2, 4]
    await store.verify()


@pytest.mark.parametrize("through", [-1, 0, 3, 32])
async def test_a_log_cannot_be_pruned_to_where_it_has_no_event(store: EventStore, through: int) -> None:
    await _pruned(store)
    before = await everything(store)
    with pytest.raises(ValueError, match="no event at position"):
        await prune(store, through)
    assert await everything(store) == before


async def test_a_log_cannot_be_pruned_to_before_where_it_was_pruned(store: EventStore) -> None:
    """Else the last record of a pruning would not speak for all of them."""
    await store.append("running", events("1", "2"))
    await store.append("over", ended("1"))
    await prune(store, 3)
    with pytest.raises(ValueError, match="pruned up to position 3 already"):
        await prune(store, 1, ended_by={"Said"})
    assert (await store.verify()).pruned == 1


async def test_a_pruning_that_cannot_be_put_on_record_prunes_nothing(store: EventStore) -> None:
    before = await store.append("over", ended("x"))
    for options in ({"reason": "\ud800"}, {"metadata": Metadata(actor="\ud800")}):
        with pytest.raises(ValueError, match="surrogates"):
            await prune(store, 1, **options)
    assert await everything(store) == before


# Verifying


async def test_verify_tells_of_its_progress_until_all_is_checked(store: EventStore) -> None:
    for number in range(30):
        await store.append(f"s{number % 4}", events("x", "y"))
    checked: list[int] = []
    verified = await store.verify(progress=checked.append)
    assert verified == (await store.head(), 60, 0, 0, None)
    assert sum(checked) == 60
    assert all(checked)


async def test_verify_shows_that_every_earlier_head_is_still_there(store: EventStore) -> None:
    heads = [await store.head()]
    for number in range(10):
        await store.append(f"s{number % 3}", events("x", "y"))
        heads.append(await store.head())
    await store.verify(contains=heads)
    await store.verify(contains=iter(heads))


async def test_verify_finds_that_the_end_was_cut_off(store: EventStore) -> None:
    await store.append("a", events("1", "2", "3"))
    for length in (4, 5, 500):
        with pytest.raises(ChainBroken, match=f"once had {length} events") as found:
            await store.verify(contains=[Head(length, b"\1" * 32)])
        assert found.value.position == 4


async def test_verify_finds_that_the_log_was_rewritten(store: EventStore) -> None:
    recorded = await store.append("a", events("1", "2", "3"))
    sound = [Head(event.position, event.hash) for event in recorded]
    for position in (0, 1, 2, 3):
        with pytest.raises(ChainBroken, match="rewritten") as found:
            await store.verify(contains=[*sound, Head(position, b"\1" * 32)])
        assert found.value.position == position


async def test_what_was_pruned_is_proved_where_its_hash_is_kept_and_left_to_archives_elsewhere(
    store: EventStore,
) -> None:
    heads = [await store.head()]
    for number in range(3):
        await store.append("running", events(f"r{number}"))
        heads.append(await store.head())
        for text in ("1", "2", "3"):
            await store.append(f"over{number}", ended(text))
            heads.append(await store.head())
    await prune(store, 12)
    for head in heads:
        if head.position % 4 in (0, 1):  # the event itself, or the last one before it
            await store.verify(contains=[head])
            with pytest.raises(ChainBroken) as found:
                await store.verify(contains=[Head(head.position, b"\1" * 32)])
            assert found.value.position == head.position
        else:
            with pytest.raises(PositionPruned) as unknown:
                await store.verify(contains=[head])
            assert unknown.value.position == head.position


async def test_a_sound_log_is_found_sound_whatever_is_done_to_it_meanwhile(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are made small, so that much comes between them."""
    monkeypatch.setattr(eventstore._following, "_PAGE", 7)
    for number in range(100):
        await store.append(f"s{number}", ended("x", "y"))
    heads = [await store.head()]

    async def change() -> None:
        for number in range(0, 100, 2):
            await store.append("running", events("x"))
            await store.erase(f"s{number}", reason="")
            if number % 10 == 0:
                await prune(store, number + 1, ended_by={"Ended", "$erased"})
                heads.append(await store.head())

    changing = asyncio.create_task(change())
    rounds = 0
    while not changing.done():
        await store.verify(contains=heads[-1:])
        rounds += 1
        await asyncio.sleep(0)
    await changing
    assert rounds
    assert (await store.verify()).pruned > 10


# Writing at all


async def test_a_store_that_is_well_is_writable(store: EventStore) -> None:
    await store.check_writable()
    await store.append("a", events("x"))
    await store.check_writable()
    assert (await store.head()).position == 1


CHANGES: dict[str, Callable[[EventStore], Awaitable[object]]] = {
    "append": lambda store: store.append("a", events("x")),
    "erase": lambda store: store.erase("a", reason=""),
    "prune": lambda store: store.prune(1, ended_by=ENDED, reason=""),
    "settle": lambda store: store.settle(),
    "check_writable": lambda store: store.check_writable(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
async def test_a_closed_store_refuses_every_change(
    store: EventStore, change: Callable[[EventStore], Awaitable[object]]
) -> None:
    await store.append("a", events("x"))
    await store.close()
    with pytest.raises(StoreClosed):
        await change(store)
