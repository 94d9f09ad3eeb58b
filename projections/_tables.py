"""The file of one read model: its tables, and how far they have come."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

from eventstore import RecordedEvent
from eventstore.connection import connect_for_reading, result_code, transaction
from eventstore.processes import boot_id

from .readmodel import Batch, ReadModel

_CHECKPOINT = """
CREATE TABLE checkpoint (
    position INTEGER NOT NULL,   -- all events up to this one are in the tables
    mark     TEXT    NOT NULL,   -- what tells the event at the position from one of another log
    began    INTEGER NOT NULL,   -- where the log ended when folding began: prunings up to there are no gap
    error    TEXT,               -- why the event after the position cannot be folded
    boot     TEXT                -- since which start of the machine folding does not wait for the disk
) STRICT;
"""
_BEGIN = "INSERT INTO checkpoint VALUES (0, '', ?, NULL, NULL)"
_READ = "SELECT position, mark, began, error FROM checkpoint"
_READ_BOOT = "SELECT boot FROM checkpoint"
_SET_BOOT = "UPDATE checkpoint SET boot = ? WHERE position = ?"
_ADVANCE = "UPDATE checkpoint SET position = ?, mark = ?, error = NULL WHERE position = ?"
_FAIL = "UPDATE checkpoint SET error = ?"
_READ_MARK = "PRAGMA user_version"
"""What the number of a file's form is not needed for: 1 while pages may hold what the log has forgotten."""
_MARK, _UNMARK = "PRAGMA user_version = 1", "PRAGMA user_version = 0"
_KEEP_WAL = "PRAGMA journal_mode = WAL"
_ROOM = "PRAGMA cache_size = -32000"
_SCHEMA = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"


