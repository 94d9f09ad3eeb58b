"""What admins do to jobs, whoever they belong to: list, show, abort, destroy, purge.

What may be many jobs goes by pages, each an operation of its own: neither side ever holds them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

import msgspec

from eventstore import EventLog, to_microseconds
from projections import Cursor, ExpiredJob, JobReference
from uws.commands import Caller
from uws.config import Settings
from uws.jobs import Backend, UserUWS
from uws.model import IllegalPhase, Job, JobGone, JobNotFound, Phase, UsageError, fold
from uws.model.events import JobEvent, job_stream
from uws.model.job import evolve_through
from uws.model.service import MAX_DURATION
from uws.model.transitions import ways_to
from uws.model.units import format_time

from .operations import Administered, Operation, Question, Report

LISTED = 10_000
"""Jobs of a page that is only looked at."""
CHANGED = 1_000
"""Jobs of a page on which something is done."""
_AT_ONCE = 1_000
"""Jobs that are read at once: it takes about 10 ms."""
_LIFE = {phase: number for number, phase in enumerate(Phase)}
ABORTABLE = tuple(sorted(ways_to(Phase.ABORTED), key=_LIFE.__getitem__))
"""The phases in which a job can be aborted."""


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which jobs are meant: those that meet all that is given.

    ``anonymous`` are those without an owner. Without ``phases`` they are in any but ARCHIVED. ``older_than``
    and ``newer_than`` are seconds since their creation.
    """

    service: str | None = None
    owner: str | None = None
    anonymous: bool = False
    phases: tuple[Phase, ...] = ()
    older_than: int | None = None
    newer_than: int | None = None

    def __post_init__(self) -> None:
        if self.anonymous and self.owner is not None:
            raise UsageError(f"--anonymous: these jobs have no owner, such as --owner {self.owner}")
        for name in ("older_than", "newer_than"):
            if (getattr(self, name) or 0) > MAX_DURATION:
                raise UsageError(f"--{name.replace('_', '-')}: above {MAX_DURATION} seconds")

    def has(self, service: str, owner: str | None) -> bool:
        """Whether jobs of this service and owner are meant."""
        if self.service is not None and service != self.service:
            return False
        return owner is None if self.anonymous else self.owner is None or owner == self.owner


class Mark(msgspec.Struct, frozen=True):
    """Where a page ends: behind the job at a cursor, among those of this service, owner and phase.

    Among jobs that have expired, the cursor alone tells.
    """

    cursor: Cursor
    service: str = ""
    owner: str | None = None
    phase: Phase = Phase.PENDING


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it is listed."""

    id: str
    service: str
    owner: str | None
    phase: Phase
    run_id: str | None
    created: str


class Listing(msgspec.Struct, frozen=True):
    """A page of jobs, and where the next one goes on, if there is one."""

    jobs: list[Entry]
    next: Mark | None


Done = Literal["aborted", "destroyed", "archived", "stopping", "refused"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to a job, or would be. ``phase`` is that from before, None when there is no such job.

    ``stopping``: that its program is to be stopped is on record; the server that runs does it, or the next
    one. ``refused`` has a ``reason``.
    """

    id: str
    done: Done
    phase: Phase | None = None
    reason: str = ""


class Outcomes(msgspec.Struct, frozen=True):
    """What was done to a page of jobs, and where the next one goes on, if there is one."""

    jobs: list[Outcome]
    next: Mark | None


class ListJobs(Operation[Listing], frozen=True, tag="jobs list"):
    """List jobs by service, owner and phase, the newest of each first.

    A job whose phase changes meanwhile may be listed twice.
    """

    wanted: Wanted
    after: Mark | None = None
    limit: int = LISTED

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> Listing:
        return await _select(here.backend, self.wanted, self.after, max(1, min(self.limit, LISTED)))


class ShowJob(Question[Job], frozen=True, tag="jobs show"):
    """Tell all that is known of a job, a destroyed one included."""

    job_id: str

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> Job:
        return await _known(here.backend.store, self.job_id)

    async def read(self, settings: Settings, log: EventLog) -> Job:
        return await _known(log, self.job_id)


