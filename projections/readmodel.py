"""What a read model is: rows that a pure function makes of events, in tables of their own."""

from __future__ import annotations

import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec
from msgspec.structs import astuple

import uws.model
from eventstore import Erased, Pruned, RecordedEvent
from uws.model.events import (
    QUEUE_STREAM,
    ServiceDeclared,
    actor_and_time,
    decode,
    job_stream,
    node_stream,
    outline,
    service_stream,
)
from uws.model.job import PHASE_AFTER

R = TypeVar("R")
PHASES_AFTER: Mapping[type | None, str] = {kind: phase.value for kind, phase in PHASE_AFTER.items()}
"""The phase after each kind of event that changes it, as plain text, which SQLite takes fastest."""
_JOB, _SERVICE, _NODE = job_stream(""), service_stream(""), node_stream("")
_CUTS = frozenset({Erased.type, Pruned.type})
_erased = msgspec.json.Decoder(Erased)
_pruned = msgspec.json.Decoder(Pruned)


class Event(msgspec.Struct, gc=False):
    """An event that is folded: the key of its row, of what kind it is, when it happened, and who caused it.

    The kind is None when this version cannot read the event. The time is microseconds since 1970, UTC.
    """

    key: str
    kind: type | None
    time: int
    recorded: RecordedEvent
    decoder: msgspec.json.Decoder[Any] | None = None
    actor: str | None = None
    _payload: Any = None

    @property
    def payload(self) -> Any:
        """What it says of a job. Raises what `uws.model.events.decode` does.

        It is decoded when somebody looks at it: who need not is faster, and not stopped by what cannot be.
        """
        if self._payload is None:
            recorded = self.recorded
            self._payload = self.decoder.decode(recorded.data) if self.decoder else decode(recorded)
        return self._payload

    @property
    def position(self) -> int:
        """Where it stands in the log."""
        return self.recorded.position


class Batch:
    """Recorded events, without a gap, each read once, however many read models fold them."""

    def __init__(self, recorded: Sequence[RecordedEvent]) -> None:
        self.recorded = recorded
        self.jobs: dict[str, list[Event]] = {}
        """The events of each job; without those that were erased."""
        self.services: dict[str, list[Event]] = {}
        """The declarations of each service."""
        self.queue: list[RecordedEvent] = []
        """What was decided of the queue as a whole."""
        self.nodes: list[RecordedEvent] = []
        """Which nodes have come to take jobs from it, or have gone."""
        self.others: list[RecordedEvent] = []
        """All events that are no job's, without those that were erased."""
        self.born: set[str] = set()
        """The jobs that begin here."""
        self.cuts: list[RecordedEvent] = [event for event in recorded if event.type in _CUTS]
        """The events that say that something was erased or pruned."""
        jobs, prefix, skip = self.jobs, _JOB, len(_JOB)
        for event in recorded:
            stream = event.stream
            if stream[:skip] == prefix:  # which is faster than `startswith`
                if event.salt:
                    key = stream[skip:]
                    if key in jobs:
                        jobs[key].append(_of_job(key, event))
                    else:
                        jobs[key] = [_of_job(key, event)]
                        if event.version == 1:
                            self.born.add(key)
                continue
            if event.salt:
                self.others.append(event)
            if event.type == ServiceDeclared.__name__ and stream.startswith(_SERVICE):
                name = stream.removeprefix(_SERVICE)
                self.services.setdefault(name, []).append(Event(name, ServiceDeclared, event.time, event))
            elif stream == QUEUE_STREAM:
                self.queue.append(event)
            elif stream.startswith(_NODE):
                self.nodes.append(event)

    def behind(self, position: int) -> Batch:
        """Return the part of it behind a position."""
        if not self.recorded or self.recorded[0].position > position:
            return self
        return Batch([event for event in self.recorded if event.position > position])

    def __len__(self) -> int:
        return len(self.recorded)


def _of_job(key: str, recorded: RecordedEvent) -> Event:
    if recorded.type == Erased.type:
        return Event(key, Erased, recorded.time, recorded, _erased, actor_and_time(recorded)[0])
    try:
        kind, decoder, time, actor = outline(recorded)
    except Exception:  # whatever it is, those who need not read it are not kept by it
        return Event(key, None, recorded.time, recorded)
    return Event(key, kind, time, recorded, decoder, actor)


class Contents(NamedTuple):
    """A table as it is compared: ``query`` gives its rows in the order of their first ``keys`` columns.

    ``stream`` tells from which stream a row is made, where it is made from one.
    """

    query: str
    keys: int = 1
    stream: Callable[[tuple[Any, ...]], str] | None = None


