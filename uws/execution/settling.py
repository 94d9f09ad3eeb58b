"""Settling: the one that leads ends what nodes that are gone have begun, by the store of its term.

Nobody else touches what was started elsewhere. That a node is gone may change any moment: what was decided of
its jobs is carried out once or not at all, and decided anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from eventstore import EventStoreError, RecordedEvent
from eventstore.membership import Membership
from uws.jobs import Backend, UserUWS
from uws.model import Job, Result, Unavailable, UnknownForm
from uws.model import events as e
from uws.model.queueing import IN_SLURM

from ._persistence import keep_doing, lasting
from .local import LocalRun
from .nodes import GONE, say
from .process import Launchers
from .programs import Programs
from .run import Here, Run
from .runs import Runs

_log = logging.getLogger(__name__)

_EVERY = 1.0
"""Seconds between two looks at who is gone."""


class Settling:
    """Puts on record which nodes are gone, and what has become of their jobs.

    A program that has ended is recorded as it ended, one that runs on this machine is seen through, and any
    other is lost. ``find`` returns the service of a name; ``grace`` is as the scheduler's.
    """

    def __init__(self, backend: Backend, find: Callable[[str], Awaitable[UserUWS]], *, grace: float) -> None:
        assert backend.membership
        self._backend, self._find, self._member = backend, find, backend.membership
        self._here = Here(Launchers(), Programs(), grace, asyncio.Event(), restarted=False)
        self._runs = Runs(backend.clock, self._here.closing, self._over)
        self._others = set[str | None]()
        """Nodes that may have something to settle when they are gone; None is a server that was alone."""
        self._has_looked = False
        """Whether they are all known from which something is left from before."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Settle what there is to be settled now, then go on with what comes."""
        position = (await self._backend.store.head()).position
        await self._try_to_settle()
        self._tasks = [
            lasting(self._follow(position), "settling: following the log"),
            lasting(keep_doing(self._look, self._backend.clock), "settling"),
        ]

    async def close(self) -> None:
        """Leave the rest to whoever leads next."""
        self._here.closing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runs.close()
        await self._here.launchers.close()

    async def _follow(self, position: int) -> None:
        async for batch in self._backend.follow(position):
            for event in batch:
                self._runs.hear(event)
                with suppress(UnknownForm):
                    self._note(event)

    def _note(self, event: RecordedEvent) -> None:
        if event.type == e.NodeJoined.__name__:
            self._others.add(e.decode_node(event).node)
        elif event.type == e.JobStarted.__name__:
            started = e.decode(event)
            assert isinstance(started, e.JobStarted)
            if not started.host:
                self._others.add(started.node)

    async def _look(self) -> None:
        await asyncio.sleep(_EVERY)
        await self._try_to_settle()

    async def _try_to_settle(self) -> None:
        try:
            await self._settle()
        except EventStoreError as error:
            _log.warning("the jobs of nodes that are gone are not settled yet: %s; trying again", error)

    async def _settle(self) -> None:
        """Settle the jobs of those that are gone. Raises `EventStoreError`."""
        if not self._has_looked:
            await self._backend.projector.caught_up("queue")
            self._others.update(await self._backend.jobs.nodes())
            self._others.update(node for *_, node in await self._backend.jobs.started())
            self._has_looked = True
        gone = {name for name in self._others if self._is_gone(name)}
        if not gone:
            return
        self._others -= gone  # what they begin from now on is noted again
        try:
            await self._settle_those_of(gone)
        except BaseException:
            self._others |= gone
            raise

    async def _settle_those_of(self, nodes: set[str | None]) -> None:
        await self._backend.projector.caught_up("queue")
        started = await self._backend.jobs.started()
        await self._member.looked()  # who has started one of these is back, perhaps
        gone = {name for name in nodes if self._is_gone(name)}
        self._others |= nodes - gone
        for name in gone:
            if name is not None and await say(self._backend, name, here=False, reason=GONE):
                _log.warning("node %s is gone", name)
        runs = [
            _Left(await self._find(service), job_id, self._here, node, self._member)
            for job_id, service, node in started
            if node in gone and job_id not in self._runs.by_job
        ]
        await asyncio.gather(*(self._runs.begin(run, run.settle) for run in runs))

    def _is_gone(self, name: str | None) -> bool:
        if name in (self._backend.node, IN_SLURM):
            return False
        return name is None or self._member.is_gone(name)

    def _over(self, run: Run) -> None:
        if run.failed:
            self._others.add(run.node)


class _Back(Exception):
    """A node is there again."""


class _Left(LocalRun):
    """A job that was started on another ``node``, or by a server that was alone: then it is None."""

    def __init__(self, uws: UserUWS, job_id: str, here: Here, node: str | None, member: Membership) -> None:
        super().__init__(uws, job_id, here)
        self.node, self._member = node, member

    async def settle(self) -> None:
        """Do what `take_over` does, as long as the node is gone."""
        try:
            await self.take_over()
        except (EventStoreError, Unavailable, _Back) as error:
            _log.warning("job %s is not settled: %s", self.job_id, error)
            self.failed = True

    async def _recording(self, command: Callable[[], Awaitable[Job]]) -> Job:
        """Carry out a command once: when it is tried again, the node is there, perhaps."""
        if self.node is not None and not self._member.is_gone(self.node):
            raise _Back(f"node {self.node} is there again")
        return await command()

    async def _record_loss(self, results: tuple[Result, ...], reason: str) -> None:
        await self._member.looked()  # what was left of the program may have taken long to find
        await super()._record_loss(results, reason)