class _Changing(Operation[Outcomes], frozen=True):
    """Something that is done to jobs one by one; with ``dry_run`` it is only told what would be."""

    wanted: Wanted
    jobs: tuple[str, ...] = ()
    after: Mark | None = None
    dry_run: bool = False

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> Outcomes:
        found = await self._found(here)
        job_ids = self.jobs or tuple(entry.id for entry in found.jobs)
        outcomes: list[Outcome] = []
        for number, job_id in enumerate(job_ids, start=1):
            if outcome := await self._try(here, job_id, caller):
                outcomes.append(outcome)
            report(number, len(job_ids))
        return Outcomes(outcomes, found.next)

    async def _found(self, here: Administered) -> Listing:
        """Return a page of the jobs that are wanted, where none are named."""
        if self.jobs:
            return Listing([], None)
        return await _select(here.backend, self.wanted, self.after, CHANGED)

    async def _try(self, here: Administered, job_id: str, caller: Caller) -> Outcome | None:
        """Do it to one job; None for one of a page that is not, or no more, to be changed."""
        try:
            job = await _known(here.backend.store, job_id)
            if job.destroyed:
                raise JobGone(job_id)
            uws = await here.find(job.service)
            if self.dry_run:
                after = _evolved(job, self._decide(uws, job))
            else:
                after = await self._change(uws, job, caller)
            done = _done(after)
            return Outcome(id=job_id, done=done, phase=job.phase) if done else None
        except (JobNotFound, JobGone, IllegalPhase) as error:
            return Outcome(id=job_id, done="refused", reason=str(error)) if self.jobs else None

    def _decide(self, uws: UserUWS, job: Job) -> Sequence[JobEvent]:
        """Return what would happen. Raises `IllegalPhase`."""
        raise NotImplementedError

    async def _change(self, uws: UserUWS, job: Job, caller: Caller) -> Job:
        """Let it happen. Raises what the commands of `UserUWS` do."""
        raise NotImplementedError


class AbortJobs(_Changing, frozen=True, tag="jobs abort"):
    """Abort jobs: those that are named, or else those that are wanted."""

    def _decide(self, uws: UserUWS, job: Job) -> Sequence[JobEvent]:
        return uws.transitions.abort_job(job)

    async def _change(self, uws: UserUWS, job: Job, caller: Caller) -> Job:
        return await uws.abort_job(job.id, caller)


class DestroyJobs(_Changing, frozen=True, tag="jobs destroy"):
    """Destroy jobs, or archive them where their service says so: those that are named, or are wanted."""

    def _decide(self, uws: UserUWS, job: Job) -> Sequence[JobEvent]:
        return uws.transitions.purge_job(job, uws.backend.clock.now(), self._phases)

    async def _change(self, uws: UserUWS, job: Job, caller: Caller) -> Job:
        return await uws.purge_job(job.id, caller, self._phases)

    @property
    def _phases(self) -> Sequence[Phase]:
        return self.wanted.phases or tuple(Phase)


class PurgeJobs(_Changing, frozen=True, tag="jobs purge"):
    """Destroy the jobs whose destruction time has come; or, where phases are wanted, those in one of them.

    With phases, jobs that have expired are left to the operation without.
    """

    async def _found(self, here: Administered) -> Listing:
        if self.wanted.phases:
            return await super()._found(here)
        return await _expired(here.backend, self.wanted, self.after)

    def _decide(self, uws: UserUWS, job: Job) -> Sequence[JobEvent]:
        now = uws.backend.clock.now()
        if self.wanted.phases and job.destruction and job.destruction <= now:
            return ()
        return uws.transitions.purge_job(job, now, self.wanted.phases)

    async def _change(self, uws: UserUWS, job: Job, caller: Caller) -> Job:
        return await uws.purge_job(job.id, caller, self.wanted.phases)


