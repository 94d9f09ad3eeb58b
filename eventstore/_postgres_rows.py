"""Appends and events as the rows of a database, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ._chain import Append, Row, new_salts, payload_digest
from ._types import RecordedEvent


def without_repetition(batch: Iterable[Append]) -> Iterator[list[Append]]:
    """Yield a batch, in parts where that is needed for no id to stand twice in one."""
    part, ids = list[Append](), set[str]()
    for append in batch:
        its = {event.id for event in append.events}
        if its & ids:
            yield part
            part, ids = [], set()
        part.append(append)
        ids |= its
    yield part


def to_send(batch: Sequence[Append]) -> Iterator[tuple[Any, ...]]:
    """Yield what `append` is given of each event; which append it is of comes first."""
    salts = new_salts(sum(len(append.events) for append in batch))
    for number, append in enumerate(batch):
        for event, salt in zip(append.events, salts, strict=False):
            digest = payload_digest(salt, event.metadata, event.data)
            yield (
                number,
                append.term,
                append.stream,
                append.expected,
                event.id,
                event.type,
                event.metadata,
                salt,
                event.data,
                digest,
            )


def recorded(
    append: Append, there: Mapping[str, Any], proofs: Iterable[tuple[bytes, bytes]]
) -> tuple[RecordedEvent, ...]:
    """Return the events that an append has written at the places that the database tells."""
    return tuple(
        RecordedEvent(
            position=there["first"] + number, stream=append.stream, version=there["tip"] + 1 + number,
            id=event.id, type=event.type, time=there["time"], metadata=event.metadata, salt=salt,
            data=event.data, digest=digest, hash=hash_,
        )
        for number, (event, (salt, digest), hash_) in enumerate(
            zip(append.events, proofs, there["hashes"], strict=True)
        )
    )  # fmt: skip


def row_of(found: Sequence[Any]) -> Row:
    position, stream, version, id_, type_, *rest = found
    return (position, stream.encode(), version, id_.encode(), type_.encode(), *rest)


def record_of(row: Row) -> tuple[Any, ...]:
    position, stream, version, id_, type_, time, metadata, salt, data, digest, hash_ = row
    if not any(salt):  # erased: a file has zeros there
        metadata = salt = data = b""
    return (
        position, stream.decode(), version, id_.decode(), type_.decode(), time, metadata, salt, data, digest,
        hash_,
    )  # fmt: skip
