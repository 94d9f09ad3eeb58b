"""The one place where the parts are put together."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from errno import EACCES, EADDRINUSE

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractResolver

from uws.clock import Clock, first_of
from uws.config import Settings, url_of
from uws.environment import raise_open_files
from uws.jobs import Backend
from uws.model import UWSError
from uws.node import run_node
from uws.web import (
    SITE,
    Authentication,
    Authenticator,
    answering,
    make_application,
)

_log = logging.getLogger(__name__)

_COLLECTED = 10_000, 10, 100
"""When Python looks for garbage (`gc.set_threshold`): at all that lives only rarely, for where thousands of
clients wait this takes a quarter of a second, in which nobody is answered.
"""


class CannotListen(UWSError):
    """The address or port cannot be had."""

    def __init__(self, host: str, port: int, error: OSError | UnicodeError) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        option = "--port" if getattr(error, "errno", None) in (EADDRINUSE, EACCES) else "--host"
        super().__init__(f"cannot listen on {host} port {port}: {reason}; choose another with {option}")
        self.host = host
        self.port = port


def make_uws_application(
    settings: Settings,
    *,
    authenticator: Authenticator | None = None,
    resolver: AbstractResolver | None = None,
    clock: Clock | None = None,
) -> web.Application:
    """Return an application that is a whole server: mount it with `aiohttp.web.Application.add_subapp`.

    It runs jobs (`run_node`) from its start-up to its clean-up, and offers them (`make_application`) between.
    Of the settings, where to listen, and who may use it, are up to whoever mounts it; one of several nodes is
    reached by the others at the ``url`` of its `NodeSettings`.
    """
    app = make_application(
        (),
        base_url=settings.server.base_url,
        authenticator=authenticator,
        uploads=settings.uploads,
        resolver=resolver,
        longest_wait=settings.server.longest_wait,
        sync_seconds=settings.server.sync_seconds,
        waits_per_owner=settings.limits.waits_per_owner,
        audit=settings.audit,
    )

    async def with_node(app: web.Application) -> AsyncIterator[None]:
        async with run_node(settings, clock=clock) as node:
            app[SITE].services.update({uws.service.name: uws for uws in node.services})
            async with authenticator_of(authenticator, node.backend):
                yield

    app.cleanup_ctx.insert(0, with_node)  # what else the application has needs the services, to its end
    return app


def authenticator_of(
    authenticator: Authenticator | None, backend: Backend
) -> AbstractAsyncContextManager[None]:
    """Give the context in which ``authenticator`` works."""
    return authenticator.serving(backend) if authenticator else nullcontext()


async def serve(
    settings: Settings,
    *,
    authenticator: Authenticator | None = None,
    clock: Clock | None = None,
    ready: Callable[[str], None] = lambda url: _log.info("serving on %s", url),
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT, SIGHUP or ``stop``; ``ready`` is given the URL once it answers.

    Then no new requests are taken, waiting ones are answered, programs are stopped and the log is closed; a
    start that is not done yet is given up. Raises `CannotListen` when the port is taken, what `run_node`
    raises, and `eventstore.membership.NameTaken` when another server becomes this node of the log.
    """
    stop = stop or asyncio.Event()
    if authenticator is None and (settings.auth.identifies or not settings.allows_anonymous):
        authenticator = Authentication(settings.auth, settings.data, anonymous=settings.allows_anonymous)
    loop = asyncio.get_running_loop()
    server = settings.server
    raise_open_files()
    async with AsyncExitStack() as stack:
        stack.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(*_COLLECTED)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
            stack.callback(loop.remove_signal_handler, number)
        # A port that is taken is found out before anything else is touched.
        sockets = _bind(server.host, server.port)
        for listening in sockets:
            stack.enter_context(listening)
        at = msgspec.structs.replace(server, port=sockets[0].getsockname()[1])  # also where it was 0
        settings = msgspec.structs.replace(settings, server=at)
        app = make_uws_application(settings, authenticator=authenticator, clock=clock)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
        stack.push_async_callback(runner.cleanup)
        starting = asyncio.ensure_future(runner.setup())
        await first_of(starting, stop.wait())
        if stop.is_set():
            return
        await starting
        await stack.enter_async_context(answering(runner, sockets, settings.limits))
        ready(url_of(*sockets[0].getsockname()[:2]))
        await _over(stop, app[SITE].backend)


async def _over(stop: asyncio.Event, backend: Backend | None) -> None:
    """Return when the server is to end. Raises `NameTaken` when that is because another is this node now."""
    if backend is None or backend.membership is None:
        await stop.wait()
        return
    displaced = asyncio.ensure_future(backend.membership.displaced())
    await first_of(displaced, stop.wait())
    if not displaced.cancelled():
        raise displaced.result()


def _bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of ``host``; one on a free port for 0. Raises `CannotListen`."""
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found if port else found[:1]:
            listening = socket.socket(family, kind, protocol)
            bound.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
            listening.listen(128)  # only this makes sure that nobody else has it
    except (OSError, UnicodeError) as error:  # the latter for what can be no host's name
        for listening in bound:
            listening.close()
        raise CannotListen(host, port, error) from error
    return bound
