"""The read model of services: all that were ever declared, as they were declared last."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import ClassVar

import msgspec
from msgspec.structs import astuple

from eventstore import from_microseconds
from uws.model.events import decode_declaration, service_stream

from .readmodel import Batch, Contents, Event, ReadModel, as_json

_LOAD = "SELECT * FROM service WHERE name IN (SELECT value FROM json_each(?))"
_SAVE = "INSERT OR REPLACE INTO service VALUES (?, ?, ?, ?, ?, ?)"
_ALL = "SELECT name, digest, declaration, declared, versions FROM service ORDER BY name"


class Declared(msgspec.Struct, frozen=True, gc=False):
    """A row, its fields in the order of the columns."""

    name: str
    digest: str
    declaration: str
    declared: int
    versions: int
    last: int


class Services(ReadModel[Declared]):
    """The last declaration of each service."""

    name = "services"
    version = 1
    share = 1
    tables: ClassVar[str] = resources.files(__package__).joinpath("services.sql").read_text()
    indexes = ""
    contents: ClassVar[Mapping[str, Contents]] = {
        "service": Contents(
            "SELECT * FROM service ORDER BY name", stream=lambda row: service_stream(row[0])
        )
    }  # fmt: skip

    def of(self, batch: Batch) -> tuple[Mapping[str, Sequence[Event]], Collection[str]]:
        return batch.services, batch.services.keys()

    def apply(self, row: Declared | None, events: Sequence[Event]) -> Declared | None:
        last, payload = events[-1], [decode_declaration(event.recorded) for event in events][-1]
        return Declared(
            name=last.key,
            digest=payload.digest,
            declaration=payload.declaration,
            declared=last.time,
            versions=(row.versions if row else 0) + len(events),
            last=last.position,
        )

    def load(self, connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, Declared]:
        return {found[0]: Declared(*found) for found in connection.execute(_LOAD, (as_json(keys),))}

    def save(
        self, connection: sqlite3.Connection, before: Mapping[str, Declared],
        after: Mapping[str, Declared | None], batch: Batch,
    ) -> None:  # fmt: skip
        connection.executemany(_SAVE, [astuple(row) for row in after.values() if row])

    def forget(self, connection: sqlite3.Connection, through: int) -> None:
        pass  # the streams of services are never pruned


class DeclaredService(msgspec.Struct, frozen=True):
    """A service as it was declared last: the SHA-256 of the declaration, its text, when, and how often."""

    name: str
    digest: str
    declaration: str
    declared: datetime
    versions: int


def declared_services(connection: sqlite3.Connection) -> list[DeclaredService]:
    """Return all services that were ever declared, by name."""
    return [
        DeclaredService(name, digest, declaration, from_microseconds(declared), versions)
        for name, digest, declaration, declared, versions in connection.execute(_ALL)
    ]
