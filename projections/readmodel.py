"""What a read model is: rows that a pure function makes of events, in tables of their own."""

from __future__ import annotations

import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

import msgspec

import uws.model
from eventstore import Erased, Pruned, RecordedEvent
from uws.model.events import ServiceDeclared, decode_declaration, job_stream, read, service_stream
from uws.model.job import PHASE_AFTER

R = TypeVar("R")
PHASES_AFTER = {kind: phase.value for kind, phase in PHASE_AFTER.items()}
"""The phase after each kind of event that changes it, as plain text, which SQLite takes fastest."""
_JOB, _SERVICE = job_stream(""), service_stream("")
_CUTS = frozenset({Erased.type, Pruned.type})
_erased = msgspec.json.Decoder(Erased)
_pruned = msgspec.json.Decoder(Pruned)


class Event(msgspec.Struct, gc=False):
    """An event that is folded: the key of its row, what it says, and when that was (microseconds, UTC)."""

    key: str
    payload: Any
    position: int
    time: int
    recorded: RecordedEvent


class Unreadable:
    """An event that no read model can fold that looks at it. Looking raises why."""

    def __init__(self, key: str, recorded: RecordedEvent, error: Exception) -> None:
        self.key, self.position, self.time, self.recorded = key, recorded.position, recorded.time, recorded
        self._error = error

    @property
    def payload(self) -> Any:
        raise self._error


class Batch:
    """Recorded events, without a gap, each read once, however many read models fold them."""

    def __init__(self, recorded: Sequence[RecordedEvent]) -> None:
        self.recorded = recorded
        self.jobs: dict[str, list[Event]] = {}
        """The events of each job; without those that were erased."""
        self.services: dict[str, list[Event]] = {}
        """The declarations of each service."""
        self.born: set[str] = set()
        """The jobs that begin here."""
        self.cuts = [event for event in recorded if event.type in _CUTS]
        """The events that say that something was erased or pruned."""
        jobs, prefix, skip = self.jobs, _JOB, len(_JOB)
        for event in recorded:
            stream = event.stream
            if stream.startswith(prefix):
                if event.salt:
                    key = stream[skip:]
                    if key in jobs:
                        jobs[key].append(_read_job(key, event))
                    else:
                        jobs[key] = [_read_job(key, event)]
                        if event.version == 1:
                            self.born.add(key)
            elif event.type == ServiceDeclared.__name__ and stream.startswith(_SERVICE):
                name = stream.removeprefix(_SERVICE)
                self.services.setdefault(name, []).append(_read_declaration(name, event))

    def behind(self, position: int) -> Batch:
        """Return the part of it behind a position."""
        if not self.recorded or self.recorded[0].position > position:
            return self
        return Batch([event for event in self.recorded if event.position > position])

    def __len__(self) -> int:
        return len(self.recorded)


def _read_job(key: str, recorded: RecordedEvent) -> Event:
    try:
        if recorded.type == Erased.type:
            return Event(key, _erased.decode(recorded.data), recorded.position, recorded.time, recorded)
        fact = read(recorded)
        return Event(key, fact.payload, recorded.position, fact.time, recorded)
    except Exception as error:  # whatever it is, those who need not read it are not kept by it
        return cast(Event, Unreadable(key, recorded, error))


def _read_declaration(name: str, recorded: RecordedEvent) -> Event:
    try:
        return Event(name, decode_declaration(recorded), recorded.position, recorded.time, recorded)
    except Exception as error:
        return cast(Event, Unreadable(name, recorded, error))


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
    for path in (*files, *sorted(Path(uws.model.__file__).parent.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def stream_of_job(row: tuple[Any, ...]) -> str:
    """Return the stream of a row whose second column is the job's id."""
    return job_stream(row[1])


class ReadModel(ABC, Generic[R]):
    """Rows of type ``R``, each made from the events of one key by a pure function, and their tables.

    A changed ``version`` makes the tables anew from the whole log. ``tables`` and ``indexes`` are the SQL
    that creates them in an empty file, the latter when there may be many rows already; ``contents`` are the
    tables by name. ``share`` says how much work it is, beside others. Other processes find a read model by
    the name of its class, and make it without arguments.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    tables: ClassVar[str]
    indexes: ClassVar[str]
    contents: ClassVar[Mapping[str, Contents]]
    share: ClassVar[float] = 1.0

    def of(self, batch: Batch) -> tuple[Mapping[str, Sequence[Event]], Collection[str]]:
        """Return the events of each key, and for which keys there may be rows: those of jobs, by default."""
        return batch.jobs, batch.jobs.keys() - batch.born

    @abstractmethod
    def apply(self, row: R | None, event: Event) -> R | None:
        """Return a row as it is after an event; None stands for no row. Pure."""

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
        after: dict[str, R | None] = {}
        apply = self.apply
        for key, mine in events.items():
            row = before.get(key)
            for event in mine:
                row = apply(row, event)
            after[key] = row
        if after:
            self.save(connection, before, after, batch)
        for cut in batch.cuts:
            if cut.type == Pruned.type:
                self.forget(connection, _pruned.decode(cut.data).through)


def as_json(values: Iterable[object]) -> str:
    """Return ``values`` as SQLite's ``json_each`` takes them."""
    return msgspec.json.encode(list(values)).decode()
