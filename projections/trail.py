"""The read model of the trail: what the log tells, by what it is about, and how jobs stood at any moment."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from importlib import resources
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec.structs import asdict, astuple, replace

from eventstore import Erased, RecordedEvent, from_microseconds
from uws.model import events as e
from uws.model.phases import ENDED, STARTED

from .queue import Active, Queue
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
from .usage import DESTROYED, EXPERIENCE, LEAST_CHARGED, Usage

R = TypeVar("R")

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


_STRETCH = 500
"""Positions. In a long stretch there is much to look through, of short ones there are many to keep."""
# The joins stand in the order in which rows are to be read; each stretch is read from its own beginning (+).
_PAGE = """
SELECT occurrence.position FROM {0} CROSS JOIN occurrence
ON occurrence.position >= stretch.number * :stretch AND occurrence.position < (stretch.number + 1) * :stretch
CROSS JOIN matter ON matter.number = matter
WHERE {1} >= :after / :stretch AND latest >= :since AND earliest < :until
AND +position > :after AND time >= :since AND time < :until
AND (:owner IS NULL OR owner = :owner) AND (:actor IS NULL OR actor = :actor)
AND (:type IS NULL OR type = :type) AND (:service IS NULL OR service = :service)
ORDER BY {1}, occurrence.position LIMIT :limit
"""
_FOUND = "found CROSS JOIN stretch ON role = '{0}' AND name = :{0} AND stretch.number = found.stretch"
_COLUMNS = ("stream", "service", "owner", "type", "actor")
_ROLES = ("owner", "actor", "type", "service")
"""What may be sought, the rarest first."""
_PAGES = {role: _PAGE.format(_FOUND.format(role), "found.stretch") for role in _ROLES}
_ANY_PAGE = _PAGE.format("stretch", "stretch.number")
_SERVICES = "SELECT DISTINCT service FROM matter WHERE stream IS NOT NULL AND service IS NOT NULL"
_COUNTED = """
SELECT course.service, type, count(*) FROM (
    SELECT job, matter, max(position) FROM occurrence
    WHERE job IS NOT NULL AND position <= :position AND time <= :time
      AND matter IN (SELECT number FROM matter WHERE type IN (SELECT value FROM json_each(:types)))
    GROUP BY job
) AS last JOIN matter ON number = last.matter JOIN course ON course.position = last.job
WHERE (:service IS NULL OR course.service = :service) AND (:owner IS NULL OR course.owner = :owner)
GROUP BY course.service, type
"""
_ACTIVE = """
SELECT position, id, service, owner, quotas FROM course
WHERE position <= :position AND created <= :time
AND (over IS NULL OR over > :position OR ended > :time) ORDER BY position
"""
_THERE = """
SELECT position, id, service, owner, quotas FROM course
WHERE position > :after AND position <= :position AND created <= :time AND service <> ''
AND (:service IS NULL OR service = :service) AND (:owner IS NULL OR owner = :owner)
ORDER BY position LIMIT :limit
"""
_STEPS = """
SELECT type, time FROM occurrence JOIN matter ON number = matter
WHERE job = ? AND position <= ? AND time <= ? ORDER BY position
"""
_PAUSES = """
SELECT type, coalesce(service, ''), time, position FROM matter CROSS JOIN occurrence ON matter = number
WHERE stream = 'queue' AND job IS NULL AND position <= :position AND time <= :time ORDER BY position
"""
_NODES = """
SELECT type, stream, time, position FROM matter CROSS JOIN occurrence ON matter = number
WHERE stream >= 'node/' AND stream < 'node0' AND job IS NULL AND position <= :position AND time <= :time
ORDER BY position
"""
_CHARGED = """
SELECT ended / 3600000000 AS hour, count(*), sum(max(ran, :least)) FROM course
WHERE owner IS :owner AND over IS NOT NULL AND over <= :position AND ended <= :time
  AND started IS NOT NULL GROUP BY hour
"""
_COMPLETED_OF = """
SELECT id, position, service, owner, outcome, created, started, ended, ran, 0, '', position FROM course
WHERE service = :service AND outcome = 'COMPLETED' AND over <= :position AND ended <= :time
  AND (away IS NULL OR away > :position OR gone > :time)
