"""The events of all streams, of jobs, services, the queue and access: facts in the past tense, in UWS words.

The classes are the payloads; the class name is the event's type. Who caused an event and when stands in
its metadata, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec

from eventstore import Erased, Metadata, NewEvent, Pruned, RecordedEvent

from .errors import UnknownForm


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


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Base of all payloads."""


class ServiceDeclared(Event, frozen=True):
    """A service is offered under a declaration not seen before.

    ``declaration`` is its JSON text, without the values of its environment, which may be secrets.
    """

    service: str
    digest: str
    declaration: str


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
    parameters: dict[str, Values] = {}
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


class QueuePaused(Event, frozen=True):
    """No job of the service is started from now on, none at all where it is None; what runs goes on."""

    service: str | None = None


class QueueResumed(Event, frozen=True):
    """What was paused under the same name is so no more."""

    service: str | None = None


QueueEvent = QueuePaused | QueueResumed


class NodeJoined(Event, frozen=True):
    """A server takes jobs from the queue, under this name among those that share the log."""

    node: str


class NodeLeft(Event, frozen=True):
    """It takes none any more; what it was running may run on."""

    node: str
    reason: str


NodeEvent = NodeJoined | NodeLeft

Duty = Literal["owners", "histories"]
"""What retention takes out of the log: what jobs held, or all that is left of them."""


class MonthArchived(Event, frozen=True):
    """The log of a month is in an archive, a ``file`` that was verified: the positions ``first`` to ``last``.

    ``hash`` (hexadecimal) is the one at ``last``, ``sha256`` the digest of the archive. Where it is not
    ``whole``, jobs and log-ins are in it as if they were erased.
    """

    month: str
    file: str
    first: int
    last: int
    hash: str
    sha256: str
    whole: bool = True


class RetentionBegun(Event, frozen=True):
    """What ended before ``before`` is to be taken away, which is kept for ``after`` (a duration)."""

    duty: Duty
    after: str
    before: datetime


class RetentionApplied(Event, frozen=True):
    """What `RetentionBegun` speaks of is in no file of the server any more."""

    duty: Duty


RetentionEvent = MonthArchived | RetentionBegun | RetentionApplied


class TokenIssued(Event, frozen=True):
    """Whoever shows the secret of which this is the SHA-256 ``digest`` is ``user``, until it ``expires``.

    The event's id is the token's. A session is what a browser gets at a log-in. ``scopes`` None is no
    restriction (see `uws.model.access.Scope`). ``listed`` says that the user was in the users file, and is to
    be as long as it is used. A session is for the password that was verified, which was set when it was
    ``changed``.
    """

    user: str
    kind: Literal["token", "session"]
    digest: str
    expires: datetime
    scopes: tuple[str, ...] | None = None
    listed: bool = False
    changed: datetime | None = None


class TokenRevoked(Event, frozen=True):
    token: str
    reason: str


TokenEvent = TokenIssued | TokenRevoked


class LoggedIn(Event, frozen=True):
    """Somebody has said who he is: by the form, which makes a session; or with a request, for the first time
    in this way and from this address, or after an hour or more.
    """

    user: str
    address: str | None = None
    by: Literal["form", "basic", "jwt", "proxy"] = "form"


class LogInRefused(Event, frozen=True):
    """``user`` is None where there is none of the name that was given, which may be anything."""

    reason: str
    user: str | None = None
    address: str | None = None


class AccessRefused(Event, frozen=True):
    """A request was answered 401 though it had credentials, or 403 as not its user's to make."""

    reason: str
    method: str
    path: str
    address: str | None = None


class RefusalsOmitted(Event, frozen=True):
    """So many refusals more came than are put on record one by one."""

    count: int


class TokenUsed(Event, frozen=True):
    """A token was used for the first time, or after an hour or more."""

    token: str
    address: str | None = None


class UserChanged(Event, frozen=True):
    """The users file has another entry for a user, of which this is the SHA-256, or none any more.

    It is on record before it is so. What was "edited" was found to be so.
    """

    user: str
    change: Literal["added", "removed", "password", "groups", "edited"]
    groups: tuple[str, ...] = ()
    entry: str | None = None


