"""Questions about jobs, to the read models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from eventstore import RecordedEvent, StoreUnavailable, to_microseconds
from eventstore.checking import Checked
from projections import Cursor, JobReference, Page, Whose
from uws.commands import Caller
from uws.jobs.carrying_out import CarriesOut
from uws.model import ACTIVE, Action, Job, Phase, Values, fold
from uws.model import events as e
from uws.queueing import Standing

PAGE = 100
"""Jobs of a list that are read at once: to write them keeps the event loop for 1 to 3 ms."""


@dataclass(frozen=True)
class JobFilter:
    """Which jobs of a list are wanted (UWS 1.1 section 2.2.2.1): those that meet all that is given.

    They are in any of ``phases`` (None: in all but ARCHIVED), were created strictly after ``after``, have
    exactly ``run_id``, and for each of ``parameters``, by its declared name, this value among those it was
    given, as text; a file's is its name. ``text`` stands, whatever its case, in the id, the run id, a value
    or the error's message.
    """

    phases: Collection[Phase] | None = None
    after: datetime | None = None
    run_id: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None

    @property
    def looks_into_jobs(self) -> bool:
        """Whether the entries of the list do not tell enough."""
        return self.text is not None or bool(self.parameters)


class Questions(CarriesOut):
    """What clients ask about the jobs of a service."""

    async def get_job(self, job_id: str, caller: Caller, action: Action = Action.READ) -> Job:
        """Return a job from the read model, as it was at the log's head when this was called, or later.

        Raises `OtherService` for another service's job, and `NotAuthenticated` or `NotAuthorized` where the
        caller may not do ``action``.
        """
        await self.backend.projector.caught_up("documents")
        return self._admitted(await self.backend.jobs.get(job_id), job_id, caller, action)

    async def get_ids_and_phases(
        self,
        owner: Whose,
        *,
        phase: Iterable[Phase] = (),
        last: int | None = None,
        after: datetime | None = None,
    ) -> list[JobReference]:
        """Return the owner's jobs of this service, newest first (UWS 1.1 section 2.2.2.1).

        ``phase`` gives the union of these phases (by default all but ARCHIVED), ``after`` those created
        strictly later, ``last`` the newest so many; all given are combined.
        """
        wanted = JobFilter(phases=tuple(phase) or None, after=after)
        async with aclosing(self.pages(owner, wanted, last=last)) as pages:
            return [reference async for page in pages for reference in page]

    async def pages(
        self, owner: Whose, wanted: JobFilter, *, last: int | None = None
    ) -> AsyncGenerator[list[JobReference], None]:
        """Yield the owner's jobs of this service, newest first, a bounded number at a time, or none yet.

        With ``last``, only the newest so many. A job that changes meanwhile is there as it was before or
        as it is after that, once at most.
        """
        await self._listable(wanted.looks_into_jobs)
        before: Cursor | None = None
        while last is None or last > 0:
            limit = PAGE if last is None else min(last, PAGE)
            references, before = await self._references(owner, wanted, before, limit)
            yield references
            if before is None:
                return
            if last is not None:
                last -= len(references)

    async def find_jobs(
        self, owner: Whose, wanted: JobFilter, *, before: Cursor | None = None, limit: int
    ) -> Page:
        """Return the owner's jobs of this service, newest first, that come after the entry ``before``.

        They are at most ``limit``. They may be fewer, or none, though there is a next page: a bounded number
        of jobs is examined, and a bounded number of bytes given.
        """
        await self._listable(looking_into_jobs=True)
        return await self._entries(owner, wanted, before, limit)

    async def list_state(self, owner: Whose) -> str:
        """Return a text that is another one whenever the owner's list of jobs, or one in it, may be."""
        await self._listable(looking_into_jobs=False)
        return await self.backend.jobs.list_state(self.service.name, owner)

    def read_models_state(self) -> int | None:
        """Return what is another one when any list or job may be; None when that is not known at once."""
        return self.backend.projector.state("job_list", "documents")

    async def list_position(self, owner: Whose) -> int | None:
        """Return where the log last told something of the owner's jobs, None when that is not known."""
        await self._listable(looking_into_jobs=False)
        return await self.backend.jobs.list_position(self.service.name, owner)

    async def wait(
        self,
        job_id: str,
        caller: Caller,
        *,
        seconds: float,
        lasting: Collection[Phase] | None = None,
        closing: asyncio.Event,
    ) -> Job:
        """Return the job once it is in none of the phases ``lasting``, after ``seconds`` at most.

        By default once it has left its present phase, or at once when that is not PENDING, QUEUED or
        EXECUTING (UWS 1.1 section 2.2.1.1). Returns at once when ``closing`` is set, and who waits is woken
        by `Projector.wake` to see it.
        """
        with self.backend.projector.watch(e.job_stream(job_id)) as changed:
            job = await self.get_job(job_id, caller)
            if lasting is None:
                lasting = {job.phase} & ACTIVE
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while job.phase in lasting and not closing.is_set():
                        await changed.wait()
                        changed.clear()
                        job = await self.get_job(job_id, caller)
            return job

    async def history(self, job_id: str, caller: Caller) -> Sequence[RecordedEvent]:
        """Return the events of a job, in order.

        Raises `OtherService` for another service's job, `ChainBroken` for what is not what was recorded.
        """
        recorded = await Checked(self.backend.store).read_stream(e.job_stream(job_id))
        self._admitted(fold(recorded), job_id, caller, Action.HISTORY)
        return recorded

    async def declarations(self) -> Sequence[RecordedEvent]:
        """Return the events of this service, in order. Raises `ChainBroken`, as `history` does."""
        return await Checked(self.backend.store).read_stream(e.service_stream(self.service.name))

    async def estimate(
        self,
        owner: str | None,
        parameters: Mapping[str, Values],
        *,
        queued: bool = False,
        quotas: tuple[str, ...] = (),
    ) -> datetime | None:
        """Predict when such a job that starts now, or joins the queue now, will end.

        That goes by jobs that were like it. None without experience, and while the queue is paused.
        """
        start: datetime | None = self.backend.clock.now()
        try:
            if queued:
                start, takes = await self.backend.queueing.joining(
                    self.service.name, owner, parameters, quotas
                )
            else:
                takes = await self.backend.jobs.duration_of_like(self.service.name, owner, parameters)
        except StoreUnavailable:  # no estimate is worth refusing a command
            return None
        return _later(start, takes)

    async def standing(self, job: Job) -> Standing | None:
        """Return how a job waits; ``start`` is when it may start. None when it does not wait in the queue."""
        if job.phase is not Phase.QUEUED:
            return None
        standing = await self.backend.queueing.standing(job)
        if standing and (reason := self.backend.lacking(job)):
            return Standing(standing.place, reason)
        return standing

    async def _listable(self, looking_into_jobs: bool) -> None:
        await self.backend.projector.caught_up("job_list", *["documents"] * looking_into_jobs)

    async def _references(
        self, owner: Whose, wanted: JobFilter, before: Cursor | None, limit: int
    ) -> tuple[list[JobReference], Cursor | None]:
        if wanted.looks_into_jobs:
            found = await self._entries(owner, wanted, before, limit)
            return [_reference(job) for job in found.jobs], found.next
        references = await self.backend.jobs.page(
            self.service.name,
            owner,
            phases=wanted.phases,
            run_id=wanted.run_id,
            after=wanted.after,
            before=before,
            limit=limit,
        )
        return references, references[-1].cursor if len(references) == limit else None

    async def _entries(self, owner: Whose, wanted: JobFilter, before: Cursor | None, limit: int) -> Page:
        return await self.backend.jobs.entries(
            self.service.name,
            owner,
            phases=wanted.phases,
            after=wanted.after,
            before=before,
            run_id=wanted.run_id,
            parameters=wanted.parameters,
            text=wanted.text,
            limit=limit,
        )


def _reference(job: Job) -> JobReference:
    place = Cursor(to_microseconds(job.created), job.position)
    return JobReference(job.id, job.phase, job.run_id, job.owner, job.created, place)


def _later(time: datetime | None, seconds: float | None) -> datetime | None:
    try:
        return time and time + timedelta(seconds=seconds) if seconds is not None else None
    except OverflowError:
        return None
