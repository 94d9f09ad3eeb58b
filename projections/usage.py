"""The read model of usage: jobs by phase, seconds and bytes of each owner and service."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from statistics import median
from typing import ClassVar

import msgspec
from msgspec.structs import replace

from eventstore import Erased
from uws.model import events as e
from uws.model.events import job_stream
from uws.model.phases import STARTED

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
)

_LOAD = """
SELECT id, position, service, owner, phase, started, ended, microseconds, results, uploads FROM used
WHERE id IN (SELECT value FROM json_each(?))
"""
_INSERT = "INSERT INTO used VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REPLACE = "INSERT OR REPLACE INTO used VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM used WHERE id = ?"
_PRUNED = """
SELECT id, position, service, owner, phase, started, ended, microseconds, results, uploads FROM used
WHERE phase = 'DESTROYED' AND last <= ?
"""
_ADD = """
UPDATE usage SET jobs = jobs + ?, microseconds = microseconds + ?, bytes = bytes + ?
WHERE service = ? AND owner IS ? AND phase = ?
"""
_BEGIN = "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?)"
_CLEAR = "DELETE FROM usage WHERE jobs = 0 AND service = ? AND owner IS ? AND phase = ?"
_DURATIONS = """
SELECT microseconds FROM used WHERE service = ? AND phase = 'COMPLETED' ORDER BY ended DESC, position DESC
LIMIT 100
"""
_USAGE = "SELECT * FROM usage ORDER BY service, owner, phase"
_SERVICES = "SELECT DISTINCT service FROM usage WHERE phase <> 'DESTROYED'"

DESTROYED = "DESTROYED"
"""Stands in the place of a phase where jobs are counted that are gone for their clients."""

_ENDING = frozenset({e.JobCompleted, e.JobFailed, e.JobAborted})
_WITHOUT_FILES = frozenset({DESTROYED, "ARCHIVED"})
_sizes = msgspec.json.Decoder(dict[str, int])


class Used(msgspec.Struct, gc=False):
    """A row, its fields in the order of the columns."""

    id: str
    position: int
    service: str
    owner: str | None
    phase: str
    started: int | None
    ended: int | None
    microseconds: int
    results: int
    uploads: str

    @property
    def bytes(self) -> int:
        """What its files hold on the disk."""
        return self.results + (sum(_sizes.decode(self.uploads).values()) if self.uploads else 0)


class Usage(ReadModel[Used]):
    """What each job has used, and the sums of it."""

    name = "usage"
    version = 1
    share = 3.0
    tables = resources.files(__package__).joinpath("usage.sql").read_text()
    indexes = """
    CREATE INDEX IF NOT EXISTS used_completed ON used (service, ended, position) WHERE phase = 'COMPLETED';
    CREATE INDEX IF NOT EXISTS used_destroyed ON used (last) WHERE phase = 'DESTROYED';
    """
    contents: ClassVar[Mapping[str, Contents]] = {
        "used": Contents("SELECT * FROM used ORDER BY id", stream=lambda row: job_stream(row[0])),
        "usage": Contents("SELECT service, owner, phase, jobs, microseconds, bytes FROM usage"
                          " ORDER BY service, owner, phase", 3),
    }  # fmt: skip

    def apply(self, row: Used | None, events: Sequence[Event]) -> Used | None:
        row = row and replace(row)
        for event in events:
            kind = event.kind
            if kind is e.JobCreated:
                row = _created(event)
            elif kind is Erased:
                row = None
            elif row is None:
                raise headless(event)
            elif kind is e.ParametersSet:
                row.uploads = _with_uploads(row.uploads, event.payload.parameters)
            elif phase := PHASES_AFTER.get(kind):
                _enter(row, phase, event)
            elif kind is e.JobDestroyed:
                _enter(row, DESTROYED, event)
            else:
                pass_over(event)
        return row

    def load(self, connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, Used]:
        return {found[0]: Used(*found) for found in connection.execute(_LOAD, (as_json(keys),))}

    def save(
        self, connection: sqlite3.Connection, before: Mapping[str, Used], after: Mapping[str, Used | None],
        batch: Batch,
    ) -> None:  # fmt: skip
        connection.executemany(_DELETE, [(key,) for key in before if after.get(key) is None])
        put_structs(connection, _INSERT, _REPLACE, before, after, batch)
        self._sum_up(connection, before.values(), (row for row in after.values() if row))

    def forget(self, connection: sqlite3.Connection, through: int) -> None:
        gone = [Used(*found) for found in connection.execute(_PRUNED, (through,))]
        connection.executemany(_DELETE, [(row.id,) for row in gone])
        self._sum_up(connection, gone, ())

    def _sum_up(self, connection: sqlite3.Connection, taken: Iterable[Used], added: Iterable[Used]) -> None:
        sums: defaultdict[tuple[str, str | None, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        for sign, rows in ((-1, taken), (1, added)):
            for row in rows:
                cell = sums[row.service, row.owner, row.phase]
                cell[0] += sign
                cell[1] += sign * row.microseconds
                cell[2] += sign * row.bytes
        for place, change in sums.items():
            if any(change) and not connection.execute(_ADD, (*change, *place)).rowcount:
                connection.execute(_BEGIN, (*place, *change))
            if change[0] < 0:
                connection.execute(_CLEAR, place)


def _created(event: Event) -> Used:
    payload: e.JobCreated = event.payload
    uploads = _with_uploads("", payload.parameters)
    return Used(
        event.key, event.position, payload.service, payload.owner, "PENDING", None, None, 0, 0, uploads
    )


def _enter(row: Used, phase: str, event: Event) -> None:
    if row.phase in STARTED and phase not in STARTED:  # the program has ended
        row.microseconds += max(0, event.time - (row.started or event.time))
    row.phase = phase
    if event.kind is e.JobStarted:
        row.started = event.time
    elif event.kind in _ENDING:
        row.ended = event.time
        row.results = sum([result.size for result in event.payload.results])
    elif phase in _WITHOUT_FILES:
        row.results, row.uploads = 0, ""


def _with_uploads(uploads: str, parameters: Mapping[str, e.Values]) -> str:
    if not uploads and e.Upload not in {type(value) for values in parameters.values() for value in values}:
        return ""
    sizes = _sizes.decode(uploads or "{}")
    for name, values in parameters.items():
        sizes[name] = sum(value.size for value in values if isinstance(value, e.Upload))
    kept = {name: size for name, size in sizes.items() if size}
    return msgspec.json.encode(kept).decode() if kept else ""


class UsageOf(msgspec.Struct, frozen=True):
    """What the jobs of one owner, service and phase have used: seconds of running, bytes on the disk."""

    service: str
    owner: str | None
    phase: str
    jobs: int
    seconds: float
    bytes: int


def usage(connection: sqlite3.Connection) -> list[UsageOf]:
    """Return what all jobs have used, destroyed ones (as ``DESTROYED``) included."""
    return [
        UsageOf(service, owner, phase, jobs, microseconds / 1e6, size)
        for service, owner, phase, jobs, microseconds, size in connection.execute(_USAGE)
    ]


def services_with_jobs(connection: sqlite3.Connection) -> set[str]:
    """Return the names of all services that have jobs which are not destroyed."""
    return {service for (service,) in connection.execute(_SERVICES)}


def usual_duration(connection: sqlite3.Connection, service: str) -> float | None:
    """Return the median run time in seconds of the last hundred jobs that COMPLETED, None without any."""
    durations = [duration for (duration,) in connection.execute(_DURATIONS, (service,))]
    return median(durations) / 1e6 if durations else None
