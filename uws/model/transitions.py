"""What may happen to a job, and what then has happened. Pure: a job and a wish in, events out."""

from __future__ import annotations

from collections.abc import Container, Iterable
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from . import events as e
from .errors import IllegalPhase, MissingParameters, NotFound, QueueFull, Superseded, UsageError
from .job import Job
from .jobclass import UserUWSJobBase
from .phases import ENDED, SETTING_UP, STARTED, TRANSITIONS, Phase
from .service import MAX_DURATION, Service
from .text import LONGEST_NAME, is_name, made_name
from .units import format_duration

MAX_VERSION = 256
"""A job whose stream is as long takes no more changes; commands fold the whole of it."""
BEFORE_START = SETTING_UP | {Phase.QUEUED}
LONGEST_SHARE = timedelta(days=90)


SERVER_STOPPED = e.Failure(message="the server was stopped while the job ran", type="transient")


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a program: its exit code or the signal that ended it, and what it left behind.

    ``failure`` is set when it was no success; its results are kept all the same. ``cpu_seconds`` and
    ``memory_bytes`` are what all its processes together have used, and held at most.
    """

    results: tuple[e.Result, ...] = ()
    exit_code: int | None = None
    signal: str | None = None
    failure: e.Failure | None = None
    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    aborted: str = ""
    """Who has ended it of his own accord, in words, where that was nobody here."""


class UserUWSTransitions:
    """The transition table of user-defined services: each method answers a wish with events, or refuses it.

    All raise `IllegalPhase` where the job's phase does not allow the wish.
    """

    def __init__(self, service: Service, job_class: type[UserUWSJobBase]) -> None:
        self.service = service
        self.job_class = job_class

    def create_job(
        self, now: datetime, *, owner: str | None, run_id: str | None,
        parameters: dict[str, e.Values], quote: datetime | None, sync: bool = False,
        quotas: tuple[str, ...] = (), longest: int | None = None, rerun_of: str | None = None,
    ) -> list[e.JobEvent]:  # fmt: skip
        """Begin a job with the service's default duration and lifetime, which is the ``longest`` at most."""
        lifetime = _shortest(self.service.lifetime.seconds, longest)
        return [
            e.JobCreated(
                service=self.service.name,
                declaration=self.service.digest,
                execution_duration=self.service.execution_duration.seconds,
                destruction=now + timedelta(seconds=lifetime) if lifetime else None,
                owner=owner,
                run_id=run_id,
                parameters=parameters,
                quote=quote,
                sync=sync,
                quotas=quotas,
                rerun_of=rerun_of,
            )
        ]

    def set_parameters(self, job: Job, parameters: dict[str, e.Values]) -> list[e.JobEvent]:
        """Give values to parameters of a job that has not been queued."""
        require_room(job)
        require(job, SETTING_UP, "setting parameters")
        changed = {
            name: values for name, values in parameters.items() if job.parameters.get(name, ()) != values
        }
        return [e.ParametersSet(parameters=changed)] if changed else []

    def set_run_id(self, job: Job, run_id: str) -> list[e.JobEvent]:
        require_room(job)
        require(job, SETTING_UP, "setting RUNID")
        return [e.RunIdSet(run_id=run_id)] if run_id != (job.run_id or "") else []

    def set_execution_duration(self, job: Job, seconds: int) -> list[e.JobEvent]:
        """Set how long the job may run, clamped to what the service allows."""
        require_room(job)
        # A batch system was told how long it takes.
        allowed_in = SETTING_UP if job.submitted else BEFORE_START
        require(job, allowed_in, "setting the execution duration")
        allowed = self.service.execution_duration.clamp(seconds)
        return [e.ExecutionDurationSet(seconds=allowed)] if allowed != job.execution_duration else []

    def set_destruction(
        self, job: Job, destruction: datetime, now: datetime, longest: int | None = None
    ) -> list[e.JobEvent]:
        """Set when the job is destroyed: not before now, not beyond the longest lifetime.

        That is the service's or the owner's, and counts from the job's creation, or from now for one that was
        to be kept.
        """
        require_room(job)
        require(job, frozenset(Phase) - {Phase.ARCHIVED}, "setting the destruction time")
        lifetime = _shortest(self.service.lifetime.max_seconds, longest) or MAX_DURATION
        begin = job.created if job.destruction else now
        allowed = max(now, min(destruction, begin + timedelta(seconds=lifetime)))
        return [e.DestructionSet(destruction=allowed)] if allowed != job.destruction else []

    def queue_job(self, job: Job, quote: datetime | None) -> list[e.JobEvent]:
        """Answer RUN. Raises `MissingParameters`; `ParameterError` when the declaration has changed."""
        self._require_complete(job)
        return [e.JobQueued(quote=quote)]

    def hold_job(self, job: Job, full: str) -> list[e.JobEvent]:
        """Answer RUN while the queue is ``full``: as `queue_job` does, then hold the job until there is room.

        Raises `QueueFull` where the service does not say so.
        """
        self._require_complete(job)
        if self.service.when_full == "refuse":
            raise QueueFull(full)
        reason = f"waiting for room in the queue: {full}"
        return [e.JobHeld(reason=reason)] if (job.phase, job.note) != (Phase.HELD, reason) else []

    def release_job(self, job: Job, quote: datetime | None) -> list[e.JobEvent]:
        """Queue a job that was held; one that was changed so that it cannot run any more has failed."""
        require(job, {Phase.HELD}, "ending its wait for room in the queue")
        try:
            return self.queue_job(job, quote)
        except UsageError as error:
            return [
                e.JobFailed(failure=e.Failure(message=f"it could not be queued when there was room: {error}"))
            ]

    def _require_complete(self, job: Job) -> None:
        require(job, SETTING_UP, "RUN")
        if missing := self.job_class.missing(job.parameters):
            raise MissingParameters(missing)
        for name, values in job.parameters.items():
            if name in self.service.parameters:
                self.job_class.check(name, values)

    def abort_job(self, job: Job) -> list[e.JobEvent]:
        """Answer ABORT: at once where nothing runs, else by asking for a stop."""
        if job.is_under_way:
            return [e.StopRequested(reason="abort")] if job.stop is None else []
        require(job, ways_to(Phase.ABORTED), "ABORT")
        return [e.JobAborted(reason="aborted on request before it started")]

    def destroy_job(self, job: Job, *, expired: bool) -> list[e.JobEvent]:
        """Answer DELETE or the destruction time. What runs is stopped first, and destroyed by `end_job`."""
        if job.is_under_way:
            return [e.StopRequested(reason="destroy")] if job.stop != "destroy" else []
        reason = "its destruction time came" if expired else "destroyed on request"
        aborted: list[e.JobEvent] = []
        if job.phase not in ENDED:
            aborted = [e.JobAborted(reason=f"{reason} before it started")]
        return aborted + self._remove(job, reason)

    def purge_job(self, job: Job, now: datetime, phases: Container[Phase] = ()) -> list[e.JobEvent]:
        """Destroy a job whose destruction time has come, or that is in one of ``phases``; else do nothing."""
        expired = job.destruction is not None and job.destruction <= now
        return self.destroy_job(job, expired=expired) if expired or job.phase in phases else []

    def _remove(self, job: Job, reason: str) -> list[e.JobEvent]:
        if self.service.archive and job.phase is not Phase.ARCHIVED:
            return [e.JobArchived(reason=reason)]
        return [e.JobDestroyed(reason=reason)]

    def share_job(self, job: Job, share: e.Share, lasts: timedelta | None, now: datetime) -> list[e.JobEvent]:
        """Let others look at the job, for 90 days at most; who is named again gets the new time for the old.

        Without ``lasts`` a share is good until it is ended; a link needs one. Raises `UsageError`.
        """
        require_room(job)
        require(job, frozenset(Phase) - {Phase.ARCHIVED}, "sharing")
        if (wrong := _wrong_name(share.to)) is not None:
            raise UsageError(f"WITH: {share.to!r} {wrong}; expected a user, a group as @name, or LINK")
        if share.to is None and lasts is None:
            raise UsageError("EXPIRES: a link needs a time for which it is good, such as 7d")
        if lasts is not None:
            if not timedelta() < lasts <= LONGEST_SHARE:
                longest = format_duration(int(LONGEST_SHARE.total_seconds()))
                raise UsageError(f"EXPIRES: expected more than 0 and at most {longest}")
            share = replace(share, expires=now + lasts)
        earlier = [one for one in job.shares if share.to is not None and one.to == share.to]
        return [*(e.JobUnshared(share=one) for one in earlier), e.JobShared(share=share)]

    def unshare_job(self, job: Job, share_id: str) -> list[e.JobEvent]:
        """End a share, which is always possible. Raises `NotFound`."""
        found = next((share for share in job.shares if share.id == share_id), None)
        if found is None:
            raise NotFound(f"job {job.id} has no share {share_id}")
        return [e.JobUnshared(share=found)]

    def start_job(
        self,
        job: Job,
        quote: datetime | None,
        program: tuple[e.ProgramFile, ...] = (),
        node: str | None = None,
    ) -> list[e.JobEvent]:
        """Decide that a program, which consists of these files, is started for a queued job now."""
        _require_waiting(job, "starting", submitted=False)
        leased = node is not None and self.service.on_lost == "requeue"
        return [
            e.JobStarted(
                declaration=self.service.digest, quote=quote, program=program, node=node, leased=leased
            )
        ]

    def check_start(self, job: Job, start: int) -> list[e.JobEvent]:
        """Raise `Superseded` unless the program of the start at this version is the one that counts."""
        if not job.is_under_way or job.start != start:
            raise Superseded(job.id, start)
        return []

    def submit_job(
        self, job: Job, quote: datetime | None, program: tuple[e.ProgramFile, ...] = ()
    ) -> list[e.JobEvent]:
        """Decide that a queued job is handed to a batch system now; its program consists of these files."""
        _require_waiting(job, "submitting", submitted=False)
        return [e.JobSubmitted(declaration=self.service.digest, quote=quote, program=program)]

    def accept_job(self, job: Job, batch_job: str, reason: str) -> list[e.JobEvent]:
        """Record that the batch system has the job under a name, and what it waits for, if that is news."""
        _require_waiting(job, "waiting in the batch system", submitted=True)
        if (batch_job, reason) == (job.batch_job, job.note):
            return []
        return [e.JobAccepted(batch_job=batch_job, reason=reason)]

    def begin_job(self, job: Job, host: str, program: tuple[e.ProgramFile, ...]) -> list[e.JobEvent]:
        """Record that the batch system has started a job that it was handed, and where."""
        _require_waiting(job, "starting", submitted=True)
        return [e.JobStarted(declaration=job.declaration, quote=job.quote, program=program, host=host)]

    def suspend_job(self, job: Job, reason: str) -> list[e.JobEvent]:
        """Record that a program is kept from going on."""
        return [e.JobSuspended(reason=reason)] if job.phase in {Phase.EXECUTING, Phase.UNKNOWN} else []

    def lose_sight(self, job: Job, reason: str) -> list[e.JobEvent]:
        """Record that nobody can tell what becomes of a program: the job is UNKNOWN until somebody can."""
        return [e.JobLost(reason=reason)] if job.phase in {Phase.EXECUTING, Phase.SUSPENDED} else []

    def resume_job(self, job: Job) -> list[e.JobEvent]:
        """Record that a program goes on, or is known to."""
        return [e.JobResumed()] if job.phase in {Phase.SUSPENDED, Phase.UNKNOWN} else []

    def stop_job(self, job: Job, reason: e.StopReason) -> list[e.JobEvent]:
        """Decide that a running program is stopped, for the server's own reasons."""
        return [e.StopRequested(reason=reason)] if job.is_under_way and job.stop is None else []

    def find_program(self, job: Job, finding: e.Finding) -> list[e.JobEvent]:
        """Record what became of a program that nobody saw."""
        require(job, STARTED, "looking for the program")
        return [e.ProgramFound(finding=finding)]

    def signal_program(self, job: Job, signal: Literal["SIGTERM", "SIGKILL"]) -> list[e.JobEvent]:
        """Record that a program was told to end."""
        return [e.ProgramSignalled(signal=signal)] if job.phase in STARTED else []

    def report_progress(self, job: Job, fraction: float | None, text: str) -> list[e.JobEvent]:
        """Record what a program that runs told of its progress, if that is news."""
        if job.phase not in STARTED or (fraction, text) == (job.progress, job.doing):
            return []
        return [e.ProgressMade(fraction=fraction, text=text)]

    def lose_job(
        self, job: Job, results: tuple[e.Result, ...], reason: str, node: str | None = None
    ) -> list[e.JobEvent]:
        """Record, on ``node``, that a program is gone and nobody knows how it ended.

        The job fails, or waits again. Where there are nodes it does so only when it was started with a lease:
        without one the program may go on somewhere, whatever the declaration says by now.
        """
        may = job.leased or job.submitted is not None or (job.node is None and node is None)
        wanted = self.service.on_lost == "requeue" and job.requeued < self.service.requeues
        if job.stop is None and may and wanted:
            _require_under_way(job, "another start")
            again = f"start {job.requeued + 2} of at most {self.service.requeues + 1}"
            return [e.JobRequeued(reason=f"{reason}; waiting for {again}")]
        return self.end_job(job, Ending(results=results, failure=e.Failure(message=reason, type="transient")))

    def end_job(self, job: Job, ending: Ending) -> list[e.JobEvent]:
        """Record that the program is gone; why it was stopped, if it was, decides how the job ends."""
        _require_under_way(job, "ending")
        match job.stop:
            case "abort":
                return [_aborted("aborted on request", ending)]
            case "destroy":
                reason = "destroyed on request or at its destruction time"
                return [_aborted(f"{reason} while it ran", ending), *self._remove(job, reason)]
            case "duration":
                limit = f"{job.execution_duration} s ({format_duration(job.execution_duration)})"
                return [_aborted(f"the execution duration of {limit} was exceeded", ending)]
            case "shutdown":
                ending = replace(ending, failure=SERVER_STOPPED)
        if ending.aborted:
            return [_aborted(ending.aborted, ending)]
        if failure := ending.failure:
            return [e.JobFailed(failure=failure, **_told(ending))]
        require(job, STARTED, "completing")
        return [e.JobCompleted(**_told(ending) | {"exit_code": ending.exit_code or 0})]


