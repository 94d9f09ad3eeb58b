"""``/queue``: which jobs wait, of whomever, and why; operators pause it and have it go on."""

from __future__ import annotations

import msgspec
from aiohttp import web
from lxml import etree

from uws.model import Action, NotAuthenticated, NotAuthorized, NotFound, UsageError
from uws.model.units import format_time
from uws.queueing import Queueing, QueueShown, Waiting

from .documents import add, with_stylesheet
from .forms import query_of, read_form
from .negotiation import JSON, form_of
from .resource import Resource, ask_again

QUEUE = "urn:uwsd:queue"
"""The namespace of what tells of the queue."""
SHOWN = 1000
"""Jobs that wait which are shown."""


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """A job that waits: its place in the queue of its service (none while it is HELD), and why."""

    job: str
    service: str
    owner: str | None
    phase: str
    since: str | None
    place: int | None
    reason: str


class Paused(msgspec.Struct, frozen=True):
    """A pause: of a service, or of the whole queue."""

    service: str | None
    since: str


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The queue; there may be ``more`` jobs that wait."""

    paused: list[Paused]
    running: int
    waiting: list[Waits]
    more: bool


async def queue(request: web.Request) -> web.Response:
    """GET ``/queue``: for those whose role lets them look at the jobs of others."""
    resource = Resource(request)
    _check(resource, Action.READ)
    form = form_of(request, query_of(request))
    shown = _told(await _queueing(resource).show(SHOWN))
    if form is JSON:
        return resource.answer(msgspec.json.encode(shown), form)
    may_pause = resource.caller.has_scope(Action.QUEUE) and resource.caller.may_with_all(Action.QUEUE)
    facts = {"running": str(shown.running), **({"more": "true"} if shown.more else {})}
    root = etree.Element(f"{{{QUEUE}}}queue", facts, {"q": QUEUE})
    for name in resource.site.services if may_pause else ():
        add(root, "service", name)
    for pause in shown.paused:
        add(root, "paused", pause.service or "", since=pause.since)
    for job in shown.waiting:
        add_job(root, job)
    if may_pause:
        root.set("may", "pause")
    return resource.answer(with_stylesheet(root, resource.preamble("queue")), form)


async def steer(request: web.Request) -> web.Response:
    """POST to ``/queue``: ``ACTION=PAUSE`` or ``ACTION=RESUME``, of a ``SERVICE`` or of the whole queue."""
    resource = Resource(request)
    _check(resource, Action.QUEUE)
    action, service = await read_form(request, "ACTION", "SERVICE")
    await ask_again(request)
    _check(resource, Action.QUEUE)
    queueing = _queueing(resource)
    if action == "PAUSE":
        await queueing.pause(service or None, resource.caller)
    elif action == "RESUME":
        await queueing.resume(service or None, resource.caller)
    else:
        raise UsageError(f"ACTION: expected PAUSE or RESUME, got {action[:100]!r}")
    return resource.see(f"{resource.base_url}/queue")


def _check(resource: Resource, action: Action) -> None:
    caller = resource.caller
    caller.check_scope(action)
    if caller.may_with_all(action):
        return
    if caller.user is None:
        raise NotAuthenticated("the queue is for operators: say who you are")
    raise NotAuthorized(f"you may not {action} the queue")


def _queueing(resource: Resource) -> Queueing:
    if (backend := resource.site.backend) is None:
        raise NotFound("there is no service, and no queue")
    return backend.queueing


def _told(found: QueueShown) -> Shown:
    return Shown(
        paused=[Paused(service, format_time(since)) for service, since in found.paused],
        running=found.running,
        waiting=[told_of(one) for one in found.waiting],
        more=found.more,
    )


def told_of(one: Waiting) -> Waits:
    """Say how a job waits."""
    return Waits(
        job=one.job.job_id,
        service=one.job.service,
        owner=one.job.owner,
        phase=one.job.phase,
        since=format_time(one.job.queued) if one.job.queued else None,
        place=one.place,
        reason=one.reason,
    )


def add_job(parent: etree._Element, job: msgspec.Struct) -> None:
    """Add what is told of a job that runs or waits, with the reason, if there is one, as its text."""
    told = {name: str(fact) for name, fact in msgspec.structs.asdict(job).items() if fact is not None}
    add(parent, "job", told.pop("reason", ""), **told)
