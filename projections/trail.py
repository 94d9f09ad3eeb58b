"""The read model of the trail: each event by what it is about, and when each job began and ended."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import ClassVar

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
SELECT position, id, service, owner, quotas, phase, created, started, ran, ended, over, outcome, gone, away
FROM course
WHERE id IN (SELECT value FROM json_each(?))
"""
_INSERT = "INSERT INTO course VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REPLACE = "INSERT OR REPLACE INTO course VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM course WHERE position = ?"
_HAPPENED = "INSERT INTO occurrence VALUES (?, ?, ?, ?)"
_NUMBER = """
SELECT number FROM matter WHERE stream IS ? AND service IS ? AND owner IS ? AND type = ? AND actor IS ?
"""
_BEGIN_MATTER = (
    "INSERT INTO matter (stream, service, owner, type, actor) VALUES (?, ?, ?, ?, ?) RETURNING number"
)
_FIND = "INSERT OR IGNORE INTO found VALUES (?, ?, ?)"
_STRETCH_OUT = """
INSERT INTO stretch VALUES (?, ?, ?) ON CONFLICT DO UPDATE
SET earliest = min(earliest, excluded.earliest), latest = max(latest, excluded.latest)
"""
_ERASE = "DELETE FROM occurrence WHERE job = ?"
_ERASE_STREAM = """
DELETE FROM occurrence WHERE position IN (
    SELECT position FROM matter CROSS JOIN occurrence ON matter = number
    WHERE stream = ? AND type <> '$erased' AND job IS NULL
)
"""
_FORGET = (
    """
    DELETE FROM occurrence
    WHERE job IN (SELECT position FROM course WHERE phase = 'DESTROYED' AND last <= ?)
    """,
    "DELETE FROM course WHERE phase = 'DESTROYED' AND last <= ?",
    """
    DELETE FROM occurrence WHERE job IS NULL AND matter IN (
        SELECT number FROM matter WHERE stream IN (
            SELECT stream FROM (
                SELECT stream, type, max(position) AS last
                FROM occurrence JOIN matter ON number = matter WHERE job IS NULL GROUP BY stream
            ) WHERE type = '$erased' AND last <= ?
        )
    )
    """,
)
_TIDY = (
    "DELETE FROM matter WHERE number NOT IN (SELECT matter FROM occurrence)",
    """
    DELETE FROM found WHERE (role, name) NOT IN (
        SELECT 'service', service FROM matter WHERE service IS NOT NULL
        UNION ALL SELECT 'owner', owner FROM matter WHERE owner IS NOT NULL
        UNION ALL SELECT 'actor', actor FROM matter WHERE actor IS NOT NULL
        UNION ALL SELECT 'type', type FROM matter
    )
    """,
)
STRETCH = 500
"""Positions. In a long stretch there is much to look through, of short ones there are many to keep."""
_COLUMNS = ("stream", "service", "owner", "type", "actor")
ROLES = ("owner", "actor", "type", "service")
"""What may be sought, the rarest first."""
OVER = frozenset({*(phase.value for phase in ENDED), DESTROYED})


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
    outcome: str | None = None
    gone: int | None = None
    away: int | None = None


