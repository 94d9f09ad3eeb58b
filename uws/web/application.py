"""The aiohttp application: routes, and what every request goes through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractResolver
from aiohttp.http import HttpVersion10, HttpVersion11

from uws.config import AuditSettings, UploadSettings
from uws.jobs import UserUWS
from uws.metrics import Metrics
from uws.model import (
    Action,
    Identity,
    NotAuthenticated,
    NotAuthorized,
    OnOtherNode,
    OtherService,
    UsageError,
)
from uws.model.text import first_foreign

from . import handlers as on
from . import previews
from .accounting import METRICS, PROBES, accounted, metrics, note_malformed_in_words, with_metrics
from .auditing import chain, record, state_then, to_record
from .availability import availability, healthz, note_start, readyz, service_availability
from .capabilities import capabilities
from .connections import Connection
from .descriptor import descriptor
from .errors import (
    SERVER_NAME,
    Encoded,
    Handler,
    Misframed,
    UnknownCoding,
    UnknownVersion,
    answer_for,
    fault_response,
    http_fault,
)
from .events import STREAMS, Streams, job_events, job_list_events
from .examples import example_file, examples
from .faults import readable
from .fetching import Fetcher
from .forms import key_of, take_bad_headers_quietly
from .history import history
from .job_lists import job_list
from .job_then import job_then
from .login import login, login_form, logout
from .negotiation import is_for_reading
from .openapi import openapi
from .origins import check_host, check_origin
from .pages import STATIC, protect
from .peering import handed_on, is_of_node, offering_files
from .provenance import DRAWINGS, Drawings, provenance
from .queues import queue, steer
from .resource import (
    CALLER,
    FETCHER,
    LONGEST_WAIT,
    SITE,
    SYNC_SECONDS,
    Authenticator,
    Resource,
    Site,
)
from .services import index, service, to_service
from .shares import keep_to_ourselves, led_on, let_in, link_of, share, shares, unshare
from .sync import outcome, sync
from .waiting import WAITS_PER_OWNER, Waits

_log = logging.getLogger(__name__)

_COMMANDS = frozenset({"POST", "PUT", "DELETE"})
_REFUSALS = (NotAuthenticated, NotAuthorized)
_FOR_ANYBODY = PROBES | {"availability", "service-availability", "static", "login", "logout"}
"""The routes on which nobody is asked who he is (VOSI, and what machines ask)."""
_welcome = offering_files(
    on.parameter, on.result, on.log, previews.result_preview, previews.log_preview, previews.picture
)
_FOR_NOBODY_TOO = frozenset({"login-form", "capabilities"})
"""The routes on which he is who he says, or nobody: he may be here to learn how to be somebody."""


def make_application(
    services: Iterable[UserUWS],
    *,
    base_url: str | None = None,
    authenticator: Authenticator | None = None,
    uploads: UploadSettings | None = None,
    resolver: AbstractResolver | None = None,
    longest_wait: float = LONGEST_WAIT,
    sync_seconds: float = SYNC_SECONDS,
    waits_per_owner: int = WAITS_PER_OWNER,
    audit: AuditSettings | None = None,
) -> web.Application:
    """Return an application that offers ``services``; `aiohttp.web.Application.add_subapp` can mount it.

    ``base_url`` is how clients reach it (behind a proxy), by default the way each request came.
    ``uploads`` says what ``UPLOAD=name,http://…`` may name; the addresses of such hosts are found by
    ``resolver``, by default the system's. ``longest_wait`` bounds WAIT, and ``sync_seconds`` the wait for the
    result of a synchronous request, in seconds; ``waits_per_owner`` requests of one owner may wait at a time.
    ``audit`` says where checkpoints of the log are, and the key that they are signed with.
    """
    note_malformed_in_words()
    take_bad_headers_quietly()
    app = web.Application(middlewares=[accounted, _every_request])
    app[METRICS] = Metrics()
    app[SITE] = Site(
        services={uws.service.name: uws for uws in services},
        base_url=base_url.rstrip("/") if base_url else None,
        closing=asyncio.Event(),
        authenticator=authenticator,
        longest_wait=longest_wait,
        sync_seconds=sync_seconds,
        waits=Waits(waits_per_owner),
        audit=audit or AuditSettings(),
    )
    app[STREAMS] = Streams()
    app[previews.PICTURES] = previews.Pictures()
    app[DRAWINGS] = Drawings()

    async def with_fetcher(app: web.Application) -> AsyncIterator[None]:
        app[FETCHER] = Fetcher(uploads or UploadSettings(), resolver or aiohttp.ThreadedResolver())
        yield

    app.cleanup_ctx.append(with_fetcher)
    app.cleanup_ctx.append(previews.with_threads)
    app.cleanup_ctx.append(with_metrics)
    app.on_startup.append(note_start)
    app.on_response_prepare.append(keep_to_ourselves)
    app.on_response_prepare.append(protect)
    app.on_response_prepare.append(_say_who)
    app.on_shutdown.append(_let_waiting_go)
    _add_routes(app)
    return app


def _add_routes(app: web.Application) -> None:
    app.router.add_get("/", index, name="index")
    app.router.add_get("/availability", availability, name="availability")
    app.router.add_get("/metrics", metrics, name="metrics")
    app.router.add_get("/healthz", healthz, name="healthz")
    app.router.add_get("/readyz", readyz, name="readyz")
    app.router.add_static("/static", STATIC, name="static")
    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/login", login_form, name="login-form")
    app.router.add_post("/login", login, name="login")
    app.router.add_post("/logout", logout, name="logout")
    app.router.add_get("/queue", queue)
    app.router.add_post("/queue", steer)
    app.router.add_get("/audit", record)
    app.router.add_get("/audit/", to_record)
    app.router.add_get("/audit/chain", chain)
    app.router.add_get("/audit/jobs/{job}", job_then)
    app.router.add_get("/audit/state", state_then)
    app.router.add_get("/{service}", service)
    app.router.add_get("/{service}/", to_service)
    app.router.add_get("/{service}/parameters.json", on.parameters_json)
    app.router.add_get("/{service}/availability", service_availability, name="service-availability")
    app.router.add_get("/{service}/capabilities", capabilities, name="capabilities")
    app.router.add_get("/{service}/descriptor", descriptor)
    app.router.add_get("/{service}/examples", examples)
    example = "/{service}/examples/{example}/{name}"
    app.router.add_get(example, example_file)
    app.router.add_get(f"{example}/{{number:[0-9]{{1,6}}}}", example_file)
    app.router.add_get("/{service}/sync", sync, allow_head=False)  # HEAD would make a job, too
    app.router.add_post("/{service}/sync", sync)
    app.router.add_get("/{service}/sync/{job_id}", outcome)
    for jobs in ("/{service}/async", "/{service}/uws.xml"):
        app.router.add_get(jobs, job_list)
        app.router.add_get(
            f"{jobs}/", job_list
        )  # what uws-client makes of a redirect to the list with a query
        app.router.add_post(jobs, on.create)
        app.router.add_get(f"{jobs}/events", job_list_events)  # before a job of this name
        _add_job_routes(app, f"{jobs}/{{job_id}}")


def _add_job_routes(app: web.Application, job: str) -> None:
    app.router.add_get(job, on.job_document)
    app.router.add_post(job, on.changing())
    app.router.add_delete(job, on.destroy)
    for name, read in on.VALUES.items():
        app.router.add_get(f"{job}/{name}", on.value_of(read))
    app.router.add_post(f"{job}/phase", on.changing("PHASE"))
    for name in ("executionduration", "destruction"):
        app.router.add_post(f"{job}/{name}", on.setting(name.upper()))
    app.router.add_get(f"{job}/parameters", on.parameters)
    app.router.add_post(f"{job}/parameters", on.set_parameters)
    app.router.add_get(f"{job}/parameters/{{name}}", on.parameter)
    app.router.add_put(f"{job}/parameters/{{name}}", on.put_parameter)
    app.router.add_get(f"{job}/parameters/{{name}}/{{number:[0-9]{{1,6}}}}", on.parameter)
    app.router.add_get(f"{job}/results", on.results)
    app.router.add_get(f"{job}/results/{{result_id}}", on.result)
    app.router.add_get(f"{job}/results/{{result_id}}/preview", previews.result_preview)
    app.router.add_get(f"{job}/results/{{result_id}}/quicklook", previews.picture, allow_head=False)
    app.router.add_get(f"{job}/logs/{{name:stdout|stderr}}", on.log)
    app.router.add_get(f"{job}/logs/{{name:stdout|stderr}}/preview", previews.log_preview)
    app.router.add_get(f"{job}/history", history)
    app.router.add_get(
        f"{job}/provenance", provenance, allow_head=False
    )  # to know a drawing's size is to make it
    app.router.add_get(f"{job}/events", job_events)
    app.router.add_get(f"{job}/shares", shares)
    app.router.add_post(f"{job}/shares", share)
    app.router.add_delete(f"{job}/shares/{{share_id}}", unshare)
    app.router.add_post(f"{job}/shares/{{share_id}}", unshare)


@web.middleware
async def _every_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who asks, and turn errors into answers."""
    request_id = request[CALLER].request_id or ""
    authenticator = request.app[SITE].authenticator
    response: web.StreamResponse | None
    try:
        _check_framing(request)
        _welcome(request)
        if not is_of_node(request):
            check_host(request, request.app[SITE].base_url)
        if request.method in _COMMANDS:
            check_origin(request, request.app[SITE].base_url)
        if request.match_info.route.name not in _FOR_ANYBODY and not is_of_node(request):
            await _find_out_who(authenticator, request)
            if request.match_info.route.name != "capabilities":
                _check_service(request)
        if request.method in _COMMANDS:
            request[CALLER] = replace(request[CALLER], key=key_of(request))
        response = await _answer(request, handler)
        if request.match_info.route.name == "capabilities" and request[CALLER].user is None:
            response.headers.extend(("WWW-Authenticate", challenge) for challenge in _challenges(request))
    except web.HTTPException as error:
        if error.status < 400:
            error.headers["X-Request-ID"] = request_id
            raise
        response = readable(request, http_fault(error, request))
    except Exception as error:
        challenges = _challenges(request) if isinstance(error, NotAuthenticated) else ()
        response = answer_for(error, challenges)
        # What a command refers to in vain is what led to its own error.
        refused = next((e for e in (error, error.__cause__) if isinstance(e, _REFUSALS)), None)
        if refused and authenticator:
            authenticator.note_refusal(request, refused)
        if response is None:
            _log.exception("request %s: %s %s failed", request_id, request.method, request.rel_url.raw_path)
            response = fault_response(
                500, "DefaultFault", f"an internal error; it is on record as {request_id}"
            )
        response = readable(request, response)
        if isinstance(error, Misframed):
            response.force_close()
    response.headers["X-Request-ID"] = request_id
    return response


