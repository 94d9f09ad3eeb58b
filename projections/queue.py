"""The read model of the queue: who waits, and who may have a program running."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import ClassVar

import msgspec
from msgspec.structs import replace

from eventstore import Erased, from_microseconds
from uws.model import events as e
from uws.model.phases import ENDED, STARTED

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
SELECT position, id, service, owner, phase, queued FROM active WHERE id IN (SELECT value FROM json_each(?))
"""
_INSERT = "INSERT INTO active VALUES (?, ?, ?, ?, ?, ?, ?)"
_REPLACE = "INSERT OR REPLACE INTO active VALUES (?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM active WHERE id = ?"
_HEADS = "SELECT service, owner, id, min(queued) FROM active WHERE phase = 'QUEUED' GROUP BY service, owner"
_STARTED = "SELECT position, id, service FROM active WHERE phase IN (SELECT value FROM json_each(?))"
_ACTIVE = "SELECT count(*) FROM active WHERE phase IN ('QUEUED', 'EXECUTING') AND service = ?"

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


class Queue(ReadModel[Active]):
    """The jobs that have not ended; those that have need no row."""

    name = "queue"
    version = 1
    share = 0.6
    tables = resources.files(__package__).joinpath("queue.sql").read_text()
    indexes = "CREATE INDEX IF NOT EXISTS active_by_phase ON active (phase, service, owner, queued)"
    contents: ClassVar[Mapping[str, Contents]] = {
        "active": Contents("SELECT * FROM active ORDER BY position", stream=stream_of_job)
    }

    def apply(self, row: Active | None, events: Sequence[Event]) -> Active | None:
        row = row and replace(row)
        for event in events:
            kind = event.kind
            if kind is e.JobCreated:
                row = _created(event)
            elif kind in _LEAVING:
                row = None
            elif kind not in PHASES_AFTER:
                pass_over(event)
            elif row:
                row.phase = PHASES_AFTER[kind]
                if kind is e.JobQueued:
                    row.queued = event.time
        return row

    def load(self, connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, Active]:
        return {found[1]: Active(*found) for found in connection.execute(_LOAD, (as_json(keys),))}

    def save(
        self, connection: sqlite3.Connection, before: Mapping[str, Active],
        after: Mapping[str, Active | None], batch: Batch,
    ) -> None:  # fmt: skip
        connection.executemany(_DELETE, [(key,) for key in before if after.get(key) is None])
        put_structs(connection, _INSERT, _REPLACE, before, after, batch)

    def forget(self, connection: sqlite3.Connection, through: int) -> None:
        pass  # a job that was destroyed has no row


def _created(event: Event) -> Active:
    payload: e.JobCreated = event.payload
    return Active(event.position, event.key, payload.service, payload.owner, "PENDING", None)


class QueueHead(msgspec.Struct, frozen=True):
    """The job of one owner that has waited longest in one service's queue."""

    service: str
    owner: str | None
    job_id: str
    queued: datetime


def queue_heads(connection: sqlite3.Connection) -> list[QueueHead]:
    """Return who is first in line, for each service and owner."""
    return [
        QueueHead(service, owner, job_id, from_microseconds(queued))
        for service, owner, job_id, queued in connection.execute(_HEADS)
    ]


def started(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return id and service of the jobs for which there may be a program running, oldest first."""
    found = sorted(connection.execute(_STARTED, (as_json(STARTED),)))
    return [(job_id, service) for _, job_id, service in found]


def active(connection: sqlite3.Connection, service: str) -> int:
    """Return how many jobs of a service are QUEUED or EXECUTING."""
    ((count,),) = connection.execute(_ACTIVE, (service,))
    return int(count)
