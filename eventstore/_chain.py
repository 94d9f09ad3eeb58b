"""How events are sealed: versions, positions and the hash chain. Pure, and shared by all back ends."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from ._errors import ChainBroken, DuplicateEventId, EventStoreError, VersionConflict
from ._types import Head, NewEvent, RecordedEvent

EMPTY = Head(0, bytes(32))
_metadata_encoder = msgspec.json.Encoder(order="deterministic")


class Append(NamedTuple):
    """One caller's request."""

    stream: str
    events: Sequence[NewEvent]
    expected: int | None


def checked(stream: str, events: Sequence[NewEvent], expected: int | None) -> Append:
    """Make a request that `seal` can carry out whatever else is in its batch.

    Raises `ValueError` for text that is not UTF-8.
    """
    stream.encode()
    for event in events:
        event.id.encode()
        event.type.encode()
        _metadata_encoder.encode(event.metadata)
    return Append(stream, events, expected)


class Tip(NamedTuple):
    """The end of one stream."""

    version: int
    time: int


def payload_digest(salt: bytes, data: bytes) -> bytes:
    """Return the SHA-256 that stands for a payload in the chain, so that the payload can be erased."""
    return sha256(salt + data).digest()


def chain_hash(previous: bytes, event: RecordedEvent) -> bytes:
    """Return the SHA-256 over the previous hash and every field of ``event`` but payload, salt and hash.

    Each field is preceded by its length in bytes (8 bytes, big-endian); numbers are 8 bytes, big-endian;
    text is UTF-8.
    """
    digest = sha256()
    for field in (
        previous,
        struct.pack(">q", event.position),
        event.stream.encode(),
        struct.pack(">q", event.version),
        event.id.encode(),
        event.type.encode(),
        struct.pack(">q", event.time),
        event.metadata,
        event.digest,
    ):
        digest.update(struct.pack(">q", len(field)))
        digest.update(field)
    return digest.digest()


def seal(
    appends: Sequence[Append],
    *,
    head: Head,
    tips: Mapping[str, Tip],
    known: Mapping[str, RecordedEvent],
    now: int,
) -> tuple[list[RecordedEvent], list[tuple[RecordedEvent, ...] | EventStoreError]]:
    """Decide a batch of appends against the log's state.

    ``tips`` holds the tip of each existing stream named in the batch, ``known`` the recorded events whose
    ids the batch repeats. Returns the events to write, in order, and one outcome for each append: the
    events it stands for, or why it was refused. A refusal leaves its neighbours alone.
    """
    tips, known = dict(tips), dict(known)
    written: list[RecordedEvent] = []
    outcomes: list[tuple[RecordedEvent, ...] | EventStoreError] = []
    for append in appends:
        tip = tips.get(append.stream, Tip(0, 0))
        if twice := _repeated_within(append.events):
            outcomes.append(DuplicateEventId(twice))
            continue
        repeated = [known[event.id] for event in append.events if event.id in known]
        if repeated:
            same = len(repeated) == len(append.events) and all(e.stream == append.stream for e in repeated)
            outcomes.append(tuple(repeated) if same else DuplicateEventId(repeated[0].id))
            continue
        if append.expected not in (None, tip.version):
            outcomes.append(VersionConflict(append.stream, append.expected, tip.version))
            continue
        time = max(now, tip.time)
        sealed = []
        for offset, event in enumerate(append.events, start=1):
            recorded = _seal_one(event, append.stream, tip.version + offset, time, head)
            head = Head(recorded.position, recorded.hash)
            sealed.append(recorded)
        tips[append.stream] = Tip(tip.version + len(sealed), time)
        known.update((event.id, event) for event in sealed)
        written += sealed
        outcomes.append(tuple(sealed))
    return written, outcomes


def _repeated_within(events: Sequence[NewEvent]) -> str | None:
    seen: set[str] = set()
    for event in events:
        if event.id in seen:
            return event.id
        seen.add(event.id)
    return None


def _seal_one(event: NewEvent, stream: str, version: int, time: int, head: Head) -> RecordedEvent:
    salt = secrets.token_bytes(16)
    unsealed = RecordedEvent(
        position=head.position + 1,
        stream=stream,
        version=version,
        id=event.id,
        type=event.type,
        time=time,
        metadata=_metadata_encoder.encode(event.metadata),
        salt=salt,
        data=event.data,
        digest=payload_digest(salt, event.data),
        hash=b"",
    )
    return msgspec.structs.replace(unsealed, hash=chain_hash(head.hash, unsealed))


def check_link(head: Head, event: RecordedEvent) -> Head:
    """Return the head after ``event``. Raises `ChainBroken` when it does not follow ``head``."""
    if event.position != head.position + 1:
        raise ChainBroken(head.position + 1, f"missing; the next event is at position {event.position}")
    if payload_digest(event.salt, event.data) != event.digest:
        raise ChainBroken(event.position, "the payload is not the one that was recorded")
    if chain_hash(head.hash, event) != event.hash:
        raise ChainBroken(event.position, "the event or one before it was changed")
    return Head(event.position, event.hash)
