"""Deletion: the files of jobs go when the log says that nobody wants them; each node deletes what it has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

from eventstore import EventStoreError, RecordedEvent
from projections import Behind
from uws.jobs import Backend
from uws.model import UnknownForm, fold
from uws.model import events as e
from uws.model.events import job_id_of

from ._persistence import for_each, keep_doing, lasting
from .fetching import take_away
from .records import has_starts

_log = logging.getLogger(__name__)

_ENDS_FILES = frozenset({"JobArchived", "JobDestroyed"})
_ENDS_COPIES = frozenset({"JobStarted", "JobAborted", "JobFailed"})
"""What makes a job's files unwanted on nodes that have fetched them, and do not run it."""


class Deletion:
    """Clears away files that belong to no job any more."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._has_looked = False
        self._unwanted: set[str] = set()
        self._elsewhere: set[str] = set()
        """Jobs of which there may be something here that was made or fetched in vain."""
        self._files_unwanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Delete what is left of jobs that are gone, then go on with those that go.

        Directories that the log knows nothing of stay: it may be the log that is not the right one.
        """
        position = (await self._backend.store.head()).position
        try:
            await self._look_around()
            with suppress(OSError):  # it is tried again
                await for_each(list(self._unwanted), self._delete)
        except Behind as error:
            _log.error("what is left of jobs that are gone is not looked for yet: %s", error)
        clock = self._backend.clock
        self._tasks = [
            lasting(self._follow(position), "deletion: following the log"),
            lasting(keep_doing(self._delete_files, clock), "deletion of files"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look_around(self) -> None:
        """Find out, once, which files nobody wants any more. Raises `Behind`."""
        if self._has_looked:
            return
        await self._backend.projector.caught_up("job_list")
        there = self._backend.files.existing()
        known = await self._backend.jobs.keep_files(there)
        self._discard(job_id for job_id, keep in known.items() if not keep)
        if strangers := len(there) - len(known):
            _log.warning("%s entries of the jobs directory belong to no job in the log; they stay", strangers)
        if self._backend.keeper:  # in none of these was a program started
            self._take_away(job_id for job_id in known if not has_starts(self._backend.files.of(job_id)))
        self._has_looked = True

    async def _follow(self, position: int) -> None:
        async for batch in self._backend.follow(position):
            self._discard(
                job_id for event in batch if event.type in _ENDS_FILES and (job_id := job_id_of(event.stream))
            )
            if self._backend.keeper:
                for event in batch:
                    if event.type == "ParametersSet":
                        await self._drop(event)
                    elif event.type in _ENDS_COPIES and not self._is_of_own_start(event):
                        self._take_away([job_id_of(event.stream) or ""])

    def _is_of_own_start(self, event: RecordedEvent) -> bool:
        with suppress(UnknownForm):
            started = e.decode(event)
            return isinstance(started, e.JobStarted) and started.node == self._backend.keeper
        return False

    async def _drop(self, event: RecordedEvent) -> None:
        """Delete files that were sent to this node, and that a command at another one has done away with."""
        directory = self._backend.files.of(job_id_of(event.stream) or "")
        if not directory.uploads.exists():
            return
        try:
            recorded = await self._backend.store.read_stream(event.stream)
            before = fold(recorded[: event.version - 1])
            after = fold(recorded[event.version - 1 : event.version], before)
        except (EventStoreError, UnknownForm) as error:
            _log.warning("files that were replaced stay until their job goes: %s", error)
            return
        if before and after:
            directory.drop(before.uploads - after.uploads)

    def _discard(self, job_ids: Iterable[str]) -> None:
        self._unwanted.update(job_ids)
        if self._unwanted:
            self._files_unwanted.set()

    def _take_away(self, job_ids: Iterable[str]) -> None:
        of = self._backend.files.of
        self._elsewhere.update(job_id for job_id in job_ids if of(job_id).root.exists())
        if self._elsewhere:
            self._files_unwanted.set()

    async def _delete_files(self) -> None:
        """Wait for files that nobody wants any more, and delete them."""
        await self._look_around()
        await self._files_unwanted.wait()
        await for_each(list(self._unwanted), self._delete)
        await for_each(list(self._elsewhere), self._delete_copies)
        if not (self._unwanted or self._elsewhere):
            self._files_unwanted.clear()

    async def _delete(self, job_id: str) -> None:
        await self._backend.files.of(job_id).remove()
        self._unwanted.discard(job_id)

    async def _delete_copies(self, job_id: str) -> None:
        await take_away(self._backend, job_id)
        self._elsewhere.discard(job_id)
