"""What is offered: the services, and each with the form in which a job of it is ordered."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import web
from lxml import etree

from uws.jobs import UserUWS
from uws.model import SETTING_UP, IllegalPhase, Job, OtherService, UsageError

from .documents import with_stylesheet
from .errors import answer_for
from .forms import Pair, Received, query_of, single
from .negotiation import HTML, JSON, form_of
from .order_form import NAMESPACES, SERVICE, describe, filled_as_sent, filled_in, form_document
from .resource import Resource

FROM_JOB, CHANGE_JOB = "FROM-JOB", "CHANGE-JOB"
"""What no parameter of a service can be called."""


class Entry(msgspec.Struct, frozen=True):
    """A service, as JSON."""

    name: str
    title: str
    description: str
    jobs: str
    parameters: str


async def index(request: web.Request) -> web.Response:
    """``/``: the services."""
    resource = Resource(request)
    form = form_of(request, query_of(request))
    services = [uws.at(resource.base_url) for uws in resource.offered]
    if form is JSON:
        return resource.answer(msgspec.json.encode([_entry(uws) for uws in services]), form)
    root = etree.Element(f"{{{SERVICE}}}services", nsmap=NAMESPACES)
    for uws in services:
        describe(etree.SubElement(root, f"{{{SERVICE}}}service"), uws)
    return resource.answer(with_stylesheet(root, resource.preamble("services")), form)


async def service(request: web.Request) -> web.Response:
    """``/{service}``: its parameters, as a form that the query fills in.

    ``from-job`` names a job of this service, whose parameters are taken where the query says nothing;
    ``change-job`` one that is itself to be changed. Raises `IllegalPhase` when that is too late.
    """
    resource = Resource(request)
    pairs = query_of(request)
    form = form_of(request, pairs)
    if form is JSON:
        return resource.answer(msgspec.json.encode(_entry(resource.uws)), form)
    earlier, changed = [await _job(resource, pairs, name) for name in (FROM_JOB, CHANGE_JOB)]
    if changed and changed.phase not in SETTING_UP:
        raise IllegalPhase(changed.id, changed.phase, "setting parameters", SETTING_UP)
    filled = await filled_in(resource, pairs, changed or earlier)
    return resource.answer(form_document(resource, filled, changed=changed), form)


async def _job(resource: Resource, pairs: Sequence[Pair], name: str) -> Job | None:
    """Return the job of the service that a query names. Raises `UsageError` for another service's."""
    job_id = single(pairs, name)
    try:
        return await resource.uws.get_job(job_id, resource.caller) if job_id else None
    except OtherService as error:
        raise UsageError(f"{name.lower()}: {error}") from error


async def to_service(request: web.Request) -> web.Response:
    """``/{service}/``: where the pages of its jobs lead."""
    resource = Resource(request)
    query = request.rel_url.raw_query_string
    return resource.see(resource.uws.service_url + (f"?{query}" if query else ""))


async def refused(
    resource: Resource, received: Received, error: Exception, changed: Job | None = None
) -> web.Response:
    """Answer with the form as it was sent, and say in it what ``error`` is, and what else is wrong.

    It is that of a new job, or of one to be ``changed``.
    """
    answer = answer_for(error)
    assert answer is not None, "this error is meant for a client"
    filled = await filled_as_sent(resource, received, error)
    # It is shown where it was sent to: one part deeper, or three.
    root = "../../../" if changed else "../"
    response = resource.answer(form_document(resource, filled, root, changed), HTML, status=answer.status)
    if (seconds := answer.headers.get("Retry-After")) is not None:
        response.headers["Retry-After"] = seconds
    return response


def _entry(uws: UserUWS) -> Entry:
    service = uws.service
    return Entry(
        service.name, service.title, service.description, uws.joblist_url,
        f"{uws.service_url}/parameters.json",
    )  # fmt: skip
