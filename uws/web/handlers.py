"""The resources of UWS 1.1 (section 2.2): one handler for each, thin over `UserUWS`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from aiohttp import web
from lxml import etree
from lxml.html import builder as h

from uws.commands import Caller, Changes
from uws.files import Spooled
from uws.jobs import UserUWS
from uws.model import (
    FileParameter,
    Job,
    NotFound,
    OtherService,
    ParameterError,
    Phase,
    Result,
    Upload,
    UsageError,
    did_you_mean,
    parameters_schema,
)
from uws.model.units import format_time

from . import documents, json_documents
from .conditions import is_held, tag_of
from .errors import Handler
from .fetching import Fetcher
from .forms import phase_of, query_of, read_file, read_submission, read_value, single, whole_number
from .negotiation import HTML, JSON, Form, accepted, form_of, negotiate
from .stored import stored_file

LONGEST_WAIT = 60
"""Seconds that WAIT blocks at most: below the time-outs that proxies and clients usually have."""

SHOWN_AFTER_DELETION = 100
"""Jobs of the list that a client is led to when it has deleted one."""
Render = Callable[[UserUWS, Job], bytes]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


class Authenticator(Protocol):
    """Tells who sends a request."""

    challenge: str
    """The value of WWW-Authenticate for those who must say who they are."""

    async def identify(self, request: web.Request) -> str | None:
        """Return the user, None for nobody in particular. Raises `NotAuthenticated` for wrong credentials."""
        ...


@dataclass(frozen=True)
class Site:
    """What the handlers know of the server they belong to. ``base_url`` None: as the request came."""

    services: dict[str, UserUWS]
    base_url: str | None
    closing: asyncio.Event
    authenticator: Authenticator | None
    longest_wait: float = LONGEST_WAIT


SITE = web.AppKey("site", Site)
FETCHER = web.AppKey("fetcher", Fetcher)
CALLER = web.RequestKey("caller", Caller)


class Resource:
    """What all handlers begin with: the service, the caller, the job."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.site = request.app[SITE]
        self.caller = request[CALLER]

    @property
    def base_url(self) -> str:
        if self.site.base_url:
            return self.site.base_url
        host = self.request.headers.get("Host")
        if host is None:
            host = _own_address(self.request)
        if not _HOST.fullmatch(host):
            raise UsageError("the Host header names no host")
        prefix = str(self.request.app.router["index"].url_for()).rstrip("/")
        return f"{self.request.scheme}://{host}{prefix}"

    @cached_property
    def uws(self) -> UserUWS:
        name = self.request.match_info["service"]
        try:
            return self.site.services[name].at(self.base_url)
        except KeyError:
            raise NotFound(f"there is no service {name}{did_you_mean(name, self.site.services)}") from None

    @property
    def job_id(self) -> str:
        return self.request.match_info["job_id"]

    async def job(self) -> Job:
        """Return the job that the URL names, for those who only look."""
        return await self.uws.get_job(self.job_id, self.caller)

    async def admit(self) -> bool:
        """See `UserUWS.admit`: for the job that the URL names, or for a new one."""
        return await self.uws.admit(self.request.match_info.get("job_id"), self.caller)

    def elsewhere(self, error: OtherService) -> web.Response:
        """Send the client to the job's own URL when it asked for it in another service's list."""
        owner = self.site.services.get(error.service)
        if owner is None:
            raise NotFound(f"{error}, which is no longer offered")
        rest = quote(self.request.path.partition(f"/{self.job_id}")[2])
        if self.request.method in ("GET", "HEAD") and self.request.query_string:
            rest += f"?{self.request.rel_url.raw_query_string}"
        return self.see(owner.at(self.base_url).get_url_for_id(error.job_id) + rest)

    def headers(self, tag: str) -> dict[str, str]:
        """Return headers that let a client keep what has ``tag``, and ask each time if it is still good."""
        return {
            "ETag": tag,
            "Cache-Control": "private, no-cache",
            "Vary": "Accept, Authorization" if self.site.authenticator else "Accept",
        }

    def see(self, url: str) -> web.Response:
        return web.Response(status=303, headers={"Location": url})

    def see_job(self) -> web.Response:
        return self.see(self.uws.get_url_for_id(self.job_id))


