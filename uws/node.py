"""A server without its HTTP side, and admin commands with or without one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import msgspec

from eventstore import EventStore, StoreLocked, StoreUnavailable, VersionConflict, open_store, read_log
from eventstore.lock import FileLock
from eventstore.membership import Membership, NodeId
from eventstore.opening import membership
from projections import Behind, JobReadModel, Projector, beside
from uws.admin import (
    SOCKET,
    Administered,
    FollowLog,
    NobodyListens,
    Operation,
    Question,
    Report,
    Unreachable,
    caller_of,
    carry_out,
)
from uws.audit import READ_MODEL, Checkpointing, Past, Retention
from uws.beneath import check_ours
from uws.clock import Clock, SystemClock
from uws.commands import SERVER
from uws.config import Settings
from uws.execution import Deletion, Destruction, Scheduler, Settling, SlurmScheduler, taking_jobs
from uws.files import Files, identity_of, whereabouts
from uws.jobs import Backend, UserUWS, make_uws_for_service
from uws.model import Service, UnknownForm
from uws.model.events import ServiceDeclared, decode_declaration, encode, service_stream
from uws.remains import check_begins
from uws.version import VERSION

_log = logging.getLogger(__name__)

R = TypeVar("R")
_LONGEST_MAKING = 3600.0
"""Seconds that a start waits for read models that are made anew."""
_NEEDED_TO_RUN_JOBS = ("queue", "job_list")
"""The read models without which no job is started, settled or destroyed."""
_ATTEMPTS, _BETWEEN_ATTEMPTS = 100, 0.1
"""How often, and every how many seconds, an admin command tries to reach who has the data directory."""


@dataclass(frozen=True)
class Node:
    """A running server without its HTTP side: jobs are taken, run and destroyed."""

    backend: Backend
    services: tuple[UserUWS, ...]


@asynccontextmanager
async def open_log(settings: Settings, clock: Clock | None = None) -> AsyncIterator[EventStore]:
    """Have the data directory, made when there is none, and the log. Raises what `open_backend` does.

    Raises `LogLost` rather than begin one in a file beside what another has left.
    """
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_ours(settings.data, settings.data.stat())
    check_begins(settings)
    async with AsyncExitStack() as stack:
        if isinstance(settings.log, str):  # a file has a lock of its own
            stack.callback((await FileLock.take(settings.data / "uwsd.lock")).release)
        store = await open_store(settings.log, now=(clock or SystemClock()).now)
        stack.push_async_callback(store.close)
        yield store


@asynccontextmanager
async def open_backend(
    settings: Settings, *, clock: Clock | None = None, follow: bool = True
) -> AsyncIterator[Backend]:
    """Open the data directory, made when there is none, and put the services on record.

    The read models ``follow`` the log, or are left as they are. Raises `eventstore.StoreLocked` when another
    process has it, `eventstore.StoreUnavailable` and `OSError` when it cannot be used, or not by the server
    alone.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_log(settings, clock))
        files = Files(settings.data, jobs=settings.store.jobs)
        files.prepare()
        projector = await Projector.open(settings.projections, store, follow=follow)
        stack.push_async_callback(projector.close)
        for service in settings.services:
            await _declare(store, service)
        services = {service.name: service for service in settings.services}
        yield Backend(
            store,
            projector,
            JobReadModel(projector),
            files,
            clock,
            services,
            settings.queue,
            settings.quotas,
            keeper=settings.store.keeper,
        )