class WatchJob(Question[Job], frozen=True, tag="jobs watch"):
    """Wait until more than ``version`` events of a job are on record, or it has ended."""

    job_id: str
    version: int = 0

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> Job:
        store = here.backend.store
        with here.backend.projector.watch(job_stream(self.job_id)) as changed:
            job = await _known(store, self.job_id)
            while job.version <= self.version and not is_over(job):
                await changed.wait()
                changed.clear()
                job = await _known(store, self.job_id)
            return job

    async def read(self, settings: Settings, log: EventLog) -> Job:
        job = await _known(log, self.job_id)
        if not is_over(job):
            raise UsageError(
                f"job {job.id} is {job.phase}, and no server runs: nothing can be seen of it now"
            )
        return job


JOB_OPERATIONS: tuple[type[Operation[Any]], ...] = (
    ListJobs,
    ShowJob,
    AbortJobs,
    DestroyJobs,
    PurgeJobs,
    WatchJob,
)


def is_over(job: Job) -> bool:
    """Whether nothing will happen to a job any more but that it goes."""
    return job.has_ended or job.destroyed is not None


async def _select(backend: Backend, wanted: Wanted, after: Mark | None, limit: int) -> Listing:
    """Return a page of jobs along the index of each service, owner and phase that has any."""
    await backend.projector.caught_up("job_list", "usage")
    now = backend.clock.now()
    oldest = now - timedelta(seconds=wanted.newer_than) if wanted.newer_than is not None else None
    newest = None
    if wanted.older_than is not None:
        newest = Cursor(to_microseconds(now - timedelta(seconds=wanted.older_than)), 0)
    phases = wanted.phases or tuple(set(Phase) - {Phase.ARCHIVED})
    places = [
        (each.service, each.owner, Phase(each.phase))
        for each in await backend.jobs.usage()
        if each.phase in phases and wanted.has(each.service, each.owner)
    ]
    begin = (after.service, after.owner, after.phase) if after else None
    found: list[Entry] = []
    for place in sorted(places, key=_order):
        if begin and _order(place) < _order(begin):
            continue
        service, owner, phase = place
        before = after.cursor if after and place == begin else newest
        while True:
            most = min(_AT_ONCE, limit - len(found))
            references = await backend.jobs.page(
                service, owner, phases=[phase], after=oldest, before=before, limit=most
            )
            found += [_entry(service, reference) for reference in references]
            if len(references) < most:
                break
            before = references[-1].cursor
            if len(found) == limit:
                return Listing(found, Mark(before, *place))
    return Listing(found, None)


def _order(place: tuple[str, str | None, Phase]) -> tuple[str, str, bool, int]:
    service, owner, phase = place
    return service, owner or "", owner is not None, _LIFE[phase]


async def _expired(backend: Backend, wanted: Wanted, after: Mark | None) -> Listing:
    """Return a page of the jobs whose destruction time has come, the earliest first."""
    await backend.projector.caught_up("job_list")
    behind = after.cursor if after else None
    found = await backend.jobs.expired(backend.clock.now(), behind=behind, limit=CHANGED)
    return Listing(
        [_entry(job.service, job) for job in found if wanted.has(job.service, job.owner)],
        Mark(found[-1].cursor) if len(found) == CHANGED else None,
    )


def _entry(service: str, found: JobReference | ExpiredJob) -> Entry:
    return Entry(
        id=found.id,
        service=service,
        owner=found.owner,
        phase=found.phase,
        run_id=found.run_id,
        created=format_time(found.created),
    )


async def _known(log: EventLog, job_id: str) -> Job:
    """Fold a job from the log. Raises `JobNotFound`."""
    job = fold(await log.read_stream(job_stream(job_id)))
    if job is None:
        raise JobNotFound(job_id)
    return job


def _evolved(job: Job, events: Sequence[JobEvent]) -> Job:
    return evolve_through(job, [(event, job.created) for event in events], job_id=job.id)


def _done(after: Job) -> Done | None:
    """Tell what was done to a job from what it is now, None for nothing."""
    if after.destroyed:
        return "destroyed"
    if after.phase is Phase.ARCHIVED:
        return "archived"
    if after.is_under_way and after.stop:
        return "stopping"
    return "aborted" if after.phase is Phase.ABORTED else None
