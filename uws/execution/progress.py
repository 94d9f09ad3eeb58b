"""What a program tells of its progress, brought from its file to the log.

Whatever it writes, and however often: the file is looked at now and then, a bounded part of it is read, and
what has changed since becomes one event.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from eventstore import EventStoreError
from uws.files import JobDirectory
from uws.jobs import UserUWS
from uws.model import Job, UWSError
from uws.model.text import made_fit

_log = logging.getLogger(__name__)

EVERY = 2.0
"""Seconds between two looks, at least."""
PART = 0.01
"""So much of the time that a program has run lies between two looks, at least: a day makes some 600."""
TAIL = 64_000
"""Bytes at the end of a file in which progress is looked for."""
LONGEST = 200
"""Characters of a text that go on record."""
_LINE = re.compile(r"(?:(\d{1,3}(?:\.\d{0,15})?|\.\d{1,15})(%?)|-)(?:[ \t]+(.*))?", re.ASCII)


class Told(NamedTuple):
    """How much of the work is done, from 0 to 1 or None where that is not known, and what is going on."""

    fraction: float | None
    text: str


class Progress:
    """What one job's program tells of its progress: in ``UWS_PROGRESS`` or, by a prefix, in its output."""

    def __init__(self, uws: UserUWS, job_id: str, directory: JobDirectory) -> None:
        self._uws, self._job_id, self._directory = uws, job_id, directory
        self._prefix = uws.service.progress_prefix
        self._path = directory.logs / "stdout" if self._prefix else directory.progress
        self._seen: tuple[int, ...] | None = None

    def begin(self) -> None:
        """Forget what an earlier start of the program has told."""
        with suppress(OSError):  # what cannot be deleted is no file, and not read either
            self._directory.progress.unlink()

    @asynccontextmanager
    async def followed(self, job: Job) -> AsyncIterator[None]:
        """Put on record what the program tells, as long as the context lasts."""
        following = asyncio.create_task(self._follow(job), name=f"progress of job {job.id}")
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def last(self) -> Told | None:
        """Return what the program has told last, in a line that has no end, too; None for nothing."""
        if _state(self._path) is None:
            return None
        try:
            return await self._read(whole_lines=False)
        except Exception:  # whatever it is, the job ends
            _log.exception("job %s: its last progress cannot be read", self._job_id)
            return None

    async def _follow(self, job: Job) -> None:
        clock = self._uws.backend.clock
        while True:
            now = clock.now()
            ran = (now - (job.started or now)).total_seconds()
            await clock.sleep_until(now + timedelta(seconds=max(EVERY, PART * ran)))
            state = _state(self._path)
            if state is None or state == self._seen:
                continue
            try:
                if told := await self._read(whole_lines=True):
                    await self._uws.report_progress(self._job_id, *told, start=job.start)
                self._seen = state
            except (EventStoreError, UWSError, OSError) as error:  # there will be more of it
                _log.warning("job %s: its progress could not be recorded: %s", self._job_id, error)
            except Exception:
                _log.exception("job %s: its progress could not be recorded", self._job_id)

    async def _read(self, *, whole_lines: bool) -> Told | None:
        return await asyncio.to_thread(
            read_progress, self._directory, self._path, self._prefix, whole_lines=whole_lines
        )


def read_progress(directory: JobDirectory, path: Path, prefix: str, *, whole_lines: bool) -> Told | None:
    """Return what the last line that tells of progress says, None without one. Raises `OSError`.

    Nothing but a regular file in the job's own directory is read, and of it the last part only.
    """
    if not (opened := directory.open(path)):
        return None
    with opened as file:
        begin = max(0, os.fstat(file.fileno()).st_size - TAIL)
        data = os.pread(file.fileno(), TAIL, begin)
    lines = data.split(b"\n")
    # The first may be the end of a longer one, the last the beginning of one.
    lines = lines[1 if begin else 0 : -1 if whole_lines else None]
    marked = (line for line in reversed(lines) if line.startswith(prefix.encode()))
    told = (parse_progress(line[len(prefix.encode()) :]) for line in marked)
    return next((each for each in told if each), None)


def parse_progress(line: bytes) -> Told | None:
    """Read ``0.35 text``, ``35% text`` or ``- text``, the text being optional. None for anything else."""
    match = _LINE.fullmatch(line[: 8 * LONGEST].decode(errors="replace").strip())
    if match is None:
        return None
    number, percent, text = match.groups()
    fraction = None
    if number is not None:
        fraction = round(float(number) / (100 if percent else 1), 6)
        if fraction > 1:
            return None
    shown = "".join(each if each.isprintable() else "\ufffd" for each in made_fit(text or ""))
    return Told(fraction, shown.strip()[:LONGEST])


def _state(path: Path) -> tuple[int, ...] | None:
    """Return what is another one when a file has changed, None where there is none or it is empty."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found.st_size else None
