"""What happened to a job, in words for people."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventstore import Erased, Pruned, RecordedEvent

from . import events as e
from .errors import UnknownForm
from .units import format_time

_STOPS = {
    "abort": "it is to be aborted",
    "destroy": "it is to be deleted",
    "duration": "it has run for as long as it may",
    "shutdown": "the server stops",
}
_FINDINGS = {
    "running": "the program runs",
    "ended": "the program has ended",
    "lost": "nobody knows what became of the program",
    "not started": "the program was not started yet",
}


def tell(event: e.JobEvent) -> str:
    """Return one line that says what an event is about."""
    match event:
        case e.JobCreated():
            sync = " by a request that waits for its result" * event.sync
            return f"created{_named(event.run_id)}{sync}{_again(event.rerun_of)}"
        case e.ParametersSet():
            return f"parameters set: {', '.join(event.parameters)}"
        case e.RunIdSet():
            return f"called {event.run_id}" if event.run_id else "called nothing any more"
        case e.ExecutionDurationSet():
            return f"may run for {event.seconds} s" if event.seconds else "may run for as long as it takes"
        case e.DestructionSet():
            return f"will be destroyed at {format_time(event.destruction)}"
        case e.JobQueued():
            return "queued"
        case e.JobHeld():
            return _because("held", event.reason)
        case e.JobSubmitted():
            return "handed to the batch system"
        case e.JobAccepted():
            return event.reason or f"taken by the batch system, as {event.batch_job}"
        case e.JobStarted():
            return f"started on {event.host}" if event.host else "started"
        case e.JobSuspended():
            return _because("suspended", event.reason)
        case e.JobResumed():
            return "resumed"
        case e.StopRequested():
            return f"to be stopped: {_STOPS[event.reason]}"
        case e.ProgramSignalled():
            return f"the program was sent {event.signal}"
        case e.ProgramFound():
            return f"looked for after a restart of the server: {_FINDINGS[event.finding]}"
        case e.ProgressMade():
            done = "" if event.fraction is None else f"{event.fraction:.0%}"
            return " ".join(filter(None, (done, event.text))) or "at work"
        case e.JobRequeued():
            return _because("queued again", event.reason)
        case e.JobCompleted():
            return f"completed, with {_results(event.results)}"
        case e.JobFailed():
            return f"failed, with {_results(event.results)}: {event.failure.message}"
        case e.JobAborted():
            return _because("aborted", event.reason)
        case e.JobLost():
            return _because("lost", event.reason)
        case e.JobShared(share=share):
            return f"shared {_whom(share)}{f' until {format_time(share.expires)}' if share.expires else ''}"
        case e.JobUnshared(share=share):
            return f"no longer shared {_whom(share)}"
        case e.JobArchived():
            return _because("archived", event.reason)
        case e.JobDestroyed():
            return _because("destroyed", event.reason)


def tell_of(recorded: RecordedEvent) -> str:
    """Return one line that says what any event of a log is about.

    Of one that was erased, or is in a form that this version does not know, there is no more to be told.
    """
    if recorded.erased:
        return "what it held was erased"
    try:
        return _tell_any(recorded)
    except (UnknownForm, msgspec.MsgspecError):
        return f"{recorded.type}, in a form that this version cannot read"


def _tell_any(recorded: RecordedEvent) -> str:
    kind = recorded.type
    if kind == Erased.type:
        erased = msgspec.json.decode(recorded.data, type=Erased)
        return _because(f"the events up to version {erased.through} were erased", erased.reason)
    if kind == Pruned.type:
        pruned = msgspec.json.decode(recorded.data, type=Pruned)
        return _because(f"pruned through position {pruned.through}", pruned.reason)
    if e.job_id_of(recorded.stream):
        return tell(e.decode(recorded))
    if kind == e.ServiceDeclared.__name__:
        declared = e.decode_declaration(recorded)
        return f"{declared.service} is offered under the declaration {declared.digest[:12]}"
    if recorded.stream == e.QUEUE_STREAM:
        decided = e.decode_queue(recorded)
        whose = "the queue" if decided.service is None else f"the queue of {decided.service}"
        return f"{whose} {'paused' if isinstance(decided, e.QueuePaused) else 'resumed'}"
    if kind in (e.NodeJoined.__name__, e.NodeLeft.__name__):
        return _tell_node(e.decode_node(recorded))
    if recorded.stream == e.RETENTION_STREAM:
        return _tell_retention(e.decode_retention(recorded))
    if kind in (e.TokenIssued.__name__, e.TokenRevoked.__name__):
        return _tell_token(e.decode_token(recorded))
    return _tell_security(e.decode_security(recorded))


def _tell_node(event: e.NodeEvent) -> str:
    match event:
        case e.NodeJoined():
            return f"node {event.node} takes jobs from the queue"
        case e.NodeLeft():
            return _because(f"node {event.node} takes no more jobs", event.reason)


def _tell_retention(event: e.RetentionEvent) -> str:
    match event:
        case e.MonthArchived():
            without = "" if event.whole else ", without what jobs held"
            return (
                f"{event.month} is archived: {event.file}, positions {event.first} to {event.last}{without}"
            )
        case e.RetentionBegun():
            until = format_time(event.before)
            return f"{event.duty}, which are kept for {event.after}, are taken away up to {until}"
        case e.RetentionApplied():
            return f"{event.duty}: what was to be taken away is in no file any more"


def _tell_token(event: e.TokenEvent) -> str:
    match event:
        case e.TokenIssued():
            return f"a {event.kind} for {event.user}, until {format_time(event.expires)}"
        case e.TokenRevoked():
            return _because(f"token {event.token} revoked", event.reason)


def _tell_security(event: e.SecurityEvent) -> str:
    match event:
        case e.LoggedIn():
            return f"{event.user} logged in by {event.by}{_from(event.address)}"
        case e.LogInRefused():
            return f"a log-in{_by(event.user)} was refused{_from(event.address)}: {event.reason}"
        case e.AccessRefused():
            return f"{event.method} {event.path} was refused{_from(event.address)}: {event.reason}"
        case e.RefusalsOmitted():
            return f"{event.count} more refusals"
        case e.TokenUsed():
            return f"token {event.token} was used{_from(event.address)}"
        case e.UserChanged():
            return f"user {event.user}: {event.change}"
        case e.RolesDeclared():
            return "roles: " + "; ".join(f"{role}: {', '.join(who)}" for role, who in event.roles.items())


def _from(address: str | None) -> str:
    return f" from {address}" if address else ""


def _by(user: str | None) -> str:
    return f" of {user}" if user else ""


def _named(run_id: str | None) -> str:
    return f" as {run_id}" if run_id else ""


def _again(first: str | None) -> str:
    return f", to run job {first} again" if first else ""


def _whom(share: e.Share) -> str:
    return f"by the link {share.id}" if share.to is None else f"with {share.to}"


def _because(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def _results(results: Sequence[e.Result]) -> str:
    return f"{len(results)} result{'s' * (len(results) != 1)}"