class RolesDeclared(Event, frozen=True):
    """Who has which role, from now on: users by name, groups as ``@name``."""

    roles: dict[str, tuple[str, ...]]


SecurityEvent = (
    LoggedIn | LogInRefused | AccessRefused | RefusalsOmitted | TokenUsed | UserChanged | RolesDeclared
)
JobEvent = (
    JobCreated | ParametersSet | RunIdSet | ExecutionDurationSet | DestructionSet | JobQueued | JobHeld
    | JobSubmitted | JobAccepted | JobStarted | JobSuspended | JobResumed | StopRequested | ProgramSignalled
    | ProgramFound | ProgressMade | JobRequeued | JobCompleted | JobFailed | JobAborted | JobLost | JobShared
    | JobUnshared | JobArchived | JobDestroyed
)  # fmt: skip

JOB_EVENTS: dict[str, type[JobEvent]] = {cls.__name__: cls for cls in JobEvent.__args__}

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns a payload, as decoded JSON, into the next form of its type. Pure."""
Upcasters = Mapping[str, Sequence[Upcaster]]
"""For a type that has had other forms: what leads from its form 1 to 2, from 2 to 3, and so on to today's."""
UPCASTERS: Upcasters = {}


def encode(event: Event, metadata: Metadata, upcasters: Upcasters = UPCASTERS) -> NewEvent:
    """Make a payload ready for the log, in today's form."""
    name = type(event).__name__
    return NewEvent(
        type=name,
        data=msgspec.json.encode(event),
        metadata=msgspec.structs.replace(metadata, schema=schema_of(name, upcasters)),
    )


def schema_of(event_type: str, upcasters: Upcasters = UPCASTERS) -> int:
    """Return the number of a type's form today. A field that may be left out makes no new form."""
    return 1 + len(upcasters.get(event_type, ()))


