"""What goes into the log and what comes out of it, and the one interface all back ends share."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import msgspec


class Metadata(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Who caused an event, and through what; never a secret."""

    actor: str | None = None
    """The user, or the part of the server, that caused it; None is nobody in particular."""
    request_id: str | None = None
    """The request that carried the command."""
    client: str | None = None
    """The program that sent that, as it calls itself."""
    correlation_id: str | None = None
    """What is shared by all events of one undertaking."""
    causation_id: str | None = None
    """The id of the event that led to this one."""
    command: str | None = None
    """A digest of the command, where event ids were chosen so that it is recognised when it comes again."""
    occurred: int | None = None
    """When it happened, where it was recorded only later, in microseconds since 1970 UTC."""
    source: str | None = None
    """What it was taken from, where it was recorded only later."""
    schema: int = 1
    """The number of the payload's form."""


NO_METADATA = Metadata()


def new_id() -> str:
    """Return a fresh event id: 32 hexadecimal digits, the first twelve of them the time in milliseconds.

    Ids that grow with time are cheap to index.
    """
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


class NewEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A fact to be appended. Appending again under the same ``id`` is safe.

    Types that begin with ``$`` are the store's own: `Erased` and `Pruned`.
    """

    type: str
    data: bytes
    metadata: Metadata = NO_METADATA
    id: str = msgspec.field(default_factory=new_id)


class RecordedEvent(msgspec.Struct, frozen=True, gc=False):
    """A fact in the log.

    ``position`` counts all events from 1, ``version`` those of the stream. ``time`` is UTC in microseconds
    since 1970 and never runs backwards within a stream. ``digest`` is the SHA-256 of salt, metadata and
    payload; ``hash`` covers the digest, all other fields and the hash of the event before. The metadata,
    salt and data of an erased event are empty.
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
        """The decoded metadata; without any facts when the event is erased."""
        return NO_METADATA if self.erased else _metadata.decode(self.metadata)

    @property
    def erased(self) -> bool:
        """Whether payload and metadata were taken away. The event still stands, with its digest."""
        return not self.salt


_metadata = msgspec.json.Decoder(Metadata)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(0, 0, 1)


def from_microseconds(time: int) -> datetime:
    """Convert microseconds since 1970 to an aware UTC datetime, exactly."""
    return _EPOCH + _MICROSECOND * time


def to_microseconds(time: datetime) -> int:
    """Convert an aware datetime to microseconds since 1970, exactly."""
    return int(time.replace(microsecond=0).timestamp()) * 1_000_000 + time.microsecond


class Head(NamedTuple):
    """The end of the log: the last position (0 when empty) and its hash."""

    position: int
    hash: bytes


class Committed(NamedTuple):
    """What one transaction has brought to the disk: how many events, and in how many seconds."""

    events: int
    seconds: float


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of ``$erased``: events of its stream were erased. Who did it stands in its metadata."""

    type: ClassVar[str] = "$erased"
    reason: str
    """By whom or why, in words."""
    through: int
    """The version of the last event of the stream that was erased; those before it were, too."""


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of ``$pruned``, in the stream ``$log``: streams that had ended were taken away."""

    type: ClassVar[str] = "$pruned"
    stream: ClassVar[str] = "$log"
    through: int
    """The position up to which streams that had ended were taken away."""
    hash: str
    """The hash at that position, hexadecimal."""
    gaps: str
    """SHA-256, hexadecimal, over the first and last positions of all that is missing up to there, 8 bytes
    each.
    """
    reason: str
    """By whom or why, in words."""
    checkpoint: str = ""
    """The caller's proof of what was there."""


class Verified(NamedTuple):
    """What a verification has seen: the head it reached, and how many events stand, are erased, are gone.

    ``pruning`` is the last ``$pruned``. That its checkpoint is signed is for the caller to check.
    """

    head: Head
    events: int
    erased: int
    pruned: int
    pruning: Pruned | None = None


