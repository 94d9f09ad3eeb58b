"""A process that appends under load until it is killed. The campaign starts it, and reads what it says."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import defaultdict
from pathlib import Path

import msgspec
import uvloop

from eventstore import EventStore, NewEvent, SQLiteEventStore, VersionConflict, _failpoints
from eventstore.postgres import PostgresEventStore
from projections import Projector
from tests.crash.kills import AFTER_ACKNOWLEDGE, Kill
from uws.model import events as e

CALLERS = 64
STREAMS = 300


class Attempt(msgspec.Struct, frozen=True, tag=True):
    """A batch is going to be appended."""

    batch: str
    stream: str
    size: int

    @property
    def ids(self) -> list[str]:
        return [f"{self.batch}.{number}" for number in range(self.size)]


class Acknowledged(msgspec.Struct, frozen=True, tag=True):
    """A batch was appended: position, version, id and hash of each event."""

    batch: str
    events: list[tuple[int, int, str, str]]


class Opening(msgspec.Struct, frozen=True, tag=True):
    """The store is going to be opened."""


class Orders(msgspec.Struct, frozen=True):
    """What a process is to do: repeat what is ``left``, then end in good order, or go on until ``kill``.

    The log is in a database, where its URL is given, or else in the directory ``data``.
    """

    data: str
    url: str | None
    life: str
    seed: int
    head: int
    left: list[Attempt]
    kill: Kill | None


def tell(word: Attempt | Acknowledged | Opening) -> None:
    # Short enough to go into a pipe in one piece.
    os.write(sys.stdout.fileno(), msgspec.json.encode(word) + b"\n")


class Callers:
    """Callers of one store, who know what they last saw of each stream."""

    def __init__(self, store: EventStore, orders: Orders) -> None:
        self._store, self._orders = store, orders
        self._seen: defaultdict[str, int] = defaultdict(int)

    async def call(self, caller: int) -> None:
        """Append one batch after the other, for ever."""
        chance = random.Random(f"{self._orders.seed} {self._orders.life} {caller}")
        number = 0
        while True:
            number += 1
            attempt = Attempt(
                f"{self._orders.life}.{caller}.{number}",
                f"job/{chance.randrange(STREAMS)}",
                chance.randint(1, 5),
            )
            tell(attempt)
            await self.append(attempt)

    async def append(self, attempt: Attempt) -> None:
        """Append a batch after what was last seen of its stream, until that is right."""
        recorded = None
        while recorded is None:
            seen = self._seen[attempt.stream]
            try:
                recorded = await self._store.append(attempt.stream, _events(attempt, seen), expected=seen)
            except VersionConflict as conflict:
                self._seen[attempt.stream] = conflict.actual
        self._seen[attempt.stream] = max(seen, recorded[-1].version)
        facts = [(event.position, event.version, event.id, event.hash.hex()) for event in recorded]
        tell(Acknowledged(attempt.batch, facts))
        _failpoints.reached(AFTER_ACKNOWLEDGE)


def _events(attempt: Attempt, seen: int) -> list[NewEvent]:
    """Make payloads that can be folded: a job is created once, and each event after that changes it."""
    payloads: list[e.Event] = [e.RunIdSet(run_id=name) for name in attempt.ids]
    if seen == 0:
        payloads[0] = e.JobCreated(service="s", declaration="", execution_duration=0, destruction=None)
    return [
        NewEvent(id=name, type=type(payload).__name__, data=msgspec.json.encode(payload))
        for name, payload in zip(attempt.ids, payloads, strict=True)
    ]


async def main(orders: Orders) -> None:
    if orders.kill:
        orders.kill.arm()
    data = Path(orders.data)
    tell(Opening())
    store: EventStore
    if orders.url:
        store = await PostgresEventStore.open(orders.url)
    else:
        store = await SQLiteEventStore.open(data / "events.db")
    assert (await store.head()).position == orders.head
    projector = await Projector.open(data / "projections.db", store)
    callers = Callers(store, orders)
    async with asyncio.TaskGroup() as group:
        for attempt in orders.left:
            # One who is not sure repeats it, and one who is impatient repeats it again.
            group.create_task(callers.append(attempt))
            group.create_task(callers.append(attempt))
        if orders.kill:
            for caller in range(CALLERS):
                group.create_task(callers.call(caller))
    await projector.close()
    await store.close()


if __name__ == "__main__":
    uvloop.run(main(msgspec.json.decode(sys.argv[1], type=Orders)))
