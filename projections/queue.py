"""The read model of the queue: who waits, who may have a program running, and what is paused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import Any, ClassVar, NamedTuple

import msgspec
from msgspec.structs import replace

from eventstore import Erased, from_microseconds
from uws.model import events as e
from uws.model.phases import ENDED, STARTED, Phase
from uws.model.queueing import AT_ONCE, IN_SLURM, Line, Running

from .readmodel import (
    PHASES_AFTER,
    Batch,
    Contents,
    Event,
    ReadModel,
    as_json,
    pass_over,
    put_structs,
    stream_of_job,
)

_LOAD = """
SELECT position, id, service, owner, phase, queued, started, quotas, node, files, reason FROM active
WHERE id IN (SELECT value FROM json_each(?))
"""
_INSERT = "INSERT INTO active VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REPLACE = "INSERT OR REPLACE INTO active VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM active WHERE id = ?"
# Where no node is away, which comes first, the index tells all: no row is read for its files.
_LINES = """
SELECT service, owner, id, min(coalesce(queued, 0)), count(*), quotas FROM active
WHERE phase = 'QUEUED' AND (:away = '[]' OR files = '' OR NOT EXISTS (
    SELECT 1 FROM json_tree(files) WHERE type = 'text' AND value IN (SELECT value FROM json_each(:away))
))
GROUP BY service, owner
"""
_FIRST = """
SELECT id, coalesce(queued, 0) FROM active
WHERE phase = 'QUEUED' AND service = :service AND owner IS :owner
  AND (:away = '[]' OR files = '' OR NOT EXISTS (
    SELECT 1 FROM json_tree(files) WHERE type = 'text' AND value IN (SELECT value FROM json_each(:away))
))
ORDER BY queued, position LIMIT :limit
"""
_RUNNING = """
SELECT service, owner, coalesce(started, queued, 0), id, node, phase FROM active
WHERE phase IN (SELECT value FROM json_each(?))
"""
_PAUSED = "SELECT service, since FROM paused ORDER BY service"
_PAUSE = "INSERT OR IGNORE INTO paused VALUES (?, ?, ?)"
_RESUME = "DELETE FROM paused WHERE service = ?"
_JOIN = "INSERT OR IGNORE INTO node VALUES (?, ?, ?)"
_LEAVE = "DELETE FROM node WHERE name = ?"
_BEFORE = """
SELECT count(earlier.id) FROM active AS job LEFT JOIN active AS earlier
ON earlier.phase = 'QUEUED' AND earlier.service = job.service AND earlier.owner IS job.owner
  AND (coalesce(earlier.queued, 0), earlier.position) < (coalesce(job.queued, 0), job.position)
