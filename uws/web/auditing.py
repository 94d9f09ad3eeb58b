"""``/audit``: the record, for auditors: what happened, the queue as it was, the chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from lxml import etree

from eventstore import RecordedEvent, to_microseconds
from projections import Sought
from uws.audit import (
    READ_MODEL,
    Entry,
    Past,
    State,
    chain_of,
    check_time,
    entry_of,
)
from uws.jobs import Backend
from uws.model import Action, NotAuthenticated, NotAuthorized, NotFound, UsageError, did_you_mean
from uws.model import events as e
from uws.model.text import made_fit
from uws.model.units import format_time

from .documents import add, with_stylesheet
from .forms import Pair, instant, query_of, single, whole_number
from .negotiation import HTML, JSON, Form, form_of
from .queues import Paused, Waits, add_job, told_of
from .resource import Resource

R = TypeVar("R")
RECORD = "urn:uwsd:audit"
"""The namespace of what tells of the record."""
SHOWN, MOST = 100, 1000
"""Events of a page, by default and at most."""
JOBS_SHOWN = 200
"""Jobs of each kind that are shown of a queue as it was."""
TIMES = ("SINCE", "UNTIL")
FILTERS = ("JOB", "OWNERID", "SERVICE", "ACTOR", "TYPE", *TIMES)


class Events(msgspec.Struct, frozen=True):
    """Some events of the log, in its order, and the URL of those behind them, if there are any.

    ``missing`` says why there are none of the job that was asked for.
    """

    events: list[Entry]
    next: str | None
    missing: str | None


class Count(msgspec.Struct, frozen=True):
    """How many jobs of a service were in a phase."""

    service: str
    phase: str
    jobs: int


class RunningThen(msgspec.Struct, frozen=True):
    """A job for which there was a program running."""

    job: str
    service: str
    owner: str | None
    since: str


class StateThen(msgspec.Struct, frozen=True, kw_only=True):
    """The queue as it was; the jobs of each kind are the first so many of ``ran`` and ``waited``."""

    time: str
    counts: list[Count]
    destroyed: int
    ran: int
    running: list[RunningThen]
    waited: int
    waiting: list[Waits]
    paused: list[Paused]


# What is asked for


async def record(request: web.Request) -> web.Response:
    """``/audit``: events that all filters let through; on a page without any, the last ones."""
    resource, pairs, form = asked(request, *FILTERS, "AFTER", "LIMIT")
    past = past_of(resource)
    sought, job_id = _sought(pairs), single(pairs, "JOB")
    await past.check(sought)
    limit = min(number_of(pairs, "LIMIT", SHOWN, 1), MOST)
    after = number_of(pairs, "AFTER", -1, 0)
    if after < 0:
        is_bare = form is HTML and not any(single(pairs, name) for name in FILTERS)
        after = max(0, (await backend_of(resource).store.head()).position - limit) if is_bare else 0
    found, missing = await _events(past, sought, job_id, after, limit + 1)
    following = _url(resource, pairs, found[limit - 1].position) if len(found) > limit else None
    entries = [entry_of(event) for event in found[:limit]]
    if form is JSON:
        return resource.answer(msgspec.json.encode(Events(entries, following, missing)), form)
    root = root_of("record")
    for name in FILTERS:
        if value := single(pairs, name):
            add(root, "filter", as_field(instant(value, name)) if name in TIMES else value, name=name)
    if after:
        root.set("first", _url(resource, pairs, 0))
    if following:
        root.set("next", following)
    if missing:
        add(root, "missing", missing)
    for kind in sorted(e.EVENT_TYPES):
        add(root, "type", kind)
    for entry in entries:
        add_entry(root, entry)
    return resource.answer(with_stylesheet(root, resource.preamble("audit")), form)


async def to_record(request: web.Request) -> web.Response:
    """``/audit/`` is ``/audit``."""
    resource, _, _ = asked(request)
    return resource.see(f"{resource.base_url}/audit")


async def state_then(request: web.Request) -> web.Response:
    """``/audit/state``: how many jobs there were at a time, which ran, and who waited for whom."""
    resource, pairs, form = asked(request, "AT", "SERVICE", "OWNERID")
    at, service, owner = (single(pairs, name) or None for name in ("AT", "SERVICE", "OWNERID"))
    backend = backend_of(resource)
    past = past_of(resource)
    now = backend.clock.now()
    time = instant(at, "AT") if at else now
    check_time("AT", time, now)
    state = _told(await past.state(time, service=service, owner=owner))
    if form is JSON:
        return resource.answer(msgspec.json.encode(state), form)
    root = root_of("state", time=state.time, destroyed=str(state.destroyed))
    shown = as_field(instant(at or state.time, "AT"))
    for name, value in (("AT", shown), ("SERVICE", service), ("OWNERID", owner)):
        if value:
            add(root, "filter", value, name=name)
    for pause in state.paused:
        add(root, "paused", pause.service or "", since=pause.since)
    for count in state.counts:
        add(root, "count", str(count.jobs), service=count.service, phase=count.phase)
    for kind, jobs, all_of_them in (
        ("running", state.running, state.ran),
        ("waiting", state.waiting, state.waited),
    ):
        part = add(root, kind, of=str(all_of_them))
        for job in jobs:
            add_job(part, job)
    return resource.answer(with_stylesheet(root, resource.preamble("audit")), form)


async def chain(request: web.Request) -> web.Response:
    """``/audit/chain``: where the log ends, and its last checkpoint."""
    resource, _, form = asked(request)
    backend, settings = backend_of(resource), resource.site.audit
    data = backend.files.data
    found = await chain_of(backend.store, data / settings.key, data / settings.checkpoints)
    if form is JSON:
        return resource.answer(msgspec.json.encode(found), form)
    root = root_of("chain", position=str(found.position), hash=found.hash)
    if found.missing:
        add(root, "missing", found.missing)
    if signed := found.checkpoint:
        facts = {name: str(fact) for name, fact in msgspec.structs.asdict(signed).items()}
        add(root, "checkpoint", facts.pop("note"), **facts)
    return resource.answer(with_stylesheet(root, resource.preamble("audit")), form)


# How it is found


def asked(request: web.Request, *names: str) -> tuple[Resource, Sequence[Pair], Form]:
    """Return what all begin with, for auditors alone. What was left blank was not asked for.

    Raises `NotAuthenticated`, `NotAuthorized`; `UsageError` for what has another name than ``names``.
    """
    resource = Resource(request)
    caller = resource.caller
    caller.check_scope(Action.AUDIT)
    if not caller.may_with_all(Action.AUDIT):
        if caller.user is None:
            raise NotAuthenticated("the record is for auditors: say who you are")
        raise NotAuthorized("the record is for auditors and admins")
    pairs = query_of(request)
    known = (*names, "RESPONSEFORMAT")
    for pair in pairs:
        if pair.name.upper() not in known:
            hint = did_you_mean(pair.name, known)
            raise UsageError(f"{pair.name[:100]}: not known here{hint}; expected {', '.join(known)}")
    return resource, [pair for pair in pairs if pair.value], form_of(request, pairs)


def backend_of(resource: Resource) -> Backend:
    """Return what is asked. Raises `NotFound` where there is none."""
    if (backend := resource.site.backend) is None:
        raise NotFound("there is no service, and nothing on record")
    return backend


def past_of(resource: Resource) -> Past:
    """Return what answers; the read model is waited for by what needs it."""
    backend = backend_of(resource)

    async def ask(question: Callable[..., R], *arguments: Any, **named: Any) -> R:
        await backend.projector.caught_up(READ_MODEL)
        return await backend.projector.ask_at_length(READ_MODEL, question, *arguments, **named)

    return Past(backend.store, ask, backend.limits, backend.allowed)


def _sought(pairs: Sequence[Pair]) -> Sought:
    owner, service, actor, kind = (
        single(pairs, name) or None for name in ("OWNERID", "SERVICE", "ACTOR", "TYPE")
    )
    since, until = (_micros(single(pairs, name), name) for name in ("SINCE", "UNTIL"))
    return Sought(owner, service, actor, kind, since, until)


def _url(resource: Resource, pairs: Sequence[Pair], after: int) -> str:
    """Return where those events are behind a position that were asked for."""
    kept = [(name, value) for name, value in pairs if name.upper() != "AFTER"]
    return f"{resource.base_url}/audit?{urlencode([*kept, ('AFTER', after)])}"


def as_field(time: datetime) -> str:
    """Return a time as fields of browsers take it; one that is finer than theirs, to the microsecond."""
    time = time.replace(tzinfo=None)
    return time.isoformat(timespec="microseconds" if time.microsecond % 1000 else "milliseconds")


def _micros(text: str | None, name: str) -> int | None:
    return to_microseconds(instant(text, name)) if text else None


def number_of(pairs: Sequence[Pair], name: str, default: int, least: int) -> int:
    """Return a whole number that was asked for. Raises `UsageError`."""
    text = single(pairs, name)
    return default if text is None else whole_number(text, name, least)


async def _events(
    past: Past, sought: Sought, job_id: str | None, after: int, limit: int
) -> tuple[list[RecordedEvent], str | None]:
    """Return events in order, or why there are none of a job.

    Those of a job are looked for in its stream, where erased ones are, too.
    """
    if job_id is None:
        return [event async for event in past.events(sought, after=after, limit=limit)], None
    try:
        found = [event async for event in past.events_of(job_id, sought) if event.position > after]
    except NotFound as error:
        return [], str(error)
    return found[:limit], None


def _told(state: State) -> StateThen:
    return StateThen(
        time=format_time(state.time),
        counts=[Count(service, phase, jobs) for (service, phase), jobs in state.counts.items()],
        destroyed=state.destroyed,
        ran=len(state.running),
        running=[
            RunningThen(job.job_id, job.service, job.owner, format_time(job.started))
            for job in state.running[:JOBS_SHOWN]
        ],
        waited=len(state.waiting),
        waiting=[told_of(one) for one in state.waiting[:JOBS_SHOWN]],
        paused=[Paused(service, format_time(since)) for service, since in state.paused.items()],
    )


def root_of(name: str, **facts: str) -> etree._Element:
    """Return the root of a document that tells of the record."""
    return etree.Element(f"{{{RECORD}}}{name}", facts, {"a": RECORD})


def add_entry(root: etree._Element, entry: Entry) -> etree._Element:
    """Add an event, and return it."""
    facts = msgspec.structs.asdict(entry)
    text = facts.pop("text")
    told = {
        name: "true" if fact is True else str(fact)
        for name, fact in facts.items()
        if fact is not None and fact is not False
    }
    event = add(root, "event", text)
    for name, fact in told.items():
        event.set(name, made_fit(fact))
    return event
