"""What is in the data directory: the key, the users, the log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from eventstore import EventStoreError, Head, RecordedEvent, from_microseconds, read_log
from eventstore.checkpoint import CheckpointError
from uws.access.users import problem_of
from uws.admin import problems_of
from uws.clock import SystemClock
from uws.config import Settings
from uws.model.units import format_time
from uws.remains import LogLost, is_missing, remains

from .finding import Finding

_AHEAD = timedelta(seconds=5)
"""By how much a time on record may be later than the clock, which is set now and then."""


def key(settings: Settings) -> Iterator[Finding]:
    """Read the key that signs, if there is one."""
    if not os.path.lexists(settings.key):
        return
    try:
        yield Finding("key", "well", f"{settings.key} signs for {settings.verifier_key().name}")
    except CheckpointError as error:
        advice = "run this as the user that the server has; or chmod 600 it, or bring back a copy"
        yield Finding("key", "fault", str(error), advice)


def users(settings: Settings) -> Iterator[Finding]:
    """Read the users file, if one is declared."""
    if settings.auth.users is None:
        return
    path = settings.data / settings.auth.users
    if not os.path.lexists(path):
        yield Finding("users file", "doubt", f"{path} is not there: nobody can log in", "uwsd user add NAME")
    elif problem := problem_of(path):
        yield Finding("users file", "fault", problem, "see docs/access.md, or bring back a copy")
    else:
        yield Finding("users file", "well", str(path))


def log(settings: Settings) -> Iterator[Finding]:
    """Read the log's end, or look for what it has left where there is none."""
    place = settings.log
    try:
        head, last = (Head(0, b""), None) if is_missing(place) else asyncio.run(_end(place))
    except (EventStoreError, OSError) as error:
        yield Finding("log", "fault", problems_of(error)[0], "see docs/operating.md")
        return
    if is_missing(place) and (left := remains(settings)):
        yield Finding("log", "fault", LogLost(settings, left).found, LogLost.advice)
    elif isinstance(place, Path) and not place.exists():
        yield Finding("log", "well", f"{place} is not there yet: it is made at the first start")
    elif is_missing(place):
        yield Finding(
            "log", "doubt", f"{place}: the file is empty, and the next start begins a log in it",
            "where there was one, bring back a copy: see docs/operating.md",
        )  # fmt: skip
    else:
        called = place if isinstance(place, Path) else "the database of store"
        events = "1 event" if head.position == 1 else f"{head.position:,} events"
        yield Finding("log", "well", f"{called}, {events}")
        yield from _clock(last)


def _clock(last: RecordedEvent | None) -> Iterator[Finding]:
    now = SystemClock().now()
    if last and (recorded := from_microseconds(last.time)) > now + _AHEAD:
        yield Finding(
            "clock", "fault",
            f"the last event is of {format_time(recorded)}, and now it is {format_time(now)}",
            "set the clock right before the server starts",
        )  # fmt: skip


async def _end(place: Path | str) -> tuple[Head, RecordedEvent | None]:
    """Return the end of the log, and its last event. Raises what `read_log` does, and the log."""
    log = await read_log(place)
    try:
        head = await log.head()
        return head, next(iter(await log.read_all(after=head.position - 1)), None)
    finally:
        await log.close()
