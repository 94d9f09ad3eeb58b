"""Streams that were read or written last, and the last events, as they are in the log now."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import islice

from ._types import RecordedEvent

_BESIDES = 1_000
"""Bytes that an event takes in memory besides its payload and its metadata, about."""


class RecentStreams:
    """Whole streams, no more than find room; those go that were not asked for the longest.

    Only who writes the log can have it: he alone knows what it says without reading it.
    """

    def __init__(self, room: int = 8_000_000) -> None:
        self._room, self._taken = room, 0
        self._streams: OrderedDict[str, tuple[RecordedEvent, ...]] = OrderedDict()

    def get(self, stream: str) -> tuple[RecordedEvent, ...] | None:
        """Return the events of a stream, None when it is not here."""
        if found := self._streams.get(stream):
            self._streams.move_to_end(stream)
        return found

    def put(self, stream: str, events: tuple[RecordedEvent, ...]) -> None:
        """Remember all events of a stream, in the place of those before."""
        self.drop(stream)
        size = _size(events)
        if events and size <= self._room:
            self._streams[stream] = events
            self._taken += size
        while self._taken > self._room:
            self.drop(next(iter(self._streams)))

    def appended(self, events: Sequence[RecordedEvent]) -> None:
        """Take note of events that have just become the last of their stream."""
        stream, first = events[0].stream, events[0].version
        known = self._streams.get(stream, ())
        if first == len(known) + 1:
            self.put(stream, (*known, *events))

    def drop(self, stream: str) -> None:
        """Forget a stream."""
        self._taken -= _size(self._streams.pop(stream, ()))

    def clear(self) -> None:
        """Forget all."""
        self._streams.clear()
        self._taken = 0


class RecentEvents:
    """The last events of the log, no more than find room: who follows it need not read them from the file.

    Only who writes the log can have it.
    """

    def __init__(self, room: int = 2_000_000) -> None:
        self._room, self._taken = room, 0
        self._events = deque[RecordedEvent]()

    def behind(self, after: int, end: int) -> tuple[RecordedEvent, ...]:
        """Return the events behind a position, none unless all up to the log's ``end`` are here."""
        if not self._events or self._events[-1].position != end or after < self._events[0].position - 1:
            return ()
        return tuple(islice(self._events, after - self._events[0].position + 1, None))

    def appended(self, events: Iterable[RecordedEvent]) -> None:
        """Take note of what has just been written, in the order of the log."""
        for event in events:
            if self._events and event.position != self._events[-1].position + 1:
                self.clear()
            self._events.append(event)
            self._taken += _size((event,))
        while self._taken > self._room:
            self._taken -= _size((self._events.popleft(),))

    def clear(self) -> None:
        """Forget all."""
        self._events.clear()
        self._taken = 0


def _size(events: Sequence[RecordedEvent]) -> int:
    return sum(_BESIDES + len(event.data) + len(event.metadata) for event in events)
