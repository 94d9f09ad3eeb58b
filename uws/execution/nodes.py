"""Which nodes take jobs from the queue: each says so in the log, and the leader says of whom it is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from eventstore import EventStoreError, VersionConflict
from eventstore.membership import Membership
from projections import Behind
from uws.commands import SERVER
from uws.jobs import Backend
from uws.model import events as e
from uws.model.queueing import IN_SLURM

from ._persistence import keep_doing

log = logging.getLogger(__name__)

_EVERY = 1.0
"""Seconds between two looks at who is gone."""
_LAST_WORD = 5.0
"""Seconds that a server which stops waits to have it on record."""
_NOWHERE = (None, IN_SLURM)
STOPPED = "its server was stopped"
GONE = "it was not heard of"


@asynccontextmanager
async def taking_jobs(
    backend: Backend, membership: Membership, missed: Callable[[], None]
) -> AsyncIterator[None]:
    """Have it on record, while the context lasts, that this node takes jobs; that it did before, at the end.

    The leader also sees to it that this ends for nodes that are gone; ``missed`` is called when there is one.
    """
    if (name := membership.name) is None:
        yield
        return
    position = (await backend.store.head()).position
    await _say(backend, name, here=True)
    tasks = [
        asyncio.create_task(_stay(backend, membership, name, position), name="nodes: following the log"),
        asyncio.create_task(
            keep_doing(lambda: _look(backend, membership, missed), backend.clock), name="nodes: who is gone"
        ),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(EventStoreError, TimeoutError):
            async with asyncio.timeout(_LAST_WORD):
                await _say(backend, name, here=False, reason=STOPPED)


async def _stay(backend: Backend, membership: Membership, name: str, position: int) -> None:
    """Say that this node is there whenever another took it for gone."""
    async for batch in backend.follow(position):
        if any(event.stream == e.node_stream(name) and event.type == "NodeLeft" for event in batch):
            log.warning("others took node %s for gone", name)
            await membership.there()
            await _say(backend, name, here=True)


async def _look(backend: Backend, membership: Membership, missed: Callable[[], None]) -> None:
    await asyncio.sleep(_EVERY)
    if not membership.leads:
        return
    with suppress(Behind):
        await backend.projector.caught_up("queue")
        for name in await backend.jobs.nodes():
            if membership.is_gone(name):
                log.warning("node %s is gone", name)
                await _say(backend, name, here=False, reason=GONE)
        if any(membership.is_gone(node) for *_, node in await backend.jobs.started() if node not in _NOWHERE):
            missed()


async def _say(backend: Backend, name: str, *, here: bool, reason: str = "") -> None:
    """Put it on record that a node takes jobs, or takes none any more, if that is news."""
    stream = e.node_stream(name)
    while True:
        recorded = await backend.store.read_stream(stream)
        was = bool(recorded) and recorded[-1].type == e.NodeJoined.__name__
        if was is here:
            return
        event: e.NodeEvent = e.NodeJoined(node=name) if here else e.NodeLeft(node=name, reason=reason)
        with suppress(VersionConflict):
            version = recorded[-1].version if recorded else 0
            await backend.store.append(stream, [e.encode(event, SERVER.metadata)], expected=version)
            return
