"""The job aggregate: what a job is, folded from its events. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec
from msgspec.structs import replace

from eventstore import Erased, RecordedEvent

from . import events as e
from .phases import ENDED, Phase


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of one job; equal to the fold of its events, always.

    ``version`` counts the events of its stream, ``position`` is where its first one stands in the log.
    ``note`` says in words why the job is where it is, when the phase alone does not.
    """

    id: str
    service: str
    declaration: str
    phase: Phase
    version: int
    position: int
    created: datetime
    execution_duration: int
    destruction: datetime | None = None
    owner: str | None = None
    run_id: str | None = None
    parameters: dict[str, e.Values] = {}
    quote: datetime | None = None
    queued: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    results: tuple[e.Result, ...] = ()
    failure: e.Failure | None = None
    stop: e.StopReason | None = None
    note: str = ""
    exit_code: int | None = None
    signal: str | None = None
    destroyed: datetime | None = None

    @property
    def has_ended(self) -> bool:
        return self.phase in ENDED


def apply(job: Job | None, recorded: RecordedEvent) -> Job | None:
    """Return the job after one more event of its stream.

    Erased events leave what is known as it is: nothing, or what the event that says so will take away.
    Raises `ValueError` for a stream that has no beginning, and what `uws.model.events.decode` does.
    """
    if recorded.erased:
        return job
    job_id = e.job_id_of(recorded.stream) or recorded.stream
    if recorded.type == Erased.type:
        return _stub(job_id, recorded)
    return evolve(
        job, e.decode(recorded), job_id=job_id, now=recorded.recorded_at, position=recorded.position
    )


def _stub(job_id: str, recorded: RecordedEvent) -> Job:
    """Return what is left of an erased job: it depends on the one event that is left of it alone."""
    return Job(
        id=job_id,
        service="",
        declaration="",
        phase=Phase.ARCHIVED,
        version=recorded.version,
        position=recorded.position,
        created=_told(recorded.recorded_at),
        execution_duration=0,
        note=msgspec.json.decode(recorded.data, type=Erased).reason,
        destroyed=recorded.recorded_at,
    )


def evolve(job: Job | None, event: e.JobEvent, *, job_id: str, now: datetime, position: int = 0) -> Job:
    """Return the job after ``event``. ``position`` matters for the first event only."""
    if isinstance(event, e.JobCreated):
        if job is not None:
            raise ValueError(f"job {job_id} was created twice")
        return Job(
            id=job_id,
            service=event.service,
            declaration=event.declaration,
            phase=Phase.PENDING,
            version=1,
            position=position,
            created=_told(now),
            execution_duration=event.execution_duration,
            destruction=event.destruction,
            owner=event.owner,
            run_id=event.run_id,
            parameters=event.parameters,
            quote=event.quote,
        )
    if job is None:
        raise ValueError(f"job {job_id} begins with {type(event).__name__}")
    return _change(replace(job, version=job.version + 1), event, now)


def _change(job: Job, event: e.JobEvent, now: datetime) -> Job:
    match event:
        case e.ParametersSet():
            merged = {**job.parameters, **event.parameters}
            return replace(job, parameters={name: values for name, values in merged.items() if values})
        case e.RunIdSet():
            return replace(job, run_id=event.run_id)
        case e.ExecutionDurationSet():
            return replace(job, execution_duration=event.seconds)
        case e.DestructionSet():
            return replace(job, destruction=event.destruction)
        case e.JobQueued():
            return replace(job, phase=Phase.QUEUED, queued=now, quote=event.quote, note="")
        case e.JobHeld():
            return replace(job, phase=Phase.HELD, note=event.reason)
        case e.JobStarted():
            return replace(
                job, phase=Phase.EXECUTING, started=now, declaration=event.declaration, quote=event.quote
            )
        case e.JobSuspended():
            return replace(job, phase=Phase.SUSPENDED, note=event.reason)
        case e.JobResumed():
            return replace(job, phase=Phase.EXECUTING, note="")
        case e.StopRequested():
            return replace(job, stop=event.reason)
        case e.JobCompleted():
            return replace(
                job, phase=Phase.COMPLETED, ended=now, results=event.results, exit_code=event.exit_code
            )
        case e.JobFailed():
            return replace(
                job,
                phase=Phase.ERROR,
                ended=now,
                results=event.results,
                failure=event.failure,
                exit_code=event.exit_code,
                signal=event.signal,
            )
        case e.JobAborted():
            return replace(job, phase=Phase.ABORTED, ended=now, results=event.results, note=event.reason)
        case e.JobLost():
            return replace(job, phase=Phase.UNKNOWN, note=event.reason)
        case e.JobArchived():
            return replace(job, phase=Phase.ARCHIVED, results=(), note=event.reason)
        case e.JobDestroyed():
            return replace(job, destroyed=now, note=event.reason)
    raise AssertionError(f"no case for {type(event).__name__}")


def _told(time: datetime) -> datetime:
    # Documents tell milliseconds, and AFTER is compared with what they tell.
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def fold(recorded: Iterable[RecordedEvent], job: Job | None = None) -> Job | None:
    """Fold the events of one stream, in order, onto ``job``. None is a job that nothing is known of."""
    for event in recorded:
        job = apply(job, event)
    return job