async def administer(settings: Settings, operation: Operation[R], report: Report) -> R:
    """Have ``operation`` carried out by the server that has the data directory, or here when none has it.

    Raises what `uws.admin.client.ask` does, and what `uws.admin.problems_of` knows; `Unreachable` when
    another process keeps the directory for itself.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        with suppress(NobodyListens):
            return await _ask(settings, operation, report)
        try:
            return await _administer_alone(settings, operation, report)
        except StoreLocked as error:  # by a server that starts or ends, or by another such command
            if attempt == _ATTEMPTS:
                raise Unreachable(settings.data, error.pid) from error
        await asyncio.sleep(_BETWEEN_ATTEMPTS)
    raise AssertionError("not reached")


@asynccontextmanager
async def looking_back(settings: Settings) -> AsyncIterator[Past]:
    """Give what answers an auditor's questions from the files alone, beside a running server or without one.

    A read model that is not up to date is brought there first, by whoever has the data directory, or here.
    Raises what `administer` does.
    """
    async with AsyncExitStack() as stack:
        log = await read_log(settings.log)
        stack.push_async_callback(log.close)
        head = (await log.head()).position
        if not await _is_at(settings, head):
            await administer(settings, FollowLog(), lambda done, of: None)
        model = await stack.enter_async_context(beside(settings.projections, READ_MODEL))
        if model is None:
            raise Behind(f"{settings.projections}: the read model {READ_MODEL} is missing")
        yield Past(log, model.ask, settings.queue, settings.quotas)


async def _is_at(settings: Settings, position: int) -> bool:
    with suppress(StoreUnavailable):  # whoever brings it up says what is wrong
        async with beside(settings.projections, READ_MODEL) as model:
            return model is not None and await model.position() >= position
    return False


async def _ask(settings: Settings, operation: Operation[R], report: Report) -> R:
    if not (settings.data / SOCKET).exists():
        raise NobodyListens(settings.data / SOCKET)
    from uws.admin.client import ask  # takes longer to import than most commands take alone

    return await ask(settings.data, operation, report)


async def _administer_alone(settings: Settings, operation: Operation[R], report: Report) -> R:
    if not operation.begins:
        log = await read_log(settings.log)  # a log that is there, and is one
        try:
            if isinstance(operation, Question):
                answer: R = await operation.read(settings, log)
                return answer
        finally:
            await log.close()
    async with open_backend(settings, follow=operation.needs_read_models) as backend:
        here = Administered(settings, backend, _finder(backend, {}))
        return await carry_out(operation, here, caller_of(operation), report)


@asynccontextmanager
async def run_node(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Node]:
    """Open the data directory, take over what an earlier server ran, and run jobs until the context is left.

    Admin commands are taken through ``admin.sock`` in the data directory. Where several servers share the
    log, this is a node of them. Leaving closes the log; programs go on under their supervisors, and the next
    server takes them over. With ``jobs_end_with_server`` they are stopped (SIGTERM, SIGKILL after ``grace``
    seconds), and their jobs recorded as ERROR; those that are in Slurm go on all the same. Raises what
    `open_backend` does.
    """
    settings = msgspec.structs.replace(settings, data=settings.data.absolute())
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(open_backend(settings, clock=clock))
        member = await stack.enter_async_context(_membership(settings, backend))
        backend = replace(backend, membership=member)
        if backend.keeper:
            from uws.peers import Peers  # a client of HTTP, which no server that is alone needs

            peers = Peers(member, backend.clock)
            stack.push_async_callback(peers.close)
            backend = replace(backend, peers=peers)
        uwses = _offered(settings, backend)
        find = _finder(backend, uwses)
        from uws.admin.door import listening  # which a command that runs alone needs not

        await stack.enter_async_context(listening(Administered(settings, backend, find)))
        try:
            # What is only missing is made anew meanwhile.
            await backend.projector.caught_up(*_NEEDED_TO_RUN_JOBS, timeout=_LONGEST_MAKING)
        except Behind as error:
            _log.error("%s: what needs it waits until it is mended", error)
        try:
            # What was erased while this server was not there.
            await backend.projector.scrubbed(timeout=_LONGEST_MAKING)
        except StoreUnavailable as error:
            _log.error("%s: what was erased may be in their files until then", error)

        server = settings.server
        scheduler = Scheduler(
            backend, uwses, find, grace=server.grace, end_with_server=server.jobs_end_with_server
        )
        await stack.enter_async_context(taking_jobs(backend, member))
        await scheduler.start()
        stack.push_async_callback(scheduler.close)
        deletion = Deletion(backend)
        await deletion.start()
        stack.push_async_callback(deletion.close)
        await stack.enter_async_context(member.leading(partial(_duties, settings, backend)))
        yield Node(backend, tuple(uwses.values()))


def _membership(settings: Settings, backend: Backend) -> AbstractAsyncContextManager[Membership]:
    node = settings.store.node
    identity = f"{identity_of(settings.data)} {whereabouts(settings.data)}"
    here = NodeId(node.called, identity, settings.node_url, VERSION)
    lease = backend.files.lease

    def extend(until: float) -> None:
        try:
            backend.files.extend_lease(until)
        except OSError as error:  # no matter of the log, and none that ends this node
            _log.error("programs that others may start again are killed soon: %s: %s", lease, error.strerror)

    return membership(backend.store, here, gone_after=node.seconds, leased=extend, now=backend.clock.now)


def _offered(settings: Settings, backend: Backend) -> dict[str, UserUWS]:
    url = settings.server.url
    return {service.name: make_uws_for_service(service, backend, url) for service in settings.services}


@asynccontextmanager
async def _duties(settings: Settings, backend: Backend, store: EventStore) -> AsyncIterator[None]:
    """Do, while the context lasts, what one does for all: by the ``store`` of the one who leads."""
    backend = replace(backend, store=store)
    offered = _offered(settings, backend)
    find = _finder(backend, offered)
    async with AsyncExitStack() as stack:
        settling = Settling(backend, find, grace=settings.server.grace)
        stack.push_async_callback(settling.close)
        await settling.start()
        duties = []
        if settings.retention.is_set:
            duties = [
                Retention(
                    backend,
                    settings.retention,
                    log=settings.log,
                    key=settings.signing_key,
                    directory=settings.archives,
                )
            ]
        destruction = Destruction(backend, find, duties)
        await destruction.start()
        stack.push_async_callback(destruction.close)
        in_slurm = SlurmScheduler(backend, offered, find, settings.slurm)
        if await in_slurm.is_needed():
            stack.push_async_callback(in_slurm.close)
            await in_slurm.start()
        audit = settings.audit
        if audit.origin and audit.seconds:
            checkpointing = Checkpointing(
                store,
                backend.clock,
                origin=audit.origin,
                key=settings.key,
                directory=settings.data / audit.checkpoints,
                every=audit.seconds,
            )
            await checkpointing.start()
            stack.push_async_callback(checkpointing.close)
        yield


async def _declare(store: EventStore, service: Service) -> None:
    """Put the declaration on record unless it is the last one there."""
    stream = service_stream(service.name)
    while True:
        recorded = await store.read_stream(stream)
        if recorded and decode_declaration(recorded[-1]).digest == service.digest:
            return
        event = ServiceDeclared(
            service=service.name, digest=service.digest, declaration=service.canonical.decode()
        )
        with suppress(VersionConflict):  # of another node that begins
            new = encode(event, SERVER.metadata)
            await store.append(stream, [new], expected=recorded[-1].version if recorded else 0)
            return


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
        _log.exception("the last declaration of service %s cannot be read", name)
        return Service(name=name, title=name, command=["false"])
