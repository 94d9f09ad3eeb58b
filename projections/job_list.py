"""The read model of the job list: what is needed to find, sort and destroy jobs, of any number of them."""

from __future__ import annotations

import heapq
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from hashlib import sha256
from importlib import resources
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import msgspec
from msgspec.structs import replace

from eventstore import Erased, from_microseconds, to_microseconds
from uws.model import events as e
from uws.model.phases import Phase

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

_LOAD = """
SELECT position, id, service, owner, run_id, phase, created, destruction, destroyed FROM job
WHERE id IN (SELECT value FROM json_each(?))
"""
_INSERT = "INSERT INTO job VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REPLACE = "INSERT OR REPLACE INTO job VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FORGET = "DELETE FROM job WHERE destroyed AND last <= ?"
_CUT = "UPDATE cut SET position = ?"

_BY_TIME = """
SELECT id, phase, run_id, owner, created, position FROM job
WHERE NOT destroyed AND phase <> 'ARCHIVED' AND service = :service AND owner IS :owner
  AND created > :after AND (created, position) < (:created, :position)
ORDER BY created DESC, position DESC LIMIT :limit
"""
_BY_PHASE = """
SELECT id, phase, run_id, owner, created, position FROM job
WHERE NOT destroyed AND service = :service AND owner IS :owner AND phase = :phase
  AND created > :after AND (created, position) < (:created, :position)
ORDER BY created DESC, position DESC LIMIT :limit
"""
_BY_RUN_ID = """
SELECT id, phase, run_id, owner, created, position FROM job
WHERE NOT destroyed AND service = :service AND owner IS :owner AND run_id = :run_id AND phase = :phase
  AND created > :after AND (created, position) < (:created, :position)
ORDER BY created DESC, position DESC LIMIT :limit
"""
_OWNERS = """
WITH RECURSIVE of (owner) AS (
  SELECT min(owner) FROM job WHERE NOT destroyed AND service = :service
  UNION ALL
  SELECT (SELECT min(owner) FROM job WHERE NOT destroyed AND service = :service AND owner > of.owner)
  FROM of WHERE owner IS NOT NULL
) SELECT owner FROM of
"""
_MOVE = "UPDATE changed SET position = ?, time = ? WHERE service = ? AND owner IS ?"
_BEGIN = "INSERT INTO changed VALUES (?, ?, ?, ?)"
_FORGET_CHANGES = "DELETE FROM changed WHERE position <= ?"
_STATE = """
SELECT 'changed', position || ' ' || time FROM changed WHERE service = ? AND owner IS ?
UNION ALL SELECT 'cut', position FROM cut
UNION ALL SELECT name, file FROM pragma_database_list WHERE name IN ('job_list', 'documents')
"""
_STATE_OF_ALL = """
SELECT 'changed', count(*) || ' ' || max(position) || ' ' || max(time) FROM changed WHERE service = ?
UNION ALL SELECT 'cut', position FROM cut
UNION ALL SELECT name, file FROM pragma_database_list WHERE name IN ('job_list', 'documents')
"""
_POSITION = "SELECT position FROM changed WHERE service = ? AND owner IS ?"
_POSITION_OF_ALL = "SELECT max(position) FROM changed WHERE service = ?"
_NEXT_DESTRUCTION = """
SELECT min(destruction) FROM job
WHERE NOT destroyed AND phase <> 'ARCHIVED' AND destruction IS NOT NULL AND destruction > ?
"""
_DUE = """
SELECT id, service FROM job
WHERE NOT destroyed AND phase <> 'ARCHIVED' AND destruction IS NOT NULL AND destruction <= ?
ORDER BY destruction LIMIT 1000
"""
_EXPIRED = """
SELECT id, service, owner, phase, run_id, created, destruction, position FROM job
WHERE NOT destroyed AND phase <> 'ARCHIVED' AND destruction IS NOT NULL AND destruction <= :now
  AND (destruction, position) > (:time, :position)
ORDER BY destruction, position LIMIT :limit
"""
_KNOWN = """
SELECT id, NOT destroyed AND phase <> 'ARCHIVED' FROM job WHERE id IN (SELECT value FROM json_each(?))
"""
_BEGINNING_SO = "SELECT id FROM job WHERE id >= ? AND id < ? ORDER BY position DESC LIMIT ?"
_END_OF_TIME = (1 << 63) - 1
_NEVER = (0, 0)
_LISTED = frozenset(Phase) - {Phase.ARCHIVED}


