"""What a log leaves in a data directory, by which it is known that there was one."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from projections import READ_MODELS, read_status
from uws.config import Settings
from uws.model import UWSError


class LogLost(UWSError):
    """There is no log, or nothing in it, where there was one."""

    advice: str = "bring back a copy (docs/operating.md), or move these away where a new log is to begin"

    def __init__(self, settings: Settings, left: list[str]) -> None:
        found = f"{settings.log}: {'the file is empty' if Path(settings.log).exists() else 'there is no log'}"
        self.found: str = f"{found}, but one has left in {settings.data}: {', '.join(left)}"
        super().__init__(f"{self.found}; {self.advice}")


def check_begins(settings: Settings) -> None:
    """Raise `LogLost` where there is no log's file, but what a log has left. Blocks; raises `OSError`."""
    # Asked again in the end: who begins a log meanwhile leaves something, too.
    if is_missing(settings.log) and (left := remains(settings)) and is_missing(settings.log):
        raise LogLost(settings, left)


def is_missing(log: Path | str) -> bool:
    """Whether there is no file of a log, or an empty one; of a database that is not known unasked."""
    return isinstance(log, Path) and (not log.exists() or (log.is_file() and not log.stat().st_size))


def remains(settings: Settings) -> list[str]:
    """Return what is in the data directory that only a log leaves there, which was in a file.

    Blocks; raises `OSError`.

    What a server makes before there is a log, or for the log of another, is none of it: a key, users, empty
    directories, and what is kept elsewhere.
    """
    newest = Path(f"{settings.log}-wal")
    left = [newest.name] if newest.exists() and newest.stat().st_size else []
    with suppress(sqlite3.Error):  # of what cannot be read nobody knows what it is
        found = read_status(settings.projections, 0, READ_MODELS) if settings.projections.is_file() else []
        position = max((model.position for model in found), default=0)
        left += [f"{settings.projections.name} (up to position {position:,})"] if position else []
    places = (settings.data / "jobs", settings.data / settings.audit.checkpoints, settings.archives)
    ours = [place for place in places if place.parent == settings.data and place.is_dir()]
    return left + [f"{place.name}/" for place in ours if any(place.iterdir())]
