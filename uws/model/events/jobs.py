"""Events of jobs, and what they say of files, failures and shares."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from .base import Event


class Upload(msgspec.Struct, frozen=True, kw_only=True, tag="upload"):
    """A file that a client has sent, or had fetched."""

    file: str
    """Its name among the job's uploads."""
    filename: str
    """The client's name for it."""
    size: int
    """Bytes."""
    sha256: str
    """SHA-256 of its bytes, hexadecimal."""
    media_type: str = "application/octet-stream"
    """What the client says that it is."""
    source: str | msgspec.UnsetType = msgspec.UNSET
    """The URL that it was fetched from, without query, user and password, which may be secret."""
    node: str | msgspec.UnsetType = msgspec.UNSET
    """The node that has it, where each keeps its own files."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a program has left as a result."""

    id: str
    """Its name in URLs."""
    path: str
    """Where it is, relative to the job's directory."""
    size: int
    """Bytes."""
    sha256: str
    """SHA-256 of its bytes, hexadecimal."""
    media_type: str
    """As declared, or guessed from its name."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a job is in ERROR: a UWS error summary."""

    message: str
    """What went wrong, in a line."""
    type: Literal["transient", "fatal"] = "fatal"
    """Whether the same may succeed another time (``transient``), or not (``fatal``)."""
    detail: str = ""
    """The full text where there is more than the message."""


