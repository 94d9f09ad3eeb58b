"""Destruction: one task for all services, awake only when the next job is due, or another duty is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime

from uws.clock import first_of
from uws.jobs import Backend, UserUWS
from uws.model import IllegalPhase, JobGone

from ._persistence import for_each, keep_doing, lasting

_log = logging.getLogger(__name__)

_CHANGES_TIMES = frozenset({"JobCreated", "DestructionSet"})


Duty = Callable[[datetime], Awaitable[datetime | None]]
"""Does some of what is due at a time, and says when to be asked again: at that time if there is more."""


class Destruction:
    """Destroys or archives jobs when their time has come.

    ``find`` returns the service of a name, whether it is offered or not. Other ``duties`` follow the same
    schedule.
    """

    def __init__(
        self,
        backend: Backend,
        find: Callable[[str], Awaitable[UserUWS]],
        duties: Sequence[Duty],
    ) -> None:
        self._backend, self._find = backend, find
        self._duties: tuple[Duty, ...] = (self._destroy_due, *duties)
        self._times_changed = asyncio.Event()
        self._asked: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to follow the destruction times."""
        position = (await self._backend.store.head()).position
        self._tasks = [
            lasting(self._follow(position), "destruction: following the log"),
            lasting(keep_doing(self._do_due, self._backend.clock), "destruction"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, position: int) -> None:
        async for batch in self._backend.follow(position):
            if any(event.type in _CHANGES_TIMES for event in batch):
                self._times_changed.set()

    async def _do_due(self) -> None:
        """Do some of what is due; sleep until there is more."""
        self._times_changed.clear()
        clock = self._backend.clock
        now = clock.now()
        asked = [await duty(now) for duty in self._duties]
        wake = min((time for time in asked if time), default=None)
        if wake is None or wake > now:
            sleeping = [clock.sleep_until(wake)] if wake else []
            await first_of(self._times_changed.wait(), *sleeping)

    async def _destroy_due(self, now: datetime) -> datetime | None:
        """Destroy what is due and was not asked to go before."""
        await self._backend.projector.caught_up("job_list")
        due = dict(await self._backend.jobs.due(now))
        # A job that still runs is due until its program is gone.
        self._asked &= due.keys()
        fresh = due.keys() - self._asked
        await for_each(fresh, lambda job_id: self._destroy(job_id, due[job_id]))
        return now if fresh else await self._backend.jobs.next_destruction(now)

    async def _destroy(self, job_id: str, service: str) -> None:
        with suppress(JobGone, IllegalPhase):
            await (await self._find(service)).expire_job(job_id)
        self._asked.add(job_id)