class EventLog(Protocol):
    """An ordered, hash-chained log of events in streams, to be read.

    All methods raise `StoreUnavailable` when the storage fails. Reads may be cancelled freely.
    """

    @property
    def place(self) -> Path | str | None:
        """Where another process finds it: a file, or the URL of a database; None when it is here alone."""
        ...

    async def read_stream(self, stream: str, *, after: int = 0) -> tuple[RecordedEvent, ...]:
        """Return the events of ``stream`` with a version above ``after``, in order."""
        ...

    async def read_event(self, id: str) -> RecordedEvent | None:
        """Return the event with this id, None when there is none."""
        ...

    async def positions(self, stream: str) -> list[int]:
        """Return where the events of ``stream`` stand, in order."""
        ...

    async def read_at(self, positions: Sequence[int]) -> tuple[RecordedEvent, ...]:
        """Return those events that stand at ``positions``, in order."""
        ...

    async def hashes_at(self, positions: Sequence[int]) -> dict[int, bytes]:
        """Return the hashes at ``positions`` of events, and of pruned ones before an event; and that of 0."""
        ...

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]:
        """Return at most ``limit`` events with a position above ``after``, in order."""
        ...

    def subscribe(self, *, after: int) -> AsyncIterator[tuple[RecordedEvent, ...]]:
        """Yield the events above position ``after`` in batches, then those to come, each once, in order.

        Ends when the store is closed. Raises `ChainBroken` when the log has lost its end.
        """
        ...

    async def head(self) -> Head:
        """Return the end of the log as far as it is on disk."""
        ...

    def recent(self, stream: str) -> tuple[RecordedEvent, ...] | None:
        """Return all events of a stream, the same tuple as long as it has not grown; None where that is to be
        read.
        """
        ...

    @property
    def end(self) -> int | None:
        """The position of `head`, None where others write, too, so that only the log itself can tell."""
        ...

    async def verify(
        self, *, contains: Iterable[Head] = (), progress: Callable[[int], None] | None = None
    ) -> Verified:
        """Recompute the hash chain, up to the head, and show that the log holds what ``contains`` saw of it.

        ``progress`` is called now and then with the number of events that were checked since the last call.
        Raises `ChainBroken` at the first fault; `PositionPruned` when one of ``contains`` lies where only an
        archive can tell.
        """
        ...

    async def close(self) -> None:
        """End all subscriptions, release everything. May be called twice."""
        ...


class EventStore(EventLog, Protocol):
    """A log that can be appended to. A
    cancelled `append`, `erase` or `prune` has an unknown outcome (all of it is done, or nothing): repeat
    an append with the same event ids to learn which.
    """

    async def append(
        self, stream: str, events: Sequence[NewEvent], *, expected: int | None = None
    ) -> tuple[RecordedEvent, ...]:
        """Append all of ``events`` to ``stream``, or none, and return them once they are on disk.

        ``expected`` is the stream's version that the caller has seen (0: it must not exist yet; None:
        whatever it is). Ids that are in the stream already give back what was recorded then.

        Raises `VersionConflict`, `DuplicateEventId`, `Overloaded`, `StoreFull`, `StoreClosed`; `ValueError`
        for a payload that is not bytes or larger than 64 MiB, for text that is not UTF-8 or has a NUL in it,
        and for names that are the store's own.
        """
        ...

    async def erase(
        self, stream: str, *, reason: str, metadata: Metadata = NO_METADATA
    ) -> RecordedEvent:  # fmt: skip
        """Take payload and metadata of all events of ``stream`` out of the storage, and say so.

        Returns the ``$erased`` event that is appended to the stream when all of it is on disk: the bytes
        are then in no file of the store. The chain stays whole. Erasing again is safe. Raises
        `StreamNotFound`.
        """
        ...

    async def prune(
        self, through: int, *, ended_by: Collection[str], reason: str, checkpoint: str = "",
        metadata: Metadata = NO_METADATA,
    ) -> RecordedEvent:  # fmt: skip
        """Take away the streams whose last event stands at ``through`` or before it and is of a type in
        ``ended_by``, and say so.

        Returns the ``$pruned`` event that is appended to ``$log``. What stays can still be verified; what
        went should be in an archive. Raises `ValueError` for a position that is not in the log, or before one
        that it was pruned through already.
        """
        ...

    async def settle(self) -> None:
        """Leave nothing of what was erased or pruned in any file, and give its room back.

        In a file, `erase` and `prune` end with this; it makes up for one that was interrupted, or told that a
        reader was in the way. A database is left to it. Raises `StoreUnavailable` when that cannot be now.
        """
        ...

    async def size(self) -> int:
        """Return how many bytes the log takes."""
        ...

    def observed(self, observer: Callable[[Committed], None]) -> AbstractContextManager[None]:
        """Tell ``observer`` of each transaction that has brought events to the disk, while the context lasts.

        It is called from the event loop, and must not take long.
        """
        ...

    async def check_writable(self) -> None:
        """Return when the log can be written. After a failed append this tries it, with a write of no effect.

        Raises `StoreUnavailable` with the reason.
        """
        ...

    async def close(self) -> None:
        """Commit what was accepted, end all subscriptions, release everything. May be called twice."""
        ...