class Share(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody may look at a job: a user, the members of a group, or whoever has the secret of a link."""

    id: str
    """Its name in URLs."""
    to: str | None = None
    """The user, or the group as ``@name``, that may look at the job; None for a link."""
    digest: str | None = None
    """Of a link: SHA-256 of its secret, hexadecimal."""
    expires: datetime | None = None
    """Until when it is good (UTC); None as long as the job exists."""

    def is_good(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires


class ProgramFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a program consists of."""

    name: str
    """Its name without the directory."""
    sha256: str
    """SHA-256 of its bytes, hexadecimal."""


StopReason = Literal["abort", "destroy", "duration", "shutdown"]
Finding = Literal["running", "ended", "lost", "not started"]
"""A program runs, or has ended on record, or has gone without one; or the start was decided and not made."""
Value = str | Upload
"""What a parameter was given: text as the client sent it, or a file."""
Values = tuple[Value, ...]
"""All that one parameter was given."""


class JobCreated(Event, frozen=True):
    """A job exists, PENDING."""

    service: str
    """The service that it is a job of."""
    declaration: str
    """The digest of the service declaration that it was made under, as in `ServiceDeclared`."""
    execution_duration: int
    """Seconds that it may run; 0 is unlimited."""
    destruction: datetime | None
    """When it is to be destroyed (UTC); None is never."""
    owner: str | None = None
    """The user whose job it is; None is nobody in particular."""
    run_id: str | None = None
    """The client's own name for it."""
    parameters: dict[str, Values] = msgspec.field(default_factory=dict)
    """The values that were given, by the parameter's name, or files."""
    quote: datetime | None = None
    """When it is expected to end (UTC), as far as anybody can tell."""
    sync: bool = False
    """Whether the request that made it waits for its result (DALI 1.1 section 2.2)."""
    quotas: tuple[str, ...] = ()
    """The tables of quotas that hold for its owner, besides that for everybody."""
    rerun_of: str | None = None
    """The job whose inputs it was given anew."""


class ParametersSet(Event, frozen=True):
    """Parameters got these values in place of those they had; an empty tuple takes them away."""

    parameters: dict[str, Values]
    """The values, by the parameter's name."""


class RunIdSet(Event, frozen=True):
    """The job has another name that the client gave it."""

    run_id: str
    """The name; empty is none."""


class ExecutionDurationSet(Event, frozen=True):
    """The job may run for another time than before."""

    seconds: int
    """Seconds; 0 is unlimited."""


class DestructionSet(Event, frozen=True):
    """The job is to be destroyed at another time than before."""

    destruction: datetime
    """The time (UTC); None is never."""


class JobQueued(Event, frozen=True):
    """The job waits in the queue of its service: somebody has asked for RUN, or there is room for it now."""

    quote: datetime | None = None
    """When it is expected to end (UTC), as far as anybody can tell."""


class JobHeld(Event, frozen=True):
    """The job waits outside of the queue, until there is room in it."""

    reason: str
    """For what it is held, in words."""


class JobSubmitted(Event, frozen=True):
    """The job is about to be handed to a batch system, which is where it waits from now on."""

    declaration: str
    """The digest of the service declaration that it is handed over under."""
    quote: datetime | None = None
    """When it is expected to end (UTC), as far as anybody can tell."""
    program: tuple[ProgramFile, ...] = ()
    """What its program consists of, as in `JobStarted`."""


class JobAccepted(Event, frozen=True):
    """The batch system has the job."""

    batch_job: str
    """What the batch system calls the job."""
    reason: str = ""
    """What it waits for there, in the batch system's words."""


class JobStarted(Event, frozen=True):
    """A program is about to be started for the job."""

    declaration: str
    """The digest of the service declaration that it is started under."""
    quote: datetime | None = None
    """When it is expected to end (UTC), as far as anybody can tell."""
    program: tuple[ProgramFile, ...] = ()
    """What the program consists of, as far as its command says so: the executable, then the files that
    fixed arguments name, or the module of a function. Nothing was found out where it is empty.
    """
    node: str | None = None
    """The node on whose machine it runs, where several share the log."""
    host: str = ""
    """The machine on which a batch system has started it."""
    leased: bool = False
    """Whether it ends when its node is cut off."""


class JobSuspended(Event, frozen=True):
    """The program is stopped, and goes on when the job is resumed."""

    reason: str = ""
    """By whom or why, in words."""


class JobResumed(Event, frozen=True):
    """The program goes on, which was stopped."""


class StopRequested(Event, frozen=True):
    """The running program is to be stopped; how the job ends follows from the reason when it is gone."""

    reason: StopReason
    """Why: by ABORT, because the job is destroyed or has run for too long, or with the server."""


class ProgramSignalled(Event, frozen=True):
    """All processes of the program were sent this signal, so that it ends."""

    signal: Literal["SIGTERM", "SIGKILL"]
    """The signal."""


class ProgramFound(Event, frozen=True):
    """A server that did not see what became of the program has looked for it."""

    finding: Finding
    """What was found."""


class ProgressMade(Event, frozen=True):
    """The program told how far it is."""

    fraction: float | None = None
    """How much of its work is done, from 0 to 1; None where it does not say."""
    text: str = ""
    """What it is doing, in its own words."""


class JobRequeued(Event, frozen=True):
    """The job waits for another start, in its old place."""

    reason: str
    """Why, in words."""


class JobCompleted(Event, frozen=True):
    """Nothing is left of the program, which was a success."""

    results: tuple[Result, ...] = ()
    """What it left."""
    exit_code: int = 0
    """With what the program ended."""
    cpu_seconds: float = 0.0
    """Seconds of processor time of all its processes together."""
    memory_bytes: int = 0
    """Bytes that all its processes together held at most."""


class JobFailed(Event, frozen=True):
    """The job is in ERROR, and nothing is left of its program."""

    failure: Failure
    """What went wrong."""
    results: tuple[Result, ...] = ()
    """What it has left until then."""
    exit_code: int | None = None
    """With what the program ended; None where there was none, or a signal has ended it."""
    signal: str | None = None
    """The signal that has ended it, such as ``SIGKILL``."""
    cpu_seconds: float = 0.0
    """Seconds of processor time of all its processes together."""
    memory_bytes: int = 0
    """Bytes that all its processes together held at most."""


class JobAborted(Event, frozen=True):
    """The job was ended by somebody. Nothing is left of its program, if there was one."""

    reason: str
    """By whom or why, in words."""
    results: tuple[Result, ...] = ()
    """What it has left until then."""
    exit_code: int | None = None
    """With what the program ended; None where there was none, or a signal has ended it."""
    signal: str | None = None
    """The signal that has ended it, such as ``SIGKILL``."""
    cpu_seconds: float = 0.0
    """Seconds of processor time of all its processes together."""
    memory_bytes: int = 0
    """Bytes that all its processes together held at most."""


class JobLost(Event, frozen=True):
    """The server cannot tell what became of the program: UNKNOWN."""

    reason: str
    """Why nobody can tell, in words."""


class JobShared(Event, frozen=True):
    """Others than the owner may look at the job, its history and its files."""

    share: Share
    """With whom, and for how long."""


class JobUnshared(Event, frozen=True):
    """A share is good no longer, whenever it would have expired."""

    share: Share
    """The share as it was."""


class JobArchived(Event, frozen=True):
    """Files are gone, the record stays. Nothing is shared any more."""

    reason: str
    """By whom or why, in words."""


class JobDestroyed(Event, frozen=True):
    """Files are gone and the job is, too, for its clients. Nothing is shared any more."""

    reason: str
    """By whom or why, in words."""


JobEvent = (
    JobCreated | ParametersSet | RunIdSet | ExecutionDurationSet | DestructionSet | JobQueued | JobHeld
    | JobSubmitted | JobAccepted | JobStarted | JobSuspended | JobResumed | StopRequested | ProgramSignalled
    | ProgramFound | ProgressMade | JobRequeued | JobCompleted | JobFailed | JobAborted | JobLost | JobShared
    | JobUnshared | JobArchived | JobDestroyed
)  # fmt: skip

JOB_EVENTS: dict[str, type[JobEvent]] = {cls.__name__: cls for cls in JobEvent.__args__}
