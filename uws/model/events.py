"""The events of a job's and a service's stream: facts in the past tense, in UWS words.

The classes are the payloads; the class name is the event's type. Who caused an event and when stands in
its metadata, not here.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Literal

import msgspec

from eventstore import Metadata, NewEvent, RecordedEvent


class Upload(msgspec.Struct, frozen=True, kw_only=True, tag="upload"):
    """A received file: ``file`` is its name among the job's uploads, ``filename`` the client's name."""

    file: str
    filename: str
    size: int
    sha256: str
    media_type: str = "application/octet-stream"


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


StopReason = Literal["abort", "destroy", "duration", "shutdown"]
Value = str | Upload
Values = tuple[Value, ...]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all payloads."""


class ServiceDeclared(Event, frozen=True):
    """A service is offered under a declaration not seen before.

    ``declaration`` is its JSON text, without the values of its environment, which may be secrets.
    """

    service: str
    digest: str
    declaration: str


class JobCreated(Event, frozen=True):
    """A job exists, PENDING. ``declaration`` is the digest of the service declaration it was made under."""

    service: str
    declaration: str
    execution_duration: int
    destruction: datetime | None
    owner: str | None = None
    run_id: str | None = None
    parameters: dict[str, Values] = {}
    quote: datetime | None = None


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


class JobStarted(Event, frozen=True):
    """A program is about to be started for the job, under the declaration ``declaration``."""

    declaration: str
    quote: datetime | None = None


class JobSuspended(Event, frozen=True):
    reason: str = ""


class JobResumed(Event, frozen=True):
    pass


class StopRequested(Event, frozen=True):
    """The running program is to be stopped; how the job ends follows from ``reason`` when it is gone."""

    reason: StopReason


class JobCompleted(Event, frozen=True):
    results: tuple[Result, ...] = ()
    exit_code: int = 0


class JobFailed(Event, frozen=True):
    """The job is in ERROR. ``results`` are those made until then."""

    failure: Failure
    results: tuple[Result, ...] = ()
    exit_code: int | None = None
    signal: str | None = None


class JobAborted(Event, frozen=True):
    """The job was ended by somebody; ``reason`` says by whom or why, in words."""

    reason: str
    results: tuple[Result, ...] = ()


class JobLost(Event, frozen=True):
    """The server cannot tell what became of the program: UNKNOWN."""

    reason: str


class JobArchived(Event, frozen=True):
    """Files are gone, the record stays."""

    reason: str


class JobDestroyed(Event, frozen=True):
    """Files are gone and the job is, too, for its clients."""

    reason: str


JobEvent = (
    JobCreated | ParametersSet | RunIdSet | ExecutionDurationSet | DestructionSet | JobQueued | JobHeld
    | JobStarted | JobSuspended | JobResumed | StopRequested | JobCompleted | JobFailed | JobAborted
    | JobLost | JobArchived | JobDestroyed
)  # fmt: skip

JOB_EVENTS: dict[str, type[JobEvent]] = {cls.__name__: cls for cls in JobEvent.__args__}
SCHEMA = 1


def encode(event: Event, metadata: Metadata) -> NewEvent:
    """Make a payload ready for the log."""
    return NewEvent(
        type=type(event).__name__,
        data=msgspec.json.encode(event),
        metadata=msgspec.structs.replace(metadata, schema=SCHEMA),
    )


def decode(recorded: RecordedEvent) -> JobEvent:
    """Read a payload of a job's stream. Old forms become today's here, and nowhere else."""
    return _decoder(recorded.type).decode(recorded.data)


@cache
def _decoder(event_type: str) -> msgspec.json.Decoder[JobEvent]:
    return msgspec.json.Decoder(JOB_EVENTS[event_type])


def decode_declaration(recorded: RecordedEvent) -> ServiceDeclared:
    """Read a payload of a service's stream."""
    return msgspec.json.decode(recorded.data, type=ServiceDeclared)


def service_stream(name: str) -> str:
    """Return the name of a service's stream."""
    return f"service/{name}"


def job_stream(job_id: str) -> str:
    """Return the name of a job's stream."""
    return f"job/{job_id}"


def job_id_of(stream: str) -> str | None:
    """Return the job whose stream this is, or None when it is not a job's."""
    kind, _, job_id = stream.partition("/")
    return job_id if kind == "job" else None
