"""What the committer does to the SQLite file: whole transactions, each a plain function of the connection.

They run in aiosqlite's thread, one at a time, so that a transaction costs one hop and no cancellation can
come between its statements.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import msgspec

from . import _failpoints as failpoint
from ._chain import (
    EMPTY,
    Append,
    Outcome,
    Row,
    Tip,
    erasure,
    gaps_between,
    gaps_digest,
    prunable,
    pruning,
    seal,
)
from ._errors import NOT_WHOLE, EventStoreError, StoreUnavailable, StreamNotFound
from ._types import Head, Metadata, Pruned, RecordedEvent
from .connection import transaction, translated

_INSERT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
ONE_BY_ID = "SELECT * FROM event WHERE id = ?"
STREAM = "SELECT * FROM event WHERE stream = ? AND version > ? ORDER BY version"
AT = "SELECT * FROM event WHERE position IN (SELECT value FROM json_each(?)) ORDER BY position"
_BY_ID = "SELECT * FROM event WHERE id IN (SELECT value FROM json_each(?)) ORDER BY position"
_TIPS = """
SELECT stream, version, time FROM json_each(?) JOIN event
ON position = (SELECT position FROM event WHERE stream = value ORDER BY version DESC LIMIT 1)
"""
_HEAD = "SELECT position, hash FROM event ORDER BY position DESC LIMIT 1"
_PAGE = """
SELECT position, CAST(stream AS BLOB), version, CAST(id AS BLOB), CAST(type AS BLOB), time,
    metadata, salt, data, digest, hash
FROM event WHERE position BETWEEN ? AND ? ORDER BY position LIMIT ?
"""
_UNPROVED = """
SELECT position, stream, version, type, time, metadata, data FROM event
WHERE position > ? ORDER BY position LIMIT ?
"""
_IN_STREAMS = """
SELECT position, stream, version, type, time, metadata, data FROM event
WHERE (stream, version) > (?, ?) AND stream < ? AND +position <= ? ORDER BY stream, version LIMIT ?
"""
_ANCHORS = "SELECT position, hash FROM anchor WHERE position BETWEEN ? AND ?"
_FIRST, _LAST = -(1 << 63), (1 << 63) - 1
_HASHES = """
SELECT position, hash FROM event WHERE position IN (SELECT value FROM json_each(:p))
UNION ALL SELECT position, hash FROM anchor WHERE position IN (SELECT value FROM json_each(:p))
"""
_HASH_AT = "SELECT hash FROM event WHERE position = :p UNION ALL SELECT hash FROM anchor WHERE position = :p"

# Zeros of the same length overwrite the bytes where they lie: no copy of them is left in another page.
_ERASE = """
UPDATE event
SET salt = zeroblob(length(salt)), metadata = zeroblob(length(metadata)), data = zeroblob(length(data))
WHERE stream = ? AND substr(type, 1, 1) <> '$'
"""

_FIND_ENDED = """
CREATE TEMP TABLE doomed AS
SELECT position FROM main.event WHERE stream IN (
    SELECT last.stream FROM main.event AS last
    WHERE last.position <= ? AND last.type IN (SELECT value FROM json_each(?)) AND last.stream <> '$log'
    AND NOT EXISTS (SELECT 1 FROM main.event WHERE stream = last.stream AND version > last.version)
)
"""
_PRUNE = (
    "CREATE UNIQUE INDEX temp.doomed_position ON doomed (position)",
    """INSERT INTO anchor SELECT position, hash FROM event
       WHERE position IN (SELECT position FROM doomed)
       AND position + 1 NOT IN (SELECT position FROM doomed)""",
    "DELETE FROM event WHERE position IN (SELECT position FROM doomed)",
    "DELETE FROM anchor WHERE position + 1 NOT IN (SELECT position FROM event)",
    "DROP TABLE temp.doomed",
    "PRAGMA application_id = 1",  # rows have moved: pages may hold copies of them, see _why_not_settled
)
_LAST_PRUNING = """
SELECT data FROM event WHERE stream = '$log' AND type = '$pruned' ORDER BY version DESC LIMIT 1
"""
_KEPT = """
SELECT position FROM event WHERE position <= ? AND position NOT IN (SELECT position FROM doomed)
ORDER BY position
"""


FORMAT = 1
"""The number of the file's form, kept as its ``user_version``; negative while a copy to it is under way."""


def make_ready(connection: sqlite3.Connection, *, to_copy: bool = False) -> None:
    """Create the tables where there are none, and set up the connection. Raises `sqlite3.Error`."""
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    if tables:
        check_format(connection, to_copy=to_copy)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    if not tables:
        schema = resources.files(__package__).joinpath("schema.sql").read_text()
        # All in one transaction: a process that is killed leaves a log, or an empty file.
        connection.executescript(f"BEGIN; {schema} PRAGMA user_version = {FORMAT}; COMMIT")