class Trail(ReadModel[Course]):
    """A row for each event of the log, and one for each job."""

    name = "trail"
    version = 2
    share = 60
    tables: ClassVar[str] = resources.files(__package__).joinpath("trail.sql").read_text()
    indexes = """
    CREATE INDEX IF NOT EXISTS occurrence_of_job ON occurrence (job, position, matter, time)
    WHERE job IS NOT NULL;
    CREATE INDEX IF NOT EXISTS occurrence_of_none ON occurrence (matter) WHERE job IS NULL;
    CREATE INDEX IF NOT EXISTS course_completed ON course (service, ended, position)
    WHERE outcome = 'COMPLETED';
    CREATE INDEX IF NOT EXISTS course_ended_of ON course (owner, ended) WHERE over IS NOT NULL;
    CREATE INDEX IF NOT EXISTS course_destroyed ON course (last) WHERE phase = 'DESTROYED';
    """
    contents: ClassVar[Mapping[str, Contents]] = {
        "occurrence": Contents(
            "SELECT position, job, stream, service, owner, type, actor, time"
            " FROM occurrence CROSS JOIN matter ON number = matter ORDER BY position"
        ),
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
            connection.executemany(_DELETE, moved)
            if connection.executemany(_ERASE, moved).rowcount > 0:
                _tidy(connection)
        put_structs(connection, _INSERT, _REPLACE, before, after, batch)
        happened: list[_Happened] = []
        for key, events in batch.jobs.items():
            if row := after[key]:
                job, service, owner = row.position, row.service or None, row.owner
                for event in events if not batch.cuts else _left(events):
                    recorded = event.recorded
                    matter = None, service, owner, recorded.type, event.actor
                    happened.append((recorded.position, job, matter, event.time))
        _put_down(connection, happened)

    def fold(self, connection: sqlite3.Connection, batch: Batch) -> None:
        erased = [(event.stream,) for event in batch.others if event.type == Erased.type]
        if erased and connection.executemany(_ERASE_STREAM, erased).rowcount > 0:
            _tidy(connection)
        happened: list[_Happened] = []
        for recorded in batch.others:
            actor, time = e.actor_and_time(recorded)
            matter = recorded.stream, service_of(recorded), None, recorded.type, actor
            happened.append((recorded.position, None, matter, time))
        _put_down(connection, happened)
        super().fold(connection, batch)

    def forget(self, connection: sqlite3.Connection, through: int) -> None:
        if sum(connection.execute(statement, (through,)).rowcount for statement in _FORGET):
            _tidy(connection)


_Matter = tuple[str | None, str | None, str | None, str, str | None]
"""A row of the table without its number."""
_Happened = tuple[int, int | None, _Matter, int]
"""A row of the table of occurrences, with the matter in the place of its number."""


class _Numbers(dict[_Matter, int]):
    """The numbers of matters, each looked up or given when it is first asked for."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection

    def __missing__(self, matter: _Matter) -> int:
        found = self._connection.execute(_NUMBER, matter).fetchone()
        (number,) = found or self._connection.execute(_BEGIN_MATTER, matter).fetchone()
        self[matter] = number
        return int(number)


def _put_down(connection: sqlite3.Connection, happened: Sequence[_Happened]) -> None:
    """Insert occurrences, and where they are found."""
    if not happened:
        return
    numbers, times = _Numbers(connection), defaultdict[int, list[int]](list)
    rows = [(place, job, numbers[matter], time) for place, job, matter, time in happened]
    connection.executemany(_HAPPENED, rows)
    for place, _, _, time in rows:
        times[place // STRETCH].append(time)
    connection.executemany(_STRETCH_OUT, [(number, min(all_), max(all_)) for number, all_ in times.items()])
    matters = {number: matter for matter, number in numbers.items()}
    found = {
        (role, name, stretch)
        for stretch, number in {(place // STRETCH, number) for place, _, number, _ in rows}
        for role, name in zip(_COLUMNS, matters[number], strict=True)
        if name is not None and role in ROLES
    }
    connection.executemany(_FIND, found)


def _tidy(connection: sqlite3.Connection) -> None:
    """Delete the names of those whose last occurrence was deleted."""
    for statement in _TIDY:
        connection.execute(statement)


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
    elif row.over is None and phase in OVER:
        row.ended, row.over, row.outcome = event.time, event.position, phase
    elif row.away is None and row.over is not None:
        row.gone, row.away = event.time, event.position


def service_of(recorded: RecordedEvent) -> str | None:
    """Return the service that an event is about which is no job's."""
    if recorded.stream == e.QUEUE_STREAM and recorded.type != Erased.type:
        return e.decode_queue(recorded).service
    kind, _, name = recorded.stream.partition("/")
    return name if kind == "service" else None