async def _say_who(request: web.Request, response: web.StreamResponse) -> None:
    """Tell a client whom the server takes it for (IVOA AuthVO), and nobody what it is made of."""
    response.headers["Server"] = SERVER_NAME
    user = request[CALLER].user if CALLER in request else None
    if user and user.isascii() and user.isprintable():
        response.headers["X-VO-Authenticated"] = user


async def _find_out_who(authenticator: Authenticator | None, request: web.Request) -> None:
    link = link_of(request)
    try:
        identity = await _identified(authenticator, request) if authenticator else Identity()
        request[CALLER] = request[CALLER].known_as(replace(identity, link=link))
        if identity.user is not None and isinstance(request.protocol, Connection):
            request.protocol.is_known()  # to others it does not give way
    except NotAuthenticated:
        if link is None or "Authorization" in request.headers:
            raise
        await let_in(request, link)


def _check_service(request: web.Request) -> None:
    """Raise `NotAuthorized` where a service is limited to others. To a job its own rule applies."""
    about = request.match_info
    if "job_id" not in about and (uws := request.app[SITE].services.get(about.get("service", ""))):
        request[CALLER].check_use(Action.READ, uws.service)


async def _identified(authenticator: Authenticator, request: web.Request) -> Identity:
    try:
        identity = await authenticator.identify(request)
    except NotAuthenticated:
        if request.match_info.route.name not in _FOR_NOBODY_TOO:
            raise
        return Identity()
    if identity.user is not None and first_foreign(identity.user):
        raise NotAuthenticated("the user's name has a character that cannot be part of an XML document")
    return identity