class Listed(msgspec.Struct, gc=False):
    """A row, its fields in the order of the columns."""

    position: int
    id: str
    service: str
    owner: str | None
    run_id: str | None
    phase: str
    created: int
    destruction: int | None
    destroyed: int


class JobList(ReadModel[Listed]):
    """What job lists and the destruction of jobs need to know of each job."""

    name = "job_list"
    version = 1
    share = 30
    tables: ClassVar[str] = resources.files(__package__).joinpath("job_list.sql").read_text()
    indexes: ClassVar[str] = resources.files(__package__).joinpath("job_list_indexes.sql").read_text()
    contents: ClassVar[Mapping[str, Contents]] = {
        "job": Contents("SELECT * FROM job ORDER BY position", stream=stream_of_job),
        "changed": Contents("SELECT service, owner, position, time FROM changed ORDER BY service, owner", 2),
        "cut": Contents("SELECT 0, position FROM cut"),
    }

    def apply(self, row: Listed | None, events: Sequence[Event]) -> Listed | None:
        row = row and replace(row)
        for event in events:
            kind = event.kind
            if kind is e.JobCreated:
                row = _created(event)
            elif kind is Erased:
                row = _erased(event)
            elif row is None:
                raise headless(event)
            elif phase := PHASES_AFTER.get(kind):
                row.phase = phase
            elif kind is e.JobDestroyed:
                row.destroyed = 1
            elif kind is e.RunIdSet:
                row.run_id = event.payload.run_id
            elif kind is e.DestructionSet:
                row.destruction = to_microseconds(event.payload.destruction)
            else:
                pass_over(event)
        return row

    def load(self, connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, Listed]:
        return {found[1]: Listed(*found) for found in connection.execute(_LOAD, (as_json(keys),))}

    def save(
        self, connection: sqlite3.Connection, before: Mapping[str, Listed],
        after: Mapping[str, Listed | None], batch: Batch,
    ) -> None:  # fmt: skip
        put_structs(connection, _INSERT, _REPLACE, before, after, batch)
        changed: dict[tuple[str, str | None], tuple[int, int]] = {}
        for key, row in after.items():
            if row:
                last = batch.jobs[key][-1]
                place, when = (row.service, row.owner), (last.position, last.recorded.time)
                if when > changed.get(place, _NEVER):
                    changed[place] = when
        for place, when in changed.items():
            if not connection.execute(_MOVE, (*when, *place)).rowcount:
                connection.execute(_BEGIN, (*place, *when))

    def fold(self, connection: sqlite3.Connection, batch: Batch) -> None:
        super().fold(connection, batch)
        if batch.cuts:
            cut = batch.cuts[-1].position
            connection.execute(_CUT, (cut,))
            connection.execute(_FORGET_CHANGES, (cut,))

    def forget(self, connection: sqlite3.Connection, through: int) -> None:
        connection.execute(_FORGET, (through,))


def _created(event: Event) -> Listed:
    payload: e.JobCreated = event.payload
    destruction = payload.destruction
    return Listed(
        event.position,
        event.key,
        payload.service,
        payload.owner,
        payload.run_id,
        "PENDING",
        _told(event.time),
        to_microseconds(destruction) if destruction else None,
        0,
    )


def _erased(event: Event) -> Listed:
    return Listed(event.position, event.key, "", None, None, "ARCHIVED", _told(event.time), None, 1)


def _told(time: int) -> int:
    # Documents tell milliseconds, and AFTER is compared with what they tell.
    return time // 1000 * 1000


class Everybody(Enum):
    """Stands where an owner may, for all of them."""

    EVERYBODY = "everybody"


EVERYBODY = Everybody.EVERYBODY
"""All owners, where one may stand."""
Whose = str | Everybody | None
"""Whose jobs are asked for: one owner's, everybody's, or, for None, those of nobody in particular."""


class Cursor(NamedTuple):
    """A place in a job list: behind the job that was created then (microseconds), at that position."""

    created: int
    position: int


class JobReference(msgspec.Struct, frozen=True, gc=False):
    """One entry of a job list."""

    id: str
    phase: Phase
    run_id: str | None
    owner: str | None
    created: datetime
    cursor: Cursor


