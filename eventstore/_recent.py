"""Streams that were read or written last, as they are in the log now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

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


def _size(events: Sequence[RecordedEvent]) -> int:
    return sum(_BESIDES + len(event.data) + len(event.metadata) for event in events)
