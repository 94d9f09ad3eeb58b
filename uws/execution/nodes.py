"""Which nodes take jobs from the queue: each says so in the log, and the leader says of whom it is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from eventstore import EventStoreError, VersionConflict
from eventstore.membership import Membership
from uws.commands import SERVER
from uws.jobs import Backend
from uws.model import events as e
from uws.model import fold

from ._persistence import keep_doing, lasting

_log = logging.getLogger(__name__)

_LAST_WORD = 5.0
"""Seconds that a server which stops waits to have it on record."""
STOPPED = "its server was stopped"
GONE = "it was not heard of"


@asynccontextmanager
async def taking_jobs(backend: Backend, membership: Membership) -> AsyncIterator[None]:
    """Have it on record, while the context lasts, that this node takes jobs; that it did before, at the end.

    It is said again whenever another took the node for gone. At the end any server may have its name, unless
    it leaves programs that others may start again when it is gone: by that name they would do so before.
    """
    if (name := membership.name) is None:
        yield
        return
    position = (await backend.store.head()).position
    await say(backend, name, here=True)
    left = asyncio.Event()

    async def follow() -> None:
        async for batch in backend.follow(position):
            if any(event.stream == e.node_stream(name) and event.type == "NodeLeft" for event in batch):
                _log.warning("others took node %s for gone", name)
                left.set()

    async def answer() -> None:
        await left.wait()
        await membership.there()
        left.clear()
        try:
            await say(backend, name, here=True)
        except BaseException:
            left.set()
            raise

    tasks = [
        lasting(follow(), "nodes: following the log"),
        lasting(keep_doing(answer, backend.clock), "nodes: being there"),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(EventStoreError, TimeoutError):
            async with asyncio.timeout(_LAST_WORD):
                await membership.there()  # else this would be said of another, who has the name by now
                await say(backend, name, here=False, reason=STOPPED)
                if not await _leaves_leased(backend, name):
                    await membership.leave()


async def _leaves_leased(backend: Backend, name: str) -> bool:
    """Whether programs run on under a lease that this node has begun."""
    await backend.projector.caught_up("queue")
    left = [job_id for job_id, _, node in await backend.jobs.started() if node == name]
    jobs = [fold(await backend.store.read_stream(e.job_stream(job_id))) for job_id in left]
    return any(job and job.leased for job in jobs)


async def say(backend: Backend, name: str, *, here: bool, reason: str = "") -> bool:
    """Put it on record that a node takes jobs, or takes none any more; False when that is no news.

    Raises `EventStoreError`.
    """
    stream = e.node_stream(name)
    while True:
        recorded = await backend.store.read_stream(stream)
        was = bool(recorded) and recorded[-1].type == e.NodeJoined.__name__
        if was is here:
            return False
        event: e.NodeEvent = e.NodeJoined(node=name) if here else e.NodeLeft(node=name, reason=reason)
        with suppress(VersionConflict):
            version = recorded[-1].version if recorded else 0
            await backend.store.append(stream, [e.encode(event, SERVER.metadata)], expected=version)
            return True