def _wrong_name(name: str | None) -> str | None:
    """Say what keeps a name from being that of a user or an ``@group``, None when nothing does."""
    if name is None:
        return None
    plain = name.removeprefix("@")
    if is_name(plain):
        return None
    if not plain or plain.startswith("@") or plain != plain.strip():
        return "is no name"
    if made_name(plain) is not None:
        return "is not in Unicode's normal form (NFC)"
    return f"is not 1 to {LONGEST_NAME} printable characters"


def _aborted(reason: str, ending: Ending) -> e.JobAborted:
    return e.JobAborted(reason=reason, **_told(ending))


def _told(ending: Ending) -> dict[str, Any]:
    told = {name: getattr(ending, name) for name in ("results", "exit_code", "cpu_seconds", "memory_bytes")}
    return told if ending.signal is None else {**told, "signal": ending.signal}


def _shortest(seconds: int, longest: int | None) -> int:
    """Return a lifetime as it may be, 0 for ever."""
    return min(filter(None, (seconds, longest)), default=0)


def ways_to(phase: Phase) -> frozenset[Phase]:
    """Return the phases from which a job can come to ``phase``."""
    return frozenset(before for before, after in TRANSITIONS.items() if phase in after)


def require_room(job: Job) -> None:
    """Raise `UsageError` when a job has been changed too often. What its program reports does not count."""
    changes = job.version - job.reports
    if changes >= MAX_VERSION:
        raise UsageError(f"job {job.id} has been changed {changes} times: create a new one")


def require(job: Job, allowed: Iterable[Phase], asked: str) -> None:
    """Raise `IllegalPhase` unless the job is in one of ``allowed``."""
    if job.phase not in allowed:
        raise IllegalPhase(job.id, job.phase, asked, allowed)


def _require_waiting(job: Job, asked: str, *, submitted: bool) -> None:
    """Raise `IllegalPhase` unless the job is QUEUED, in a batch system or here."""
    here = job.phase is Phase.QUEUED and (job.submitted is not None) is submitted
    require(job, {Phase.QUEUED} if here else (), asked)


def _require_under_way(job: Job, asked: str) -> None:
    """Raise `IllegalPhase` unless there is, or may be, something to end."""
    require(job, STARTED | {Phase.QUEUED} if job.is_under_way else STARTED, asked)
