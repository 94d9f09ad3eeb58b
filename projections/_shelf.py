"""Which file holds which read model: the registry ``projections.db``, and the files in ``projections/``.

The registry may be deleted, or any of the files, whenever nobody has them open: they are made anew.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from eventstore.connection import connect_for_reading, transaction

from ._tables import Spoilt, Tables, checkpoint_of, parts_of, unlink
from .readmodel import ReadModel, program_of

_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS file (
    generation TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    program    TEXT    NOT NULL,    -- the code that made it
    serving    INTEGER NOT NULL     -- 0 as long as it is being made
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_serves ON file (name) WHERE serving;
CREATE UNIQUE INDEX IF NOT EXISTS one_is_made ON file (name) WHERE NOT serving;
"""
_STRANGERS = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('file', 'sqlite_sequence')"
_ALL = "SELECT * FROM file"
_ONE = "SELECT * FROM file WHERE name = ? AND serving = ?"
_NEW = "INSERT INTO file VALUES (?, ?, ?, ?, ?)"
_SWITCH = ("DELETE FROM file WHERE name = ? AND serving", "UPDATE file SET serving = 1 WHERE name = ?")
_DROP = "DELETE FROM file WHERE generation = ?"


class Place(NamedTuple):
    """A line of the registry."""

    generation: str
    name: str
    version: int
    program: str
    serving: int


class Making(msgspec.Struct, frozen=True):
    """A read model that is being made, or was when that was interrupted: how far it is, and what failed."""

    version: int
    position: int
    error: str | None
    going_on: bool = False


class Status(msgspec.Struct, frozen=True):
    """How a read model is.

    ``version`` is that of the tables which are read (0: there are none), ``position`` how far they have come
    and ``lag`` how many positions they are behind the log; ``size`` is in bytes. ``error`` names the event at
    which they stopped.
    """

    name: str
    version: int
    position: int
    lag: int
    size: int
    error: str | None
    making: Making | None


class Shelf:
    """The registry and its directory, for the one who writes. All methods block and raise `sqlite3.Error`."""

    def __init__(self, registry: sqlite3.Connection, path: Path) -> None:
        """Delete the files in the directory of which the registry knows nothing."""
        self._registry = registry
        self._directory = directory_of(path)
        known = {part for place in places(registry) for part in parts_of(self._path_of(place))}
        for file in self._directory.iterdir():
            if file not in known:
                file.unlink(missing_ok=True)

    def _path_of(self, place: Place) -> Path:
        return self._directory / _file_name(place)

    def drop_unfinished(self, name: str) -> None:
        """Delete what is left of making a model."""
        if place := self._find(name, 0):
            self._drop(place)

    def new(self, model: ReadModel[Any], *, began: int, serving: bool) -> Tables:
        """Make a file for a read model, in the place of one that is there to the same purpose."""
        if old := self._find(model.name, serving):
            self._drop(old)
        program = program_of(model)
        # By chance, so that no file is taken for one that was there before the registry was lost.
        place = Place(secrets.token_hex(4), model.name, model.version, program, int(serving))
        self._registry.execute(_NEW, place)
        return Tables.create(model, self._path_of(place), began)

    def switch(self, name: str) -> None:
        """Let what was made of a read model be read: one transaction. The file that was goes later."""
        with transaction(self._registry):
            for statement in _SWITCH:
                self._registry.execute(statement, (name,))

    def open(self, model: ReadModel[Any], head: int) -> Tables:
        """Open what is read of a model, or begin it; ``head`` is where the log ends.

        Tables of another version are opened if they have the shape of today's.
        """
        if place := self._find(model.name, 1):
            try:
                tables = self._open(model, place)
            except Spoilt as error:
                _log.warning("the read model %s is made anew: %s", model.name, error)
            else:
                if tables.has_shape():
                    return tables
                _log.warning("the read model %s is made anew: its tables have another shape", model.name)
                tables.close()
        return self.new(model, began=head, serving=True)

    def adopt(self, model: ReadModel[Any], file: Path) -> None:
        """Let a file be read from now on that was made elsewhere, by the same version of the model."""
        place = Place(secrets.token_hex(4), model.name, model.version, program_of(model), 1)
        file.chmod(0o600)
        file.replace(self._path_of(place))
        old = [found for serving in (0, 1) if (found := self._find(model.name, serving))]
        with transaction(self._registry):
            for each in old:
                self._registry.execute(_DROP, (each.generation,))
            self._registry.execute(_NEW, place)
        for each in old:
            unlink(self._path_of(each))

    def resume(self, model: ReadModel[Any], making: list[Tables]) -> None:
        """Open what is left of making a model with this program, if anything is; add it to ``making``."""
        place = self._find(model.name, 0)
        if place and (place.version, place.program) == (model.version, program_of(model)):
            with suppress(Spoilt):
                making.append(self._open(model, place))

    def make_aside(self, model: ReadModel[Any], head: int, made: list[Tables]) -> None:
        """Add tables to ``made`` that nobody is to read, and that the next to open the shelf deletes.

        Added here, they are not lost when who asked for them is cancelled.
        """
        self.discard(model.name)
        made.append(Tables.create(model, self._aside(model.name), head))

    def discard(self, name: str) -> None:
        """Delete what was made aside."""
        unlink(self._aside(name))

    def _aside(self, name: str) -> Path:
        return self._directory / f"aside-{name}.db"

    def _drop(self, place: Place) -> None:
        """Delete a file."""
        self._registry.execute(_DROP, (place.generation,))
        unlink(self._path_of(place))

    def _open(self, model: ReadModel[Any], place: Place) -> Tables:
        tables = Tables.open(model, self._path_of(place), place.version)
        tables.error = None  # what failed once is tried again
        return tables

    def _find(self, name: str, serving: int) -> Place | None:
        found = self._registry.execute(_ONE, (name, serving)).fetchone()
        return Place(*found) if found else None