def decode(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> JobEvent:
    """Read a payload of a job's stream. Old forms become today's here, and nowhere else.

    Raises `UnknownForm` for what a newer version has written, `msgspec.MsgspecError` for what no version
    has; of erased events nothing can be read.
    """
    return _decode(recorded, _JOB_DECODERS, upcasters)


def decode_declaration(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> ServiceDeclared:
    """Read a payload of a service's stream, as `decode` does."""
    return _decode(recorded, _SERVICE_DECODERS, upcasters)


def decode_queue(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> QueueEvent:
    """Read a payload of the queue's stream, as `decode` does."""
    return _decode(recorded, _QUEUE_DECODERS, upcasters)


def decode_node(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> NodeEvent:
    """Read a payload of a node's stream, as `decode` does."""
    return _decode(recorded, _NODE_DECODERS, upcasters)


def decode_retention(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> RetentionEvent:
    """Read a payload of the stream of retention, as `decode` does."""
    return _decode(recorded, _RETENTION_DECODERS, upcasters)


def decode_token(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> TokenEvent:
    """Read a payload of a user's or a session's stream, as `decode` does."""
    return _decode(recorded, _TOKEN_DECODERS, upcasters)


def decode_security(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> SecurityEvent:
    """Read a payload of a stream of security decisions, as `decode` does."""
    return _decode(recorded, _SECURITY_DECODERS, upcasters)


def time_of(recorded: RecordedEvent) -> int:
    """Return when an event happened, whenever it was recorded, in microseconds since 1970 UTC.

    Of an erased one nobody knows more than when it was recorded.
    """
    return recorded.time if recorded.erased else _about.decode(recorded.metadata).time_of(recorded)


def actor_and_time(recorded: RecordedEvent) -> tuple[str | None, int]:
    """Return who caused an event, and its time (see `time_of`)."""
    if recorded.erased:
        return None, recorded.time
    about = _about.decode(recorded.metadata)
    return about.actor, about.time_of(recorded)


def outline(
    recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS
) -> tuple[type[JobEvent] | None, msgspec.json.Decoder[JobEvent] | None, int, str | None]:
    """Return of what kind an event of a job is, what decodes its payload, its time and actor.

    Most who fold events need not know more of most of them. There is no kind when `decode` would not know
    the form, and no decoder for it or for an old one. Raises `msgspec.MsgspecError`.
    """
    about, name = _about.decode(recorded.metadata), recorded.type
    time, today = about.time_of(recorded), schema_of(name, upcasters)
    if about.schema == today:
        return JOB_EVENTS.get(name), _JOB_DECODERS.get(name), time, about.actor
    return JOB_EVENTS.get(name) if 1 <= about.schema < today else None, None, time, about.actor


class _About(msgspec.Struct, gc=False):
    """What of an event's metadata tells how to read it, and whose it is."""

    schema: int = 1
    occurred: int | None = None
    actor: str | None = None

    def time_of(self, recorded: RecordedEvent) -> int:
        return recorded.time if self.occurred is None else self.occurred


E = TypeVar("E", bound=Event)
_about = msgspec.json.Decoder(_About)
_JOB_DECODERS: dict[str, msgspec.json.Decoder[JobEvent]] = {
    name: msgspec.json.Decoder(kind) for name, kind in JOB_EVENTS.items()
}
_QUEUE_DECODERS: dict[str, msgspec.json.Decoder[QueueEvent]] = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in QueueEvent.__args__
}
_NODE_DECODERS: dict[str, msgspec.json.Decoder[NodeEvent]] = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in NodeEvent.__args__
}
_RETENTION_DECODERS: dict[str, msgspec.json.Decoder[RetentionEvent]] = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in RetentionEvent.__args__
}
_TOKEN_DECODERS: dict[str, msgspec.json.Decoder[TokenEvent]] = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in TokenEvent.__args__
}
_SECURITY_DECODERS: dict[str, msgspec.json.Decoder[SecurityEvent]] = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in SecurityEvent.__args__
}
_SERVICE_DECODERS = {ServiceDeclared.__name__: msgspec.json.Decoder(ServiceDeclared)}


EVENT_TYPES = frozenset(
    {
        Erased.type,
        Pruned.type,
        *_JOB_DECODERS,
        *_QUEUE_DECODERS,
        *_NODE_DECODERS,
        *_RETENTION_DECODERS,
        *_TOKEN_DECODERS,
        *_SECURITY_DECODERS,
        *_SERVICE_DECODERS,
    }
)
"""All types of events that there can be in a log."""


def _decode(
    recorded: RecordedEvent, decoders: Mapping[str, msgspec.json.Decoder[E]], upcasters: Upcasters
) -> E:
    name, schema = recorded.type, _about.decode(recorded.metadata).schema
    decoder = decoders.get(name)
    steps = upcasters.get(name, ())
    if decoder is None or not 1 <= schema <= len(steps) + 1:
        raise UnknownForm(recorded.position, name, schema)
    if schema > len(steps):
        return decoder.decode(recorded.data)
    payload = msgspec.json.decode(recorded.data)
    for step in steps[schema - 1 :]:
        payload = step(payload)
    return msgspec.convert(payload, decoder.type)


USERS_STREAM = "users"
"""The stream of who has an entry in the users file."""
ROLES_STREAM = "roles"
"""The stream of who has which role."""
QUEUE_STREAM = "queue"
"""The stream of what was decided of the queue as a whole."""


RETENTION_STREAM = "retention"
"""The stream of what was archived, and of what was taken out of the log because its time was over."""


def service_stream(name: str) -> str:
    """Return the name of a service's stream."""
    return f"service/{name}"


def node_stream(name: str) -> str:
    """Return the name of a node's stream."""
    return f"node/{name}"


def user_stream(name: str) -> str:
    """Return the name of the stream with a user's tokens."""
    return f"user/{name}"


def session_stream(token_id: str) -> str:
    """Return the name of a session's stream."""
    return f"session/{token_id}"


def security_stream(time: datetime) -> str:
    """Return the name of the stream with the security decisions of a month."""
    return f"security/{time:%Y-%m}"


def job_stream(job_id: str) -> str:
    """Return the name of a job's stream."""
    return f"job/{job_id}"


def job_id_of(stream: str) -> str | None:
    """Return the job whose stream this is, or None when it is not a job's."""
    kind, _, job_id = stream.partition("/")
    return job_id if kind == "job" else None
