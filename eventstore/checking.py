"""Reading a log so that nothing is taken for true that is not what was recorded."""

from __future__ import annotations

from collections.abc import Sequence

from ._chain import check_payload
from ._types import EventLog, RecordedEvent


class Checked:
    """Reads a log, and holds each event against its own digest. That the chain holds is for `verify` to show.

    All methods raise `ChainBroken` for an event that does not hold what was recorded, and what the log's do.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def read_stream(self, stream: str, *, after: int = 0) -> tuple[RecordedEvent, ...]:
        """See `EventLog.read_stream`."""
        return _checked(await self._log.read_stream(stream, after=after))

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]:
        """See `EventLog.read_all`."""
        return _checked(await self._log.read_all(after=after, limit=limit))

    async def read_at(self, positions: Sequence[int]) -> tuple[RecordedEvent, ...]:
        """See `EventLog.read_at`."""
        return _checked(await self._log.read_at(positions))


def _checked(events: tuple[RecordedEvent, ...]) -> tuple[RecordedEvent, ...]:
    for event in events:
        check_payload(event)
    return events