class TakenOver(Exception):
    """Another process has folded into the tables: one that outlived its server, or its successor's."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path.name} is written by another process")


class Spoilt(Exception):
    """A file is missing, or holds what cannot be read: it has to be made anew."""


class Tables:
    """The tables of one read model in a file of their own; rows and checkpoint change in one transaction.

    All methods block. One at a time may write to the file.
    """

    def __init__(self, model: ReadModel[Any], path: Path, version: int) -> None:
        self.model = model
        self.path = path
        self.version = version
        self.position: int = 0
        self.mark: str = ""
        self.began: int = 0
        self._boot: str | None = None
        self.error: str | None = None
        """The event behind the position, and why it cannot be folded."""
        self.unscrubbed: bool = False
        """Whether pages that nobody reads may hold what the log has forgotten since folding began."""

    @classmethod
    def create(cls, model: ReadModel[Any], path: Path, began: int) -> Self:
        """Make a file without rows; ``began`` is where the log ends. Raises `sqlite3.Error`, `OSError`."""
        path.touch(mode=0o600)
        with closing(_connect(path)) as connection:
            connection.executescript(f"BEGIN; {_CHECKPOINT} {model.tables} COMMIT")
            connection.execute(_BEGIN, (began,))
        return cls.open(model, path, model.version)

    @classmethod
    def open(cls, model: ReadModel[Any], path: Path, version: int) -> Self:
        """Open a file that is there, made by a ``version`` of the model.

        Raises `Spoilt`, and `sqlite3.Error` for the disk.
        """
        tables = cls(model, path, version)
        tables.reopen()
        return tables

    def reopen(self) -> None:
        """Open the file again that was closed, or written by somebody else. Raises as `open` does."""
        if not self.path.exists():
            raise Spoilt(f"{self.path.name}: the file is missing")
        try:
            self._connection = _connect(self.path)
            try:
                self._read()
            except BaseException:
                self._connection.close()
                raise
        except TypeError:
            raise Spoilt(f"{self.path.name}: the file has no checkpoint") from None
        except sqlite3.Error as error:
            if result_code(error) == sqlite3.SQLITE_ERROR or is_spoilt(error):
                raise Spoilt(f"{self.path.name}: {error}") from error
            raise

    def _read(self) -> None:
        found = self._connection.execute(_READ).fetchone()
        self.position, self.mark, self.began, self.error = found
        (self._boot,) = self._connection.execute(_READ_BOOT).fetchone()
        self.unscrubbed = self._connection.execute(_READ_MARK).fetchone() == (1,)
        if self._boot and self._boot != boot_id():
            raise Spoilt(f"{self.path.name}: the machine stopped before all of it was on the disk")

    def has_shape(self) -> bool:
        """Whether the tables look as the model would make them now."""
        with closing(sqlite3.connect(":memory:")) as fresh:
            fresh.executescript(f"{_CHECKPOINT} {self.model.tables} {self.model.indexes}")
            wanted = {row for row in fresh.execute(_SCHEMA) if row[0] == "table"}
            return wanted == {row for row in self._connection.execute(_SCHEMA) if row[0] == "table"}

    def fold(self, batch: Batch) -> None:
        """Fold what lies behind the position.

        When an event cannot be folded, those before it are, ``error`` names it, and its exception is raised.
        """
        fresh = batch.behind(self.position)
        try:
            self._fold(fresh)
        except TakenOver:
            raise
        except Exception:
            if len(fresh) == 1:
                raise
            for recorded in fresh.recorded:
                self._fold(Batch([recorded]))

    def _fold(self, batch: Batch) -> None:
        if not batch:
            return
        last = batch.recorded[-1]
        forgets = any(cut.position > self.began for cut in batch.cuts)  # else it was never told
        try:
            with transaction(self._connection):
                advance = last.position, mark_of(last), self.position
                if not self._connection.execute(_ADVANCE, advance).rowcount:
                    raise TakenOver(self.path)
                self.model.fold(self._connection, batch)
                if forgets:
                    self._connection.execute(_MARK)
        except TakenOver:
            self._read()
            raise
        except Exception as error:
            if len(batch) == 1:
                self._fail(last, error)
            raise
        self.position, self.mark, self.error = last.position, mark_of(last), None
        self.unscrubbed |= forgets

    def _fail(self, recorded: RecordedEvent, error: Exception) -> None:
        what = " ".join(str(error).split()) or type(error).__name__
        self.error = f"at position {recorded.position} ({recorded.type} of {recorded.stream}): {what}"
        with suppress(sqlite3.Error):  # a disk that is full has no room for this either
            self._connection.execute(_FAIL, (self.error,))

    def hurry(self) -> None:
        """Fold without waiting for the disk until `finish`: should the machine stop before, all is spoilt."""
        self._connection.execute("PRAGMA synchronous = FULL")
        self._mark_boot(boot_id())
        if self._reach_disk():  # else a WAL that is lost would take the mark with it
            self._connection.execute("PRAGMA synchronous = OFF")
            with suppress(sqlite3.OperationalError):  # somebody reads it, and needs the WAL
                # Of pages that are new, which most are, this writes no copy.
                self._connection.execute("PRAGMA journal_mode = PERSIST")
        self._connection.execute(_ROOM)

    def finish(self) -> None:
        """Make the indexes, and wait for the disk if that was put off."""
        self._connection.execute(_ROOM)
        with transaction(self._connection):
            for statement in self.model.indexes.split(";"):
                self._connection.execute(statement)
        if self._boot:
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(_KEEP_WAL)
            # So that there is something to be brought to the disk, with all before.
            self._mark_boot(self._boot)
            if self._reach_disk():
                self._mark_boot(None)
            self._connection.execute("PRAGMA synchronous = NORMAL")

    def _mark_boot(self, boot: str | None) -> None:
        self._connection.execute(_SET_BOOT, (boot, self.position))
        self._boot = boot

    def _reach_disk(self) -> bool:
        """Bring the WAL into the file, and wait for the disk. False when a reader is in the way."""
        ((busy, *_),) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return not busy

    def scrub(self) -> None:
        """Write the file anew, without what was overwritten or deleted. Raises `sqlite3.Error`."""
        self._connection.execute("VACUUM")
        if not self._reach_disk():
            raise sqlite3.OperationalError("a reader keeps older pages on disk: scrub them again")
        if self.unscrubbed:
            self._connection.execute(_UNMARK)
            self._reach_disk()
            self.unscrubbed = False

    def abandon(self) -> None:
        """Close the file as it is, which is to be deleted."""
        # The last to close a file takes the time to tidy it up, unless he may only read.
        with closing(connect_for_reading(self.path)) as last:
            checkpoint_of(last)
            self.close()

    def close(self) -> None:
        """Close the file; it is then a single one, unless somebody reads it."""
        self._connection.close()


def checkpoint_of(connection: sqlite3.Connection) -> tuple[int, str | None]:
    """Return how far the tables of a file have come, and why they stopped."""
    position, _, _, error = connection.execute(_READ).fetchone()
    return position, error


def parts_of(path: Path) -> list[Path]:
    """Return a database's file, and those that SQLite has beside it."""
    return [path, *(path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", "-journal"))]


def unlink(path: Path) -> None:
    """Delete a database, and what SQLite has beside it."""
    for part in parts_of(path):
        part.unlink(missing_ok=True)


def mark_of(recorded: RecordedEvent) -> str:
    """Return what no event of another log has that stands at the same position."""
    return f"{recorded.stream} {recorded.version} {recorded.time}"


def is_spoilt(error: BaseException | None) -> bool:
    """Whether an error says that a file holds what cannot be read."""
    return isinstance(error, Spoilt) or result_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(_KEEP_WAL)
        # Lost rows come back from the log, so a commit need not wait for the disk.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = ON")
    except BaseException:
        connection.close()
        raise
    return connection
