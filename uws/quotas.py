"""What owners may have and what they have, as the read models count it; one command of an owner at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from eventstore import StoreUnavailable
from projections import JobReadModel, Projector
from uws.clock import Clock
from uws.model import Identity, Job, QueueSettings, QuotaSettings, Service
from uws.model.quotas import DAY, Allowance, Coming, Quota, Use, allowance, sentences

_log = logging.getLogger(__name__)
_PATIENCE = 1.0
"""Seconds that is waited for read models where what they say is only shown."""


@dataclass(frozen=True)
class Quotas:
    """The quotas of a server. All methods may raise `eventstore.EventStoreError`.

    While a read model is not up to date, what it counts limits nobody: it keeps nothing from being recorded.
    """

    projector: Projector
    jobs: JobReadModel
    clock: Clock
    settings: QuotaSettings
    queue: QueueSettings
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _twins: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _coming: WeakValueDictionary[str, Coming] = field(default_factory=WeakValueDictionary)

    def names_of(self, caller: Identity, job: Job | None = None) -> tuple[str, ...]:
        """Return the tables that hold for the owner of a job, or of one that ``caller`` makes.

        Who is not there to be asked has what held when the job was made.
        """
        if job is None or job.owner == caller.user:
            return self.settings.names_of(caller)
        return job.quotas

    def of(self, caller: Identity, job: Job | None = None) -> Quota:
        """Return what the owner of a job may have, or of one that ``caller`` makes."""
        return self.settings.of(self.names_of(caller, job), self.queue)

    async def use(self, owner: str | None, quota: Quota, *, timeout: float = 10.0) -> Use:
        """Return what an owner has of that which is limited."""
        if quota.stored is None and quota.jobs_per_day is None:
            return Use()
        try:
            await self.projector.caught_up("usage", timeout=timeout)
            return await self.jobs.use_of(owner, self.clock.now() - DAY, quota.jobs_per_day or 0)
        except StoreUnavailable as error:
            _log.warning("what an owner has is not known, and nothing is refused for it: %s", error)
            return Use()

    async def allowance(self, caller: Identity, job: Job | None) -> list[Allowance]:
        """Return what files a request may bring for a job, or for one to be made; none is no such limit."""
        quota = self.of(caller, job)
        owner = job.owner if job else caller.user
        replaceable = sum(upload.size for upload in job.uploads) if job else 0
        use = await self.use(owner, quota)
        coming = self._coming.setdefault(owner or "", Coming())
        return allowance(quota, use, self.clock.now(), coming, new=job is None, replaceable=replaceable)

    async def told(self, caller: Identity, services: Sequence[str]) -> list[str]:
        """Say what ``caller`` may have of these services together, and what he has of it.

        Nothing where that cannot be found out now.
        """
        quota = self.of(caller)
        if quota == Quota():
            return []
        try:
            await self.projector.caught_up("queue", timeout=_PATIENCE)
            queued = sum((await self.jobs.queued_of(caller.user, services)).values())
            running = await self.jobs.running_of(caller.user)
        except StoreUnavailable:
            return []
        use = await self.use(caller.user, quota, timeout=_PATIENCE)
        return [*sentences(quota, use, queued, running)]

    def twin(self, command: str | None) -> AbstractAsyncContextManager[None]:
        """Let the files of a keyed command come when those of one that is the same have come.

        Together they would be more than the one that counts.
        """
        return nullcontext() if command is None else self._twins.setdefault(command, asyncio.Lock())

    @asynccontextmanager
    async def turn(self, service: Service, owner: str | None, quota: Quota) -> AsyncIterator[None]:
        """Keep others meanwhile from what adds to that which an owner has, where it is limited."""
        if not (service.max_queued_per_owner or quota.queued or quota.stored or quota.jobs_per_day):
            yield
            return
        async with self._turns.setdefault(owner or "", asyncio.Lock()):
            yield
