"""Files of jobs that another node has: asked for there, and handed on as they come.

Who asks is found out by the node that is asked first, and what he may do; the one that has the file takes
its word for it, which is signed, and asks nobody else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from aiohttp import web

from uws.commands import SERVER
from uws.model import NodeAway, NotAuthenticated, NotFound, OnOtherNode
from uws.peers import HEADER, read

from .connections import Connection
from .forms import query_of
from .resource import CALLER, SITE, Resource
from .shares import PARAMETER
from .stored import CONDITIONS

_log = logging.getLogger(__name__)

_ASKED = (*CONDITIONS, "Accept", "Host")
"""What of a request is handed on; by its Host the addresses in a page follow."""
_TOLD = (
    "Content-Type", "Content-Length", "Content-Range", "Content-Disposition", "Accept-Ranges", "ETag",
    "Last-Modified", "Cache-Control", "Vary", "Retry-After", "Content-Security-Policy",
    "X-Content-Type-Options",
)  # fmt: skip
"""What of an answer is handed on."""
_BY = web.RequestKey("by", str)
"""The node that sends a request."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def offering_files(*handlers: Handler) -> Callable[[web.Request], None]:
    """Return what takes requests of other nodes, which reach these handlers and no other."""

    def welcome(request: web.Request) -> None:
        """Find out whether another node sends a request, which then may read what it names.

        Raises `NotAuthenticated` for one that says so, and is none, or wants something else.
        """
        said = request.headers.getall(HEADER, [])
        if not said:
            return
        backend = request.app[SITE].backend
        if backend is None or backend.peers is None or len(said) > 1:
            raise NotAuthenticated(f"{HEADER}: this server has no other nodes to ask it for files")
        path = _path(request, request.rel_url.raw_query_string)
        node = backend.peers.check(said[0], request.method, path)
        if request.method not in ("GET", "HEAD") or request.match_info.handler not in handlers:
            raise NotAuthenticated(f"{HEADER}: nodes ask each other for files of jobs, and for nothing else")
        request[_BY] = node
        if isinstance(request.protocol, Connection):
            request.protocol.is_known()
        request[CALLER] = request[CALLER].known_as(SERVER)

    return welcome


def is_of_node(request: web.Request) -> bool:
    """Whether another node sends a request."""
    return _BY in request


async def handed_on(request: web.Request, elsewhere: OnOtherNode) -> web.StreamResponse:
    """Answer with what the node answers that has the file. Raises `NotFound`, `NodeAway`, `Unavailable`."""
    resource = Resource(request)
    peers = resource.uws.backend.peers
    if is_of_node(request) or peers is None:
        raise NotFound("the file is not on this node") from elsewhere
    asked = {name: ", ".join(request.headers.getall(name, ())) for name in _ASKED}
    asked = {name: value for name, value in asked.items() if value and value.isascii()}
    path = _path(request, _handed_on(request))
    async with peers.asked(elsewhere.node, request.method, path, asked) as answer:
        response = web.StreamResponse(status=answer.status)
        for name in _TOLD:
            if name in answer.headers:
                response.headers[name] = answer.headers[name]
        response.headers["X-Request-ID"] = resource.caller.request_id or ""
        try:
            await response.prepare(request)
            async for chunk in read(answer, elsewhere.node):
                await response.write(chunk)
            await response.write_eof()
        except ConnectionError:
            _log.debug("request %s: the client has gone", resource.caller.request_id)
        except NodeAway as error:  # what was announced does not come
            _log.warning("request %s: %s", resource.caller.request_id, error)
            if request.transport:
                request.transport.abort()
        return response


def _path(request: web.Request, query: str) -> str:
    """Return the path of a request below the place where the application is mounted, with a query."""
    mounted = str(request.app.router["index"].url_for()).rstrip("/")
    path = request.rel_url.raw_path.removeprefix(mounted)
    return f"{path}?{query}" if query else path


def _handed_on(request: web.Request) -> str:
    """Return the query of a request but for the secret of a link: that is for the node asked first."""
    query = request.rel_url.raw_query_string
    if f"{PARAMETER}=" not in query.upper():
        return query
    return urlencode([pair for pair in query_of(request) if pair.name.upper() != PARAMETER])
