"""The queue as a whole: what is asked of it, how many jobs it takes of an owner, and pausing it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import msgspec

from eventstore import EventStore, StoreUnavailable, VersionConflict
from projections import Behind, JobReadModel, Projector, QueueState, WaitingJob
from uws.clock import Clock
from uws.commands import Caller
from uws.model import Job, Phase, QuotaSettings, Service, Unavailable, UsageError, Values, did_you_mean
from uws.model import events as e
from uws.model.queueing import QueueSettings, Situation, Spot, fullness

_log = logging.getLogger(__name__)

_ATTEMPTS = 20
_PATIENCE = 1.0
"""Seconds that is waited for read models without which there is still an answer."""


class Standing(msgspec.Struct, frozen=True):
    """How a job waits: its place in the queue of its service, why it waits, and when it may start.

    One that is HELD or waits in a batch system has no place. ``start`` is None when nobody can tell.
    """

    place: int | None
    reason: str
    start: datetime | None = None


def in_batch_system(reason: str | None) -> Standing:
    """Return how a job waits that was handed to a batch system, which may have said why."""
    return Standing(None, reason or "handed to the batch system")


class Waiting(msgspec.Struct, frozen=True):
    """A job that waits, and why."""

    job: WaitingJob
    place: int | None
    reason: str


class QueueShown(msgspec.Struct, frozen=True):
    """The queue: what is paused, since when, and the jobs that wait, in their order.

    A pause of None is that of the whole. There may be ``more`` jobs than are shown.
    """

    paused: list[tuple[str | None, datetime]]
    running: int
    waiting: list[Waiting]
    more: bool


def standing_in(situation: Situation, spot: Spot, usual: float | None) -> Standing:
    """Return how the job at a spot waits; ``usual`` is how many seconds jobs of its service take."""
    start = situation.start(spot, usual) if usual is not None else None
    return Standing(situation.place(spot), situation.reason(spot), start)


def waiting_in(situation: Situation, jobs: Iterable[WaitingJob]) -> Iterator[Waiting]:
    """Return how jobs wait: the first ones that are QUEUED, in their order, and any that are HELD."""
    before: dict[tuple[str, str | None], int] = {}
    for job in jobs:
        if job.phase is Phase.HELD:
            yield Waiting(job, None, _why_held(situation, job))
            continue
        if job.reason is not None:
            yield Waiting(job, None, in_batch_system(job.reason).reason)
            continue
        line = job.service, job.owner
        spot = Spot(*line, before.get(line, 0))
        before[line] = spot.before + 1
        yield Waiting(job, situation.place(spot), situation.reason(spot))


def _why_held(situation: Situation, job: WaitingJob) -> str:
    if (service := situation.services.get(job.service)) is None:
        return f"{job.service} is not offered now"
    most = situation.quotas.of(job.quotas, situation.settings).queued
    full = fullness(service, most, situation.queued_of(job.owner))
    return f"held: {full}" if full else "held: to be queued next"


@dataclass(frozen=True)
class Queueing:
    """The queue of a server. All methods may raise `eventstore.EventStoreError`."""

    store: EventStore
    projector: Projector
    jobs: JobReadModel
    clock: Clock
    services: Mapping[str, Service]
    settings: QueueSettings
    quotas: QuotaSettings

    # Questions

    async def situation(self, *, away: Iterable[str] = (), timeout: float = 10.0) -> Situation:
        """Return all that decides which job starts next. Raises `Behind` after ``timeout`` seconds.

        Jobs that need files of nodes that are ``away`` are not in it.

        What owners have used is what is known of it: no job waits for that read model to be mended.
        """
        await self.projector.caught_up("queue", timeout=timeout)
        return await self._situation(await self.jobs.queue_state(away))

    async def _situation(self, state: QueueState, also: Iterable[str | None] = ()) -> Situation:
        now = self.clock.now()
        used: dict[str | None, float] = {}
        owners = [*{line.owner for line in state.lines} | {*also}]
        if len(owners) > 1:
            with suppress(Behind):
                await self.projector.caught_up("usage", timeout=_PATIENCE)
            with suppress(StoreUnavailable):
                used = await self.jobs.used_lately(owners, now, self.settings.half_life_seconds)
        return Situation(
            now,
            self.services,
            self.settings,
            state.lines,
            state.running,
            used,
            state.paused,
            state.held,
            self.quotas,
            state.nodes,
        )

    async def standing(self, job: Job) -> Standing | None:
        """Return how a QUEUED job waits; None when it does not, or when nobody can tell now."""
        if job.submitted:
            return in_batch_system(job.note)
        try:
            situation = await self.situation(timeout=_PATIENCE)
            before = await self.jobs.queued_before(job.id)
            usual = await self.jobs.usual_duration(job.service)
        except StoreUnavailable:
            return None
        if before is None:
            return None
        return standing_in(situation, Spot(job.service, job.owner, before), usual)

    async def joining(
        self,
        service: str,
        owner: str | None,
        parameters: Mapping[str, Values],
        quotas: tuple[str, ...],
    ) -> tuple[datetime | None, float | None]:
        """Predict when a job that joins the queue now starts, and how many seconds it takes.

        Each is None when nobody can tell.
        """
        await self.projector.caught_up("queue", timeout=_PATIENCE)
        outlook = await self.jobs.outlook(service, owner, parameters)
        if outlook.usual is None:
            return None, None
        situation = await self._situation(outlook.queue, also=[owner])
        before = sum(line.jobs for line in situation.lines if (line.service, line.owner) == (service, owner))
        return situation.start(Spot(service, owner, before, quotas), outlook.usual), outlook.takes

    async def full(self, service: Service, owner: str | None, most: int | None) -> str | None:
        """Say why an owner may queue no more jobs of a service now; None when he may.

        Of all services together he may have ``most`` queued. While the read model of the queue is not up to
        date, he may: it keeps nothing from being recorded.
        """
        if not service.max_queued_per_owner and most is None:
            return None
        try:
            await self.projector.caught_up("queue")
            queued = await self.jobs.queued_of(owner, {service.name, *self.services})
        except StoreUnavailable as error:
            _log.warning("how many jobs are queued is not known, and none is refused: %s", error)
            return None
        return fullness(service, most, queued)

    async def show(self, limit: int) -> QueueShown:
        """Return the queue, with at most ``limit`` of the jobs that wait. Raises `Behind`."""
        situation = await self.situation()
        paused = await self.jobs.paused()
        found = await self.jobs.waiting(limit + 1)
        waiting = [*waiting_in(situation, found[:limit])]
        running = sum(not job.waits for job in situation.running)
        return QueueShown([*paused.items()], running, waiting, len(found) > limit)

    # Commands

    async def pause(self, service: str | None, caller: Caller) -> bool:
        """Start no job of a service, or none at all, from now on. Returns whether that is new.

        Raises `UsageError` for a service that there never was.
        """
        await self._check(service)
        return await self._decide(e.QueuePaused(service=service), caller)

    async def resume(self, service: str | None, caller: Caller) -> bool:
        """Take back `pause` of the same name. Returns whether there was anything to take back."""
        await self._check(service)
        return await self._decide(e.QueueResumed(service=service), caller)

    async def _check(self, service: str | None) -> None:
        if service is None or service in self.services:
            return
        if not await self.store.read_stream(e.service_stream(service)):
            known = ", ".join(self.services) or "none"
            hint = did_you_mean(service, self.services)
            raise UsageError(f"there is no service {service}{hint}; declared are: {known}")

    async def _decide(self, event: e.QueueEvent, caller: Caller) -> bool:
        for _ in range(_ATTEMPTS):
            recorded = await self.store.read_stream(e.QUEUE_STREAM)
            last = {(known := e.decode_queue(one)).service: type(known) for one in recorded}
            if last.get(event.service, e.QueueResumed) is type(event):
                return False
            version = recorded[-1].version if recorded else 0
            with suppress(VersionConflict):
                new = e.encode(event, caller.metadata)
                await self.store.append(e.QUEUE_STREAM, [new], expected=version)
                return True
        raise Unavailable("the queue is being paused and resumed by too many others")