def _text(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/plain")


async def index(request: web.Request) -> web.Response:
    """``/``: the services, as a page or as JSON."""
    resource = Resource(request)
    services = [uws.at(resource.base_url) for uws in resource.site.services.values()]
    vary = {"Vary": "Accept"}
    if negotiate(accepted(request), (HTML, JSON)) is JSON:
        listing = [
            {
                "name": uws.service.name,
                "title": uws.service.title,
                "description": uws.service.description,
                "jobs": uws.joblist_url,
                "parameters": f"{uws.base_url}/{uws.service.name}/parameters.json",
            }
            for uws in services
        ]
        return web.Response(body=msgspec.json.encode(listing), content_type="application/json", headers=vary)
    page = h.HTML(
        h.HEAD(h.TITLE("Services"), h.LINK(rel="stylesheet", href=f"{resource.base_url}/static/xsl/uws.css")),
        h.BODY(h.H1("Services"), *(_service_entry(uws) for uws in services)),
        lang="en",
    )
    html = etree.tostring(page, method="html", doctype="<!DOCTYPE html>", encoding="utf-8")
    return web.Response(body=html, content_type="text/html", charset="utf-8", headers=vary)


def _service_entry(uws: UserUWS) -> Any:
    service = uws.service
    return h.DIV(
        h.H2(h.A(service.title, href=uws.joblist_url)),
        h.P(service.description),
        h.P(
            h.A("Jobs", href=uws.joblist_url),
            " · ",
            h.A("Parameters", href=f"{uws.base_url}/{service.name}/parameters.json"),
        ),
    )


async def service(request: web.Request) -> web.Response:
    """``/{service}``: for those who cut off the end of a URL."""
    resource = Resource(request)
    return resource.see(resource.uws.joblist_url)


async def parameters_json(request: web.Request) -> web.Response:
    """``/{service}/parameters.json``: the JSON Schema of the generated job class."""
    schema = parameters_schema(Resource(request).uws.job_class)
    return web.Response(body=msgspec.json.encode(schema), content_type="application/schema+json")


async def create(request: web.Request) -> web.Response:
    """POST to the job list: a new job, and RUN with it when ``PHASE=RUN`` is there."""
    resource = Resource(request)
    uws = resource.uws
    comes_again = await resource.admit()
    async with uws.backend.files.spool(keep=not comes_again) as spool:
        sent = await read_submission(request, uws.service, spool, request.app[FETCHER])
        if sent.phase == "ABORT" or sent.delete:
            raise UsageError("a job that is only being created can neither be aborted nor deleted")
        job = await uws.create_job(sent.changes, resource.caller, run=sent.phase == "RUN")
    return resource.see(uws.get_url_for_id(job.id))


async def job_document(request: web.Request) -> web.Response:
    """``{job}``: the document; blocks while WAIT says so (section 2.2.1.1)."""
    resource = Resource(request)
    pairs = query_of(request)
    form = form_of(request, pairs)
    wait, wanted = single(pairs, "WAIT"), single(pairs, "PHASE")
    job = await resource.job()
    phase = None if wanted is None else phase_of(wanted)
    if wait is not None:
        seconds = whole_number(wait, "WAIT", -1)
        longest = resource.site.longest_wait
        job = await resource.uws.wait(
            resource.job_id,
            resource.caller,
            seconds=longest if seconds < 0 else min(seconds, longest),
            phase=phase,
            closing=resource.site.closing,
        )
    standing = await resource.uws.standing(job)
    xml = partial(documents.job_document, standing=standing)
    return _part(resource, job, form, xml, partial(json_documents.job_document, standing=standing))


def _part(resource: Resource, job: Job, form: Form, xml: Render, json: Render) -> web.Response:
    """Answer with what tells of a job, or of a part of it, or with 304 when the client holds it."""
    body = (json if form is JSON else xml)(resource.uws, job)
    headers = resource.headers(tag_of(body))
    if is_held(resource.request, headers["ETag"]):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers={**headers, "Content-Type": form.content_type})


def changing(*expected: str) -> Handler:
    """Make the handler of POSTs to a job or to what is below it, where one of ``expected`` must be given."""

    async def change(request: web.Request) -> web.Response:
        resource = Resource(request)
        uws = resource.uws
        comes_again = await resource.admit()
        async with uws.backend.files.spool(keep=not comes_again) as spool:
            sent = await read_submission(request, uws.service, spool, request.app[FETCHER])
            if expected and not sent.given.intersection(expected):
                raise UsageError(f"{' or '.join(expected)} is missing")
            if sent.delete:
                return await _destroy(resource)
            await uws.change_job(
                resource.job_id,
                sent.changes,
                resource.caller,
                run=sent.phase == "RUN",
                abort=sent.phase == "ABORT",
            )
        return resource.see_job()

    return change


