"""What there was, and when: events by what they are about, a job and the queue as of a moment.

All of it is answered from the log and the read model of the trail, which tells what to read of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec.structs import asdict

from eventstore import (
    Erased,
    EventLog,
    Pruned,
    RecordedEvent,
    StoreUnavailable,
    from_microseconds,
    to_microseconds,
)
from eventstore.checking import Checked
from projections import DESTROYED, Moment, QueueState, Sought, Then, WaitingJob, looking_back, usage
from projections import queue as queue_model
from uws.model import (
    Job,
    JobNotFound,
    NotFound,
    Phase,
    QueueSettings,
    QuotaSettings,
    Service,
    UsageError,
    did_you_mean,
    fold,
)
from uws.model import events as e
from uws.model.queueing import Running, Situation, Spot
from uws.model.units import format_time
from uws.provenance import Run, run_of
from uws.queueing import Standing, Waiting, in_batch_system, standing_in, waiting_in

from .entries import created_by, is_sought

R = TypeVar("R")
READ_MODEL = "trail"
"""The read model that is asked: see to it that it has reached the log's head."""
_AT_ONCE = 500
"""Events that are read, and jobs that are looked at, at once."""
_MILLISECOND = 1_000
"""In microseconds."""
_MOST_WAITING = 1_000_000_000


class Ask(Protocol):
    """Asks the read model of the trail, as `projections.Projector.ask` and `projections.Beside.ask` do."""

    async def __call__(self, question: Callable[..., R], *arguments: Any, **named: Any) -> R: ...


async def _nobody(question: Callable[..., R], *arguments: Any, **named: Any) -> R:
    raise StoreUnavailable(f"the read model {READ_MODEL} is not open")


class NotThere(UsageError):
    """There was no such job at the moment that was asked for, or nobody can tell any more how it was."""


class JobInState(Then, frozen=True, kw_only=True, omit_defaults=True):
    """A job as of a moment; of one that waited, its place in the queue of its service, and why it did."""

    place: int | None = None
    waits_for: str | None = None


class JobThen(NamedTuple):
    """A job as of a moment: as its clients saw it, and under which declaration of its service."""

    job: Job
    service: Service
    standing: Standing | None
    event: RecordedEvent
    """The last event that had happened to it."""


@dataclass(frozen=True)
class State:
    """The whole job list and the queue as of a moment.

    ``counts`` are jobs by service and phase, without those that were destroyed; ``running`` those for which
    there may have been a program running, the longest first; ``waiting`` those that were QUEUED, in the order
    in which they began to wait, then those that were HELD.
    """

    time: datetime
    counts: Mapping[tuple[str, str], int]
    destroyed: int
    running: Sequence[Running]
    waiting: Sequence[Waiting]
    paused: Mapping[str | None, datetime]


