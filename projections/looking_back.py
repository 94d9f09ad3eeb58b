"""Questions to the read model of the trail: what happened, and how jobs and the queue stood at a moment."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec.structs import asdict, astuple

from eventstore import from_microseconds
from uws.model import events as e
from uws.model.phases import Phase
from uws.model.queueing import IN_SLURM

from .queue import SUBMITTED, Active, Queue
from .readmodel import PHASES_AFTER, as_json
from .trail import OVER, ROLES, STRETCH
from .usage import DESTROYED, EXPERIENCE, LEAST_CHARGED, Usage

R = TypeVar("R")

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
_PAGES = {role: _PAGE.format(_FOUND.format(role), "found.stretch") for role in ROLES}
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
_PHASE_OF = {kind.__name__: phase for kind, phase in PHASES_AFTER.items() if kind} | {
    e.JobDestroyed.__name__: DESTROYED
}
_IN_BATCH = {e.JobSubmitted.__name__, e.JobAccepted.__name__}
_OUT_OF_BATCH = {e.JobQueued.__name__, e.JobHeld.__name__, e.JobRequeued.__name__}


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

    The time is microseconds since 1970, UTC. What is left out is no limit.
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
    role = next((role for role in ROLES if getattr(sought, role) is not None), None)
    asked = asdict(sought) | {
        "since": -_NO_LIMIT if sought.since is None else sought.since,
        "until": _NO_LIMIT if sought.until is None else sought.until,
        "after": after, "limit": limit, "stretch": STRETCH,
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
                id=job.id, service=job.service, owner=job.owner,
                phase=Phase.QUEUED if job.phase == SUBMITTED else job.phase,
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
    active = [(*astuple(row), row.position) for row in rows if row.phase not in OVER]
    past.executemany("INSERT INTO active VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", active)
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
        if ended is None and phase in OVER:
            ended = time
        job.phase = phase
        if kind == e.JobQueued.__name__:
            job.queued = time
        elif kind == e.JobStarted.__name__:
            job.started = time
        elif kind == e.JobRequeued.__name__:
            job.started = None
        elif kind in _IN_BATCH:
            job.phase, job.node = SUBMITTED, IN_SLURM
        if kind in _OUT_OF_BATCH:
            job.node = None
    return job, created, ended


def _limits(moment: Moment) -> dict[str, int]:
    return {"position": moment.position, "time": moment.time}
