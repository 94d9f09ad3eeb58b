"""Destruction: one task for all services, awake only when the next job is due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta

from eventstore import EventStoreError
from uws.jobs import Backend, UserUWS, first_of
from uws.model import IllegalPhase, JobGone, Unavailable

from ._persistence import follow

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
_CHANGES_TIMES = frozenset({"JobCreated", "DestructionSet"})
_PASSING = (EventStoreError, Unavailable, OSError)
"""What goes away by itself, or when somebody makes room on a disk."""


class Destruction:
    """Destroys or archives jobs when their time has come, and clears away files that belong to none."""

    def __init__(self, backend: Backend, services: Mapping[str, UserUWS]) -> None:
        self._backend, self._services = backend, services
        self._look = asyncio.Event()
        self._asked: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Delete directories without a job, then begin to follow the destruction times."""
        position = (await self._backend.store.head()).position
        await self._backend.projector.reached(position)
        there = set(self._backend.files.existing())
        for job_id in there - await self._backend.jobs.kept(there):
            await self._backend.files.of(job_id).remove()
        self._tasks = [
            asyncio.create_task(self._follow(position), name="destruction: following the log"),
            asyncio.create_task(self._destroy_all(), name="destruction"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, position: int) -> None:
        async for batch in follow(self._backend, position):
            if any(event.type in _CHANGES_TIMES for event in batch):
                self._look.set()

    async def _destroy_all(self) -> None:
        clock = self._backend.clock
        while True:
            self._look.clear()
            now = clock.now()
            try:
                if await self._destroy_due(now):
                    continue
                wake = await self._backend.jobs.next_destruction(now)
            except _PASSING as error:
                log.warning("jobs cannot be destroyed now: %s", error)
                wake = now + timedelta(seconds=RETRY_SECONDS)
            sleeping = [clock.sleep_until(wake)] if wake else []
            await first_of(self._look.wait(), *sleeping)

    async def _destroy_due(self, now: datetime) -> bool:
        """Destroy what is due and was not asked to go before; return whether there was any.

        Raises the last of what failed, after all have been tried.
        """
        await self._backend.projector.caught_up()
        due = dict(await self._backend.jobs.due(now))
        # A job that still runs is due until its program is gone.
        self._asked &= due.keys()
        fresh = [job_id for job_id in due if job_id not in self._asked]
        failure: Exception | None = None
        for job_id in fresh:
            uws = self._services.get(due[job_id])
            if uws is None:
                log.error("job %s is due, but its service %s is unknown", job_id, due[job_id])
            else:
                try:
                    with suppress(JobGone, IllegalPhase):
                        await uws.expire_job(job_id)
                except _PASSING as error:
                    failure = error
                    continue
            self._asked.add(job_id)
        if failure:
            raise failure
        return bool(fresh)
