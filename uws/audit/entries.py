"""An event of the log as auditors are told of it, and whether it is one that is sought."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventstore import RecordedEvent, from_microseconds
from projections import Sought
from projections.trail import service_of
from uws.model import events as e
from uws.model.telling import tell_of
from uws.model.units import format_time


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event of the log, and what it says in words.

    ``time`` is when it happened, ``recorded`` when it was recorded where that is another time. Of an erased
    event there is left that it was there.
    """

    position: int
    time: str
    recorded: str | None = None
    stream: str
    job: str | None = None
    version: int
    type: str
    actor: str | None = None
    erased: bool = False
    text: str


def entry_of(recorded: RecordedEvent) -> Entry:
    """Put an event into words."""
    actor, happened = e.actor_and_time(recorded)
    return Entry(
        position=recorded.position,
        time=format_time(from_microseconds(happened)),
        recorded=None if happened == recorded.time else format_time(recorded.recorded_at),
        stream=recorded.stream,
        job=e.job_id_of(recorded.stream),
        version=recorded.version,
        type=recorded.type,
        actor=actor,
        erased=recorded.erased,
        text=tell_of(recorded),
    )


def created_by(recorded: Sequence[RecordedEvent]) -> e.JobCreated | None:
    """Return the event that the stream of a job begins with, None where it was erased."""
    if not recorded or recorded[0].erased or recorded[0].type != e.JobCreated.__name__:
        return None
    event = e.decode(recorded[0])
    return event if isinstance(event, e.JobCreated) else None


def is_sought(sought: Sought, recorded: RecordedEvent, created: e.JobCreated | None) -> bool:
    """Whether an event is one of those that are sought; ``created`` tells of the job that it is about."""
    if recorded.erased:
        return False
    actor, time = e.actor_and_time(recorded)
    service, owner = (created.service, created.owner) if created else (service_of(recorded), None)
    return (
        (sought.since is None or time >= sought.since)
        and (sought.until is None or time < sought.until)
        and all(
            wanted is None or wanted == there
            for wanted, there in (
                (sought.owner, owner), (sought.service, service), (sought.actor, actor),
                (sought.type, recorded.type),
            )
        )
    )  # fmt: skip
