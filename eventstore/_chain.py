"""How events are sealed: versions, positions and the hash chain. Pure, and shared by all back ends."""

from __future__ import annotations

import re
import secrets
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from io import BytesIO

import msgspec

from ._errors import ChainBroken, DuplicateEventId, EventStoreError, PositionPruned, VersionConflict
from ._types import Erased, Head, Metadata, NewEvent, Pruned, RecordedEvent, Verified

EMPTY = Head(0, bytes(32))
RESERVED = "$"
_HASH = re.compile(r"[0-9a-f]{64}")
_LARGEST = 1 << 26
"""Bytes of a payload: one append must not hold up the others, nor fail them."""
_SALT = 16
_metadata_encoder = msgspec.json.Encoder(order="deterministic")

# What is hashed: each field after its length in bytes, lengths and numbers in 8 bytes, big-endian.
_length = struct.Struct(">q").pack
_gap = struct.Struct(">qq").pack
_salt_and_length = struct.Struct(f">q{_SALT}sq").pack
_fixed_fields = struct.Struct(">q32sqqqqqqq32s").pack


def payload_digest(salt: bytes, metadata: bytes, data: bytes) -> bytes:
    """Return the SHA-256 that stands for metadata and payload in the chain, so that they can be erased."""
    return sha256(
        b"".join((_salt_and_length(_SALT, salt, len(metadata)), metadata, _length(len(data)), data))
    ).digest()


def check_payload(event: RecordedEvent) -> None:
    """Raise `ChainBroken` where an event does not hold what was recorded: of an erased one, nothing."""
    salt, metadata, data = event.salt, event.metadata, event.data
    if salt or metadata or data:
        is_right = len(salt) == _SALT and payload_digest(salt, metadata, data) == event.digest
    else:
        is_right = len(event.digest) == sha256().digest_size
    if not is_right:
        raise ChainBroken(event.position, "payload or metadata are not those that were recorded")


def link(
    previous: bytes,
    position: int,
    stream: bytes,
    version: int,
    id: bytes,
    type: bytes,
    time: int,
    digest: bytes,
) -> bytes:
    """Return the hash of an event: the SHA-256 over the hash before it and its fields."""
    return sha256(
        b"".join(
            (
                _fixed_fields(32, previous, 8, position, 8, version, 8, time, 32, digest),
                _length(len(stream)), stream, _length(len(id)), id, _length(len(type)), type,
            )
        )
    ).digest()  # fmt: skip


def chain_hash(previous: bytes, event: RecordedEvent) -> bytes:
    """Return the hash that ``event`` has when ``previous`` is the hash before it."""
    return link(
        previous, event.position, event.stream.encode(), event.version, event.id.encode(),
        event.type.encode(), event.time, event.digest,
    )  # fmt: skip


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A new event, ready to be sealed."""

    id: str
    type: str
    metadata: bytes
    data: bytes


class Append(msgspec.Struct, frozen=True, gc=False):
    """One caller's request."""

    stream: str
    events: tuple[Prepared, ...]
    expected: int | None
    term: int | None = None
    """That of the leader who asks; None asks as anybody may."""


def prepare(
    stream: str, events: Iterable[NewEvent], expected: int | None = None, *, own: bool = False
) -> Append:
    """Make a request that `seal` can carry out whatever else is in its batch.

    ``own`` says that the store itself asks. Raises `ValueError` for text that is not UTF-8 or has a NUL in
    it, and for what is the store's own; `DuplicateEventId` for an id that stands there twice.
    """
    _check(stream)
    prepared: dict[str, Prepared] = {}
    for event in events:
        _check(event.id)
        _check(event.type)
        if not own and (event.type.startswith(RESERVED) or stream.startswith(RESERVED)):
            raise ValueError(
                f"names that begin with {RESERVED} are the store's own: {event.type} in {stream}"
            )
        if event.id in prepared:
            raise DuplicateEventId(event.id, stream)
        if not isinstance(event.data, bytes) or len(event.data) > _LARGEST:
            raise ValueError(f"the payload of a {event.type} is not bytes, {_LARGEST} at most")
        if not isinstance(event.metadata, Metadata):
            raise ValueError(f"the metadata of a {event.type} are no Metadata")
        metadata = _metadata_encoder.encode(event.metadata)
        prepared[event.id] = Prepared(event.id, event.type, metadata, event.data)
    return Append(stream, tuple(prepared.values()), expected)


def _check(name: str) -> None:
    name.encode()
    if "\0" in name:
        raise ValueError(f"there is a NUL in {name!r}")


def erasure(stream: str, tip: Tip, reason: str, metadata: Metadata) -> Append:
    """Return the append that goes with the erasure of a whole stream."""
    data = msgspec.json.encode(Erased(reason=reason, through=tip.version))
    return prepare(stream, [NewEvent(type=Erased.type, data=data, metadata=metadata)], own=True)