@cache
def program_of(model: ReadModel[Any]) -> str:
    """Return what stands for the code that folds a model: what other code has begun is not gone on with."""
    files = [Path(sys.modules[type(model).__module__].__file__ or ""), Path(__file__)]
    digest = sha256(usedforsecurity=False)
    for path in (*files, *sorted(Path(uws.model.__file__).parent.rglob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def stream_of_job(row: tuple[Any, ...]) -> str:
    """Return the stream of a row whose second column is the job's id."""
    return job_stream(row[1])


class ReadModel(ABC, Generic[R]):
    """Rows of type ``R``, each made from the events of one key by a pure function, and their tables.

    A changed ``version`` makes the tables anew from the whole log. ``tables`` and ``indexes`` are the SQL
    that creates them in an empty file, the latter when there may be many rows already; ``contents`` are the
    tables by name. ``share`` says how much work it is, beside others. What is ``prompt`` is folded first:
    jobs and clients wait for it. Other processes find a read model by the name of its class, and make it
    without arguments.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    tables: ClassVar[str]
    indexes: ClassVar[str]
    contents: ClassVar[Mapping[str, Contents]]
    share: ClassVar[int] = 10
    prompt: ClassVar[bool] = False

    def of(self, batch: Batch) -> tuple[Mapping[str, Sequence[Event]], Collection[str]]:
        """Return the events of each key, and for which keys there may be rows: those of jobs, by default."""
        return batch.jobs, batch.jobs.keys() - batch.born

    @abstractmethod
    def apply(self, row: R | None, events: Sequence[Event]) -> R | None:
        """Return a row as it is after some more events of its key; None stands for no row. Pure."""

    @abstractmethod
    def load(self, connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, R]:
        """Return the rows there are of ``keys``."""

    @abstractmethod
    def save(
        self, connection: sqlite3.Connection, before: Mapping[str, R], after: Mapping[str, R | None],
        batch: Batch,
    ) -> None:  # fmt: skip
        """Put ``after`` in the place of ``before``; a key that is only in ``after`` had no row."""

    @abstractmethod
    def forget(self, connection: sqlite3.Connection, through: int) -> None:
        """Delete what is left of jobs that were destroyed at the position ``through`` or before it."""

    def fold(self, connection: sqlite3.Connection, batch: Batch) -> None:
        """Fold events into the tables."""
        events, keys = self.of(batch)
        before = self.load(connection, keys) if keys else {}
        after = {key: self.apply(before.get(key), mine) for key, mine in events.items()}
        if after:
            self.save(connection, before, after, batch)
        for cut in batch.cuts:
            if cut.type == Pruned.type:
                self.forget(connection, _pruned.decode(cut.data).through)


def put(
    connection: sqlite3.Connection, insert: str, replace: str, before: Mapping[str, R],
    rows: Iterable[tuple[str, tuple[Any, ...]]],
) -> None:  # fmt: skip
    """Write the rows of keys: ``insert`` is much faster than ``replace``, and does where there was none."""
    if not before:
        connection.executemany(insert, [row for _, row in rows])
        return
    new: list[tuple[Any, ...]] = []
    changed: list[tuple[Any, ...]] = []
    for key, row in rows:
        (changed if key in before else new).append(row)
    connection.executemany(insert, new)
    connection.executemany(replace, changed)


def put_structs(
    connection: sqlite3.Connection, insert: str, replace: str, before: Mapping[str, msgspec.Struct],
    after: Mapping[str, msgspec.Struct | None], batch: Batch,
) -> None:  # fmt: skip
    """Write rows whose fields are all columns but the last, which is where the job's last event stands."""
    jobs = batch.jobs
    rows = ((key, (*astuple(row), jobs[key][-1].position)) for key, row in after.items() if row)
    put(connection, insert, replace, before, rows)


def headless(event: Event) -> ValueError:
    """Return what is wrong with a stream that begins with an event; raises what keeps it from being read."""
    return ValueError(f"the job begins with {type(event.payload).__name__}")


def pass_over(event: Event) -> None:
    """Leave a row as it is, for an event that it does not depend on. Raises for one that cannot be read."""
    if event.kind is None:
        event.payload  # noqa: B018


def as_json(values: Iterable[object]) -> str:
    """Return ``values`` as SQLite's ``json_each`` takes them."""
    return msgspec.json.encode(list(values)).decode()
