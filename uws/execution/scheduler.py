"""The scheduler: reads the queue, starts programs while there are slots, and records how they end.

What runs is what the log says: a job that is started and that nobody sees through is taken over, whether an
earlier server started it or this one lost sight of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from projections import Behind
from uws.jobs import Backend, UserUWS
from uws.model import PHASE_AFTER, IllegalPhase, Job, JobGone, Phase, fold
from uws.model.events import job_stream
from uws.model.phases import ENDED
from uws.model.queueing import AT_ONCE

from ._persistence import keep_doing, lasting
from .fetching import AGAIN
from .local import MARK, LocalRun
from .process import Launchers, end_sessions, jobs_with_programs
from .programs import Programs
from .records import has_restarted, has_supervisor, leave_mark
from .run import Here, Run
from .runs import Runs

_log = logging.getLogger(__name__)

_LONGEST_LOOK = 60.0
"""Seconds that a start waits until it is on record what became of an earlier server's programs."""
_MOVES_THE_QUEUE = frozenset(
    {"JobDestroyed", "QueuePaused", "QueueResumed"}
    | {
        kind.__name__
        for kind, phase in PHASE_AFTER.items()
        if phase in {Phase.QUEUED, Phase.HELD, Phase.EXECUTING} | ENDED
    }
)
"""What may let a job start: it is there, or others no longer wait, or run, here or elsewhere."""