async def destroy(request: web.Request) -> web.Response:
    """DELETE of a job: back to the list when it is gone."""
    resource = Resource(request)
    await resource.admit()
    return await _destroy(resource)


async def _destroy(resource: Resource) -> web.Response:
    await resource.uws.destroy_job(resource.job_id, resource.caller)
    # A client that follows this must not be sent a list of any length (UWS 1.1 section 2.2.2.1).
    return resource.see(f"{resource.uws.joblist_url}?LAST={SHOWN_AFTER_DELETION}")


def value_of(read: Callable[[Job], str]) -> Handler:
    """Make the handler of a resource that is one value of a job, as text."""

    async def value(request: web.Request) -> web.Response:
        return _text(read(await Resource(request).job()))

    return value


def error_text(job: Job) -> str:
    """The full text of what went wrong; also why a job was aborted."""
    if job.failure:
        return job.failure.detail or job.failure.message
    return job.note if job.phase is Phase.ABORTED else ""


VALUES: dict[str, Callable[[Job], str]] = {
    "phase": lambda job: job.phase,
    "executionduration": lambda job: str(job.execution_duration),
    "destruction": lambda job: format_time(job.destruction) if job.destruction else "",
    "quote": lambda job: format_time(job.quote) if job.quote else "",
    "error": error_text,
    "owner": lambda job: job.owner or "",
}
"""The simple values below a job, by the last part of their URL."""


async def parameters(request: web.Request) -> web.Response:
    """``{job}/parameters``: the list."""
    resource = Resource(request)
    form = form_of(request, query_of(request))
    job = await resource.job()
    return _part(resource, job, form, documents.parameters_document, json_documents.parameters_document)


async def parameter(request: web.Request) -> web.StreamResponse:
    """``{job}/parameters/{name}``: the value or the uploaded file; the n-th of several with ``/n``."""
    resource = Resource(request)
    job = await resource.job()
    name = resource.uws.service.find(request.match_info["name"]) or request.match_info["name"]
    values = job.parameters.get(name)
    if not values:
        raise NotFound(f"job {job.id} has no value for {name}")
    number = request.match_info.get("number")
    if number is not None:
        if not 1 <= int(number) <= len(values):
            raise NotFound(f"{name} of job {job.id} has {len(values)} values, not {number}")
        values = values[int(number) - 1 : int(number)]
    value = values[0]
    if isinstance(value, Upload):
        directory = resource.uws.backend.files.of(job.id)
        return stored_file(
            request, directory, directory.uploads / value.file, value.media_type, value.filename or value.file
        )
    return _text("\n".join(str(value) for value in values))


async def put_parameter(request: web.Request) -> web.Response:
    """PUT of one parameter: its new value, or its new file, is the body."""
    resource = Resource(request)
    uws = resource.uws
    comes_again = await resource.admit()
    name = request.match_info["name"]
    declared = uws.service.parameters.get(uws.service.find(name) or "")
    if uws.service.find(name) is None and not comes_again:
        raise ParameterError(name, uws.service.unknown(name))
    async with uws.backend.files.spool(keep=not comes_again) as spool:
        if isinstance(declared, FileParameter):
            files: dict[str, list[Spooled]] = {name: [await read_file(request, name, declared, spool)]}
            changes = Changes(files=files)
        else:
            changes = Changes(parameters={name: [await read_value(request)]})
        await uws.change_job(resource.job_id, changes, resource.caller)
    return web.Response(status=204)


async def results(request: web.Request) -> web.Response:
    """``{job}/results``: the list."""
    resource = Resource(request)
    form = form_of(request, query_of(request))
    job = await resource.job()
    return _part(resource, job, form, documents.results_document, json_documents.results_document)


async def result(request: web.Request) -> web.StreamResponse:
    """``{job}/results/{id}``: the file, with its media type; ranges are served."""
    resource = Resource(request)
    job = await resource.job()
    wanted = request.match_info["result_id"]
    found: Result | None = next((item for item in job.results if item.id == wanted), None)
    if found is None:
        known = [item.id for item in job.results]
        raise NotFound(f"job {job.id} has no result {wanted}{did_you_mean(wanted, known)}")
    directory = resource.uws.backend.files.of(job.id)
    path = directory.root / found.path
    return stored_file(request, directory, path, found.media_type, path.name)


def _own_address(request: web.Request) -> str:
    """Return the address that an HTTP/1.0 client has connected to, which names no Host."""
    host, port = request.transport.get_extra_info("sockname")[:2] if request.transport else ("localhost", 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