def prunable(through: int, there: bytes | None, before: tuple[bytes] | None) -> str:
    """Return the hash at a position, in hexadecimal. Raises `ValueError` when nothing can be pruned up to it.

    ``there`` is the hash that the log has at the position, ``before`` the payload of the last ``$pruned``.
    """
    if there is None:
        raise ValueError(f"there is no event at position {through}")
    if before and (last := msgspec.json.decode(before[0], type=Pruned)).through > through:
        raise ValueError(f"the log was pruned up to position {last.through} already")
    return there.hex()


def gaps_between(kept: Iterable[int], through: int) -> Iterator[tuple[int, int]]:
    """Return the first and last positions of what is missing up to ``through``, when ``kept`` is there."""
    before = 0
    for position in (*kept, through + 1):
        if position > before + 1:
            yield before + 1, position - 1
        before = position


def gaps_digest(gaps: Iterable[tuple[int, int]]) -> str:
    """Return what a ``$pruned`` event says of all gaps up to its position."""
    digest = sha256()
    for first, last in gaps:
        digest.update(_gap(first, last))
    return digest.hexdigest()


def pruning(pruned: Pruned, metadata: Metadata) -> Append:
    """Return the append that goes with a pruning."""
    event = NewEvent(type=Pruned.type, data=msgspec.json.encode(pruned), metadata=metadata)
    return prepare(Pruned.stream, [event], own=True)


class Tip(msgspec.Struct, frozen=True, gc=False):
    """The end of one stream."""

    version: int
    time: int


_NO_TIP = Tip(0, 0)
Outcome = tuple[RecordedEvent, ...] | EventStoreError


def seal(
    appends: Sequence[Append],
    *,
    head: Head,
    tips: Mapping[str, Tip],
    known: Mapping[str, RecordedEvent],
    now: int,
) -> tuple[list[RecordedEvent], list[Outcome]]:
    """Decide a batch of appends against the log's state.

    ``tips`` holds the tip of each existing stream named in the batch, ``known`` the recorded events whose
    ids the batch repeats. Returns the events to write, in order, and one outcome for each append: the
    events it stands for, or why it was refused. A refusal leaves its neighbours alone.
    """
    tips, known = dict(tips), dict(known)
    position, previous = head
    salts = new_salts(sum(len(append.events) for append in appends))
    written: list[RecordedEvent] = []
    outcomes: list[Outcome] = []
    for append in appends:
        stream, tip = append.stream, tips.get(append.stream, _NO_TIP)
        if outcome := known_or_refused(append, tip, known):
            outcomes.append(outcome)
            continue
        time = max(now, tip.time)
        sealed = []
        for version, event in enumerate(append.events, start=tip.version + 1):
            salt = next(salts)
            digest = payload_digest(salt, event.metadata, event.data)
            position += 1
            previous = link(
                previous,
                position,
                stream.encode(),
                version,
                event.id.encode(),
                event.type.encode(),
                time,
                digest,
            )
            known[event.id] = recorded = RecordedEvent(
                position=position, stream=stream, version=version, id=event.id, type=event.type, time=time,
                metadata=event.metadata, salt=salt, data=event.data, digest=digest, hash=previous,
            )  # fmt: skip
            sealed.append(recorded)
        tips[stream] = Tip(tip.version + len(sealed), time)
        written += sealed
        outcomes.append(tuple(sealed))
    return written, outcomes


def new_salts(count: int) -> Iterator[bytes]:
    """Yield ``count`` salts."""
    salts = BytesIO(secrets.token_bytes(_SALT * count))
    return iter(lambda: salts.read(_SALT), b"")


def known_or_refused(append: Append, tip: Tip, known: Mapping[str, RecordedEvent]) -> Outcome | None:
    """Return the outcome of an append that writes nothing."""
    if repeated := [known[event.id] for event in append.events if event.id in known]:
        same = len(repeated) == len(append.events) and all(e.stream == append.stream for e in repeated)
        return tuple(repeated) if same else DuplicateEventId(repeated[0].id, repeated[0].stream)
    if append.expected not in (None, tip.version):
        return VersionConflict(append.stream, append.expected, tip.version)
    return None


# Verification

Row = tuple[int, bytes, int, bytes, bytes, int, bytes, bytes, bytes, bytes, bytes]
"""The fields of a `RecordedEvent` in their order, text as UTF-8: what comes out of a store fastest."""

NO_ANCHORS: Mapping[int, bytes] = {}


