"""Deletion: the files of jobs go when the log says that the jobs are gone; each node deletes what it has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

from eventstore import EventStoreError, RecordedEvent
from projections import Behind
from uws.jobs import Backend
from uws.model import UnknownForm, fold
from uws.model.events import job_id_of

from ._persistence import for_each, keep_doing

log = logging.getLogger(__name__)

_ENDS_FILES = frozenset({"JobArchived", "JobDestroyed"})


class Deletion:
    """Clears away files that belong to no job any more."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._has_looked = False
        self._unwanted: set[str] = set()
        self._files_unwanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Delete what is left of jobs that are gone, then go on with those that go.

        Directories that the log knows nothing of stay: it may be the log that is not the right one.
        """
        position = (await self._backend.store.head()).position
        try:
            await self._look_around()
            if self._unwanted:
                with suppress(OSError):  # it is tried again
                    await self._delete_files()
        except Behind as error:
            log.error("what is left of jobs that are gone is not looked for yet: %s", error)
        clock = self._backend.clock
        self._tasks = [
            asyncio.create_task(self._follow(position), name="deletion: following the log"),
            asyncio.create_task(keep_doing(self._delete_files, clock), name="deletion of files"),
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
            log.warning("%s entries of the jobs directory belong to no job in the log; they stay", strangers)
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
            log.warning("files that were replaced stay until their job goes: %s", error)
            return
        if before and after:
            directory.drop(before.uploads - after.uploads)

    def _discard(self, job_ids: Iterable[str]) -> None:
        self._unwanted.update(job_ids)
        if self._unwanted:
            self._files_unwanted.set()

    async def _delete_files(self) -> None:
        """Wait for directories that nobody wants any more, and delete them."""
        await self._look_around()
        await self._files_unwanted.wait()
        await for_each(list(self._unwanted), self._delete)
        if not self._unwanted:
            self._files_unwanted.clear()

    async def _delete(self, job_id: str) -> None:
        await self._backend.files.of(job_id).remove()
        self._unwanted.discard(job_id)
