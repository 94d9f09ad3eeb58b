"""What goes into the log and what comes out of it, and the one interface all back ends share."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import msgspec


class Metadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who caused an event, and through what; never a secret.

    ``actor`` is a user or a part of the server, ``request_id`` and ``client`` name the request that
    carried the command, ``correlation_id`` is shared by all events of one undertaking and
    ``causation_id`` is the id of the event that led to this one. ``schema`` numbers the payload's form.
    """

    actor: str | None = None
    request_id: str | None = None
    client: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    schema: int = 1


def new_id() -> str:
    """Return a fresh event id: 32 hexadecimal digits."""
    return uuid.uuid4().hex


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A fact to be appended. Appending again under the same ``id`` is safe."""

    type: str
    data: bytes
    metadata: Metadata = Metadata()
    id: str = msgspec.field(default_factory=new_id)


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A fact in the log.

    ``position`` counts all events from 1 without gaps, ``version`` those of the stream. ``time`` is UTC in
    microseconds since 1970 and never runs backwards within a stream. ``digest`` is the SHA-256 of
    ``salt + data``; ``hash`` covers everything here and the hash of the event before it.
    """

    position: int
    stream: str
    version: int
    id: str
    type: str
    time: int
    metadata: bytes
    salt: bytes
    data: bytes
    digest: bytes
    hash: bytes

    @property
    def recorded_at(self) -> datetime:
        """The server's time of the event, in UTC."""
        return from_microseconds(self.time)

    @property
    def about(self) -> Metadata:
        """The decoded metadata."""
        return msgspec.json.decode(self.metadata, type=Metadata)


def from_microseconds(time: int) -> datetime:
    """Convert microseconds since 1970 to an aware UTC datetime, exactly."""
    seconds, micros = divmod(time, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)


def to_microseconds(time: datetime) -> int:
    """Convert an aware datetime to microseconds since 1970, exactly."""
    return int(time.replace(microsecond=0).timestamp()) * 1_000_000 + time.microsecond


class Head(NamedTuple):
    """The end of the log: the last position (0 when empty) and its hash."""

    position: int
    hash: bytes


class EventStore(Protocol):
    """An append-only, ordered, hash-chained log of events in streams.

    All methods raise `StoreUnavailable` when the storage fails. Reads may be cancelled freely; a
    cancelled `append` has an unknown outcome (all of it is in the log, or nothing): repeat it with the
    same event ids to learn which.
    """

    async def append(
        self, stream: str, events: Sequence[NewEvent], *, expected: int | None = None
    ) -> tuple[RecordedEvent, ...]:
        """Append all of ``events`` to ``stream``, or none, and return them once they are on disk.

        ``expected`` is the stream's version that the caller has seen (0: it must not exist yet; None:
        whatever it is). Ids that are in the stream already give back what was recorded then.

        Raises `VersionConflict`, `DuplicateEventId`, `Overloaded`, `StoreClosed`; `ValueError` for
        text that is not UTF-8.
        """
        ...

    async def read_stream(self, stream: str, *, after: int = 0) -> tuple[RecordedEvent, ...]:
        """Return the events of ``stream`` with a version above ``after``, in order."""
        ...

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]:
        """Return at most ``limit`` events with a position above ``after``, in order."""
        ...

    def subscribe(self, *, after: int) -> AsyncIterator[tuple[RecordedEvent, ...]]:
        """Yield the events above position ``after`` in batches, then those to come, each once, in order.

        Ends when the store is closed.
        """
        ...

    async def head(self) -> Head:
        """Return the end of the log as far as it is on disk."""
        ...

    async def verify(self) -> Head:
        """Recompute the hash chain and return its head. Raises `ChainBroken` at the first fault."""
        ...

    async def close(self) -> None:
        """Commit what was accepted, end all subscriptions, release everything. May be called twice."""
        ...
