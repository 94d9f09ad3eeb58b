"""The one place where the parts are put together."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from errno import EACCES, EADDRINUSE
from pathlib import Path

import msgspec
from aiohttp import web

from eventstore import EventStore, SQLiteEventStore
from projections import JobReadModel, JobTables, Projector
from uws.audit import Checkpointing
from uws.clock import Clock, SystemClock
from uws.commands import SERVER
from uws.config import AuditSettings, Settings
from uws.execution import Destruction, Scheduler
from uws.files import Files
from uws.jobs import Backend, UserUWS, make_uws_for_service
from uws.model import Service, UWSError
from uws.model.events import ServiceDeclared, decode_declaration, encode, service_stream
from uws.web import LONGEST_WAIT, SITE, Authenticator, make_application

log = logging.getLogger(__name__)


class CannotListen(UWSError):
    """The address or port cannot be had."""

    def __init__(self, host: str, port: int, error: OSError | UnicodeError) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        option = "--port" if getattr(error, "errno", None) in (EADDRINUSE, EACCES) else "--host"
        super().__init__(f"cannot listen on {host} port {port}: {reason}; choose another with {option}")
        self.host, self.port = host, port


@dataclass(frozen=True)
class Node:
    """A running server without its HTTP side: jobs are taken, run and destroyed."""

    backend: Backend
    services: tuple[UserUWS, ...]


@asynccontextmanager
async def run_node(
    data: Path,
    services: Iterable[Service],
    *,
    base_url: str = "http://127.0.0.1:8080",
    grace: float = 10.0,
    audit: AuditSettings | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Node]:
    """Open the data directory, settle what an earlier server left, and run jobs until the context is left.

    With ``audit``, checkpoints of the log are written on its schedule. Leaving stops running programs
    (SIGTERM, SIGKILL after ``grace`` seconds), records their jobs as ERROR and closes the log. Raises
    `eventstore.StoreLocked` when another server has the directory, `eventstore.StoreUnavailable` and
    `OSError` when it cannot be used.
    """
    clock = clock or SystemClock()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        store = await SQLiteEventStore.open(data / "events.db", now=clock.now)
        stack.push_async_callback(store.close)
        files = Files(data)
        files.prepare()
        projector = await Projector.open(data / "projections.db", store, [JobTables()])
        stack.push_async_callback(projector.close)
        backend = Backend(store, projector, JobReadModel(projector.reader), files, clock)
        offered = tuple(services)
        for service in offered:
            await _declare(store, service)
        uwses = {service.name: make_uws_for_service(service, backend, base_url) for service in offered}
        await projector.caught_up(timeout=3600)
        retired = {
            name: make_uws_for_service(await _last_declaration(store, name), backend, base_url)
            for name in await backend.jobs.services() - uwses.keys()
        }
        scheduler = Scheduler(backend, uwses, retired, grace=grace)
        await scheduler.start()
        stack.push_async_callback(scheduler.close)
        destruction = Destruction(backend, uwses | retired)
        await destruction.start()
        stack.push_async_callback(destruction.close)
        if audit and audit.seconds:
            checkpointing = Checkpointing(
                store,
                clock,
                origin=audit.origin,
                key=data / audit.key,
                directory=data / audit.checkpoints,
                every=audit.seconds,
            )
            await checkpointing.start()
            stack.push_async_callback(checkpointing.close)
        yield Node(backend, tuple(uwses.values()))


def make_uws_application(
    data: Path,
    services: Iterable[Service],
    *,
    base_url: str | None = None,
    authenticator: Authenticator | None = None,
    upload_hosts: Iterable[str] = (),
    longest_wait: float = LONGEST_WAIT,
    grace: float = 10.0,
    audit: AuditSettings | None = None,
    clock: Clock | None = None,
) -> web.Application:
    """Return an application that is a whole server: mount it with `aiohttp.web.Application.add_subapp`.

    It runs jobs (`run_node`) from its start-up to its clean-up, and offers them (`make_application`) between.
    """
    app = make_application(
        (),
        base_url=base_url,
        authenticator=authenticator,
        upload_hosts=upload_hosts,
        longest_wait=longest_wait,
    )

    async def with_node(app: web.Application) -> AsyncIterator[None]:
        async with run_node(
            data, services, base_url=base_url or "", grace=grace, audit=audit, clock=clock
        ) as node:
            app[SITE].services.update({uws.service.name: uws for uws in node.services})
            yield

    app.cleanup_ctx.append(with_node)
    return app


async def serve(
    settings: Settings,
    *,
    authenticator: Authenticator | None = None,
    clock: Clock | None = None,
    ready: Callable[[str], None] = lambda url: log.info("serving on %s", url),
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT, SIGHUP or ``stop``; ``ready`` is given the URL once it answers.

    Then no new requests are taken, waiting ones are answered, programs are stopped and the log is closed.
    Raises `CannotListen` when the port is taken, and what `run_node` raises.
    """
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    server = settings.server
    async with AsyncExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
            stack.callback(loop.remove_signal_handler, number)
        # A port that is taken is found out before anything else is touched.
        sockets = _bind(server.host, server.port)
        for listening in sockets:
            stack.enter_context(listening)
        app = make_uws_application(
            settings.data,
            settings.services,
            base_url=server.base_url,
            authenticator=authenticator,
            upload_hosts=settings.uploads.allow_hosts,
            longest_wait=server.longest_wait,
            grace=server.grace,
            audit=settings.audit,
            clock=clock,
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        for listening in sockets:
            await web.SockSite(runner, listening).start()
        ready(_url_of(sockets[0]))
        await stop.wait()


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


def _url_of(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _declare(store: EventStore, service: Service) -> None:
    """Put the declaration on record unless it is the last one there."""
    stream = service_stream(service.name)
    recorded = await store.read_stream(stream)
    if recorded and decode_declaration(recorded[-1]).digest == service.digest:
        return
    event = ServiceDeclared(
        service=service.name, digest=service.digest, declaration=service.canonical.decode()
    )
    new = encode(event, SERVER.metadata)
    await store.append(stream, [new], expected=recorded[-1].version if recorded else 0)


async def _last_declaration(store: EventStore, name: str) -> Service:
    """Return a service as it was last offered, for the jobs that it has left."""
    recorded = await store.read_stream(service_stream(name))
    try:
        return msgspec.json.decode(decode_declaration(recorded[-1]).declaration, type=Service)
    except Exception:
        # Enough to end and destroy its jobs.
        log.exception("the last declaration of service %s cannot be read", name)
        return Service(name=name, title=name, command=["false"])
