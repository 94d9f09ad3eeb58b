"""The read model of the trail: what the log tells, by what it is about, and how jobs stood at any moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from eventstore import Erased, RecordedEvent
from uws.model import events as e
from uws.model.phases import ENDED, STARTED

from .readmodel import (
    PHASES_AFTER,
    Batch,
    Contents,
    Event,
    ReadModel,
    as_json,
    headless,
    pass_over,
    put_structs,
    stream_of_job,
)
from .usage import DESTROYED

_LOAD = """
SELECT position, id, service, owner, quotas, phase, created, started, ran, ended, over FROM course
WHERE id IN (SELECT value FROM json_each(?))
"""
_INSERT = "INSERT INTO course VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REPLACE = "INSERT OR REPLACE INTO course VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM course WHERE position = ?"
_HAPPENED = "INSERT INTO occurrence VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_ERASE = "DELETE FROM occurrence WHERE job = ?"
_ERASE_STREAM = "DELETE FROM occurrence WHERE stream = ? AND type <> '$erased'"
_FORGET = (
    """
    DELETE FROM occurrence
    WHERE job IN (SELECT position FROM course WHERE phase = 'DESTROYED' AND last <= ?)
    """,
    "DELETE FROM course WHERE phase = 'DESTROYED' AND last <= ?",
    """
    DELETE FROM occurrence WHERE stream IN (
        SELECT stream FROM (
            SELECT stream, type, max(position) AS last FROM occurrence WHERE stream IN (
                SELECT stream FROM occurrence WHERE type = '$erased' AND stream IS NOT NULL
            ) GROUP BY stream
        ) WHERE type = '$erased' AND last <= ?
    )
    """,
)


class Course(msgspec.Struct, gc=False):
    """A row, its fields in the order of the columns."""

    position: int
    id: str
    service: str
    owner: str | None
    quotas: str
    phase: str
    created: int
    started: int | None = None
    ran: int = 0
    ended: int | None = None
    over: int | None = None


class Trail(ReadModel[Course]):
    """A row for each event of the log, and one for each job."""

    name = "trail"
    version = 1
    share = 4.0
    tables = resources.files(__package__).joinpath("trail.sql").read_text()
    indexes = """
    CREATE INDEX IF NOT EXISTS occurrence_of_job ON occurrence (job, position, type, time);
    CREATE INDEX IF NOT EXISTS occurrence_of_stream ON occurrence (stream) WHERE stream IS NOT NULL;
    CREATE INDEX IF NOT EXISTS occurrence_by_owner ON occurrence (owner);
    CREATE INDEX IF NOT EXISTS occurrence_by_service ON occurrence (service);
    CREATE INDEX IF NOT EXISTS occurrence_by_actor ON occurrence (actor);
    CREATE INDEX IF NOT EXISTS occurrence_by_type ON occurrence (type);
    CREATE INDEX IF NOT EXISTS occurrence_by_time ON occurrence (time);
    CREATE INDEX IF NOT EXISTS course_ended ON course (service, ended, position) WHERE over IS NOT NULL;
    CREATE INDEX IF NOT EXISTS course_ended_of ON course (owner, ended) WHERE over IS NOT NULL;
    CREATE INDEX IF NOT EXISTS course_destroyed ON course (last) WHERE phase = 'DESTROYED';
    """
    contents: ClassVar[Mapping[str, Contents]] = {
        "occurrence": Contents("SELECT * FROM occurrence ORDER BY position"),
        "course": Contents("SELECT * FROM course ORDER BY position", stream=stream_of_job),
    }

    def apply(self, row: Course | None, events: Sequence[Event]) -> Course | None:
        row = row and replace(row)
        for event in events:
            kind = event.kind
            if kind is e.JobCreated:
                row = _created(event)
            elif kind is Erased:
                row = row if row and not row.service else _erased(event)
            elif row is None:
                raise headless(event)
            elif phase := PHASES_AFTER.get(kind):
                _enter(row, phase, event)
            elif kind is e.JobDestroyed:
                _enter(row, DESTROYED, event)
            else:
                pass_over(event)
        return row

    def load(self, connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, Course]:
        return {found[1]: Course(*found) for found in connection.execute(_LOAD, (as_json(keys),))}

    def save(
        self, connection: sqlite3.Connection, before: Mapping[str, Course],
        after: Mapping[str, Course | None], batch: Batch,
    ) -> None:  # fmt: skip
        if batch.cuts:
            moved = [
                (row.position,)
                for key, row in before.items()
                if (now := after.get(key)) and now.position != row.position
            ]
            connection.executemany(_ERASE, moved)
            connection.executemany(_DELETE, moved)
        put_structs(connection, _INSERT, _REPLACE, before, after, batch)
        rows: list[tuple[Any, ...]] = []
        for key, events in batch.jobs.items():
            if not (row := after[key]):
                continue
            job, service, owner = row.position, row.service or None, row.owner
            for event in events if not batch.cuts else _left(events):
                recorded = event.recorded
                rows.append(
                    (recorded.position, job, None, service, owner, recorded.type, event.actor, event.time)
                )
        connection.executemany(_HAPPENED, rows)

    def fold(self, connection: sqlite3.Connection, batch: Batch) -> None:
        for recorded in batch.others:
            if recorded.type == Erased.type:
                connection.execute(_ERASE_STREAM, (recorded.stream,))
            actor, time = e.actor_and_time(recorded)
            about = None, recorded.stream, _service_of(recorded), None, recorded.type, actor, time
            connection.execute(_HAPPENED, (recorded.position, *about))
        super().fold(connection, batch)

    def forget(self, connection: sqlite3.Connection, through: int) -> None:
        for statement in _FORGET:
            connection.execute(statement, (through,))


def _created(event: Event) -> Course:
    payload: e.JobCreated = event.payload
    quotas = as_json(payload.quotas) if payload.quotas else ""
    service, owner = payload.service, payload.owner
    return Course(event.position, event.key, service, owner, quotas, "PENDING", event.time)


def _erased(event: Event) -> Course:
    """Return what is left of a job, which depends on the one event that is left of it."""
    return Course(event.position, event.key, "", None, "", DESTROYED, event.time, over=event.position)


def _left(events: Sequence[Event]) -> Sequence[Event]:
    """Return those that were not erased by one among them."""
    first = next((number for number, event in enumerate(events) if event.kind is Erased), 0)
    return events[first:]


def _enter(row: Course, phase: str, event: Event) -> None:
    if row.phase in STARTED and phase not in STARTED:  # the program has ended
        row.ran += max(0, event.time - (row.started or event.time))
    row.phase = phase
    if event.kind is e.JobStarted:
        row.started = event.time
    elif event.kind is e.JobRequeued:
        row.started = None
    elif row.over is None and phase in _OVER:
        row.ended, row.over = event.time, event.position


_OVER = frozenset({*(phase.value for phase in ENDED), DESTROYED})


def _service_of(recorded: RecordedEvent) -> str | None:
    """Return the service that an event is about which is no job's."""
    if recorded.stream == e.QUEUE_STREAM and recorded.type != Erased.type:
        return e.decode_queue(recorded).service
    kind, _, name = recorded.stream.partition("/")
    return name if kind == "service" else None
