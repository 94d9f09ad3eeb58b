"""Events of jobs, and what they say of files, failures and shares."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from .base import Event


class Upload(msgspec.Struct, frozen=True, kw_only=True, tag="upload"):
    """A received file: ``file`` is its name among the job's uploads, ``filename`` the client's name.

    One that was fetched has its URL as ``source``, without query, user and password, which may be secret.
    ``node`` is the one that has it, where each keeps its own files.
    """

    file: str
    filename: str
    size: int
    sha256: str
    media_type: str = "application/octet-stream"
    source: str | msgspec.UnsetType = msgspec.UNSET
    node: str | msgspec.UnsetType = msgspec.UNSET


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A result file. ``path`` is relative to the job's directory."""

    id: str
    path: str
    size: int
    sha256: str
    media_type: str


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A UWS error summary; ``detail`` is the full text where there is more than the message."""

    message: str
    type: Literal["transient", "fatal"] = "fatal"
    detail: str = ""


class Share(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody may look at a job until it ``expires``: the user or the ``@group`` that it is ``to``.

    One to None is a link: it is for whoever has the secret of which ``digest`` is the SHA-256.
    """

    id: str
    to: str | None = None
    digest: str | None = None
    expires: datetime | None = None

    def is_good(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires


class ProgramFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a program consists of, by its name without the directory and its SHA-256."""

    name: str
    sha256: str


StopReason = Literal["abort", "destroy", "duration", "shutdown"]
Finding = Literal["running", "ended", "lost", "not started"]
"""A program runs, or has ended on record, or has gone without one; or the start was decided and not made."""
Value = str | Upload
Values = tuple[Value, ...]


class JobCreated(Event, frozen=True):
    """A job exists, PENDING. ``declaration`` is the digest of the service declaration it was made under.

    ``sync`` says that the request which made it waits for its result (DALI 1.1 section 2.2). ``quotas`` names
    the tables of quotas that hold for its owner, besides that for everybody. ``rerun_of`` is the job
    whose inputs it was given anew.
    """

    service: str
    declaration: str
    execution_duration: int
    destruction: datetime | None
    owner: str | None = None
    run_id: str | None = None
    parameters: dict[str, Values] = msgspec.field(default_factory=dict)
    quote: datetime | None = None
    sync: bool = False
    quotas: tuple[str, ...] = ()
    rerun_of: str | None = None


class ParametersSet(Event, frozen=True):
    """Parameters got these values in place of those they had; an empty tuple takes them away."""

    parameters: dict[str, Values]


class RunIdSet(Event, frozen=True):
    run_id: str


class ExecutionDurationSet(Event, frozen=True):
    """The job may run for ``seconds``; 0 is unlimited."""

    seconds: int


class DestructionSet(Event, frozen=True):
    destruction: datetime


class JobQueued(Event, frozen=True):
    quote: datetime | None = None


class JobHeld(Event, frozen=True):
    reason: str


class JobSubmitted(Event, frozen=True):
    """The job is about to be handed to a batch system, under the declaration ``declaration``.

    That is where it waits from now on; ``program`` is as in `JobStarted`.
    """

    declaration: str
    quote: datetime | None = None
    program: tuple[ProgramFile, ...] = ()


class JobAccepted(Event, frozen=True):
    """The batch system has the job, which it calls ``batch_job``; ``reason`` says what it waits for there."""

    batch_job: str
    reason: str = ""


class JobStarted(Event, frozen=True):
    """A program is about to be started for the job, under the declaration ``declaration``.

    ``program`` is what it consists of as far as its command says so: the executable, then the files that
    fixed arguments name, or the module of a function. Nothing was found out where it is empty. ``node`` is
    the one on whose machine it runs, where several share the log, and ``leased`` whether it ends there when
    that is cut off; ``host`` is the machine on which a batch system has started it.
    """

    declaration: str
    quote: datetime | None = None
    program: tuple[ProgramFile, ...] = ()
    node: str | None = None
    host: str = ""
    leased: bool = False


class JobSuspended(Event, frozen=True):
    reason: str = ""


class JobResumed(Event, frozen=True):
    pass


class StopRequested(Event, frozen=True):
    """The running program is to be stopped; how the job ends follows from ``reason`` when it is gone."""

    reason: StopReason


class ProgramSignalled(Event, frozen=True):
    """All processes of the program were sent this signal, so that it ends."""

    signal: Literal["SIGTERM", "SIGKILL"]


class ProgramFound(Event, frozen=True):
    """A server that did not see what became of the program has looked for it: see `Finding`."""

    finding: Finding


class ProgressMade(Event, frozen=True):
    """The program told how much of its work is done, from 0 to 1 if it said so, and what it is doing."""

    fraction: float | None = None
    text: str = ""


class JobRequeued(Event, frozen=True):
    """The job waits for another start, in its old place."""

    reason: str


class JobCompleted(Event, frozen=True):
    """Nothing is left of the program, which was a success. It used ``cpu_seconds`` of processor time, all
    its processes together, and held ``memory_bytes`` at most.
    """

    results: tuple[Result, ...] = ()
    exit_code: int = 0
    cpu_seconds: float = 0.0
    memory_bytes: int = 0


class JobFailed(Event, frozen=True):
    """The job is in ERROR. ``results`` are those made until then."""

    failure: Failure
    results: tuple[Result, ...] = ()
    exit_code: int | None = None
    signal: str | None = None
    cpu_seconds: float = 0.0
    memory_bytes: int = 0


class JobAborted(Event, frozen=True):
    """The job was ended by somebody; ``reason`` says by whom or why, in words.

    Nothing is left of its program, if there was one, which ended with ``exit_code`` or by ``signal``.
    """

    reason: str
    results: tuple[Result, ...] = ()
    exit_code: int | None = None
    signal: str | None = None
    cpu_seconds: float = 0.0
    memory_bytes: int = 0


class JobLost(Event, frozen=True):
    """The server cannot tell what became of the program: UNKNOWN."""

    reason: str


class JobShared(Event, frozen=True):
    """Others than the owner may look at the job, its history and its files."""

    share: Share


class JobUnshared(Event, frozen=True):
    """A share is good no longer, whenever it would have expired."""

    share: Share


class JobArchived(Event, frozen=True):
    """Files are gone, the record stays. Nothing is shared any more."""

    reason: str


class JobDestroyed(Event, frozen=True):
    """Files are gone and the job is, too, for its clients. Nothing is shared any more."""

    reason: str


JobEvent = (
    JobCreated | ParametersSet | RunIdSet | ExecutionDurationSet | DestructionSet | JobQueued | JobHeld
    | JobSubmitted | JobAccepted | JobStarted | JobSuspended | JobResumed | StopRequested | ProgramSignalled
    | ProgramFound | ProgressMade | JobRequeued | JobCompleted | JobFailed | JobAborted | JobLost | JobShared
    | JobUnshared | JobArchived | JobDestroyed
)  # fmt: skip

JOB_EVENTS: dict[str, type[JobEvent]] = {cls.__name__: cls for cls in JobEvent.__args__}
