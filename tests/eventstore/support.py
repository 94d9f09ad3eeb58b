"""What the tests of event stores share."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore import EventStore, NewEvent, RecordedEvent


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
