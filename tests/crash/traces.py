"""What a killed process has left on disk, held against what must be true of it whenever it was killed."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from eventstore import Head, RecordedEvent, SQLiteEventLog
from projections import JobTables, Projector

PATIENCE = 60.0


async def traces(data: Path, seen: Head) -> tuple[RecordedEvent, ...]:
    """Return the whole log, once it is shown to be sound, to go on from ``seen``, and to be projected.

    Nothing in ``data`` is touched: whoever opens it next finds what the killed process has left.
    """
    log = await SQLiteEventLog.read(data / "events.db")
    try:
        verified = await log.verify(contains=[seen])
        events = await log.read_all(limit=verified.events)
        assert await log.head() == verified.head
        await _check_read_models(data, log)
    finally:
        await log.close()
    assert [event.position for event in events] == list(range(1, len(events) + 1)), "positions"
    assert len({event.id for event in events}) == len(events), "an id twice"
    versions: Counter[str] = Counter()
    for event in events:
        versions[event.stream] += 1
        assert event.version == versions[event.stream], "versions"
    return events


async def _check_read_models(data: Path, log: SQLiteEventLog) -> None:
    """Show that the read models as they were left, once taken further, are those that the whole log gives."""
    with TemporaryDirectory(dir=data) as directory:
        left, anew = Path(directory, "left.db"), Path(directory, "anew.db")
        for suffix in ("", "-wal"):
            if (found := data / f"projections.db{suffix}").exists():
                shutil.copy(found, f"{left}{suffix}")
        assert await _folded(left, log) == await _folded(anew, log), "read models that the log does not give"


async def _folded(path: Path, log: SQLiteEventLog) -> list[str]:
    """Return all rows of all tables, as SQL, after the projector has taken them to the log's head."""
    projector = await Projector.open(path, log, [JobTables()])
    try:
        await projector.caught_up(PATIENCE)
    finally:
        await projector.close()
    with closing(sqlite3.connect(path)) as connection:
        return sorted(connection.iterdump())
