"""What the tests of event stores share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from eventstore import EventStore, NewEvent, RecordedEvent
from eventstore import _failpoints as failpoint


def events(*texts: str, type: str = "Said") -> list[NewEvent]:
    return [NewEvent(type=type, data=text.encode()) for text in texts]


def payloads(recorded: Sequence[RecordedEvent]) -> list[str]:
    return [event.data.decode() for event in recorded]


def positions(recorded: Sequence[RecordedEvent]) -> list[int]:
    return [event.position for event in recorded]


async def collected(store: EventStore, *, after: int, until: int) -> list[RecordedEvent]:
    """Return what a subscription gives up to a position, or to its end."""
    seen: list[RecordedEvent] = []
    if after >= until:
        return seen
    async for batch in store.subscribe(after=after):
        assert batch
        seen += batch
        if seen[-1].position >= until:
            return seen
    return seen


class Hold:
    """Stops whoever comes to a place first, has ``then`` called in the loop, and waits for the `release`."""

    def __init__(self, place: str, then: Callable[[], object]) -> None:
        self._place, self._then = place, then
        self._loop = asyncio.get_running_loop()
        self._released = threading.Event()
        self.reached = asyncio.Event()

    def __call__(self, place: str) -> None:
        if not place.startswith(self._place) or self.reached.is_set():
            return
        if place == failpoint.BEFORE_ACKNOWLEDGE:  # which is passed in the loop
            self._act()
        else:
            self._loop.call_soon_threadsafe(self._act)
            assert self._released.wait(60)

    def _act(self) -> None:
        self.reached.set()
        self._then()

    def release(self, *_: object) -> None:
        self._released.set()
