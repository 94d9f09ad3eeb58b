"""An event store that lives as long as its process: for tests and for trying things out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter

from msgspec.structs import replace

from ._chain import (
    EMPTY,
    RESERVED,
    Append,
    Row,
    Tip,
    erasure,
    gaps_between,
    gaps_digest,
    prepare,
    prunable,
    pruning,
    row,
    seal,
)
from ._errors import EventStoreError, StoreClosed, StreamNotFound
from ._following import Following
from ._types import NO_METADATA, Committed, Head, Metadata, NewEvent, Pruned, RecordedEvent, to_microseconds

_position = attrgetter("position")


class MemoryEventStore(Following):
    """The `EventStore` contract over plain lists. ``now`` gives the time of events, aware and in UTC."""

    place = None

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__()
        self._now = now
        self._head = EMPTY
        self._pruned: Mapping[int, bytes] = {}
        self._keep(())

    async def append(
        self, stream: str, events: Sequence[NewEvent], *, expected: int | None = None
    ) -> tuple[RecordedEvent, ...]:
        if self._closed:
            raise StoreClosed
        return self._append(prepare(stream, events, expected))

    async def read_stream(self, stream: str, *, after: int = 0) -> tuple[RecordedEvent, ...]:
        return tuple(event for event in self._streams.get(stream, ()) if event.version > after)

    async def read_event(self, id: str) -> RecordedEvent | None:
        return self._by_id.get(id)

    async def positions(self, stream: str) -> list[int]:
        return [event.position for event in self._streams.get(stream, ())]

    async def read_at(self, positions: Sequence[int]) -> tuple[RecordedEvent, ...]:
        wanted = {*positions}
        return tuple(event for event in self._events if event.position in wanted)

    async def hashes_at(self, positions: Sequence[int]) -> dict[int, bytes]:
        hashes = {**self._pruned, **{event.position: event.hash for event in self._events}}
        there = {position: hashes[position] for position in positions if position in hashes}
        return {EMPTY.position: EMPTY.hash, **there}

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]:
        begin = bisect_right(self._events, after, key=_position)
        return tuple(self._events[begin : begin + limit])

    async def head(self) -> Head:
        return self._head

    @property
    def end(self) -> int:
        """See `EventLog.end`."""
        return self._head.position

    async def erase(
        self, stream: str, *, reason: str, metadata: Metadata = NO_METADATA
    ) -> RecordedEvent:  # fmt: skip
        if self._closed:
            raise StoreClosed
        tip = self._tip(stream)
        if tip is None:
            raise StreamNotFound(stream)
        request = erasure(stream, tip, reason, metadata)
        self._keep(
            replace(event, metadata=b"", salt=b"", data=b"")
            if event.stream == stream and not event.type.startswith(RESERVED)
            else event
            for event in self._events
        )
        return self._append(request)[0]

    async def prune(
        self, through: int, *, ended_by: Collection[str], reason: str, checkpoint: str = "",
        metadata: Metadata = NO_METADATA,
    ) -> RecordedEvent:  # fmt: skip
        if self._closed:
            raise StoreClosed
        hashes = {**self._pruned, **{event.position: event.hash for event in self._events}}
        notes = [event.data for event in self._streams.get(Pruned.stream, ()) if event.type == Pruned.type]
        hash_ = prunable(through, hashes.get(through), (notes[-1],) if notes else None)
        last = {stream: events[-1] for stream, events in self._streams.items() if stream != Pruned.stream}
        ended = {s for s, event in last.items() if event.position <= through and event.type in ended_by}
        rest = [event for event in self._events if event.stream not in ended]
        gaps = gaps_digest(gaps_between((e.position for e in rest if e.position <= through), through))
        note = Pruned(through=through, hash=hash_, gaps=gaps, reason=reason, checkpoint=checkpoint)
        request = pruning(note, metadata)
        self._keep(rest)
        (event,) = self._append(request)
        there = {event.position for event in self._events}
        self._pruned = {p: hashes[p] for p in hashes.keys() - there if p + 1 in there}
        return event

    async def settle(self) -> None:
        if self._closed:
            raise StoreClosed

    async def size(self) -> int:
        return sum(len(event.metadata) + len(event.data) for event in self._events)

    async def check_writable(self) -> None:
        if self._closed:
            raise StoreClosed

    async def close(self) -> None:
        self._closed = True
        self._wake()

    async def _page(self, after: int, limit: int) -> tuple[Sequence[Row], Mapping[int, bytes]]:
        return [row(event) for event in await self.read_all(after=after, limit=limit)], self._pruned

    async def _anchored(self) -> Iterable[int]:
        return self._pruned

    def _keep(self, events: Iterable[RecordedEvent]) -> None:
        """Hold these events and no others."""
        kept = list(events)
        self._events: list[RecordedEvent] = []
        self._streams: dict[str, list[RecordedEvent]] = {}
        self._by_id: dict[str, RecordedEvent] = {}
        self._add(kept)

    def _add(self, events: Iterable[RecordedEvent]) -> None:
        for event in events:
            self._events.append(event)
            self._streams.setdefault(event.stream, []).append(event)
            self._by_id[event.id] = event

    def _tip(self, stream: str) -> Tip | None:
        events = self._streams.get(stream)
        return Tip(events[-1].version, events[-1].time) if events else None

    def _append(self, request: Append) -> tuple[RecordedEvent, ...]:
        tip = self._tip(request.stream)
        written, (outcome,) = seal(
            [request],
            head=self._head,
            tips={request.stream: tip} if tip else {},
            known={event.id: self._by_id[event.id] for event in request.events if event.id in self._by_id},
            now=to_microseconds(self._now()),
        )
        if isinstance(outcome, EventStoreError):
            raise outcome
        if written:
            self._add(written)
            self._head = Head(written[-1].position, written[-1].hash)
            self._tell(Committed(len(written), seconds=0.0))
        return outcome
