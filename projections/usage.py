"""The read model of usage: jobs by phase, seconds and bytes of each owner and service."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib import resources
from statistics import median
from typing import ClassVar, NamedTuple

import msgspec
from msgspec.structs import replace

from eventstore import Erased, from_microseconds, to_microseconds
from eventstore.connection import fetch
from uws.model import events as e
from uws.model.events import job_stream
from uws.model.phases import STARTED
from uws.model.queueing import LEAST_CHARGE
from uws.model.quotas import Use

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
SELECT id, position, service, owner, phase, created, started, ended, microseconds, results, uploads FROM used
WHERE id IN (SELECT value FROM json_each(?))
"""
_INSERT = "INSERT INTO used VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REPLACE = "INSERT OR REPLACE INTO used VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_STORED = "SELECT coalesce(sum(bytes), 0) FROM usage WHERE owner IS ?"
_MADE = "SELECT count(*) FROM used WHERE owner IS ? AND created > ?"
_MADE_LAST = """
SELECT created FROM used WHERE owner IS ? AND created > ? ORDER BY created DESC LIMIT 1 OFFSET ?
"""
_DELETE = "DELETE FROM used WHERE id = ?"
_PRUNED = """
SELECT id, position, service, owner, phase, created, started, ended, microseconds, results, uploads FROM used
WHERE phase = 'DESTROYED' AND last <= ?
"""
_ADD = """
UPDATE usage SET jobs = jobs + ?, microseconds = microseconds + ?, bytes = bytes + ?
WHERE service = ? AND owner IS ? AND phase = ?
"""
_BEGIN = "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?)"
_CLEAR = "DELETE FROM usage WHERE jobs = 0 AND service = ? AND owner IS ? AND phase = ?"
_CHARGE = """
UPDATE lately SET jobs = jobs + ?, microseconds = microseconds + ? WHERE owner IS ? AND hour = ?
"""
_BEGIN_HOUR = "INSERT INTO lately VALUES (?, ?, ?, ?)"
_CLEAR_HOUR = "DELETE FROM lately WHERE jobs = 0 AND owner IS ? AND hour = ?"
_LATELY = "SELECT hour, microseconds FROM lately WHERE owner IS ? AND hour > ?"
_LIKE = """
SELECT used.microseconds, document.document FROM used JOIN document ON document.id = used.id
WHERE used.service = ? AND used.owner IS ? AND used.phase = 'COMPLETED' AND length(document.document) < ?
ORDER BY used.ended DESC, used.position DESC LIMIT ?
"""
_DURATIONS = """
SELECT microseconds FROM used WHERE service = ? AND phase = 'COMPLETED' ORDER BY ended DESC, position DESC
LIMIT ?
"""
_USAGE = "SELECT * FROM usage ORDER BY service, owner, phase"
_BY_PHASE = """
SELECT service, phase, sum(jobs) FROM usage WHERE phase <> 'DESTROYED' GROUP BY service, phase
"""
_DESTROYED_FIRST = """
SELECT id FROM used WHERE phase = 'DESTROYED' ORDER BY last LIMIT ?
"""
_SERVICES = "SELECT DISTINCT service FROM usage WHERE phase <> 'DESTROYED'"

DESTROYED = "DESTROYED"
"""Stands in the place of a phase where jobs are counted that are gone for their clients."""

_HOUR = 3_600_000_000
LEAST_CHARGED = round(LEAST_CHARGE * 1e6)
"""Microseconds that what a job ran for counts at least."""
EXPERIENCE = 100
"""Jobs of which the usual duration is the median."""
_FORGOTTEN = 10
"""Half-lives after which what was used counts for nothing: it would for a thousandth."""
_LAST, _MOST_LIKE, _LARGE = 20, 3, 20_000
"""Of the last so many jobs of an owner, so many that are most like one; not those with documents as large."""
_ENDING = frozenset({e.JobCompleted, e.JobFailed, e.JobAborted})
EXPERIENCED = frozenset({"JobCompleted", "JobDestroyed", "JobArchived", Erased.type})
"""The types of events by which a job becomes one that COMPLETED, or is one no longer."""
_Call = frozenset[tuple[str, tuple[str, ...]]]
_WITHOUT_FILES = frozenset({DESTROYED, "ARCHIVED"})
_sizes = msgspec.json.Decoder(dict[str, int])


