"""Retention: what is kept for how long, applied at midnight (UTC) and at the start of a server.

Closed months are archived; what jobs held is erased, and what is left of them pruned, when its time is over.
All that has to be remembered of it stands in the log: it goes on wherever it was interrupted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from time import perf_counter

from msgspec.structs import replace

from eventstore import Erased, EventStoreError, Head
from eventstore.archive import Contents, beginning
from eventstore.checkpoint import SigningKey
from eventstore.scanning import scan_log
from uws.commands import SERVER
from uws.config import RetentionSettings
from uws.jobs import Backend
from uws.model import UsageError, UWSError
from uws.model import events as e
from uws.model.events import RETENTION_STREAM, job_stream

from . import _failpoints as failpoint
from .archiving import ENDED_BY, archive, prune, verified, withhold
from .retained import Record, destroyed_at, end_of

_log = logging.getLogger(__name__)

_AT_ONCE = 100
"""Jobs that are erased before what else is due is looked at."""
_RETRY = timedelta(hours=1)
_FAILURES = (EventStoreError, UWSError, OSError)
_LONGEST_FOLDING = 3600.0
_DAY, _MICROSECOND = timedelta(days=1), timedelta(microseconds=1)
_ACCESS = ("security/", "session/")
"""Streams of log-ins, which are erased like jobs; one is named for its month, or is over soon."""
_PERSONAL = ("job/", "user/", *_ACCESS)


class Retention:
    """Applies ``[retention]``, a little at a time: call it, and it says when it wants to be called again.

    ``log`` is the place of what the backend's store writes, ``key`` returns what signs archives, and
    ``directory`` gets them.
    """

    def __init__(
        self,
        backend: Backend,
        settings: RetentionSettings,
        *,
        log: Path | str,
        key: Callable[[], SigningKey],
        directory: Path,
    ) -> None:
        self._backend, self._settings = backend, settings
        self._log, self._key, self._directory = log, key, directory
        self._duties: Mapping[str, Callable[[Record, datetime], Awaitable[bool]]] = {
            "whole archives": self._withhold,
            "archives": self._archive,
            "owners": self._erase,
            "histories": self._prune,
            "finishing": self._finish,
        }
        self._due = datetime.min.replace(tzinfo=UTC)
        self._failed: dict[str, datetime] = {}
        """When what has failed is tried again."""
        self._left: dict[str, list[str]] = {}
        """What each duty could not be done to, and leaves out until it is done to all else."""
        self._is_scrubbed = False
        """Whether nothing is in any file of what was taken away; not known at first."""
        self._nothing_up_to = 0
        """Of no stream that has ended up to this position is anything left."""

    async def __call__(self, now: datetime) -> datetime:
        """Do some of what is due, and return when there is more; what fails is tried again in an hour."""
        if now < self._due:
            return self._due
        self._failed = {duty: again for duty, again in self._failed.items() if now < again}
        more = await self._do_some(now)
        self._due = now if more else min([_midnight_after(now), *self._failed.values()])
        return self._due

    async def _do_some(self, now: datetime) -> bool:
        """Do one thing, whatever else fails; False when nothing is left to do within the hour."""
        for duty, do in self._duties.items():
            if duty in self._failed:
                continue
            try:
                # Read each time: what fails may have put on record that it has begun.
                if await do(await Record.read(self._backend.store), now):
                    return True
            except _FAILURES as error:
                _log.error("retention cannot be applied, which is tried again in an hour: %s", error)
                self._failed[duty] = now + _RETRY
        return False

    def _leave(self, duty: str, what: str, error: Exception) -> None:
        _log.error("%s is left as it is: %s", what, error)
        self._left.setdefault(duty, []).append(what)

    def _check_left(self, duty: str) -> None:
        """Raise `UsageError` for what was left out, which then is tried again."""
        if left := self._left.pop(duty, None):
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise UsageError(f"{left[0]}{more} had to be left as they are")

    async def _note(self, record: Record, event: e.RetentionEvent) -> None:
        new = e.encode(event, SERVER.metadata)
        await self._backend.store.append(RETENTION_STREAM, [new], expected=record.version)

    # Archiving

    async def _archive(self, record: Record, now: datetime) -> bool:
        """Archive the first month that is not, if it is over."""
        if self._settings.archive is None:
            return False
        store = self._backend.store
        after = await record.archived_up_to(store)
        first = await store.read_all(after=after.position, limit=1)
        if not first:
            return False
        month = record.next_month(first[0].recorded_at)
        if now < end_of(month):
            return False
        path = self._directory / f"{month}.gz"
        contents = await self._written(path, after, month, now)
        failpoint.reached(failpoint.ARCHIVED)
        await self._note(
            record,
            e.MonthArchived(
                month=month,
                file=path.name,
                first=after.position + 1,
                last=contents.head.position,
                hash=contents.head.hash.hex(),
                sha256=contents.sha256,
                whole=self._settings.owners is None,
            ),
        )
        _log.info("%s: positions %s to %s are archived", path, after.position + 1, contents.head.position)
        return True

    async def _withhold(self, record: Record, now: datetime) -> bool:
        """Write an archive anew that holds what jobs held, since that is not kept for ever any more."""
        if self._settings.owners is None:
            return False
        left = self._left.get("whole archives", ())
        for month in record.archived:
            path = self._directory / month.file
            if not month.whole or str(path) in left or not path.exists():
                continue
            try:
                contents = await withhold(path, self._key(), now, _is_personal)
            except _FAILURES as error:
                self._leave("whole archives", str(path), error)
                continue
            failpoint.reached(failpoint.WITHHELD)
            await self._note(record, replace(month, sha256=contents.sha256, whole=False))
            _log.info("%s is written anew, without what jobs held", path)
            return True
        self._check_left("whole archives")
        return False

    async def _written(self, path: Path, after: Head, month: str, now: datetime) -> Contents:
        """Write an archive and read it back; one that is there already was written before a crash."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for draft in self._directory.glob(f".{path.name}.*"):
            draft.unlink(missing_ok=True)
        key, store = self._key(), self._backend.store
        if not path.exists():
            until = end_of(month) - _MICROSECOND
            withheld = _is_personal if self._settings.owners is not None else _is_nobodys
            await archive(store, path, key, now, until=until, after=after, withheld=withheld)
        contents = await verified(path, key.verifier)
        there = await store.read_all(after=contents.head.position - 1, limit=1)
        if contents.after != after or [event.hash for event in there] != [contents.head.hash]:
            raise UsageError(f"{path} is in the way: it is no archive of {month} in this log; move it away")
        return contents

    # Erasing

    async def _erase(self, record: Record, now: datetime) -> bool:
        """Erase some of what is kept no longer."""
        if (kept := self._settings.owners_kept) is None:
            return False
        due = await self._due_jobs(now - kept)
        streams = [*map(job_stream, due)] or await asyncio.to_thread(self._due_access, now - kept)
        if not streams:
            self._check_left("owners")
            return False
        if "owners" not in record.begun:
            await self._begin(record, "owners", self._settings.owners, now - kept)
        for job_id in due:
            try:
                await self._backend.files.of(job_id).remove()
            except OSError as error:
                self._leave("owners", job_stream(job_id), error)
                streams.remove(job_stream(job_id))
        for stream in streams:
            self._is_scrubbed = False
            reason = f"retention: owners after {self._settings.owners}"
            await self._backend.store.erase(stream, reason=reason, metadata=SERVER.metadata)
            failpoint.reached(failpoint.ERASED)
        if streams:
            _log.info("%s streams are erased, which are kept for %s", len(streams), self._settings.owners)
        return True

    async def _due_jobs(self, before: datetime) -> list[str]:
        """Return the first jobs that were destroyed up to a time and are not erased."""
        await self._backend.projector.caught_up("usage", timeout=_LONGEST_FOLDING)
        store, due = self._backend.store, list[str]()
        left = self._left.get("owners", ())
        for job_id in await self._backend.jobs.destroyed_first(_AT_ONCE + len(left)):
            if job_stream(job_id) in left:
                continue
            if destroyed_at(await store.read_stream(job_stream(job_id))) > before:
                break
            due.append(job_id)
        return due

    def _due_access(self, before: datetime) -> list[str]:
        """Return the streams of log-ins in which nothing has happened since a time, without erased ones."""
        with scan_log(self._log) as scan:
            return [
                tip.stream
                for prefix in _ACCESS
                for tip in scan.tips(prefix, _behind(prefix))
                if tip.type != Erased.type and tip.recorded_at <= before
            ]

    # Pruning

    async def _prune(self, record: Record, now: datetime) -> bool:
        """Take away what is left of jobs, all in one go, since no command is taken meanwhile."""
        if (kept := self._settings.histories_kept) is None:
            return False
        store = self._backend.store
        pruned = (await beginning(store)).position
        due = [m for m in record.archived if m.last > pruned and end_of(m.month) <= now - kept]
        if self._settings.owners is None:  # nothing is erased: what an archive lacks is in the log alone
            due = [*takewhile(lambda month: month.whole, due)]
        if not due or due[-1].last <= self._nothing_up_to:
            return False
        last = due[-1]
        if not await asyncio.to_thread(self._has_ended, last.last):
            self._nothing_up_to = last.last
            return False
        if "histories" not in record.begun:
            await self._begin(record, "histories", self._settings.histories, end_of(last.month))
        *before, path = (self._directory / month.file for month in due)
        self._is_scrubbed = False
        _log.info("the log gives room back of what ended up to %s: commands wait meanwhile", last.month)
        began = perf_counter()
        reason = f"retention: histories after {self._settings.histories}, archived in {last.file}"
        await prune(store, path, self._key().verifier, metadata=SERVER.metadata, before=before, reason=reason)
        _log.info("that took %.1f s", perf_counter() - began)
        failpoint.reached(failpoint.PRUNED)
        return True

    def _has_ended(self, through: int) -> bool:
        with scan_log(self._log) as scan:
            return any(
                tip.position <= through and tip.type in ENDED_BY for tip in scan.tips("", "\U0010ffff")
            )

    # Both

    async def _begin(
        self, record: Record, duty: e.Duty, after: int | float | str | None, before: datetime
    ) -> None:
        await self._note(record, e.RetentionBegun(duty=duty, after=str(after), before=before))
        record.version += 1
        failpoint.reached(failpoint.BEGUN)

    async def _finish(self, record: Record, now: datetime) -> bool:
        """Leave nothing in any file of what was taken away, and say that it is done, unless it has failed."""
        done = [duty for duty in dict.fromkeys(record.begun) if duty not in self._failed]
        if not record.begun or (self._is_scrubbed and not done):
            return False
        await self._backend.store.settle()
        projector = self._backend.projector
        await projector.caught_up(timeout=_LONGEST_FOLDING)
        await projector.scrub()
        self._is_scrubbed = True
        failpoint.reached(failpoint.SCRUBBED)
        for duty in done:
            await self._note(record, e.RetentionApplied(duty=duty))
            record.version += 1
        return bool(done)


def _midnight_after(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0) + _DAY


def _behind(prefix: str) -> str:
    """Return what sorts behind all names that begin with a prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _is_personal(stream: str) -> bool:
    return stream.startswith(_PERSONAL)


def _is_nobodys(stream: str) -> bool:
    return False
