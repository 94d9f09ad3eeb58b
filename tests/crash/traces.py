"""What a killed process has left on disk, held against what must be true of it whenever it was killed."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eventstore import Head, RecordedEvent, SQLiteEventLog
from eventstore.postgres import PostgresEventLog
from projections import READ_MODELS, Projector

PATIENCE = 60.0


async def traces(data: Path, seen: Head, url: str | None = None) -> tuple[RecordedEvent, ...]:
    """Return the whole log, once it is shown to be sound, to go on from ``seen``, and to be projected.

    Nothing in ``data`` is touched: whoever opens it next finds what the killed process has left. The log may
    be in a database instead.
    """
    log = await (PostgresEventLog.read(url) if url else SQLiteEventLog.read(data / "events.db"))
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


async def _check_read_models(data: Path, log: SQLiteEventLog | PostgresEventLog) -> None:
    """Show that the read models as they were left, once taken further, are those that the whole log gives."""
    with TemporaryDirectory(dir=data) as directory:
        left, anew = Path(directory, "left"), Path(directory, "anew")
        left.mkdir()
        anew.mkdir()
        for file in data.glob("projections.db*"):
            shutil.copy(file, left)
        if (data / "projections").exists():
            shutil.copytree(data / "projections", left / "projections")
        assert await folded(left, log) == await folded(anew, log), "read models that the log does not give"


async def folded(directory: Path, log: SQLiteEventLog | PostgresEventLog) -> list[Any]:
    """Return all rows of all read models, after the projector has taken them to the log's head."""
    projector = await Projector.open(directory / "projections.db", log)
    try:
        await projector.caught_up(timeout=PATIENCE)
        return await projector.ask(_rows)
    finally:
        await projector.close()


def _rows(connection: sqlite3.Connection) -> list[Any]:
    return [
        (name, connection.execute(contents.query).fetchall())
        for model in READ_MODELS
        for name, contents in model.contents.items()
    ]
