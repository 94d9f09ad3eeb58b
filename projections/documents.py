"""The read model of job documents: all that is known of each job."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import ClassVar

import msgspec

from eventstore import Erased, from_microseconds
from uws.model.events import JobEvent
from uws.model.job import Job, apply, evolve_through

from .readmodel import Batch, Contents, Event, ReadModel, as_json, put, stream_of_job

_INSERT = "INSERT INTO document VALUES (?, ?, ?, ?, ?)"
_REPLACE = "INSERT OR REPLACE INTO document VALUES (?, ?, ?, ?, ?)"
_FORGET = "DELETE FROM document WHERE destroyed AND last <= ?"
_ONE = "SELECT document FROM document WHERE id = ?"
_SEVERAL = "SELECT document FROM document WHERE id IN (SELECT value FROM json_each(?))"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Job).decode


class Documents(ReadModel[Job]):
    """The fold of each job's stream, as it is."""

    name = "documents"
    version = 2
    share = 50
    prompt = True
    tables: ClassVar[str] = resources.files(__package__).joinpath("documents.sql").read_text()
    indexes = "CREATE INDEX IF NOT EXISTS document_destroyed ON document (last) WHERE destroyed"
    contents: ClassVar[Mapping[str, Contents]] = {
        "document": Contents("SELECT * FROM document ORDER BY position", stream=stream_of_job)
    }

    def apply(self, row: Job | None, events: Sequence[Event]) -> Job | None:
        happened: list[tuple[JobEvent, datetime]] = []
        for event in events:
            if event.kind is Erased:
                happened, row = [], apply(None, event.recorded)
            else:
                happened.append((event.payload, from_microseconds(event.time)))
        if not happened:
            return row
        return evolve_through(row, happened, job_id=events[0].key, position=events[0].position)

    def load(self, connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, Job]:
        return documents_of(connection, keys)

    def save(
        self, connection: sqlite3.Connection, before: Mapping[str, Job], after: Mapping[str, Job | None],
        batch: Batch,
    ) -> None:  # fmt: skip
        jobs = batch.jobs
        rows = [
            (key, (row.position, key, jobs[key][-1].position, row.destroyed is not None, _encode(row)))
            for key, row in after.items()
            if row
        ]
        put(connection, _INSERT, _REPLACE, before, rows)

    def forget(self, connection: sqlite3.Connection, through: int) -> None:
        connection.execute(_FORGET, (through,))


def sized_document_of(connection: sqlite3.Connection, job_id: str) -> tuple[Job | None, int]:
    """Return a job, destroyed ones included, None when there never was one, and the bytes that were read."""
    found = connection.execute(_ONE, (job_id,)).fetchone()
    return (_decode(found[0]), len(found[0])) if found else (None, 0)


def documents_of(connection: sqlite3.Connection, job_ids: Iterable[str]) -> dict[str, Job]:
    """Return those of several jobs that there are, by id."""
    found = connection.execute(_SEVERAL, (as_json(job_ids),))
    return {job.id: job for (document,) in found for job in (_decode(document),)}
