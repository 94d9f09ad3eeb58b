"""What can go wrong with a log; every error carries its facts as attributes."""

from __future__ import annotations

NOT_WHOLE = (
    "a copy to here was begun, and this is not all of it: repeat the same uwsd store copy, "
    "which goes on there"
)
"""Why a log is refused to all but those who copy to it."""


class EventStoreError(Exception):
    """Something is wrong with a log. Base of all errors of this package."""


class VersionConflict(EventStoreError):
    """Somebody else appended to the stream first."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(f"stream {stream} is at version {actual}, not {expected}")
        self.stream = stream
        self.expected = expected
        self.actual = actual


class DuplicateEventId(EventStoreError):
    """An event id is in the log already, in ``stream``, but not as part of this append."""

    def __init__(self, event_id: str, stream: str) -> None:
        super().__init__(f"event id {event_id} is taken by another append to {stream}")
        self.event_id = event_id
        self.stream = stream


class StreamNotFound(EventStoreError):
    """There is no event in the stream."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"there is no stream {stream}")
        self.stream = stream


class Overloaded(EventStoreError):
    """More appends are waiting than the store accepts; try again after ``retry_after`` seconds."""

    def __init__(self, waiting: int, retry_after: int = 1) -> None:
        super().__init__(f"{waiting} appends are waiting")
        self.waiting = waiting
        self.retry_after = retry_after


class StoreUnavailable(EventStoreError):
    """The storage refused to read or write."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StoreFull(StoreUnavailable):
    """There is no room left where the log is."""


class StoreClosed(StoreUnavailable):
    """The store has been closed."""

    def __init__(self, reason: str = "the event store is closed") -> None:
        super().__init__(reason)


class TermPassed(StoreUnavailable):
    """Another node leads by now, and what this one wanted done as the leader was not done."""

    def __init__(self, reason: str = "another node leads by now") -> None:
        super().__init__(reason)


class StoreLocked(EventStoreError):
    """Another process has the store open for writing."""

    def __init__(self, path: str, pid: int | None) -> None:
        holder = f"process {pid}" if pid else "another process"
        super().__init__(f"{path} is in use by {holder}; stop it, or use another data directory")
        self.path = path
        self.pid = pid


class ChainBroken(EventStoreError):
    """The log is not what was written."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"position {position}: {reason}")
        self.position = position
        self.reason = reason


class PositionPruned(EventStoreError):
    """What stood at a position was pruned: an archive has to show it."""

    def __init__(self, position: int) -> None:
        super().__init__(f"position {position} was pruned; verify the archive that has it")
        self.position = position