class Used(msgspec.Struct, gc=False):
    """A row, its fields in the order of the columns."""

    id: str
    position: int
    service: str
    owner: str | None
    phase: str
    created: int
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
    version = 3
    share = 30
    tables: ClassVar[str] = resources.files(__package__).joinpath("usage.sql").read_text()
    indexes = """
    CREATE INDEX IF NOT EXISTS used_completed ON used (service, ended, position) WHERE phase = 'COMPLETED';
    CREATE INDEX IF NOT EXISTS used_completed_of ON used (service, owner, ended, position)
    WHERE phase = 'COMPLETED';
    CREATE INDEX IF NOT EXISTS used_by_creation ON used (owner, created);
    CREATE INDEX IF NOT EXISTS used_destroyed ON used (last) WHERE phase = 'DESTROYED';
    CREATE INDEX IF NOT EXISTS usage_bytes ON usage (owner, bytes);
    CREATE INDEX IF NOT EXISTS usage_by_phase ON usage (service, phase, jobs);
    """
    contents: ClassVar[Mapping[str, Contents]] = {
        "used": Contents("SELECT * FROM used ORDER BY id", stream=lambda row: job_stream(row[0])),
        "usage": Contents("SELECT service, owner, phase, jobs, microseconds, bytes FROM usage"
                          " ORDER BY service, owner, phase", 3),
        "lately": Contents("SELECT owner, hour, jobs, microseconds FROM lately ORDER BY owner, hour", 2),
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
        left = [row for row in after.values() if row]
        self._sum_up(connection, before.values(), left)
        self._charge(connection, before.values(), left)

    def forget(self, connection: sqlite3.Connection, through: int) -> None:
        gone = [Used(*found) for found in connection.execute(_PRUNED, (through,))]
        connection.executemany(_DELETE, [(row.id,) for row in gone])
        self._sum_up(connection, gone, ())
        self._charge(connection, gone, ())

    def _charge(self, connection: sqlite3.Connection, taken: Iterable[Used], added: Iterable[Used]) -> None:
        sums: defaultdict[tuple[str | None, int], list[int]] = defaultdict(lambda: [0, 0])
        for sign, rows in ((-1, taken), (1, added)):
            for row in rows:
                if row.ended is not None and row.started is not None:
                    cell = sums[row.owner, row.ended // _HOUR]
                    cell[0] += sign
                    cell[1] += sign * max(row.microseconds, LEAST_CHARGED)
        for place, change in sums.items():
            if any(change) and not connection.execute(_CHARGE, (*change, *place)).rowcount:
                connection.execute(_BEGIN_HOUR, (*place, *change))
            if change[0] < 0:
                connection.execute(_CLEAR_HOUR, place)

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
        event.key,
        event.position,
        payload.service,
        payload.owner,
        "PENDING",
        event.time,
        None,
        None,
        0,
        0,
        uploads,
    )


def _enter(row: Used, phase: str, event: Event) -> None:
    if row.phase in STARTED and phase not in STARTED:  # the program has ended
        row.microseconds += max(0, event.time - (row.started or event.time))
    row.phase = phase
    if event.kind is e.JobStarted:
        row.started = event.time
    elif event.kind is e.JobRequeued:
        row.started = None
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


def jobs_by_phase(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """Return how many jobs, without destroyed ones, each service has in each phase that any of them is in.

    What it costs grows with the owners, not with the jobs.
    """
    return {(service, phase): jobs for service, phase, jobs in connection.execute(_BY_PHASE)}


def destroyed_first(connection: sqlite3.Connection, limit: int) -> list[str]:
    """Return the ids of destroyed jobs of which something is known still, those first that went first."""
    return [job_id for (job_id,) in connection.execute(_DESTROYED_FIRST, (limit,))]


def services_with_jobs(connection: sqlite3.Connection) -> set[str]:
    """Return the names of all services that have jobs which are not destroyed."""
    return {service for (service,) in connection.execute(_SERVICES)}


def use_of(connection: sqlite3.Connection, owner: str | None, after: datetime, most: int) -> Use:
    """Return what an owner's jobs have stored, and how many he made ``after`` then, ``most`` at most.

    Destroyed jobs were made, too, as long as the log has them. What it costs grows with ``most``, and with
    the services that the owner has used.
    """
    ((stored,),) = connection.execute(_STORED, (owner,))
    if not most:
        return Use(stored)
    since = to_microseconds(after)
    for (oldest,) in connection.execute(_MADE_LAST, (owner, since, most - 1)):
        return Use(stored, most, from_microseconds(oldest))
    ((made,),) = connection.execute(_MADE, (owner, since))
    return Use(stored, made)


def used_lately(
    connection: sqlite3.Connection, owners: Iterable[str | None], now: datetime, half_life: float
) -> dict[str | None, float]:
    """Return the seconds for which jobs of owners ran that have ended, half of them after each ``half_life``.

    That is in seconds, and counts by the hour. What it costs grows with the owners and the half-life only.
    """
    hour = to_microseconds(now) // _HOUR
    first = hour - round(_FORGOTTEN * half_life / 3600)
    return {
        owner: sum(
            microseconds / 1e6 * 0.5 ** (max(0, hour - ended) * 3600 / half_life)
            for ended, microseconds in connection.execute(_LATELY, (owner, first))
        )
        for owner in owners
    }


def usual_duration(connection: sqlite3.Connection, service: str) -> float | None:
    """Return the median run time in seconds of the last hundred jobs that COMPLETED, None without any."""
    durations = [duration for (duration,) in connection.execute(_DURATIONS, (service, EXPERIENCE))]
    return median(durations) / 1e6 if durations else None


class Experience(NamedTuple):
    """What is known of jobs of a service that COMPLETED: the owner's last, and the usual run time in seconds.

    Of each there are the microseconds that it ran, and how it was called, the newest first.
    """

    last: list[tuple[int, _Call]]
    usual: float | None

    def duration_of_like(self, parameters: Mapping[str, e.Values]) -> float | None:
        """Return the median run time in seconds of jobs that are like one; without any, the usual one.

        They are three of the owner's last twenty: those of which most parameters have the same values, newer
        ones first.
        """
        wanted = _call(parameters)
        found = sorted(((len(wanted & call), ran) for ran, call in self.last), key=lambda like: -like[0])
        if not found:
            return self.usual
        return median(ran for alike, ran in found[:_MOST_LIKE] if alike == found[0][0]) / 1e6


def experience(connection: sqlite3.Connection, service: str, owner: str | None) -> tuple[Experience, int]:
    """Return what there is, and about how many bytes; it is another one only after `EXPERIENCED`."""
    rows = fetch(connection, _LIKE, (service, owner, _LARGE, _LAST))
    last = [(microseconds, _call(_parameters.decode(document).parameters)) for microseconds, document in rows]
    return Experience(last, None if last else usual_duration(connection, service)), len(str(last))


class _Parameters(msgspec.Struct):
    """What of a job's document tells how it was called."""

    parameters: dict[str, e.Values] = {}


_parameters = msgspec.json.Decoder(_Parameters)


def _call(parameters: Mapping[str, e.Values]) -> _Call:
    return frozenset(
        (name, tuple(value.sha256 if isinstance(value, e.Upload) else value for value in values))
        for name, values in parameters.items()
    )
