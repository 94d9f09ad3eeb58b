"""The read model of jobs: the list, the documents, the queue and past durations."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib import resources
from statistics import median
from typing import Any

import aiosqlite
import msgspec

from eventstore import Pruned, RecordedEvent, StoreUnavailable, from_microseconds, to_microseconds
from uws.model.events import job_id_of
from uws.model.job import Job, apply
from uws.model.phases import STARTED, Phase

_WRITE = """
INSERT OR REPLACE INTO job (id, service, owner, run_id, phase, created, position, last, queued, started,
                            ended, destruction, destroyed, document)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_FORGET = "DELETE FROM job WHERE destroyed IS NOT NULL AND last <= ?"
_DOCUMENTS = "SELECT id, document FROM job WHERE id IN (SELECT value FROM json_each(?))"
_DOCUMENT = "SELECT document FROM job WHERE id = ?"
_LIST = """
SELECT id, phase, run_id, owner, created FROM job
WHERE destroyed IS NULL AND service = :service AND owner IS :owner AND created > :after
  AND phase IN (SELECT value FROM json_each(:phases))
ORDER BY created DESC, position DESC LIMIT :last
"""
_NEXT_IN_QUEUE = """
SELECT service, owner, id, min(queued) FROM job
WHERE ended IS NULL AND phase = 'QUEUED' GROUP BY service, owner
"""
_SERVICES = "SELECT DISTINCT service FROM job WHERE destroyed IS NULL"
_STARTED = """
SELECT document FROM job WHERE ended IS NULL AND phase IN (SELECT value FROM json_each(?))
"""
_ACTIVE = """
SELECT count(*) FROM job WHERE ended IS NULL AND phase IN ('QUEUED', 'EXECUTING') AND service = ?
"""
_DURATIONS = """
SELECT ended - started FROM job WHERE service = ? AND phase = 'COMPLETED' ORDER BY ended DESC LIMIT 100
"""
_NEXT_DESTRUCTION = """
SELECT min(destruction) FROM job WHERE destroyed IS NULL AND phase <> 'ARCHIVED' AND destruction > ?
"""
_DUE = """
SELECT id, service FROM job
WHERE destroyed IS NULL AND phase <> 'ARCHIVED' AND destruction <= ? ORDER BY destruction LIMIT 1000
"""
_KNOWN = """
SELECT id, destroyed IS NULL AND phase <> 'ARCHIVED' FROM job WHERE id IN (SELECT value FROM json_each(?))
"""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Job)
_pruned = msgspec.json.Decoder(Pruned)


class JobReference(msgspec.Struct, frozen=True):
    """One entry of a job list."""

    id: str
    phase: Phase
    run_id: str | None
    owner: str | None
    created: datetime


class QueueHead(msgspec.Struct, frozen=True):
    """The job of one owner that has waited longest in one service's queue."""

    service: str
    owner: str | None
    job_id: str
    queued: datetime


class JobTables:
    """How the tables are made from events (a `ReadModel`)."""

    name = "jobs"
    version = 3
    schema = resources.files(__package__).joinpath("jobs.sql").read_text()

    async def apply(self, events: Sequence[RecordedEvent], connection: aiosqlite.Connection) -> None:
        last = {job_id: event.position for event in events if (job_id := job_id_of(event.stream))}
        rows = await connection.execute_fetchall(_DOCUMENTS, (_json(last),))
        jobs: dict[str, Job | None] = {job_id: _decoder.decode(document) for job_id, document in rows}
        for event in events:
            if job_id := job_id_of(event.stream):
                jobs[job_id] = apply(jobs.get(job_id), event)
        await connection.executemany(_WRITE, [_row(job, last[job.id]) for job in jobs.values() if job])
        pruned = [_pruned.decode(event.data) for event in events if event.type == Pruned.type]
        await connection.executemany(_FORGET, [(note.through,) for note in pruned])


