"""The one place where the parts are put together."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from errno import EACCES, EADDRINUSE
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractResolver

from eventstore import EventStore, SQLiteEventLog, SQLiteEventStore, StoreLocked
from projections import Behind, JobReadModel, Projector
from uws.admin import (
    Administered,
    NobodyListens,
    Operation,
    Place,
    Question,
    Report,
    Unreachable,
    ask,
    caller_of,
    carry_out,
    listening,
)
from uws.audit import Checkpointing
from uws.clock import Clock, SystemClock
from uws.commands import SERVER
from uws.config import AuditSettings, AuthSettings, Settings, UploadSettings
from uws.environment import raise_open_files
from uws.execution import Destruction, Scheduler
from uws.files import Files
from uws.jobs import Backend, UserUWS, first_of, make_uws_for_service
from uws.model import QueueSettings, QuotaSettings, Service, UnknownForm, UWSError
from uws.model.events import ServiceDeclared, decode_declaration, encode, service_stream
from uws.web import (
    LONGEST_WAIT,
    SITE,
    SYNC_SECONDS,
    WAITS_PER_OWNER,
    Authentication,
    Authenticator,
    answering,
    make_application,
)

log = logging.getLogger(__name__)

R = TypeVar("R")
_LONGEST_MAKING = 3600.0
"""Seconds that a start waits for read models that are made anew."""
_NEEDED_TO_RUN_JOBS = ("queue", "job_list")
"""The read models without which no job is started, settled or destroyed."""
_COLLECTED = 10_000, 10, 100
"""When Python looks for garbage (`gc.set_threshold`): at all that lives only rarely, for where thousands of
clients wait this takes a quarter of a second, in which nobody is answered.
"""
_ATTEMPTS, _BETWEEN_ATTEMPTS = 100, 0.1
"""How often, and every how many seconds, an admin command tries to reach who has the data directory."""


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
async def open_backend(
    place: Place, *, clock: Clock | None = None, follow: bool = True
) -> AsyncIterator[Backend]:
    """Open the data directory, made when there is none, and put the services on record.

    The read models ``follow`` the log, or are left as they are. Raises `eventstore.StoreLocked` when another
    process has it, `eventstore.StoreUnavailable` and `OSError` when it cannot be used.
    """
    clock = clock or SystemClock()
    place.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        store = await SQLiteEventStore.open(place.log, now=clock.now)
        stack.push_async_callback(store.close)
        files = Files(place.data)
        files.prepare()
        projector = await Projector.open(place.projections, store, follow=follow)
        stack.push_async_callback(projector.close)
        for service in place.services:
            await _declare(store, service)
        services = {service.name: service for service in place.services}
        yield Backend(
            store, projector, JobReadModel(projector), files, clock, services, place.queue, place.quotas
        )


async def administer(place: Place, operation: Operation[R], report: Report) -> R:
    """Have ``operation`` carried out by the server that has the data directory, or here when none has it.

    Raises what `uws.admin.ask` does, and what `uws.admin.problems_of` knows; `Unreachable` when another
    process keeps the directory for itself.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        with suppress(NobodyListens):
            return await ask(place.data, operation, report)
        try:
            return await _administer_alone(place, operation, report)
        except StoreLocked as error:  # by a server that starts or ends, or by another such command
            if attempt == _ATTEMPTS:
                raise Unreachable(place.data, error.pid) from error
        await asyncio.sleep(_BETWEEN_ATTEMPTS)
    raise AssertionError("not reached")


async def _administer_alone(place: Place, operation: Operation[R], report: Report) -> R:
    if place.log.exists() or not operation.begins:
        log = await SQLiteEventLog.read(place.log)  # a log that is there, and is one
        try:
            if isinstance(operation, Question):
                answer: R = await operation.read(place, log)
                return answer
        finally:
            await log.close()
    async with open_backend(place, follow=operation.needs_read_models) as backend:
        here = Administered(place, backend, _finder(backend, {}))
        return await carry_out(operation, here, caller_of(operation), report)