ORDER BY ended DESC, position DESC LIMIT :limit
"""


_NO_LIMIT = (1 << 63) - 1
_OVER = frozenset({*(phase.value for phase in ENDED), DESTROYED})
_PHASE_OF = {kind.__name__: phase for kind, phase in PHASES_AFTER.items() if kind} | {
    e.JobDestroyed.__name__: DESTROYED
}


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
    share = 6.0
    tables = resources.files(__package__).joinpath("trail.sql").read_text()
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
        times[place // _STRETCH].append(time)
    connection.executemany(_STRETCH_OUT, [(number, min(all_), max(all_)) for number, all_ in times.items()])
    matters = {number: matter for matter, number in numbers.items()}
    found = {
        (role, name, stretch)
        for stretch, number in {(place // _STRETCH, number) for place, _, number, _ in rows}
        for role, name in zip(_COLUMNS, matters[number], strict=True)
        if name is not None and role in _ROLES
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
    elif row.over is None and phase in _OVER:
        row.ended, row.over, row.outcome = event.time, event.position, phase
    elif row.away is None and row.over is not None:
        row.gone, row.away = event.time, event.position


def service_of(recorded: RecordedEvent) -> str | None:
    """Return the service that an event is about which is no job's."""
    if recorded.stream == e.QUEUE_STREAM and recorded.type != Erased.type:
        return e.decode_queue(recorded).service
    kind, _, name = recorded.stream.partition("/")
    return name if kind == "service" else None


class Sought(msgspec.Struct, frozen=True):
    """Which events are sought: those that all of it is true of. Times are microseconds since 1970, UTC.

    ``owner`` and ``service`` are those of the job that an event is about, ``service`` also of a declaration
    or a pause. Events happened at ``since`` or later, and before ``until``.
    """

    owner: str | None = None
    service: str | None = None
    actor: str | None = None
    type: str | None = None
    since: int | None = None
    until: int | None = None


class Moment(msgspec.Struct, frozen=True):
    """A moment of the past: of what had happened by then, and is recorded at ``position`` or before it.

    The time is microseconds since 1970, UTC. None is no limit.
    """

    position: int = _NO_LIMIT
    time: int = _NO_LIMIT