class Walk:
    """Walks along the chain: feed it all rows after ``begin``, in order, then ask for the `verdict`.

    A walk along a later stretch of the same log is `joined`.
    """

    def __init__(self, begin: Head) -> None:
        self.begin = self.head = begin
        self.events = 0
        self.erased: list[tuple[int, str, int]] = []
        """Position, stream and version of events without payload."""
        self.gaps: list[tuple[int, int]] = []
        """First and last position of what is not there."""
        self.notes: list[tuple[str, str, bytes]] = []
        """Stream, type and payload of the store's own events."""

    def feed(self, rows: Iterable[Row], anchors: Mapping[int, bytes] = NO_ANCHORS) -> None:
        """Check that ``rows`` go on where the walk stands. Raises `ChainBroken`.

        ``anchors`` are the hashes of pruned events that stand before one of ``rows``, by position.
        """
        position, previous = self.head
        count = 0
        try:
            for place, stream, version, id_, type_, time, metadata, salt, data, digest, hash_ in rows:
                count += 1
                position += 1
                if place != position:
                    previous = self._leap(position, place, anchors)
                    position = place
                if len(salt) != _SALT or payload_digest(salt, metadata, data) != digest:
                    if (
                        any(salt)
                        or any(metadata)
                        or any(data)
                        or len(digest) != len(previous)
                        or type_.startswith(b"$")
                    ):
                        raise ChainBroken(position, "payload or metadata are not those that were recorded")
                    self.erased.append((position, stream.decode(errors="replace"), version))
                previous = link(previous, position, stream, version, id_, type_, time, digest)
                if previous != hash_:
                    raise ChainBroken(position, "the event or one before it was changed")
                if type_.startswith(b"$"):  # the store's own, see RESERVED
                    self.notes.append(_note(position, version, stream, type_, data))
        except (struct.error, TypeError) as error:
            raise ChainBroken(position, "no event: its values are not of the right kind or size") from error
        self.events += count
        self.head = Head(position, previous)

    def _leap(self, missing: int, there: int, anchors: Mapping[int, bytes]) -> bytes:
        anchor = anchors.get(there - 1, b"")
        if there < missing or len(anchor) != len(EMPTY.hash):
            raise ChainBroken(missing, f"missing; the next event is at position {there}")
        self.gaps.append((missing, there - 1))
        return anchor

    def joined(self, *later: Walk) -> Walk:
        """Return the walk that this one and ``later`` ones make together."""
        whole = Walk(self.begin)
        for part in (self, *later):
            if whole.head.position < part.begin.position:  # pruned since it was chosen to begin there
                whole.gaps.append((whole.head.position + 1, part.begin.position))
            elif whole.head != part.begin:
                raise ChainBroken(part.begin.position, "the event was changed meanwhile")
            whole.head = part.head
            whole.events += part.events
            whole.erased += part.erased
            whole.gaps += part.gaps
            whole.notes += part.notes
        return whole

    def unrecorded(self) -> list[int]:
        """Return the positions of erased events whose erasure is not on record along this walk."""
        through = {
            stream: msgspec.json.decode(data, type=Erased).through
            for stream, type_, data in self.notes
            if type_ == Erased.type
        }
        return [position for position, stream, version in self.erased if version > through.get(stream, 0)]

    def verdict(self) -> Verified:
        """Hold what is missing against what is on record as erased and pruned. Raises `ChainBroken`."""
        for position in self.unrecorded():
            raise ChainBroken(position, "payload and metadata are gone, and no erasure is on record")
        pruned = Pruned(through=0, hash=EMPTY.hash.hex(), gaps=gaps_digest([]), reason="")
        for _, type_, data in self.notes:
            if type_ == Pruned.type:
                pruned = msgspec.json.decode(data, type=Pruned)
        for first, last in self.gaps:
            if last > pruned.through:
                raise ChainBroken(first, "missing, and no pruning is on record that took it away")
        if gaps_digest(self.gaps) != pruned.gaps:
            raise ChainBroken(
                self.gaps[0][0] if self.gaps else 1,
                f"what is missing up to position {pruned.through} is not what was pruned",
            )
        gone = sum(last - first + 1 for first, last in self.gaps)
        return Verified(self.head, self.events, len(self.erased), gone, pruned if pruned.through else None)


def _note(position: int, version: int, stream: bytes, type_: bytes, data: bytes) -> tuple[str, str, bytes]:
    """Return one of the store's own events, if it is one that the store can have written."""
    right = False
    with suppress(UnicodeDecodeError, msgspec.MsgspecError):
        if type_.decode() == Erased.type:
            right = msgspec.json.decode(data, type=Erased).through < version
        elif type_.decode() == Pruned.type and stream.decode() == Pruned.stream:
            pruned = msgspec.json.decode(data, type=Pruned)
            right = pruned.through < position and bool(_HASH.fullmatch(pruned.hash))
        stream.decode()
    if not right:
        raise ChainBroken(position, "one of the store's own events, which it has not written")
    return stream.decode(), type_.decode(), data


def check_contained(seen: Head, head: Head, there: bytes | None) -> None:
    """Show that a log that ends at ``head`` is the one that ``seen`` was the head of.

    ``there`` is the hash that the log has at that position, None when it is pruned. Raises `ChainBroken`,
    `PositionPruned`.
    """
    if seen.position > head.position:
        raise ChainBroken(
            head.position + 1, f"missing; the log once had {seen.position} events, its end was cut off"
        )
    if there is None:
        raise PositionPruned(seen.position)
    if there != seen.hash:
        raise ChainBroken(seen.position, "not the event that once stood here: the log was rewritten")


def row(event: RecordedEvent) -> Row:
    """Return an event as `Walk` takes it."""
    return (
        event.position, event.stream.encode(), event.version, event.id.encode(), event.type.encode(),
        event.time, event.metadata, event.salt, event.data, event.digest, event.hash,
    )  # fmt: skip