def check_format(connection: sqlite3.Connection, *, to_copy: bool = False) -> None:
    """Raise `sqlite3.DatabaseError` when the file holds something else than this module writes.

    Also when it is not all there, which is as it should be for who goes on ``to_copy``.
    """
    ((found,),) = connection.execute("PRAGMA user_version").fetchall()
    if found == -FORMAT and not to_copy:
        raise sqlite3.DatabaseError(NOT_WHOLE)
    if abs(found) != FORMAT:
        raise sqlite3.DatabaseError(f"the log has format {found}, this program knows format {FORMAT}")


def commit(connection: sqlite3.Connection, batch: Sequence[Append], now: int) -> tuple[Head, list[Outcome]]:
    """Append a batch in one transaction; return the head after it and an outcome for each append."""
    failpoint.reached(failpoint.BEFORE_WRITE)
    try:
        with transaction(connection):
            head, outcomes = _append(connection, batch, now, known={})
            failpoint.reached(failpoint.AFTER_WRITE)
            failpoint.reached(failpoint.BEFORE_COMMIT)
    except sqlite3.IntegrityError:  # an id is in the log already: rare, so it is looked for only then
        with transaction(connection):
            head, outcomes = _append(connection, batch, now, known=_known(connection, batch))
    failpoint.reached(failpoint.AFTER_COMMIT)
    return head, outcomes


def erase(
    connection: sqlite3.Connection, stream: str, reason: str, metadata: Metadata, now: int
) -> tuple[Head, RecordedEvent | StoreUnavailable]:
    """Overwrite what a stream's events hold, append the event that says so, and empty the WAL."""
    with transaction(connection):
        tip = _tips(connection, {stream}).get(stream)
        if tip is None:
            raise StreamNotFound(stream)
        connection.execute(_ERASE, (stream,))
        head, event = _append_one(connection, erasure(stream, tip, reason, metadata), now)
    return head, _why_not_settled(connection) or event


def prune(
    connection: sqlite3.Connection, through: int, ended_by: Collection[str], reason: str, checkpoint: str,
    metadata: Metadata, now: int,
) -> tuple[Head, RecordedEvent | StoreUnavailable]:  # fmt: skip
    """Delete ended streams, append the event that says so, and give the room back."""
    with transaction(connection):
        (found,) = connection.execute(_HASH_AT, {"p": through}).fetchone() or (None,)
        hash_ = prunable(through, found, connection.execute(_LAST_PRUNING).fetchone())
        connection.execute(_FIND_ENDED, (through, _json(ended_by)))
        kept = (position for (position,) in connection.execute(_KEPT, (through,)))
        gaps = gaps_digest(gaps_between(kept, through))
        note = Pruned(through=through, hash=hash_, gaps=gaps, reason=reason, checkpoint=checkpoint)
        # First, so that there is always an event after what goes.
        head, event = _append_one(connection, pruning(note, metadata), now)
        for statement in _PRUNE:
            connection.execute(statement)
    return head, _why_not_settled(connection) or event


def adopt(
    connection: sqlite3.Connection, rows: Iterable[Row], anchors: Mapping[int, bytes]
) -> tuple[Head, None]:
    """Write rows of another log, with what went before them."""
    with transaction(connection):
        connection.executemany(_INSERT, map(_as_text, rows))
        connection.executemany("INSERT INTO anchor VALUES (?, ?)", anchors.items())
    return read_head(connection), None


def mark(connection: sqlite3.Connection, *, under_way: bool) -> tuple[Head, None]:
    """Note whether a copy to this log is under way."""
    with transaction(connection):
        connection.execute(f"PRAGMA user_version = {-FORMAT if under_way else FORMAT}")
    return read_head(connection), None


def _as_text(row: Row) -> tuple[Any, ...]:
    position, stream, version, id_, type_, *rest = row
    return (position, stream.decode(), version, id_.decode(), type_.decode(), *rest)


def settle(connection: sqlite3.Connection) -> tuple[Head, None]:
    """Make up for what an erasure or a pruning has left to do. Raises `StoreUnavailable`."""
    if error := _why_not_settled(connection):
        raise error
    return read_head(connection), None


def probe(connection: sqlite3.Connection) -> tuple[Head, None]:
    """Write something of no effect through to the disk."""
    ((found,),) = connection.execute("PRAGMA user_version").fetchall()
    return mark(connection, under_way=found < 0)


def read_head(connection: sqlite3.Connection) -> Head:
    """Return the end of the log."""
    found = connection.execute(_HEAD).fetchone()
    return Head(*found) if found else EMPTY


def read_positions(connection: sqlite3.Connection, stream: str) -> list[int]:
    """Return where the events of a stream stand, in order."""
    found = connection.execute("SELECT position FROM event WHERE stream = ? ORDER BY version", (stream,))
    return [position for (position,) in found]