def references(
    connection: sqlite3.Connection, service: str, owner: Whose, *,
    phases: Iterable[Phase] | None, run_id: str | None, after: datetime | None, before: Cursor | None,
    limit: int,
) -> list[JobReference]:  # fmt: skip
    """Return the jobs behind ``before`` created after ``after``, newest first, at most ``limit``.

    ``phases`` None are all but ARCHIVED. Each kind of list is read along an index of its own: what it costs
    depends on what comes out; of everybody's jobs, also on how many owners there are.
    """
    created, position = before or (_END_OF_TIME, _END_OF_TIME)
    asked: dict[str, Any] = {
        "service": service, "run_id": run_id, "limit": limit,
        "after": to_microseconds(after) if after else -_END_OF_TIME, "created": created, "position": position,
    }  # fmt: skip
    if phases is None and run_id is None:
        query, kinds = _BY_TIME, [asked]
    else:
        query = _BY_PHASE if run_id is None else _BY_RUN_ID
        kinds = [{**asked, "phase": phase} for phase in ({*phases} if phases is not None else _LISTED)]
    owners = _owners(connection, service) if owner is EVERYBODY else [owner]
    lists = [connection.execute(query, {**kind, "owner": each}) for each in owners for kind in kinds]
    found: Iterable[tuple[Any, ...]] = (
        lists[0]
        if len(lists) == 1
        else (islice(heapq.merge(*lists, key=lambda row: row[4:6], reverse=True), limit))
    )
    return [
        JobReference(job_id, Phase(phase), run, user, from_microseconds(time), Cursor(time, place))
        for job_id, phase, run, user, time, place in found
    ]


def _owners(connection: sqlite3.Connection, service: str) -> list[str | None]:
    """Return who has or had jobs of a service, nobody in particular included."""
    return [owner for (owner,) in connection.execute(_OWNERS, {"service": service})]


def list_state(connection: sqlite3.Connection, service: str, owner: Whose) -> str:
    """Return what is another one as soon as anything has happened to any job of a list.

    It is another one, too, when the tables were made anew, whatever they were before.
    """
    asked = (_STATE_OF_ALL, (service,)) if owner is EVERYBODY else (_STATE, (service, owner))
    facts = sorted(connection.execute(*asked))
    told = as_json([name, str(fact).rpartition("/")[2]] for name, fact in facts)
    return sha256(told.encode()).hexdigest()[:32]


def list_position(connection: sqlite3.Connection, service: str, owner: Whose) -> int | None:
    """Return where the log last told something of a job of a list, None when that is not known."""
    asked = (_POSITION_OF_ALL, (service,)) if owner is EVERYBODY else (_POSITION, (service, owner))
    found = connection.execute(*asked).fetchone()
    return found[0] if found else None


def next_destruction(connection: sqlite3.Connection, after: datetime) -> datetime | None:
    """Return the earliest destruction time of any job of any service that is later than ``after``."""
    ((time,),) = connection.execute(_NEXT_DESTRUCTION, (to_microseconds(after),))
    return from_microseconds(time) if time is not None else None


def due(connection: sqlite3.Connection, now: datetime) -> list[tuple[str, str]]:
    """Return id and service of jobs, at most a thousand, whose destruction time is not after ``now``."""
    return connection.execute(_DUE, (to_microseconds(now),)).fetchall()


class ExpiredJob(msgspec.Struct, frozen=True, gc=False):
    """A job whose destruction time has come. Its cursor is by that time."""

    id: str
    service: str
    owner: str | None
    phase: Phase
    run_id: str | None
    created: datetime
    cursor: Cursor


def expired(
    connection: sqlite3.Connection, now: datetime, *, behind: Cursor | None, limit: int
) -> list[ExpiredJob]:
    """Return the jobs whose destruction time is not after ``now``, the one that came first first."""
    time, position = behind or (-_END_OF_TIME, 0)
    asked = {"now": to_microseconds(now), "time": time, "position": position, "limit": limit}
    return [
        ExpiredJob(
            job_id, service, owner, Phase(phase), run_id, from_microseconds(created), Cursor(due, place)
        )
        for job_id, service, owner, phase, run_id, created, due, place in connection.execute(_EXPIRED, asked)
    ]


def ids(connection: sqlite3.Connection, beginning: str, limit: int) -> list[str]:
    """Return ids of jobs that begin so, destroyed ones included, the newest first."""
    asked = (beginning, beginning + chr(sys.maxunicode), limit)
    return [job_id for (job_id,) in connection.execute(_BEGINNING_SO, asked)]


def keep_files(connection: sqlite3.Connection, job_ids: Iterable[str]) -> dict[str, bool]:
    """Return for those of ``job_ids`` that there are or were whether their files are still wanted."""
    return {job_id: bool(keep) for job_id, keep in connection.execute(_KNOWN, (as_json(job_ids),))}