class Then(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it was at a moment; ``phase`` is DESTROYED for one that was gone for its clients."""

    id: str
    service: str
    owner: str | None
    phase: str
    created: datetime
    queued: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None


def positions(connection: sqlite3.Connection, sought: Sought, *, after: int, limit: int) -> list[int]:
    """Return where events stand that are sought, in order, at most ``limit`` of those behind a position."""
    role = next((role for role in _ROLES if getattr(sought, role) is not None), None)
    asked = asdict(sought) | {
        "since": -_NO_LIMIT if sought.since is None else sought.since,
        "until": _NO_LIMIT if sought.until is None else sought.until,
        "after": after, "limit": limit, "stretch": _STRETCH,
    }  # fmt: skip
    page = _PAGES[role] if role else _ANY_PAGE
    return [position for (position,) in connection.execute(page, asked)]


def services_of_old(connection: sqlite3.Connection) -> list[str]:
    """Return the names of all services that were ever declared."""
    return sorted(service for (service,) in connection.execute(_SERVICES))


def counted(
    connection: sqlite3.Connection, moment: Moment, service: str | None, owner: str | None
) -> dict[tuple[str, str], int]:
    """Return how many jobs each service had in each phase; those that were destroyed as ``DESTROYED``.

    This reads all that happened to jobs by then, from one index.
    """
    asked = {"types": as_json(_PHASE_OF), "service": service, "owner": owner, **_limits(moment)}
    sums: Counter[tuple[str, str]] = Counter()
    for name, kind, jobs in connection.execute(_COUNTED, asked):
        if name:  # else it was erased since
            sums[name, _PHASE_OF[kind]] += jobs
    return dict(sums)


def jobs_then(
    connection: sqlite3.Connection, moment: Moment, service: str | None, owner: str | None, *,
    after: int, limit: int,
) -> tuple[list[Then], int | None]:  # fmt: skip
    """Return jobs in the order in which they were created, destroyed ones included, and where to go on.

    They are at most ``limit`` of those behind the position ``after``.
    """
    asked = {"service": service, "owner": owner, "after": after, "limit": limit, **_limits(moment)}
    found = connection.execute(_THERE, asked).fetchall()
    jobs = []
    for row in found:
        job, created, ended = _stood(connection, row, moment)
        times = (
            time if time is None else from_microseconds(time) for time in (job.queued, job.started, ended)
        )
        queued, started, over = times
        jobs.append(
            Then(
                id=job.id, service=job.service, owner=job.owner, phase=job.phase,
                created=from_microseconds(created), queued=queued, started=started, ended=over,
            )
        )  # fmt: skip
    return jobs, found[-1][0] if len(found) == limit else None


def as_it_was(
    connection: sqlite3.Connection, moment: Moment, service: str | None,
    question: Callable[..., R], *arguments: Any,
) -> R:  # fmt: skip
    """Return what a question about the queue, or about what was used lately, was answered at a moment.

    The tables of these read models are made as they were, as far as that matters to the queue: active jobs,
    pauses, what the owners of jobs had used who waited, and the last hundred jobs of ``service`` that
    COMPLETED. So what is asked of them is asked in the same way as it is now.
    """
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as past:
        past.executescript(Queue.tables + Usage.tables)
        _make_queue(connection, past, moment)
        _make_usage(connection, past, moment, service)
        return question(past, *arguments)


def _make_queue(connection: sqlite3.Connection, past: sqlite3.Connection, moment: Moment) -> None:
    rows = (_stood(connection, row, moment)[0] for row in connection.execute(_ACTIVE, _limits(moment)))
    active = [(*astuple(row), row.position) for row in rows if row.phase not in _OVER]
    past.executemany("INSERT INTO active VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", active)
    for kind, stream, time, position in connection.execute(_NODES, _limits(moment)):
        if kind == e.NodeJoined.__name__:
            past.execute("INSERT OR IGNORE INTO node VALUES (?, ?, ?)", (stream, time, position))
        elif kind == e.NodeLeft.__name__:
            past.execute("DELETE FROM node WHERE name = ?", (stream,))
    for kind, service, time, position in connection.execute(_PAUSES, _limits(moment)):
        if kind == e.QueuePaused.__name__:
            past.execute("INSERT OR IGNORE INTO paused VALUES (?, ?, ?)", (service, time, position))
        elif kind == e.QueueResumed.__name__:
            past.execute("DELETE FROM paused WHERE service = ?", (service,))


def _make_usage(
    connection: sqlite3.Connection, past: sqlite3.Connection, moment: Moment, service: str | None
) -> None:
    for (owner,) in past.execute("SELECT DISTINCT owner FROM active WHERE phase = 'QUEUED'").fetchall():
        asked = {"owner": owner, "least": LEAST_CHARGED, **_limits(moment)}
        charged = [(owner, *row) for row in connection.execute(_CHARGED, asked)]
        past.executemany("INSERT INTO lately VALUES (?, ?, ?, ?)", charged)
    asked = {"service": service, "limit": EXPERIENCE, **_limits(moment)}
    completed = connection.execute(_COMPLETED_OF, asked)
    past.executemany("INSERT INTO used VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", completed)


def _stood(
    connection: sqlite3.Connection, row: tuple[Any, ...], moment: Moment
) -> tuple[Active, int, int | None]:
    """Return a job as the queue had it at a moment, when it was created, and when it was over by then."""
    position, job_id, service, owner, quotas = row
    job = Active(position, job_id, service, owner, "PENDING", None, None, quotas)
    created, ended = 0, None
    for kind, time in connection.execute(_STEPS, (position, moment.position, moment.time)):
        created = created or time
        if (phase := _PHASE_OF.get(kind)) is None:
            continue
        if ended is None and phase in _OVER:
            ended = time
        job.phase = phase
        if kind == e.JobQueued.__name__:
            job.queued = time
        elif kind == e.JobStarted.__name__:
            job.started = time
        elif kind == e.JobRequeued.__name__:
            job.started = None
    return job, created, ended


def _limits(moment: Moment) -> dict[str, int]:
    return {"position": moment.position, "time": moment.time}