def read_hashes(connection: sqlite3.Connection, positions: Collection[int]) -> dict[int, bytes]:
    """Return the hashes of events and anchors at ``positions``, and of the beginning of the chain, 0."""
    found = connection.execute(_HASHES, {"p": _json(positions)})
    return {EMPTY.position: EMPTY.hash, **dict(found.fetchall())}


def read_anchored(connection: sqlite3.Connection) -> list[int]:
    """Return the positions of all anchors."""
    return [position for (position,) in connection.execute("SELECT position FROM anchor")]


def read_page(
    connection: sqlite3.Connection, after: int, limit: int, until: int = _LAST
) -> tuple[list[Row], Mapping[int, bytes]]:
    """Return the rows above a position, and the anchors up to the last of them, both of one moment.

    From position 0 on, that is all there are: below 1 is nothing that the store has written.
    """
    first = after + 1 if after else _FIRST
    with transaction(connection, "BEGIN"):
        rows = connection.execute(_PAGE, (first, until, limit)).fetchall()
        last = rows[-1][0] if rows else _LAST
        return rows, dict(connection.execute(_ANCHORS, (first, last)))


def read_unproved(connection: sqlite3.Connection, after: int, limit: int) -> list[RecordedEvent]:
    """Return the events above a position without what proves them: each column costs time of its own.

    Of metadata, which are JSON, erasing makes zeros; they stand for a salt, or nothing does.
    """
    return _unproved(connection.execute(_UNPROVED, (after, limit)))


def read_streams_unproved(
    connection: sqlite3.Connection, after: tuple[str, int], below: str, through: int, limit: int
) -> list[RecordedEvent]:
    """Return events in the order of streams and versions, as `read_unproved` does.

    They are those behind the version ``after`` of a stream, of streams ``below`` another, and not above the
    position ``through``.
    """
    return _unproved(connection.execute(_IN_STREAMS, (*after, below, through, limit)))


def _unproved(found: Iterable[tuple[Any, ...]]) -> list[RecordedEvent]:
    return [
        RecordedEvent(
            position,
            stream,
            version,
            "",
            type_,
            time,
            about,
            b"" if about[:1] == b"\0" else about,
            data,
            b"",
            b"",
        )
        for position, stream, version, type_, time, about, data in found
    ]


def event_of(row: Sequence[Any]) -> RecordedEvent:
    """Make an event of a row of the table."""
    position, stream, version, id_, type_, time, metadata, salt, data, digest, hash_ = row
    if not any(salt) and not any(metadata) and not any(data):
        metadata = salt = data = b""
    return RecordedEvent(
        position, stream, version, id_, type_, time, metadata, salt, data, digest, hash_
    )  # fmt: skip


def _append(
    connection: sqlite3.Connection, batch: Sequence[Append], now: int, known: Mapping[str, RecordedEvent]
) -> tuple[Head, list[Outcome]]:
    head = read_head(connection)
    tips = _tips(connection, {append.stream for append in batch})
    written, outcomes = seal(batch, head=head, tips=tips, known=known, now=now)
    if not known and any(isinstance(outcome, EventStoreError) for outcome in outcomes):
        # What looks like a conflict may be an append that comes again.
        written, outcomes = seal(batch, head=head, tips=tips, known=_known(connection, batch), now=now)
    if written:
        connection.executemany(_INSERT, map(msgspec.structs.astuple, written))
        head = Head(written[-1].position, written[-1].hash)
    return head, outcomes


def _append_one(connection: sqlite3.Connection, append: Append, now: int) -> tuple[Head, RecordedEvent]:
    head, (outcome,) = _append(connection, [append], now, known={})
    if isinstance(outcome, EventStoreError):
        raise outcome
    return head, outcome[0]


def _known(connection: sqlite3.Connection, batch: Sequence[Append]) -> dict[str, RecordedEvent]:
    """Return what is recorded already under the ids of a batch."""
    ids = _json(event.id for append in batch for event in append.events)
    return {event.id: event for event in map(event_of, connection.execute(_BY_ID, (ids,)))}


def _tips(connection: sqlite3.Connection, streams: Iterable[str]) -> dict[str, Tip]:
    """Return the ends of those of ``streams`` that there are."""
    found = connection.execute(_TIPS, (_json(streams),))
    return {stream: Tip(version, time) for stream, version, time in found}


def _why_not_settled(connection: sqlite3.Connection) -> StoreUnavailable | None:
    """Leave no copies in unused parts of pages, nor in the WAL. What was committed stays so in any case."""
    try:
        with translated("it is done, but older pages are left on disk: repeat it"):
            ((moved,),) = connection.execute("PRAGMA application_id").fetchall()
            if moved:
                connection.execute("VACUUM")
                connection.execute("PRAGMA application_id = 0")
            ((busy, *_),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except StoreUnavailable as error:
        return error
    if busy:
        return StoreUnavailable("it is done, but a reader keeps older pages on disk: repeat it in a moment")
    return None


def _json(values: Iterable[str | int]) -> str:
    return msgspec.json.encode(list(values)).decode()
