"""What every request leaves behind: its id, its measure, and a line in the server's log."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Protocol

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.log import server_logger
from structlog.contextvars import bind_contextvars, reset_contextvars

from uws.commands import Caller
from uws.metrics import Metrics

from .errors import Handler, legible
from .resource import CALLER, SITE

ACCESS_LOG = "uws.access"
_log = logging.getLogger(ACCESS_LOG)

SOON = "soon"
"""What records of the log have that may be written a moment later, with others."""
METRICS = web.AppKey("metrics", Metrics)
PROBES = frozenset({"metrics", "healthz", "readyz"})
"""The names of what machines ask for again and again; of that no line is told."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})


class Note(Protocol):
    """Takes note of a request, by its id, and of the seconds that its answer took."""

    def __call__(self, request_id: str, seconds: float, *, soon: bool = False) -> None:
        """Take note, of the line for the log ``soon``, with those of other requests of these moments."""


NOTE: web.RequestKey[Note] = web.RequestKey("note")
_WAITS = re.compile(r"(?:^|&)WAIT=", re.IGNORECASE)


def note_malformed_in_words() -> None:
    """Let the log tell of what is no HTTP in a line; aiohttp tells of it as of a fault in the program."""
    server_logger.addFilter(_in_words)  # which it is once, however often it is added


def _in_words(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        about, *_ = error.message.splitlines() or [""]  # what follows is what was sent
        record.msg = f"{record.getMessage()}: {legible(about)}"
        record.args, record.exc_info = (), None
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
    return True


@web.middleware
async def accounted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give a request an id, which is told with all that is logged meanwhile; then measure it and tell of it.

    Who asks is found out by others, when it is on record that somebody does.
    """
    began = perf_counter()
    client = legible(request.headers.get("User-Agent", ""))[:200] or None
    authenticator = request.app[SITE].authenticator
    address = authenticator.address_of(request) if authenticator else request.remote
    request_id = uuid.uuid4().hex
    request[CALLER] = Caller(request_id=request_id, client=client, address=address)
    about = {
        "request_id": request_id,
        "user_agent": client,
        "job_id": request.match_info.get("job_id"),
    }
    bound = bind_contextvars(**{key: value for key, value in about.items() if value})
    try:
        answer = await handler(request)
        note = request[NOTE] = _note_of(request, answer.status)
        note(request_id, perf_counter() - began)
        return answer
    except web.HTTPException as redirect:
        _note_of(request, redirect.status)(request_id, perf_counter() - began)
        raise
    finally:
        reset_contextvars(**bound)


def _note_of(request: web.Request, status: int) -> Note:
    """Return what takes note of such a request: the same one, or another that is the same but for its id."""
    method = request.method if request.method in _METHODS else "other"
    observe = request.app[METRICS].of(method, _route_of(request), status)
    level = logging.DEBUG if request.match_info.route.name in PROBES else logging.INFO
    caller = request[CALLER]
    told = {"user_agent": caller.client, "job_id": request.match_info.get("job_id"), "user": caller.user}
    about = {"status": status, **{key: value for key, value in told.items() if value}}
    # As it was sent, a path is one line whatever is in it; its query may be a secret.
    line = f"{request.method} {request.rel_url.raw_path} {status}"

    def note(request_id: str, seconds: float, *, soon: bool = False) -> None:
        observe(seconds)
        if _log.isEnabledFor(level):
            told = {**about, "request_id": request_id, "seconds": round(seconds, 6), SOON: soon}
            _log.handle(_log.makeRecord(_log.name, level, "", 0, line, (), None, extra=told))

    return note


def _route_of(request: web.Request) -> str:
    """Return the template of the path that was asked for; those who WAIT are told from those who do not."""
    resource = request.match_info.route.resource
    if resource is None:
        return "none"
    waits = request.query_string and _WAITS.search(request.query_string)
    return f"{resource.canonical}?WAIT" if waits else resource.canonical


async def with_metrics(app: web.Application) -> AsyncIterator[None]:
    """Measure what happens to jobs while the application runs."""
    backend = app[SITE].backend
    if backend is None:
        yield
        return
    async with app[METRICS].observing(backend):
        yield


async def metrics(request: web.Request) -> web.Response:
    """``/metrics``: for Prometheus, or whoever may reach it."""
    accept = ", ".join(request.headers.getall("Accept", ()))
    body, media_type = await request.app[METRICS].render(request.app[SITE].backend, accept)
    return web.Response(body=body, headers={"Content-Type": media_type, "Cache-Control": "no-store"})
