"""The store on disk against the one in memory: whatever is done, both answer alike and hold the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from eventstore import (
    EventStore,
    EventStoreError,
    Head,
    MemoryEventStore,
    Metadata,
    NewEvent,
    Pruned,
    RecordedEvent,
    SQLiteEventLog,
    SQLiteEventStore,
    Verified,
)
from tests.eventstore.support import collected
from tests.harness import ManualClock

STREAMS = st.sampled_from(["a", "b", "c", "d"])
IDS = st.integers(0, 25)
"""Few, so that many come again."""
ENDS = st.sets(st.sampled_from(["Said", "Ended", "$erased", "$pruned"]))
APPENDS = st.tuples(
    STREAMS,
    st.lists(st.tuples(IDS, st.sampled_from(["Said", "Ended"])), max_size=3),
    st.none() | st.integers(0, 6),
)
Do = Callable[[EventStore, int], Coroutine[Any, Any, Any]]


class Twins(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._directory = TemporaryDirectory()
        self._clock = ManualClock()
        self._heads: list[tuple[Head, Head]] = []
        """What the heads were once, in memory and on disk."""
        self._memory = MemoryEventStore(self._clock.now)
        self._open()

    def teardown(self) -> None:
        self._runner.run(self._sqlite.close())
        self._runner.close()
        self._directory.cleanup()

    @rule(appends=st.lists(APPENDS, min_size=1, max_size=6))
    def append_at_once(self, appends: list[tuple[str, list[tuple[int, str]], int | None]]) -> None:
        async def append(store: EventStore, _: int) -> object:
            requests = [
                store.append(
                    stream,
                    [
                        NewEvent(id=f"id-{n}", type=type_, data=b"%d" % n, metadata=Metadata(actor=str(n)))
                        for n, type_ in events
                    ],
                    expected=expected,
                )
                for stream, events, expected in appends
            ]
            return await asyncio.gather(*requests, return_exceptions=True)

        self._both(append)

    @rule(stream=STREAMS, reason=st.text("xy", max_size=3))
    def erase(self, stream: str, reason: str) -> None:
        self._both(lambda store, _: store.erase(stream, reason=reason, metadata=Metadata(actor="eve")))

    @rule(back=st.integers(-1, 20), ended_by=ENDS)
    def prune(self, back: int, ended_by: set[str]) -> None:
        through = self._head() - back
        self._both(lambda store, _: store.prune(through, ended_by=ended_by, reason="old", checkpoint="note"))

    @rule(seconds=st.integers(-100, 100))
    def let_the_clock_jump(self, seconds: int) -> None:
        self._clock.advance(seconds=seconds)

    @rule()
    def reopen(self) -> None:
        self._runner.run(self._sqlite.close())
        self._open()

    @rule()
    def remember_the_head(self) -> None:
        self._heads.append((self._runner.run(self._memory.head()), self._runner.run(self._sqlite.head())))

    @rule(back=st.integers(-1, 20), limit=st.integers(1, 10))
    def read_a_page(self, back: int, limit: int) -> None:
        after = max(0, self._head() - back)
        self._both(lambda store, _: store.read_all(after=after, limit=limit))

    @rule(stream=STREAMS, after=st.integers(0, 8))
    def read_a_stream(self, stream: str, after: int) -> None:
        self._both(lambda store, _: store.read_stream(stream, after=after))

    @rule(back=st.integers(0, 20))
    def subscribe(self, back: int) -> None:
        head = self._head()
        self._both(lambda store, _: collected(store, after=max(0, head - back), until=head))

    @rule(beside=st.booleans(), forged=st.none() | st.integers(0, 40))
    def verify(self, beside: bool, forged: int | None) -> None:
        async def verified(store: EventStore, index: int) -> object:
            contains = [pair[index] for pair in self._heads]
            if forged is not None:
                contains.append(Head(forged, b"\1" * 32))
            if not beside or index == 0:
                return await store.verify(contains=contains)
            log = await SQLiteEventLog.read(self._path)
            try:
                return await log.verify(contains=contains)
            finally:
                await log.close()

        self._both(verified)

    @invariant()
    def both_hold_the_same(self) -> None:
        self._both(lambda store, _: store.read_all(limit=10_000))
        self._both(lambda store, _: store.head())

    @property
    def _path(self) -> Path:
        return Path(self._directory.name) / "events.db"

    def _open(self) -> None:
        self._sqlite = self._runner.run(SQLiteEventStore.open(self._path, now=self._clock.now))

    def _head(self) -> int:
        return self._runner.run(self._memory.head()).position

    def _both(self, do: Do) -> None:
        """Do the same to both, and compare what comes of it."""

        async def outcome(store: EventStore, index: int) -> object:
            try:
                return _shape(await do(store, index))
            except (EventStoreError, ValueError) as error:
                return _shape(error)

        stores = (self._memory, self._sqlite)
        in_memory, on_disk = (self._runner.run(outcome(store, n)) for n, store in enumerate(stores))
        assert in_memory == on_disk


def _shape(outcome: object) -> object:
    """Return all of an outcome but salts and ids that the store chose, and what follows from them."""
    if isinstance(outcome, Head):
        return outcome.position
    if isinstance(outcome, Verified):
        pruning = outcome.pruning and msgspec.structs.replace(outcome.pruning, hash="")
        return outcome._replace(head=Head(outcome.head.position, b""), pruning=pruning)
    if isinstance(outcome, list | tuple):
        return [_shape(item) for item in outcome]
    if isinstance(outcome, RecordedEvent):
        changes: dict[str, Any] = {"salt": b"", "digest": b"", "hash": b""}
        if outcome.type.startswith("$"):
            changes["id"] = ""
        if outcome.type == Pruned.type:
            note = msgspec.structs.replace(msgspec.json.decode(outcome.data, type=Pruned), hash="")
            changes["data"] = msgspec.json.encode(note)
        return msgspec.structs.replace(outcome, **changes), outcome.erased
    assert isinstance(outcome, Exception), outcome
    return type(outcome), str(outcome)


def test_whatever_is_done_to_it_the_store_on_disk_fares_as_the_one_in_memory() -> None:
    run_state_machine_as_test(
        Twins,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