WHERE job.id = ? AND job.phase = 'QUEUED' GROUP BY job.id
"""
_QUEUED = "SELECT count(*) FROM active WHERE phase = 'QUEUED' AND service = ? AND owner IS ?"
_HELD = "SELECT service, owner, id, min(position) FROM active WHERE phase = 'HELD' GROUP BY service, owner"
_WAITING = """
SELECT id, service, owner, phase, queued, quotas, reason FROM active WHERE phase = ?
ORDER BY queued, position LIMIT ?
"""
_RUNNING_OF = """
SELECT count(*) FROM active WHERE phase IN (SELECT value FROM json_each(?)) AND owner IS ?
"""
_STARTED = "SELECT position, id, service, node FROM active WHERE phase IN (SELECT value FROM json_each(?))"

_NODE = b'"node"'
_files = msgspec.json.Decoder(dict[str, list[str]])

SUBMITTED = "SUBMITTED"
"""The phase of a job that is QUEUED in a batch system: it waits, and has its slot already."""
IN_SLOTS = (*sorted(STARTED), SUBMITTED)
"""The phases of jobs that count as running."""
_IN_BATCH = {e.JobSubmitted, e.JobAccepted}
_OUT_OF_BATCH = {e.JobQueued, e.JobHeld, e.JobRequeued}
_LEAVING = frozenset({e.JobDestroyed, Erased}) | {
    kind for kind, phase in PHASES_AFTER.items() if phase in ENDED
}


class Active(msgspec.Struct, gc=False):
    """A row, its fields in the order of the columns."""

    position: int
    id: str
    service: str
    owner: str | None
    phase: str
    queued: int | None
    started: int | None
    quotas: str
    node: str | None = None
    files: str = ""
    reason: str = ""


class Queue(ReadModel[Active]):
    """The jobs that have not ended; those that have need no row. Who takes them, and what is paused."""

    name = "queue"
    version = 6
    share = 6
    prompt = True
    tables: ClassVar[str] = resources.files(__package__).joinpath("queue.sql").read_text()
    indexes = """
    CREATE INDEX IF NOT EXISTS active_by_phase ON active (phase, service, owner, queued);
    CREATE INDEX IF NOT EXISTS active_by_time ON active (phase, queued);
    """
    contents: ClassVar[Mapping[str, Contents]] = {
        "active": Contents("SELECT * FROM active ORDER BY position", stream=stream_of_job),
        "node": Contents("SELECT * FROM node ORDER BY name"),
        "paused": Contents("SELECT * FROM paused ORDER BY service"),
    }

    def apply(self, row: Active | None, events: Sequence[Event]) -> Active | None:
        row = row and replace(row)
        for event in events:
            kind = event.kind
            if kind is e.JobCreated:
                row = _created(event)
            elif kind in _LEAVING:
                row = None
            elif kind is e.ParametersSet and row and (row.files or _NODE in event.recorded.data):
                row.files = _with_files(row.files, event.payload.parameters)
            elif kind not in PHASES_AFTER:
                pass_over(event)
            elif row:
                row.phase = SUBMITTED if kind in _IN_BATCH else PHASES_AFTER[kind]
                row.reason = event.payload.reason if kind is e.JobAccepted else ""
                if kind is e.JobQueued:
                    row.queued = event.time
                elif kind is e.JobStarted:
                    row.started = event.time
                    # Most name none, and need not be read for it.
                    if row.node != IN_SLURM:
                        row.node = event.payload.node if _NODE in event.recorded.data else None
                elif kind in _IN_BATCH:
                    row.node = IN_SLURM
                elif kind is e.JobRequeued:
                    row.started = None
                if kind in _OUT_OF_BATCH and row.node == IN_SLURM:
                    row.node = None
        return row

    def load(self, connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, Active]:
        return {found[1]: Active(*found) for found in connection.execute(_LOAD, (as_json(keys),))}

    def save(
        self, connection: sqlite3.Connection, before: Mapping[str, Active],
        after: Mapping[str, Active | None], batch: Batch,
    ) -> None:  # fmt: skip
        connection.executemany(_DELETE, [(key,) for key in before if after.get(key) is None])
        put_structs(connection, _INSERT, _REPLACE, before, after, batch)

    def fold(self, connection: sqlite3.Connection, batch: Batch) -> None:
        super().fold(connection, batch)
        for recorded in batch.nodes:
            match e.decode_node(recorded):
                case e.NodeJoined(node=node):
                    connection.execute(_JOIN, (node, e.time_of(recorded), recorded.position))
                case e.NodeLeft(node=node):
                    connection.execute(_LEAVE, (node,))
        for recorded in batch.queue:
            match e.decode_queue(recorded):
                case e.QueuePaused(service=service):
                    connection.execute(_PAUSE, (service or "", e.time_of(recorded), recorded.position))
                case e.QueueResumed(service=service):
                    connection.execute(_RESUME, (service or "",))

    def forget(self, connection: sqlite3.Connection, through: int) -> None:
        pass  # a job that was destroyed has no row


def _created(event: Event) -> Active:
    payload: e.JobCreated = event.payload
    quotas = as_json(payload.quotas) if payload.quotas else ""
    row = Active(event.position, event.key, payload.service, payload.owner, "PENDING", None, None, quotas)
    if _NODE in event.recorded.data:
        row.files = _with_files("", payload.parameters)
    return row


def _with_files(files: str, parameters: Mapping[str, e.Values]) -> str:
    """Return the nodes that have what was sent for a job, after parameters were set."""
    nodes = _files.decode(files) if files else {}
    for name, values in parameters.items():
        have = {value.node for value in values if isinstance(value, e.Upload)}
        nodes[name] = sorted(node for node in have if isinstance(node, str))
    nodes = {name: there for name, there in nodes.items() if there}
    return msgspec.json.encode(nodes, order="deterministic").decode() if nodes else ""


def _names(quotas: str) -> tuple[str, ...]:
    return msgspec.json.decode(quotas, type=tuple[str, ...]) if quotas else ()


class QueueState(NamedTuple):
    """Who waits, who runs, since when what is paused (None stands for the whole queue), and who is held.

    ``nodes`` are how many take jobs, 0 where a server is alone.
    """

    lines: list[Line]
    running: list[Running]
    paused: dict[str | None, datetime]
    held: list[tuple[str, str | None, str]]
    nodes: int = 0


class WaitingJob(msgspec.Struct, frozen=True):
    """A job that is QUEUED or HELD; ``queued`` is None for one that never was.

    Of one that waits in a batch system ``reason`` says what for, as far as that is known.
    """

    job_id: str
    service: str
    owner: str | None
    phase: Phase
    queued: datetime | None
    quotas: tuple[str, ...] = ()
    reason: str | None = None


def queue_state(connection: sqlite3.Connection, away: Iterable[str] = ()) -> QueueState:
    """Return all that decides which job is to be started; none needs files of nodes that are ``away``."""
    return QueueState(
        _lines(connection, as_json(away)),
        [
            Running(service, owner, from_microseconds(started), job_id, node, phase == SUBMITTED)
            for service, owner, started, job_id, node, phase in connection.execute(
                _RUNNING, (as_json(IN_SLOTS),)
            )
        ],
        paused(connection),
        _first_held(connection),
        int(connection.execute("SELECT count(*) FROM node").fetchone()[0]),
    )


def _lines(connection: sqlite3.Connection, away: str) -> list[Line]:
    """Return the lines; where there are few, with some jobs behind the first, as all may start at once."""
    found = connection.execute(_LINES, {"away": away}).fetchall()
    known = AT_ONCE // len(found) if found else 0
    lines = []
    for service, owner, job_id, queued, jobs, quotas in found:
        first = [(job_id, queued)]
        if jobs > 1 and known > 1:
            line = {"service": service, "owner": owner, "away": away, "limit": known}
            first = connection.execute(_FIRST, line).fetchall()
        (head, since), *behind = ((job, from_microseconds(time)) for job, time in first)
        lines.append(Line(service, owner, head, since, jobs, tuple(behind), _names(quotas)))
    return lines


def paused(connection: sqlite3.Connection) -> dict[str | None, datetime]:
    """Return since when services are paused; None stands for the whole queue."""
    return {service or None: from_microseconds(since) for service, since in connection.execute(_PAUSED)}


def queued_before(connection: sqlite3.Connection, job_id: str) -> int | None:
    """Return how many jobs of the same owner and service are in front of a QUEUED one, None for another."""
    found = connection.execute(_BEFORE, (job_id,)).fetchone()
    return found and int(found[0])


def queued_of(connection: sqlite3.Connection, owner: str | None, services: Iterable[str]) -> dict[str, int]:
    """Return how many jobs of an owner are QUEUED in each of some services."""
    return {service: int(connection.execute(_QUEUED, (service, owner)).fetchone()[0]) for service in services}


def running_of(connection: sqlite3.Connection, owner: str | None) -> int:
    """Return for how many jobs of an owner there may be a program, here or in a batch system."""
    return int(connection.execute(_RUNNING_OF, (as_json(IN_SLOTS), owner)).fetchone()[0])


def _first_held(connection: sqlite3.Connection) -> list[tuple[str, str | None, str]]:
    """Return service, owner and id of the oldest HELD job of each service and owner."""
    return [(service, owner, job_id) for service, owner, job_id, _ in connection.execute(_HELD)]


def waiting(connection: sqlite3.Connection, limit: int) -> list[WaitingJob]:
    """Return the jobs that wait, longest first: in a batch system, QUEUED here, and those that are HELD."""
    found: list[tuple[Any, ...]] = []
    for phase in (SUBMITTED, Phase.QUEUED, Phase.HELD):
        found += connection.execute(_WAITING, (phase, limit - len(found)))
    return [
        WaitingJob(
            job_id,
            service,
            owner,
            Phase.QUEUED if phase == SUBMITTED else Phase(phase),
            None if queued is None else from_microseconds(queued),
            _names(quotas),
            reason if phase == SUBMITTED else None,
        )
        for job_id, service, owner, phase, queued, quotas, reason in found
    ]


def nodes(connection: sqlite3.Connection) -> list[str]:
    """Return the names of the nodes that take jobs."""
    return [name for (name,) in connection.execute("SELECT name FROM node ORDER BY name")]


def started(connection: sqlite3.Connection) -> list[tuple[str, str, str | None]]:
    """Return id, service and node of the jobs that may have a program, oldest first.

    The node is `IN_SLURM` for those that were handed to Slurm.
    """
    found = sorted(connection.execute(_STARTED, (as_json(IN_SLOTS),)))
    return [(job_id, service, node) for _, job_id, service, node in found]