class Scheduler:
    """Runs the jobs of services on this machine; ``grace`` seconds lie between SIGTERM and SIGKILL.

    ``offered`` are the services whose jobs are started. Those of others stay in the queue; what an earlier
    server was running of theirs is seen through, with the service that ``find`` returns for a name. Programs
    outlive the server, unless they are to ``end_with_server``.
    """

    executor = "local"
    """What services say whose jobs are run here."""

    def __init__(
        self,
        backend: Backend,
        offered: Mapping[str, UserUWS],
        find: Callable[[str], Awaitable[UserUWS]],
        *,
        grace: float = 10.0,
        end_with_server: bool = False,
    ) -> None:
        self._backend, self._find = backend, find
        self._offered = {name: uws for name, uws in offered.items() if uws.service.executor == self.executor}
        self._end_with_server = end_with_server
        self._here = Here(Launchers(), Programs(), grace, asyncio.Event(), has_restarted(backend.files.boot))
        self._runs = Runs(backend.clock, self._here.closing, self._over)
        self._put_off: dict[str, asyncio.TimerHandle] = {}
        """Jobs whose files could not be had, and nodes whose files all jobs wait for, perhaps elsewhere."""
        self._look = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def _place(self) -> str | None:
        """Where the jobs run that count for limits that are not an owner's; None is everywhere."""
        return self._backend.node

    async def start(self) -> None:
        """Find out what became of the programs of an earlier server, then begin to run jobs."""
        position = (await self._backend.store.head()).position
        try:
            async with asyncio.timeout(_LONGEST_LOOK):
                await self._take_over()
        except (Behind, TimeoutError) as error:  # of a log that takes nothing now, perhaps
            _log.error(
                "what an earlier server was running is not on record yet: %s", error or "it takes long"
            )
        await self._end_strays()
        self._look.set()
        self._tasks = [
            lasting(self._follow(position), "scheduler: following the log"),
            lasting(keep_doing(self._fill, self._backend.clock), "scheduler: filling"),
        ]

    async def close(self) -> None:
        """Leave the programs to their supervisors and to the next server.

        If they are to end with this one, stop them, record their jobs as ERROR (transient), and return when
        all is recorded.
        """
        self._here.closing.set()
        for looked_at_again in self._put_off.values():
            looked_at_again.cancel()
        for task in self._tasks[1:]:
            task.cancel()
        await self._runs.close(stop=self._end_with_server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._here.launchers.close()

    async def _follow(self, position: int) -> None:
        async for batch in self._backend.follow(position):
            for event in batch:
                # What becomes of this scheduler's own runs it looks at when they have ended.
                if not self._runs.hear(event) and event.type in _MOVES_THE_QUEUE:
                    self._look.set()

    async def _fill(self) -> None:
        """Wait until something has moved, and do what there is to be done."""
        await self._look.wait()
        self._look.clear()  # what moves from now on is looked at in another round
        try:
            while await self._move():
                pass
            if not any(run.fetches for run in self._runs.by_job.values()):
                self._backend.away.intersection_update(self._put_off)  # nobody asks for the others any more
        except Exception:
            self._look.set()  # it was not all looked at
            raise

    async def _move(self) -> bool:
        """Do what comes next; False when there is nothing to do until something moves."""
        coming = [run.as_running for run in self._runs.by_job.values() if run.fetches]
        situation = await self._backend.queueing.situation(away=self._put_off)
        situation = replace(
            situation.on(self._place, coming),
            lines=[line for line in situation.lines if line.service in self._offered],
        )
        if any(job.job_id not in self._runs.by_job and self._is_own(job.node) for job in situation.running):
            await self._take_over()
            return True
        if situation.held and await self._release(situation.held):
            return True
        starting: list[Run] = []
        while len(starting) < AT_ONCE:
            line = situation.next(but=self._runs.by_job.keys() | self._put_off.keys())
            if line is None or not line.job_id:
                break
            starting.append(self._run(self._offered[line.service], line.job_id, line.owner))
            situation = situation.after(line)
        await asyncio.gather(*(self._runs.begin(run, run.start) for run in starting))
        # There may be more than was seen, and there is room in the queue for who is held.
        return bool(starting and (line or situation.held))

    def _run(self, uws: UserUWS, job_id: str, owner: str | None = None) -> Run:
        return LocalRun(uws, job_id, self._here, owner)

    async def _take_over(self) -> None:
        """Take up the jobs that are started and that nobody sees through. Raises `Behind`."""
        await self._backend.projector.caught_up("queue")
        left = [
            (job_id, service)
            for job_id, service, node in await self._backend.jobs.started()
            if job_id not in self._runs.by_job and self._is_own(node)
        ]
        if left and (member := self._backend.membership):
            await member.there()  # else what was found is perhaps of another, who has the name by now
        runs = [self._run(await self._find(service), job_id) for job_id, service in left]
        await asyncio.gather(*(self._runs.begin(run, run.take_over) for run in runs))
        if self._here.restarted and not any(run.failed for run in runs):
            await asyncio.to_thread(leave_mark, self._backend.files.boot)
            self._here = self._here._replace(restarted=False)

    async def _end_strays(self) -> None:
        """Kill the programs of jobs that were given up while no server of this machine was there."""
        files = self._backend.files
        for job_id in await asyncio.to_thread(jobs_with_programs, MARK, files.root):
            job = fold(await self._backend.store.read_stream(job_stream(job_id)))
            if job and not await asyncio.to_thread(self._runs_here, job):
                where = f", on node {job.node}" if job.is_under_way and job.node else ""
                _log.warning(
                    "job %s is %s%s: its program, which still runs here, is killed", job_id, job.phase, where
                )
                await end_sessions(MARK, str(files.of(job_id).results))

    def _runs_here(self, job: Job) -> bool:
        """Whether a program of a job that is found on this machine may be the one that counts."""
        if not job.is_under_way:
            return False
        if job.node == self._backend.node or job.submitted:  # or Slurm's
            return True
        # Another node may be on this machine, too, and have the same directory.
        return not self._backend.keeper and has_supervisor(self._backend.files.of(job.id), job.start)

    def _is_own(self, node: str | None) -> bool:
        """Whether what was started on ``node`` is for this scheduler to see through."""
        return node == self._backend.node

    def _pass_over(self, whom: str) -> None:
        """Start neither this job for a while, nor any that needs files of this node."""

        def look_again() -> None:
            del self._put_off[whom]
            self._look.set()  # as long as it is asked for again it is away

        if whom not in self._put_off and not self._here.closing.is_set():
            self._backend.away.add(whom)
            self._put_off[whom] = asyncio.get_running_loop().call_later(AGAIN, look_again)

    async def _release(self, held: Sequence[tuple[str, str | None, str]]) -> bool:
        """Queue held jobs for which there is room again; returns whether there was."""
        released = False
        for service, _, job_id in held:
            if uws := self._offered.get(service):
                with suppress(IllegalPhase, JobGone):  # somebody was faster
                    released |= await uws.release_job(job_id)
        return released

    def _over(self, run: Run) -> None:
        if run.awaits:
            self._pass_over(run.awaits)
        self._look.set()
