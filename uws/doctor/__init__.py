"""Whether what a server rests on is as it should be, found out without changing any of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from uws.admin import problems_of
from uws.config import Settings
from uws.model import DeclarationError

from . import disk, kept, machine, services
from .finding import PATIENCE, Finding, patiently
from .server import server

__all__ = ["Finding", "examine"]

_KEPT = {"key": kept.key, "users file": kept.users, "log": kept.log}
_ASKED = {"sandbox": services.sandbox, "Slurm": services.slurm, "server": server}


async def examine(
    settings: Settings | None, *, file: Path | None, problems: Sequence[str] = ()
) -> AsyncIterator[Finding]:
    """Yield what is found, one after the other; what others have to say is waited for for some seconds.

    ``file`` is the declaration; where it has ``problems``, or is None, nothing is found of what only that can
    say, and without ``settings`` nothing of the data directory. No file is changed, but that SQLite may make
    its own beside the log. May be cancelled.
    """
    for look in (machine.versions, machine.sqlite, machine.clock, machine.stylesheets):
        for finding in look():
            yield finding
    for finding in _declaration(settings, file, problems):
        yield finding
    if settings is None:
        return
    may_be_made = True
    async for finding in _seen(disk.DATA, partial(disk.directories, settings)):
        may_be_made &= (finding.subject, finding.state) != (disk.DATA, "fault")
        yield finding
    for subject, look_at in _KEPT.items():
        look_in = partial(look_at, settings) if may_be_made else partial(_inside, settings, look_at)
        async for finding in _seen(subject, look_in):
            yield finding
    if file is None or problems:
        return
    async for finding in _seen("program", partial(services.programs, settings)):
        yield finding
    for finding in machine.open_files(settings):
        yield finding
    for subject, ask in _ASKED.items():
        try:
            async for finding in ask(settings):
                yield finding
        except OSError as error:
            yield _not_seen(subject, error)


def _declaration(settings: Settings | None, file: Path | None, problems: Sequence[str]) -> Iterator[Finding]:
    """Tell what is wrong with the declaration, and why a server with it would not start."""
    if file is None:
        return
    if not os.path.lexists(file):
        advice = "`uwsd init DIRECTORY` makes one to begin with; one that is elsewhere: uwsd doctor FILE"
        yield Finding("declaration", "fault", f"{file}: there is no such file", advice)
        return
    for problem in problems:
        yield Finding("declaration", "fault", problem, "see docs/declaration.md")
    if settings and not problems:
        try:
            settings.check_access()
        except DeclarationError as error:
            for problem in error.problems:
                yield Finding("declaration", "fault", problem, "see docs/access.md")


def _inside(settings: Settings, look: Callable[[Settings], Iterator[Finding]]) -> Iterator[Finding]:
    if os.path.isdir(settings.data):  # noqa: PTH112 - which says no where a path's would raise
        yield from look(settings)


async def _seen(subject: str, look: Callable[[], Iterator[Finding]]) -> AsyncIterator[Finding]:
    """Yield what is found where a disk, or a database, may not answer."""
    try:
        found = await patiently(lambda: list(look()))
    except OSError as error:
        found = [_not_seen(subject, error)]
    for finding in found:
        yield finding


def _not_seen(subject: str, error: OSError) -> Finding:
    if isinstance(error, TimeoutError):
        said = f"no answer for {PATIENCE:.0f} s"
        return Finding(subject, "fault", said, "look after the disk, or the database")
    return Finding(subject, "fault", problems_of(error)[0], "run this as the user that the server has")