@dataclass(frozen=True)
class Past:
    """What an auditor may ask. ``queue`` and ``quotas`` are today's: the log does not tell what they were.

    Events are recorded to the microsecond, and their times told to the millisecond: what there was at a time
    without microseconds is what there was at the end of that millisecond.

    All methods may raise `eventstore.EventStoreError`: `eventstore.ChainBroken` for an event that is not what
    was recorded.
    """

    log: EventLog
    ask: Ask = _nobody
    queue: QueueSettings = field(default_factory=QueueSettings)
    quotas: QuotaSettings = field(default_factory=QuotaSettings)

    @cached_property
    def _log(self) -> Checked:
        return Checked(self.log)

    # Events

    async def check(self, sought: Sought) -> None:
        """Raise `UsageError` for a type that no event has, or a service that there never was."""
        if sought.type is not None and sought.type not in e.EVENT_TYPES:
            hint = did_you_mean(sought.type, e.EVENT_TYPES)
            raise UsageError(f"no event is of the type {sought.type}{hint}")
        if sought.service is not None:
            await self._check_service(sought.service)

    async def _check_service(self, name: str) -> None:
        if await self._log.read_stream(e.service_stream(name)):
            return
        if self.ask is not _nobody:
            known = await self.ask(looking_back.services_of_old)
            if name in known:  # in what was imported, or of the queue
                return
            told = ", ".join(known) or "none"
            raise UsageError(
                f"there never was a service {name}{did_you_mean(name, known)}; on record are: {told}"
            )
        raise UsageError(f"there never was a service {name}")

    async def events(
        self, sought: Sought, *, after: int = 0, limit: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """Yield the events behind the position ``after`` that are sought, in the order of the log.

        Each filter has its index; those of a time are looked for where they stand. No more than some hundred
        are held in memory. What is erased cannot be sought, except by its job (`events_of`).
        """
        left = limit
        while left is None or left > 0:
            at_once = _AT_ONCE if left is None else min(_AT_ONCE, left)
            found = await self.ask(looking_back.positions, sought, after=after, limit=at_once)
            for event in await self._log.read_at(found):
                yield event
            if len(found) < at_once:
                return
            after = found[-1]
            left = None if left is None else left - len(found)

    async def history(self, job_id: str) -> tuple[RecordedEvent, ...]:
        """Return all events of a job, erased ones as such, from its stream. Raises `NotFound`."""
        recorded = await self._log.read_stream(e.job_stream(job_id))
        if not recorded:
            raise await self.unknown(job_id)
        return recorded

    async def unknown(self, job_id: str) -> NotFound:
        """Return what says that there is no such job in the log, and where it may be."""
        recorded = await self._log.read_stream(Pruned.stream)
        prunings = [event for event in recorded if event.type == Pruned.type]
        if not prunings:
            return JobNotFound(job_id)
        taken = [msgspec.json.decode(event.data, type=Pruned) for event in prunings]
        where = ", ".join(dict.fromkeys(pruned.reason for pruned in taken))
        return NotFound(f"there is no job {job_id} in the log; part of the log was taken out of it: {where}")

    async def events_of(self, job_id: str, sought: Sought) -> AsyncIterator[RecordedEvent]:
        """Yield the events of a job that are sought, from its stream. Raises `NotFound`.

        Erased ones are among them where nothing is sought in particular: nobody knows what else they were.
        """
        recorded = await self.history(job_id)
        created = created_by(recorded)
        for event in recorded:
            if sought == Sought() or is_sought(sought, event, created):
                yield event

    async def run(self, job_id: str) -> Run:
        """Return what there is of a job and its run, of a destroyed or erased one, too. Raises `NotFound`."""
        recorded = await self.history(job_id)
        job = fold(recorded)
        assert job is not None
        declared = await self._log.read_stream(e.service_stream(job.service)) if job.service else ()
        return run_of(recorded, declared)

    async def new_events(
        self, sought: Sought, *, after: int, job_id: str | None = None
    ) -> tuple[list[RecordedEvent], int]:
        """Return some events behind the position ``after`` that are sought, and up to where that is all.

        The log alone is read: this is for what has come just now, and may not be in the read model yet.
        """
        recorded = await self._log.read_all(after=after, limit=_AT_ONCE)
        found = [
            event
            for event in recorded
            if (job_id is None or e.job_id_of(event.stream) == job_id)
            and await self._is_sought(sought, event)
        ]
        return found, recorded[-1].position if recorded else after

    async def _is_sought(self, sought: Sought, event: RecordedEvent) -> bool:
        if (sought.owner is None and sought.service is None) or e.job_id_of(event.stream) is None:
            return is_sought(sought, event, None)
        return is_sought(sought, event, created_by(await self._log.read_stream(event.stream)))

    # A job

    async def job_at_version(self, job_id: str, version: int) -> JobThen:
        """Return a job as its clients saw it right after the ``version``-th of its events.

        That is: when all that stands in the log up to this event was there, and nothing else. An event that
        was imported, and so recorded later, is taken for the time when it happened.

        Raises `JobNotFound`; `NotThere` for a version that there is not, and for a job that was erased, or
        was destroyed by then.
        """
        recorded = await self.history(job_id)
        self._check_left(job_id, recorded)
        if not 1 <= version <= len(recorded):
            raise NotThere(f"job {job_id} has versions 1 to {len(recorded)}, not {version}")
        return await self._job(job_id, recorded[:version], _moment_of(recorded[version - 1]))

    async def job_at(self, job_id: str, time: datetime) -> JobThen:
        """Return a job as its clients saw it at a time. Raises as `job_at_version` does."""
        recorded = await self.history(job_id)
        self._check_left(job_id, recorded)
        happened = happened_by(recorded, time)
        if not happened:
            began = from_microseconds(e.time_of(recorded[0]))
            tell = format_time if format_time(began) != format_time(time) else msgspec.to_builtins
            raise NotThere(f"job {job_id} was created at {tell(began)}, after {tell(time)}")
        return await self._job(job_id, happened, _moment_at(time), time)

    def _check_left(self, job_id: str, recorded: Sequence[RecordedEvent]) -> None:
        if erased := next((event for event in recorded if event.type == Erased.type), None):
            when = format_time(erased.recorded_at)
            raise NotThere(f"job {job_id} was erased at {when}: what it was is in the log no longer")

    async def _job(
        self, job_id: str, happened: Sequence[RecordedEvent], moment: Moment, now: datetime | None = None
    ) -> JobThen:
        job, last = fold(happened), happened[-1]
        assert job is not None
        if job.destroyed:
            raise NotThere(
                f"job {job_id} was destroyed at {format_time(job.destroyed)}: "
                "there was no document of it any more"
            )
        if now is None:
            now = last.recorded_at if moment.time == Moment().time else from_microseconds(moment.time)
        services = await self._services(moment, [job.service])
        if job.service not in services:
            raise NotThere(f"job {job_id}: the log has no declaration of its service {job.service}")
        standing = None
        if job.phase is Phase.QUEUED and job.submitted:
            standing = in_batch_system(job.note)
        elif job.phase is Phase.QUEUED:
            standing = await self._standing(job, moment, now)
        return JobThen(job, services[job.service], standing, last)

    async def _standing(self, job: Job, moment: Moment, now: datetime) -> Standing | None:
        look = await self.ask(
            looking_back.as_it_was, moment, job.service, _look, self._half_life, now, job.id
        )
        if look.before is None:
            return None
        situation = await self._situation(look, moment, now)
        return standing_in(situation, Spot(job.service, job.owner, look.before), look.usual[job.service])

    # The queue

    async def situation(self, time: datetime) -> Situation:
        """Return all that decided at a time which job was to start next.

        Services are those declared by then, for the log does not tell when one was offered no longer.
        """
        moment = _moment_at(time)
        look = await self.ask(looking_back.as_it_was, moment, None, _look, self._half_life, time, None)
        return await self._situation(look, moment, time)

    async def _situation(self, look: _Look, moment: Moment, now: datetime) -> Situation:
        names = {line.service for line in look.state.lines} | {job.service for job in look.state.running}
        names |= {job.service for job in look.waiting}
        services = await self._services(moment, names)
        return Situation(
            now,
            services,
            self.queue,
            look.state.lines,
            look.state.running,
            look.used,
            look.state.paused,
            look.state.held,
            self.quotas,
            look.state.nodes,
        )

    async def state(self, time: datetime, *, service: str | None = None, owner: str | None = None) -> State:
        """Return how many jobs there were at a time in each phase, which ran, and who waited for whom.

        Raises `UsageError` for a service that there never was.
        """
        if service is not None:
            await self._check_service(service)
        moment = _moment_at(time)
        counts = await self.ask(looking_back.counted, moment, service, owner)
        look = await self.ask(looking_back.as_it_was, moment, None, _look, self._half_life, time, None)
        situation = await self._situation(look, moment, time)

        def meant(job: Running | WaitingJob) -> bool:
            return (service is None or job.service == service) and (owner is None or job.owner == owner)

        return State(
            time,
            {place: jobs for place, jobs in sorted(counts.items()) if place[1] != DESTROYED},
            sum(jobs for (_, phase), jobs in counts.items() if phase == DESTROYED),
            sorted(filter(meant, situation.running), key=lambda job: (job.started, job.job_id)),
            [each for each in waiting_in(situation, look.waiting) if meant(each.job)],
            look.state.paused,
        )

    async def jobs(
        self, time: datetime, *, service: str | None = None, owner: str | None = None
    ) -> AsyncIterator[Then]:
        """Yield the jobs that there were at a time, without destroyed ones, in the order of the log."""
        moment, after = _moment_at(time), 0
        while True:
            found, on = await self.ask(
                looking_back.jobs_then, moment, service, owner, after=after, limit=_AT_ONCE
            )
            for job in found:
                if job.phase != DESTROYED:
                    yield job
            if on is None:
                return
            after = on

    async def jobs_waiting(
        self, time: datetime, *, service: str | None = None, owner: str | None = None
    ) -> AsyncIterator[JobInState]:
        """Yield what `jobs` does, with how those waited that did."""
        state = await self.state(time, service=service, owner=owner)
        waiting = {each.job.job_id: each for each in state.waiting}
        async for job in self.jobs(time, service=service, owner=owner):
            waited = waiting.get(job.id)
            place, reason = (waited.place, waited.reason) if waited else (None, None)
            yield JobInState(**asdict(job), place=place, waits_for=reason)

    @property
    def _half_life(self) -> int:
        return self.queue.half_life_seconds

    async def _services(self, moment: Moment, names: Iterable[str]) -> dict[str, Service]:
        """Return services as they were declared at a moment; one that was not yet, as it was first."""
        found: dict[str, Service] = {}
        for name in names:
            recorded = [
                event for event in await self._log.read_stream(e.service_stream(name)) if not event.erased
            ]
            by_then = [
                event
                for event in recorded
                if event.position <= moment.position and e.time_of(event) <= moment.time
            ]
            for event in (by_then[-1:] or recorded)[:1]:
                declared = e.decode_declaration(event).declaration
                found[name] = msgspec.json.decode(declared, type=Service)
        return found


class _Look(NamedTuple):
    """What is asked of the queue and of usage as they were, all at once."""

    state: QueueState
    waiting: list[WaitingJob]
    used: dict[str | None, float]
    before: int | None
    usual: dict[str, float | None]


def _look(connection: Any, half_life: float, now: datetime, job_id: str | None) -> _Look:
    state = queue_model.queue_state(connection)
    owners = {line.owner for line in state.lines}
    used = usage.used_lately(connection, owners, now, half_life) if len(owners) > 1 else {}
    before = None if job_id is None else queue_model.queued_before(connection, job_id)
    services = [line.service for line in state.lines]
    usual = {service: usage.usual_duration(connection, service) for service in services}
    return _Look(state, queue_model.waiting(connection, _MOST_WAITING), used, before, usual)


def happened_by(recorded: Iterable[RecordedEvent], time: datetime) -> list[RecordedEvent]:
    """Return those of some events that had happened at a time (see `Past`)."""
    moment = _moment_at(time)
    return [event for event in recorded if e.time_of(event) <= moment.time]


def _moment_at(time: datetime) -> Moment:
    """Return the moment that a time means. One to the millisecond, as all are told, is that to its end."""
    then = to_microseconds(time)
    return Moment(time=then if then % _MILLISECOND else then + _MILLISECOND - 1)


def _moment_of(event: RecordedEvent) -> Moment:
    """Return the moment right after an event was recorded; of one that was imported, after it happened."""
    if event.about.source is None:
        return Moment(position=event.position)
    return Moment(time=e.time_of(event))


def check_time(name: str, time: datetime, now: datetime) -> None:
    """Raise `UsageError` for a time that is to come; ``name`` is what it was given for."""
    if time > now:
        raise UsageError(f"{name}: {format_time(time)} is to come: nobody knows what will be then")