class JobReadModel:
    """Questions about jobs. Answers are as fresh as the projector's position.

    ``owner`` is always exact: None stands for the jobs of nobody in particular. All methods raise
    `StoreUnavailable` when the file cannot be read.
    """

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def get(self, job_id: str) -> Job | None:
        """Return a job, destroyed ones included, or None when there never was one."""
        rows = await self._fetch(_DOCUMENT, (job_id,))
        return _decoder.decode(rows[0][0]) if rows else None

    async def references(
        self, service: str, owner: str | None, *,
        phases: Iterable[Phase], after: datetime | None = None, last: int | None = None,
    ) -> list[JobReference]:  # fmt: skip
        """Return the jobs in any of ``phases`` created after ``after``: the newest ``last``, newest first."""
        parameters = {
            "service": service,
            "owner": owner,
            "after": to_microseconds(after) if after else -1,
            "phases": _json(phases),
            "last": last if last is not None else -1,
        }
        return [
            JobReference(job_id, Phase(phase), run_id, owner, from_microseconds(created))
            for job_id, phase, run_id, owner, created in await self._fetch(_LIST, parameters)
        ]

    async def queue_heads(self) -> list[QueueHead]:
        """Return who is first in line, for each service and owner."""
        return [
            QueueHead(service, owner, job_id, from_microseconds(queued))
            for service, owner, job_id, queued in await self._fetch(_NEXT_IN_QUEUE, ())
        ]

    async def services(self) -> set[str]:
        """Return the names of all services that have jobs which are not destroyed."""
        return {service for (service,) in await self._fetch(_SERVICES, ())}

    async def started(self) -> list[Job]:
        """Return the jobs for which there may be a program running."""
        return [_decoder.decode(document) for (document,) in await self._fetch(_STARTED, (_json(STARTED),))]

    async def active(self, service: str) -> int:
        """Return how many jobs of a service are QUEUED or EXECUTING."""
        return int((await self._fetch(_ACTIVE, (service,)))[0][0])

    async def usual_duration(self, service: str) -> float | None:
        """Return the median run time in seconds of the last hundred jobs that COMPLETED, None without any."""
        durations = [duration for (duration,) in await self._fetch(_DURATIONS, (service,))]
        return median(durations) / 1e6 if durations else None

    async def next_destruction(self, after: datetime) -> datetime | None:
        """Return the earliest destruction time of any job of any service that is later than ``after``."""
        ((time,),) = await self._fetch(_NEXT_DESTRUCTION, (to_microseconds(after),))
        return from_microseconds(time) if time is not None else None

    async def due(self, now: datetime) -> list[tuple[str, str]]:
        """Return id and service of jobs, at most a thousand, whose destruction time is not after ``now``."""
        return [(job_id, service) for job_id, service in await self._fetch(_DUE, (to_microseconds(now),))]

    async def keep_files(self, job_ids: Iterable[str]) -> dict[str, bool]:
        """Return for those of ``job_ids`` that there are or were whether their files are still wanted."""
        return {job_id: bool(keep) for job_id, keep in await self._fetch(_KNOWN, (_json(job_ids),))}

    async def _fetch(self, sql: str, parameters: Any) -> list[Any]:
        try:
            return list(await self._connection.execute_fetchall(sql, parameters))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the read models cannot be read: {error}") from error


def _row(job: Job, last: int) -> tuple[Any, ...]:
    times = (job.created, job.queued, job.started, job.ended, job.destruction, job.destroyed)
    created, queued, started, ended, destruction, destroyed = (
        to_microseconds(time) if time is not None else None for time in times
    )
    return (
        job.id, job.service, job.owner, job.run_id, job.phase, created, job.position, last,
        queued, started, ended, destruction, destroyed, _encoder.encode(job),
    )  # fmt: skip


def _json(values: Iterable[str]) -> str:
    return msgspec.json.encode(list(values)).decode()
