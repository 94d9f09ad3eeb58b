"""The job aggregate: what a job is, folded from its events. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from eventstore import Erased, RecordedEvent, from_microseconds

from . import events as e
from .phases import ENDED, STARTED, Phase


class Job(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The state of one job; equal to the fold of its events, always.

    ``version`` counts the events of its stream, ``position`` is where its first one stands in the log.
    ``note`` says in words why the job is where it is, when the phase alone does not. ``signalled`` is the
    last signal that its program was sent to be stopped, ``requeued`` how often it was started in vain.
    ``progress``, from 0 to 1, and ``doing`` are what its program told last, ``reports`` how often it did.
    ``sync`` is whether the request that made it waits for its result. ``quotas`` names the tables of quotas
    that held for its owner when it was made. ``shares`` are those that were not ended, expired ones included.
    ``rerun_of`` is the job whose inputs it was given anew. ``start`` is the version of the event that decided
    its last start, 0 before the first, and ``node`` where that was, with a program that is ``leased`` or not.
    For that start it was ``submitted`` to a batch system then, which calls it ``batch_job``, and has begun it
    on ``host``.
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
    signalled: str | None = None
    requeued: int = 0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    progress: float | None = None
    doing: str = ""
    reports: int = 0
    sync: bool = False
    quotas: tuple[str, ...] = ()
    shares: tuple[e.Share, ...] = ()
    rerun_of: str | None = None
    start: int = 0
    node: str | None = None
    submitted: datetime | None = None
    batch_job: str = ""
    host: str = ""
    leased: bool = False

    @property
    def has_ended(self) -> bool:
        return self.phase in ENDED

    @property
    def is_under_way(self) -> bool:
        """Whether there is something to stop: a program, or what waits in a batch system to become one."""
        return self.phase in STARTED or (self.phase is Phase.QUEUED and self.submitted is not None)

    @property
    def uploads(self) -> set[e.Upload]:
        """The files that clients have sent for it."""
        return {
            value for values in self.parameters.values() for value in values if isinstance(value, e.Upload)
        }


PHASE_AFTER: Mapping[type[e.JobEvent], Phase] = {
    e.JobCreated: Phase.PENDING,
    e.JobQueued: Phase.QUEUED,
    e.JobHeld: Phase.HELD,
    e.JobSubmitted: Phase.QUEUED,
    e.JobAccepted: Phase.QUEUED,
    e.JobStarted: Phase.EXECUTING,
    e.JobSuspended: Phase.SUSPENDED,
    e.JobResumed: Phase.EXECUTING,
    e.JobRequeued: Phase.QUEUED,
    e.JobCompleted: Phase.COMPLETED,
    e.JobFailed: Phase.ERROR,
    e.JobAborted: Phase.ABORTED,
    e.JobLost: Phase.UNKNOWN,
    e.JobArchived: Phase.ARCHIVED,
}
"""The phase after each event that changes it."""


def apply(job: Job | None, recorded: RecordedEvent) -> Job | None:
    """Return the job after one more event of its stream.

    Erased events leave what is known as it is: nothing, or what the event that says so will take away.
    Raises `ValueError` for a stream that has no beginning, and what `uws.model.events.decode` does.
    """
    if recorded.erased:
        return job
    if recorded.type == Erased.type:
        return _stub(recorded)
    job_id, now = job.id if job else _job_id(recorded), from_microseconds(e.time_of(recorded))
    return evolve(job, e.decode(recorded), job_id=job_id, now=now, position=recorded.position)


def _job_id(recorded: RecordedEvent) -> str:
    return e.job_id_of(recorded.stream) or recorded.stream


def _stub(recorded: RecordedEvent) -> Job:
    """Return what is left of an erased job: it depends on the one event that is left of it alone."""
    return Job(
        id=_job_id(recorded),
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
    """Return the job after ``event``, which happened ``now``. ``position`` matters for the first event only.

    Raises `ValueError` for a stream that has no beginning, or two.
    """
    return evolve_through(job, [(event, now)], job_id=job_id, position=position)


def evolve_through(
    job: Job | None, happened: Iterable[tuple[e.JobEvent, datetime]], *, job_id: str, position: int = 0
) -> Job:
    """Return the job after one event or more, each with its time, as `evolve` does, but faster."""
    version, phase, start = (job.version, job.phase, job.start) if job else (0, Phase.PENDING, 0)
    for event, now in happened:
        kind = type(event)
        if isinstance(event, e.JobCreated):
            if job:
                raise ValueError(f"job {job_id} was created twice")
            job = _begin(event, job_id, now, position)
        elif job:
            job = _CHANGES[kind](job, event, now)
        else:
            raise ValueError(f"job {job_id} begins with {kind.__name__}")
        version += 1
        phase = PHASE_AFTER.get(kind, phase)
        if kind is e.JobSubmitted or (kind is e.JobStarted and job.submitted is None):
            start = version
    assert job, "nothing happened"
    return replace(job, version=version, phase=phase, start=start)


def _begin(event: e.JobCreated, job_id: str, now: datetime, position: int) -> Job:
    return Job(
        id=job_id,
        service=event.service,
        declaration=event.declaration,
        phase=PHASE_AFTER[e.JobCreated],
        version=0,
        position=position,
        created=_told(now),
        execution_duration=event.execution_duration,
        destruction=event.destruction,
        owner=event.owner,
        run_id=event.run_id,
        parameters=event.parameters,
        quote=event.quote,
        sync=event.sync,
        quotas=event.quotas,
        rerun_of=event.rerun_of,
    )


_Change = Callable[[Job, Any, datetime], Job]
_CHANGES: Mapping[type[e.JobEvent], _Change] = {
    e.ParametersSet: lambda job, event, now: replace(
        job, parameters=_given(job.parameters | event.parameters)
    ),
    e.RunIdSet: lambda job, event, now: replace(job, run_id=event.run_id),
    e.ExecutionDurationSet: lambda job, event, now: replace(job, execution_duration=event.seconds),
    e.DestructionSet: lambda job, event, now: replace(job, destruction=event.destruction),
    e.JobQueued: lambda job, event, now: replace(job, queued=now, quote=event.quote, note="", submitted=None),
    e.JobHeld: lambda job, event, now: replace(job, note=event.reason, submitted=None),
    e.JobSubmitted: lambda job, event, now: replace(
        job,
        submitted=now,
        declaration=event.declaration,
        quote=event.quote,
        note="",
        node=None,
        batch_job="",
        host="",
        progress=None,
        doing="",
    ),
    e.JobAccepted: lambda job, event, now: replace(
        job,
        submitted=job.submitted or now,
        node=None,
        batch_job=event.batch_job,
        note=event.reason,
        reports=job.reports + 1,
    ),
    e.JobStarted: lambda job, event, now: replace(
        job,
        started=now,
        declaration=event.declaration,
        quote=event.quote,
        note="",
        progress=None,
        doing="",
        node=event.node if job.submitted is None else None,
        host=event.host,
        leased=event.leased,
    ),
    e.JobSuspended: lambda job, event, now: replace(job, note=event.reason),
    e.JobResumed: lambda job, event, now: replace(job, note=""),
    e.StopRequested: lambda job, event, now: replace(job, stop=event.reason),
    e.ProgramSignalled: lambda job, event, now: replace(job, signalled=event.signal),
    e.ProgramFound: lambda job, event, now: job,
    e.ProgressMade: lambda job, event, now: replace(
        job, progress=event.fraction, doing=event.text, reports=job.reports + 1
    ),
    e.JobRequeued: lambda job, event, now: replace(
        job, submitted=None, started=None, note=event.reason, requeued=job.requeued + 1
    ),
    e.JobCompleted: lambda job, event, now: _ended(job, event, now, exit_code=event.exit_code),
    e.JobFailed: lambda job, event, now: _ended(
        job, event, now, failure=event.failure, exit_code=event.exit_code, signal=event.signal
    ),
    e.JobAborted: lambda job, event, now: _ended(
        job, event, now, note=event.reason, exit_code=event.exit_code, signal=event.signal
    ),
    e.JobLost: lambda job, event, now: replace(job, note=event.reason),
    e.JobShared: lambda job, event, now: replace(job, shares=(*job.shares, event.share)),
    e.JobUnshared: lambda job, event, now: replace(
        job, shares=tuple(share for share in job.shares if share.id != event.share.id)
    ),
    e.JobArchived: lambda job, event, now: replace(job, results=(), shares=(), note=event.reason),
    e.JobDestroyed: lambda job, event, now: replace(job, destroyed=now, shares=(), note=event.reason),
}
"""What each event but the first changes, besides version and phase."""


def _ended(
    job: Job, event: e.JobCompleted | e.JobFailed | e.JobAborted, now: datetime, **changes: Any
) -> Job:
    return replace(
        job,
        ended=now,
        results=event.results,
        cpu_seconds=event.cpu_seconds,
        memory_bytes=event.memory_bytes,
        **changes,
    )


def _given(parameters: dict[str, e.Values]) -> dict[str, e.Values]:
    return {name: values for name, values in parameters.items() if values}


def _told(time: datetime) -> datetime:
    # Documents tell milliseconds, and AFTER is compared with what they tell.
    rest = time.microsecond % 1000
    return time - timedelta(0, 0, rest) if rest else time


def fold(recorded: Iterable[RecordedEvent], job: Job | None = None) -> Job | None:
    """Fold the events of one stream, in order, onto ``job``. None is a job that nothing is known of."""
    for event in recorded:
        job = apply(job, event)
    return job