def _challenges(request: web.Request) -> Sequence[str]:
    authenticator = request.app[SITE].authenticator
    if authenticator is None:
        return ()
    try:
        challenges = authenticator.challenges(Resource(request).base_url)
    except UsageError:  # its Host says nothing; the client has other things to mend first
        return ()
    if authenticator.session and is_for_reading(request):
        # For these a browser would ask in a window of its own, of which there is no way out.
        return [challenge for challenge in challenges if not challenge.startswith("Basic ")]
    return challenges


def _check_framing(request: web.Request) -> None:
    """Refuse what a proxy in front may understand in another way, and a body that has to be unpacked.

    Some kilobytes may be unpacked to gigabytes, and no client of these services needs that.
    """
    if request.version not in (HttpVersion10, HttpVersion11):
        raise UnknownVersion("only HTTP/1.1 and HTTP/1.0 are spoken here")
    for coding in request.headers.getall("Transfer-Encoding", []):
        if request.version == HttpVersion10:
            raise Misframed("Transfer-Encoding: HTTP/1.0 knows none (RFC 9112 section 6.1)")
        if coding.strip().lower() != "chunked":
            raise UnknownCoding(f"Transfer-Encoding: expected chunked, got {coding}")
    for coding in request.headers.getall("Content-Encoding", []):
        if coding.strip().lower() != "identity":
            raise Encoded(f"Content-Encoding: a body is sent as it is, without {coding}")


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await led_on(request) or await handler(request)
    except OtherService as error:
        return Resource(request).elsewhere(error)
    except OnOtherNode as error:
        return await handed_on(request, error)


async def _let_waiting_go(app: web.Application) -> None:
    site = app[SITE]
    site.closing.set()
    if site.backend:
        site.backend.projector.wake()  # who waits sees that it is over
    app[STREAMS].close()