@asynccontextmanager
async def run_node(
    data: Path,
    services: Iterable[Service],
    *,
    base_url: str = "http://127.0.0.1:8080",
    grace: float = 10.0,
    jobs_end_with_server: bool = False,
    audit: AuditSettings | None = None,
    queue: QueueSettings | None = None,
    auth: AuthSettings | None = None,
    quotas: QuotaSettings | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Node]:
    """Open the data directory, take over what an earlier server ran, and run jobs until the context is left.

    Admin commands are taken through ``admin.sock`` in the data directory. With ``audit``, checkpoints of the
    log are written on its schedule; ``queue`` says what holds for all services together, ``quotas``
    what owners may have.
    Leaving closes the log; programs go on under their supervisors, and the
    next server takes them over. With ``jobs_end_with_server`` they are stopped (SIGTERM, SIGKILL after
    ``grace`` seconds), and their jobs recorded as ERROR. Raises what `open_backend` does.
    """
    signed = audit or AuditSettings()
    place = Place(
        data.absolute(),
        signed,
        signed.origin,
        tuple(services),
        queue or QueueSettings(),
        auth or AuthSettings(),
        quotas or QuotaSettings(),
    )
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(open_backend(place, clock=clock))
        uwses = {service.name: make_uws_for_service(service, backend, base_url) for service in place.services}
        find = _finder(backend, uwses)
        await stack.enter_async_context(listening(Administered(place, backend, find)))
        try:
            # What is only missing is made anew meanwhile.
            await backend.projector.caught_up(*_NEEDED_TO_RUN_JOBS, timeout=_LONGEST_MAKING)
        except Behind as error:
            log.error("%s: what needs it waits until it is mended", error)

        scheduler = Scheduler(backend, uwses, find, grace=grace, end_with_server=jobs_end_with_server)
        await scheduler.start()
        stack.push_async_callback(scheduler.close)
        destruction = Destruction(backend, find)
        await destruction.start()
        stack.push_async_callback(destruction.close)
        if audit and audit.seconds:
            checkpointing = Checkpointing(
                backend.store,
                backend.clock,
                origin=audit.origin,
                key=place.key,
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
    uploads: UploadSettings | None = None,
    resolver: AbstractResolver | None = None,
    longest_wait: float = LONGEST_WAIT,
    sync_seconds: float = SYNC_SECONDS,
    waits_per_owner: int = WAITS_PER_OWNER,
    grace: float = 10.0,
    jobs_end_with_server: bool = False,
    audit: AuditSettings | None = None,
    queue: QueueSettings | None = None,
    quotas: QuotaSettings | None = None,
    clock: Clock | None = None,
) -> web.Application:
    """Return an application that is a whole server: mount it with `aiohttp.web.Application.add_subapp`.

    It runs jobs (`run_node`) from its start-up to its clean-up, and offers them (`make_application`) between.
    """
    app = make_application(
        (),
        base_url=base_url,
        authenticator=authenticator,
        uploads=uploads,
        resolver=resolver,
        longest_wait=longest_wait,
        sync_seconds=sync_seconds,
        waits_per_owner=waits_per_owner,
    )

    async def with_node(app: web.Application) -> AsyncIterator[None]:
        async with run_node(
            data,
            services,
            base_url=base_url or "",
            grace=grace,
            jobs_end_with_server=jobs_end_with_server,
            audit=audit,
            queue=queue,
            auth=authenticator.settings if isinstance(authenticator, Authentication) else None,
            quotas=quotas,
            clock=clock,
        ) as node:
            app[SITE].services.update({uws.service.name: uws for uws in node.services})
            async with authenticator_of(authenticator, node.backend):
                yield

    app.cleanup_ctx.insert(0, with_node)  # what else the application has needs the services, to its end
    return app


def authenticator_of(
    authenticator: Authenticator | None, backend: Backend
) -> AbstractAsyncContextManager[None]:
    """Give the context in which ``authenticator`` works."""
    return authenticator.serving(backend) if isinstance(authenticator, Authentication) else nullcontext()


async def serve(
    settings: Settings,
    *,
    authenticator: Authenticator | None = None,
    clock: Clock | None = None,
    ready: Callable[[str], None] = lambda url: log.info("serving on %s", url),
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT, SIGHUP or ``stop``; ``ready`` is given the URL once it answers.

    Then no new requests are taken, waiting ones are answered, programs are stopped and the log is closed; a
    start that is not done yet is given up. Raises `CannotListen` when the port is taken, and what `run_node`
    raises.
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
        app = make_uws_application(
            settings.data,
            settings.services,
            base_url=server.base_url,
            authenticator=authenticator,
            uploads=settings.uploads,
            longest_wait=server.longest_wait,
            sync_seconds=server.sync_seconds,
            waits_per_owner=settings.limits.waits_per_owner,
            grace=server.grace,
            jobs_end_with_server=server.jobs_end_with_server,
            audit=settings.audit,
            queue=settings.queue,
            quotas=settings.quotas,
            clock=clock,
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
        stack.push_async_callback(runner.cleanup)
        starting = asyncio.ensure_future(runner.setup())
        await first_of(starting, stop.wait())
        if stop.is_set():
            return
        await starting
        await stack.enter_async_context(answering(runner, sockets, settings.limits))
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


def _finder(backend: Backend, offered: Mapping[str, UserUWS]) -> Callable[[str], Awaitable[UserUWS]]:
    """Return what finds the service of a name: one that is ``offered``, or else was once."""
    known = dict(offered)

    async def find(name: str) -> UserUWS:
        if name not in known:
            service = await _last_declaration(backend.store, name)
            known[name] = make_uws_for_service(service, backend, "")
        return known[name]

    return find


async def _last_declaration(store: EventStore, name: str) -> Service:
    """Return a service as it was last offered, for the jobs that it has left."""
    try:
        recorded = await store.read_stream(service_stream(name))
        return msgspec.json.decode(decode_declaration(recorded[-1]).declaration, type=Service)
    except (IndexError, UnknownForm, msgspec.MsgspecError):
        # Enough to end and destroy its jobs.
        log.exception("the last declaration of service %s cannot be read", name)
        return Service(name=name, title=name, command=["false"])