def open_registry(path: Path) -> sqlite3.Connection:
    """Open or make the registry at ``path``; one that cannot be read is begun anew, with all that was in it.

    Raises `sqlite3.Error`, `OSError`.
    """
    directory_of(path).mkdir(mode=0o700, exist_ok=True)
    try:
        return _open_registry(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # it is the disk, not what is in the file
            raise
        _log.warning("%s: %s; the read models are made anew", path, error)
        unlink(path)
        return _open_registry(path)


def _open_registry(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    registry = sqlite3.connect(path, isolation_level=None)
    try:
        if registry.execute(_STRANGERS).fetchone():
            raise sqlite3.DatabaseError("the file holds something else")
        registry.execute("PRAGMA journal_mode = WAL")
        registry.execute("PRAGMA synchronous = NORMAL")  # a switch that is lost is made good by making anew
        registry.executescript(_SCHEMA)
        places(registry)
    except BaseException:
        registry.close()
        raise
    return registry


def directory_of(path: Path) -> Path:
    """Return where the files are of the registry at ``path``."""
    return path.with_suffix("")


def places(registry: sqlite3.Connection) -> list[Place]:
    """Return all lines of the registry."""
    return [Place(*found) for found in registry.execute(_ALL)]


def read_status(path: Path, head: int, models: Iterable[ReadModel[Any]]) -> list[Status]:
    """Tell how the read models are, going by their files alone; ``head`` is the log's last position.

    Nothing is changed, and nobody need have them open. Raises `sqlite3.Error`.
    """
    while True:
        found = _registered(path)
        by_name = {(place.name, place.serving): place for place in found}
        told = [_status(directory_of(path), model.name, by_name, head) for model in models]
        if found == _registered(path):  # else a file may have gone meanwhile
            return told


def serving(path: Path, name: str) -> Path | None:
    """Return the file that is read of a model, None when there is none. Raises `sqlite3.Error`."""
    return next((file for place, file in serving_places(path) if place.name == name), None)


def serving_places(path: Path) -> list[tuple[Place, Path]]:
    """Return the models that are read, each with its file. Raises `sqlite3.Error`."""
    return [(place, directory_of(path) / _file_name(place)) for place in _registered(path) if place.serving]


def _registered(path: Path) -> list[Place]:
    if not path.exists():
        return []
    with closing(connect_for_reading(path)) as registry:
        return places(registry)


def _status(directory: Path, name: str, places: Mapping[tuple[str, int], Place], head: int) -> Status:
    serving, making = places.get((name, 1)), places.get((name, 0))
    position, error, made, size = 0, None, None, 0
    if making:
        made = Making(making.version, *_checkpoint(directory / _file_name(making)))
    if serving:
        path = directory / _file_name(serving)
        position, error = _checkpoint(path)
        size = sum(map(_size, parts_of(path)))
    version = serving.version if serving else 0
    return Status(name, version, position, max(0, head - position), size, error, made)


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _checkpoint(path: Path) -> tuple[int, str | None]:
    try:
        with closing(connect_for_reading(path)) as connection:
            return checkpoint_of(connection)
    except (sqlite3.Error, TypeError) as error:
        return 0, f"{path.name}: {error}"


def _file_name(place: Place) -> str:
    return f"{place.name}-v{place.version}-{place.generation}.db"
