"""An event store that lives as long as its process: for tests and for trying things out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from ._chain import EMPTY, Tip, checked, seal
from ._errors import EventStoreError, StoreClosed
from ._following import Following
from ._types import Head, NewEvent, RecordedEvent, to_microseconds


class MemoryEventStore(Following):
    """The `EventStore` contract over plain lists. ``now`` gives the time of events, aware and in UTC."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__()
        self._now = now
        self._events: list[RecordedEvent] = []
        self._streams: dict[str, list[RecordedEvent]] = {}
        self._by_id: dict[str, RecordedEvent] = {}

    async def append(
        self, stream: str, events: Sequence[NewEvent], *, expected: int | None = None
    ) -> tuple[RecordedEvent, ...]:
        if self._closed:
            raise StoreClosed
        last = self._streams[stream][-1] if stream in self._streams else None
        written, (outcome,) = seal(
            [checked(stream, events, expected)],
            head=await self.head(),
            tips={stream: Tip(last.version, last.time)} if last else {},
            known={event.id: self._by_id[event.id] for event in events if event.id in self._by_id},
            now=to_microseconds(self._now()),
        )
        if isinstance(outcome, EventStoreError):
            raise outcome
        for event in written:
            self._events.append(event)
            self._streams.setdefault(stream, []).append(event)
            self._by_id[event.id] = event
        if written:
            self._wake()
        return outcome

    async def read_stream(self, stream: str, *, after: int = 0) -> tuple[RecordedEvent, ...]:
        return tuple(self._streams.get(stream, ())[after:])

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]:
        return tuple(self._events[after : after + limit])

    async def head(self) -> Head:
        return Head(self._events[-1].position, self._events[-1].hash) if self._events else EMPTY

    async def close(self) -> None:
        self._closed = True
        self._wake()
