"""Excerpts: some events of the log, each with what links it to the hash before it, as lines of JSON.

An event whose predecessor in the log is not in the excerpt has its hash as ``previous``. Of events that are
there for the sake of the chain alone stands the envelope: all that their hashes cover, but no payload.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import islice

import msgspec
from msgspec.structs import replace

from ._chain import EMPTY, chain_hash, check_contained, check_payload
from ._errors import ChainBroken, PositionPruned
from ._lines import EventLine, fields_of
from ._types import EventLog, Head, RecordedEvent

_PAGE = 500


class _Line(EventLine, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An event as a line. ``previous`` is the hash before it, where the line before does not have it."""

    previous: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


async def excerpt(
    log: EventLog, positions: Iterable[int], *, whole: Callable[[RecordedEvent], bool]
) -> AsyncIterator[bytes]:
    """Yield the lines of the events at ``positions``, which ascend: those that are to be ``whole`` with all
    they hold, of others the envelopes.

    Raises `PositionPruned` when there is no event at one of them, or no hash before it.
    """
    last, coming = 0, iter(positions)
    while page := [*islice(coming, _PAGE)]:
        events = await log.read_at(page)
        if missing := sorted({*page} - {event.position for event in events}):
            raise PositionPruned(missing[0])
        hashes = await log.hashes_at([position - 1 for position in page])
        for event in events:
            previous = hashes.get(event.position - 1)
            if previous is None:
                raise PositionPruned(event.position - 1)
            linked = event.position == last + 1 and last
            last = event.position
            shown = event if whole(event) else replace(event, metadata=b"", salt=b"", data=b"")
            yield _encode(_Line(**fields_of(shown), previous="" if linked else previous.hex())) + b"\n"


async def check_held(log: EventLog, seen: Sequence[Head]) -> None:
    """Show that a log, which was verified, holds what ``seen`` are hashes of.

    Raises `ChainBroken`, `PositionPruned`.
    """
    head = await log.head()
    for begin in range(0, len(seen), _PAGE):
        page = seen[begin : begin + _PAGE]
        there = await log.hashes_at([one.position for one in page])
        for one in page:
            check_contained(one, head, there.get(one.position))


class Links:
    """Follows the lines of an excerpt: each event's hash must be the one that follows from what is there.

    ``head`` is the last event that was followed, ``begin`` the position of the first one from which the
    chain leads there without a gap.
    """

    def __init__(self) -> None:
        self.head: Head = EMPTY
        self.begin: int = 0

    def follow(self, line: bytes) -> RecordedEvent:
        """Return the event of the next line. Raises `ChainBroken`, and `ValueError` for what is no line."""
        given = _decode(line)
        try:
            event = given.event
            previous = self._previous(event.position, bytes.fromhex(given.previous))
            check_payload(event)
            if chain_hash(previous, event) != event.hash:
                raise ChainBroken(event.position, "the event or one before it was changed")
        except struct.error as error:
            raise ValueError(str(error)) from None
        self.head = Head(event.position, event.hash)
        return event

    def _previous(self, position: int, given: bytes) -> bytes:
        """Return the hash before ``position``: the one that was given, or that of the line before."""
        goes_on = position == self.head.position + 1 and self.begin > 0
        if position <= self.head.position or (given and goes_on):
            raise ChainBroken(position, "it does not stand where it belongs")
        if goes_on:
            return self.head.hash
        if len(given) != len(EMPTY.hash) or (position == 1 and given != EMPTY.hash):
            raise ChainBroken(position, "the hash before it is not given")
        self.begin = position
        return given
