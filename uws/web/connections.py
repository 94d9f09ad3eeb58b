"""Connections: how many there are at one time, how much a head may hold, and how slow a client may be."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD

from uws.config import LimitSettings

from .errors import SERVER_NAME, TooSlow, fault_response, legible
from .repeated import Repeated

_LOOKS = 4
"""How often a connection is looked at in the shortest time that a client may take."""
_BACKLOG = 1024
"""Connections that the system holds until they are accepted."""
_AT_ONCE = 1000
"""Connections that are looked at before others have their turn."""
_LEAST = 10
"""Connections that there may be, however few files the process may open."""
_REFUSED = 100
"""Connections that are told why they are closed, at one time; more are cut off."""
_TIME_TO_READ = 2.0
"""Seconds that who is refused has to read it."""
_IDLE = 1.0
"""Seconds without a request after which a connection gives way to a new one where there is no room."""
_BYTES_ACKED = 120
"""Where a ``tcp_info`` (linux/tcp.h) tells how many bytes the other side has."""


class Connection(web.RequestHandler):
    """A connection, of which it is known what it waits for: a head, a body, the server, or to be read."""

    __slots__ = (
        "_begun", "_body", "_mark", "_name", "_of", "_received", "_sender", "_since", "_told", "idle_since",
        "wire",
    )  # fmt: skip

    def __init__(self, of: Connections, server: web.Server, **options: Any) -> None:
        super().__init__(server, loop=of.loop, **options)
        self._of = of
        self.wire: asyncio.Transport | None = None
        """The transport, to the end of the connection."""
        self.idle_since: float | None = None
        """None while a request is answered."""
        self._begun: float | None = None
        """When the first byte of the head came that is not here yet."""
        self._since = 0.0
        """When the head of that was here."""
        self._body: Any = None
        """Of the request that is answered, or was last."""
        self._told = False
        """Whether its handler was told that the body is too slow."""
        self._received = 0
        self._mark: tuple[float, int] | None = None
        """When something was counted that has to grow, and how far it had come."""
        self._sender = ""
        self._name: bytes | None = None
        """What the request that is answered is known by, when it comes again."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        if self._of.admit(self):
            super().connection_made(transport)
            self._sender = str(self.peername[0]) if self.peername else ""

    def connection_lost(self, exc: BaseException | None) -> None:
        self._of.forget(self)
        super().connection_lost(exc)
        if self.idle_since is not None and self._body is not None and not self._body.is_eof():
            self._body.set_exception(TimeoutError())  # else aiohttp goes on waiting for the rest of it
        self.wire = self._body = None

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if data and self._begun is None:
            if self._waits_for_request():
                self._name = self._of.repeated.name(data, self._sender)
                if self._name and (answer := self._of.repeated.answer(self._name)):
                    self._answer(answer)
                    return
            if self.idle_since is not None:
                self._begun = self._of.loop.time()
        if self._of.is_admitted(self):
            super().data_received(data)

    def _waits_for_request(self) -> bool:
        """Whether what comes is the begin of a request, which nobody else is told of yet."""
        waiter = self._waiter
        return (
            waiter is not None
            and not waiter.done()
            and not (self._close or self._force_close)
            and self.wire is not None
            and not self.wire.get_write_buffer_size()
        )

    def _answer(self, answer: bytes) -> None:
        """Answer a request of which nobody else is told."""
        assert self.wire is not None, "it waits for a request"
        self.wire.write(answer)
        self._next_keepalive_close_time = self._of.loop.time() + self._keepalive_timeout
        self._of.is_idle(self)

    def begin(self, payload: Any) -> None:
        """Note that the head of a request is here, of whom it is not known yet who sends it."""
        self._of.is_busy(self, with_body=payload is not EMPTY_PAYLOAD)
        self.idle_since = self._begun = self._mark = None
        self._since = self._of.loop.time()
        self._body, self._told = payload, False

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPExpectationFailed):  # which aiohttp says before any of ours is asked
            said = "Expect: only 100-continue can be expected here"
            resp = fault_response(resp.status, "UsageFault", said, {"X-Request-ID": uuid.uuid4().hex})
        try:
            finished = await super().finish_response(request, resp, start_time)
            if self._name:
                self._of.repeated.keep(self._name, request, resp)
            return finished
        finally:
            self._mark = self._name = None
            self._of.is_idle(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or too large; it comes from anybody, and is no reason for a traceback."""
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        said, status = legible(" ".join((message or "nothing more is known").split())), HTTPStatus(status)
        if isinstance(exc, LineTooLong) or said == "Too many headers received":
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            said = f"the head of the request is too large: {said}"
        else:
            said = f"this is no request that HTTP knows: {said}"
        request_id = uuid.uuid4().hex
        # Of this, `note_malformed_in_words` makes a line.
        told: dict[str, Any] = {"exc_info": exc, "extra": {"request_id": request_id}}
        self.log_exception("Error handling request from %s", request.remote, **told)
        headers = {"X-Request-ID": request_id, "Server": SERVER_NAME}
        response = fault_response(status, "UsageFault", said, headers)
        response.force_close()
        return response

    def is_known(self) -> None:
        """Note that the request is somebody's."""
        self._of.is_known(self)

    def waits_for_body(self, now: float) -> bool:
        """Whether a body has not come after as long as a connection may be without a request."""
        return not self._body.is_eof() and now - self._since >= _IDLE

    def look(self, now: float) -> None:
        """Close the connection if its client is too slow."""
        wire, limits = self.wire, self._of.limits
        if wire is None:
            return
        if wire.get_write_buffer_size():
            if self._is_slow(now, _acknowledged(wire)):
                wire.abort()
        elif self.idle_since is None and self._body is not None:
            if self._told or self._body.is_eof() or not wire.is_reading():
                self._mark = None
            elif self._is_slow(now, self._received):
                self._told = True
                self._body.set_exception(
                    TooSlow(f"the body came slower than {limits.slowest} bytes a second: send it again")
                )
        else:
            self._mark = None
            late = self._begun is not None and now - self._begun > limits.head_seconds
            if late and not wire.is_closing():
                text = f"the head of the request did not come within {limits.head_seconds:g} s"
                self._of.refuse(self, _refusal(HTTPStatus.REQUEST_TIMEOUT, "UsageFault", text))

    def _is_slow(self, now: float, count: int) -> bool:
        """Whether ``count`` has not grown as it has to, since it was marked."""
        limits = self._of.limits
        if self._mark is None or count - self._mark[1] >= limits.slowest * limits.patience:
            self._mark = now, count
        return now - self._mark[0] > limits.patience


class Connections:
    """All connections of a server; called, it makes one."""

    def __init__(self, server: web.Server, limits: LimitSettings, repeated: Repeated, **options: Any) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.limits = limits
        self.repeated = repeated
        self.room: int = room_for_connections(limits.connections)
        self._server, self._options = server, options
        self._all: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        """Those without a request, the longest first."""
        self._strangers: dict[Connection, None] = {}
        """Those with a request that has a body and is nobody's in particular, the longest first."""
        self._refused: dict[Connection, float] = {}
        make_request = server.request_factory

        def make(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            protocol.begin(payload)
            return make_request(message, payload, protocol, writer, task)

        server.request_factory = make

    def __call__(self) -> Connection:
        return Connection(self, self._server, **self._options)

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in, or tell it that there is no room."""
        if len(self._all) >= self.room:
            self._make_room()
        if len(self._all) < self.room:
            self._all.add(connection)
            self.is_idle(connection)
            return True
        text = f"{self.room} connections are open, which is as many as may"
        answer = _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable", text, retry_after=5)
        self.refuse(connection, answer)
        return False

    def refuse(self, connection: Connection, answer: bytes) -> None:
        """Give a connection its last answer, and take no more of it."""
        self.forget(connection)
        wire = connection.wire
        assert wire is not None
        if len(self._refused) >= _REFUSED:
            wire.abort()
            return
        self._refused[connection] = self.loop.time()
        wire.write(answer)
        # Closed while the client still sends, the connection would be reset before this is read.
        wire.write_eof()

    def is_admitted(self, connection: Connection) -> bool:
        return connection not in self._refused

    def is_busy(self, connection: Connection, *, with_body: bool) -> None:
        self._idle.pop(connection, None)
        if with_body and connection in self._all:
            self._strangers[connection] = None

    def is_known(self, connection: Connection) -> None:
        self._strangers.pop(connection, None)

    def is_idle(self, connection: Connection) -> None:
        self._strangers.pop(connection, None)
        self._idle.pop(connection, None)
        if connection in self._all:
            connection.idle_since = self.loop.time()
            self._idle[connection] = None

    def forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._idle.pop(connection, None)
        self._strangers.pop(connection, None)
        self._refused.pop(connection, None)

    def _make_room(self) -> None:
        """Close the connection that has been without a request for longest.

        Where all have one, it is that which has waited longest for a body of nobody in particular.
        """
        now, longest = self.loop.time(), next(iter(self._idle), None)
        if longest is None or longest.idle_since is None or now - longest.idle_since < _IDLE:
            longest = next((one for one in self._strangers if one.waits_for_body(now)), None)
        if longest is not None and longest.wire is not None:
            longest.wire.abort()
            self.forget(longest)

    async def watch(self) -> None:
        """Look at all connections again and again."""
        pause = min(self.limits.head_seconds, self.limits.patience, _TIME_TO_READ) / _LOOKS
        while True:
            await asyncio.sleep(pause)
            now = self.loop.time()
            for number, connection in enumerate([*self._all], 1):
                connection.look(now)
                if not number % _AT_ONCE:
                    await asyncio.sleep(0)
            for connection, since in [*self._refused.items()]:
                if now - since > _TIME_TO_READ and connection.wire:
                    connection.wire.abort()


@asynccontextmanager
async def answering(
    runner: web.AppRunner, sockets: Sequence[socket.socket], limits: LimitSettings
) -> AsyncIterator[None]:
    """Answer what comes to ``sockets`` with the application of ``runner``, which is set up."""
    assert runner.server is not None
    options = {
        "keepalive_timeout": limits.keep_alive,
        "max_line_size": limits.line_bytes,
        "max_field_size": limits.line_bytes,
        "max_headers": limits.headers,
        # Some kilobytes may become gigabytes: `uws.web.application` refuses what is encoded.
        "auto_decompress": False,
        "access_log": None,
    }
    connections = Connections(runner.server, limits, Repeated(), **options)
    loop, servers = asyncio.get_running_loop(), list[asyncio.AbstractServer]()
    watching = asyncio.create_task(connections.watch(), name="connections: watching")
    try:
        for each in sockets:
            servers.append(await loop.create_server(connections, sock=each, backlog=_BACKLOG))
        yield
    finally:
        for server in servers:
            server.close()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def room_for_connections(most: int) -> int:
    """Return how many connections there may be: at most a third of the files that the process may open.

    As many again are for the files that are sent and received there; the last third is for jobs and the log.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most if files == resource.RLIM_INFINITY else min(most, max(files // 3, _LEAST))


def _acknowledged(wire: asyncio.Transport) -> int:
    """Return how many bytes the other side has told to have; 0 where no TCP counts them."""
    with suppress(OSError):
        told = wire.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
        if len(told) == _BYTES_ACKED + 8:
            return int(struct.unpack_from("Q", told, _BYTES_ACKED)[0])
    return 0


def _refusal(status: HTTPStatus, fault: str, text: str, retry_after: int | None = None) -> bytes:
    """Return a whole answer, for where there is no request to be answered."""
    body = f"{fault}: {text}\n".encode()
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        f"Server: {SERVER_NAME}",
        f"X-Request-ID: {uuid.uuid4().hex}",
    ]
    if retry_after is not None:
        head.append(f"Retry-After: {retry_after}")
    return "\r\n".join([*head, "", ""]).encode() + body
