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

from structlog.contextvars import bind_contextvars

from projections import Behind
from uws.clock import first_of, pause
from uws.jobs import Backend, UserUWS
from uws.model import PHASE_AFTER, IllegalPhase, JobGone, Phase, Superseded, fold
from uws.model.events import job_id_of, job_stream
from uws.model.phases import ENDED
from uws.model.queueing import AT_ONCE, IN_SLURM

from ._persistence import keep_doing
from .fetching import AGAIN, FilesAway
from .process import Launchers, end_sessions, jobs_with_programs
from .programs import Programs
from .records import has_restarted, leave_mark
from .run import MARK, Here, Run

log = logging.getLogger(__name__)

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
_CONCERNS_RUNS = frozenset(
    {
        "JobStarted", "StopRequested", "JobRequeued", "JobFailed", "JobAborted", "JobArchived",
        "JobDestroyed",
    }
)  # fmt: skip


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
        self._running: dict[str, Run] = {}
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
            log.error("what an earlier server was running is not on record yet: %s", error or "it takes long")
        await self._end_strays()
        self._look.set()
        self._tasks = [
            asyncio.create_task(self._follow(position), name="scheduler: following the log"),
            asyncio.create_task(keep_doing(self._fill, self._backend.clock), name="scheduler: filling"),
        ]

    def look(self) -> None:
        """Look at the queue, and at what nobody sees through: what has moved there the log does not tell."""
        self._look.set()

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
        runs = list(self._running.values())
        for run in runs:
            if self._end_with_server:
                run.stop("shutdown")
            else:
                run.task.cancel()
        await asyncio.gather(*(run.task for run in runs), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._here.launchers.close()

    async def _follow(self, position: int) -> None:
        async for batch in self._backend.follow(position):
            for event in batch:
                run = self._running.get(job_id_of(event.stream) or "")
                if run and event.type in _CONCERNS_RUNS:
                    run.hear(event)
                # What becomes of this scheduler's own runs it looks at when they have ended.
                elif not run and event.type in _MOVES_THE_QUEUE:
                    self._look.set()

    async def _fill(self) -> None:
        """Wait until something has moved, and do what there is to be done."""
        await self._look.wait()
        self._look.clear()  # what moves from now on is looked at in another round
        try:
            while await self._move():
                pass
        except Exception:
            self._look.set()  # it was not all looked at
            raise

    async def _move(self) -> bool:
        """Do what comes next; False when there is nothing to do until something moves."""
        coming = [run.as_running for run in self._running.values() if run.fetches]
        situation = await self._backend.queueing.situation(away=self._put_off)
        situation = replace(
            situation.on(self._place, coming),
            lines=[line for line in situation.lines if line.service in self._offered],
        )
        if any(job.job_id not in self._running and self._is_own(job.node) for job in situation.running):
            await self._take_over()
            return True
        if situation.held and await self._release(situation.held):
            return True
        starting: list[Run] = []
        while len(starting) < AT_ONCE:
            line = situation.next(but=self._running.keys() | self._put_off.keys())
            if line is None or not line.job_id:
                break
            starting.append(self._run(self._offered[line.service], line.job_id, line.owner))
            situation = situation.after(line)
        await asyncio.gather(*(self._begin(run, run.start) for run in starting))
        return bool(starting)

    def _run(self, uws: UserUWS, job_id: str, owner: str | None = None) -> Run:
        return Run(uws, job_id, self._here, owner)

    async def _take_over(self) -> None:
        """Take up the jobs that are started and that nobody sees through. Raises `Behind`."""
        await self._backend.projector.caught_up("queue")
        started, member = await self._backend.jobs.started(), self._backend.membership
        if member and any(self._is_own(node) for *_, node in started if node != member.name):
            await member.looked()  # who has started one of these is back, perhaps
        left = [
            (job_id, service)
            for job_id, service, node in started
            if job_id not in self._running and self._is_own(node)
        ]
        runs = [self._run(await self._find(service), job_id) for job_id, service in left]
        await asyncio.gather(*(self._begin(run, run.take_over) for run in runs))
        if self._here.restarted and not any(run.failed for run in runs):
            await asyncio.to_thread(leave_mark, self._backend.files.boot)
            self._here = self._here._replace(restarted=False)

    async def _end_strays(self) -> None:
        """Kill the programs of jobs that were given up while no server of this machine was there."""
        files = self._backend.files
        for job_id in await asyncio.to_thread(jobs_with_programs, MARK, files.root):
            job = fold(await self._backend.store.read_stream(job_stream(job_id)))
            if job and not job.is_under_way:
                log.warning("job %s is %s: its program, which still runs, is killed", job_id, job.phase)
                await end_sessions(MARK, str(files.of(job_id).results))

    def _is_own(self, node: str | None) -> bool:
        """Whether what was started on ``node`` is for this server to see through."""
        if node == IN_SLURM:
            return False
        if node == self._backend.node:
            return True
        member = self._backend.membership
        # Of a node that is gone, and of a server that was alone with the log before, the leader settles it.
        return member is not None and member.leads and (node is None or member.is_gone(node))

    def _pass_over(self, whom: str) -> None:
        """Start neither this job for a while, nor any that needs files of this node."""

        def look_again() -> None:
            del self._put_off[whom]
            self._look.set()

        if whom not in self._put_off and not self._here.closing.is_set():
            self._put_off[whom] = asyncio.get_running_loop().call_later(AGAIN, look_again)

    async def _release(self, held: Sequence[tuple[str, str | None, str]]) -> bool:
        """Queue held jobs for which there is room again; returns whether there was."""
        released = False
        for service, _, job_id in held:
            if uws := self._offered.get(service):
                with suppress(IllegalPhase, JobGone):  # somebody was faster
                    released |= await uws.release_job(job_id)
        return released

    async def _begin(self, run: Run, step: Callable[[], Awaitable[None]]) -> None:
        self._running[run.job_id] = run
        run.task = asyncio.create_task(self._see_through(run, step), name=f"job {run.job_id}")
        # The read model is asked again only when it tells what was decided of this job.
        await run.decided.wait()

    async def _see_through(self, run: Run, step: Callable[[], Awaitable[None]]) -> None:
        bind_contextvars(job_id=run.job_id)  # what is logged in its task is about the job
        try:
            await step()
        except (Superseded, JobGone) as error:
            log.warning("%s", error)
        except FilesAway as error:
            log.info("job %s is not started here for now: %s", run.job_id, error)
            self._pass_over(error.node or run.job_id)
        except Exception:
            log.exception("job %s is left to itself for a moment", run.job_id)
            run.failed = True
            # Whatever is the matter with it: not again at once.
            run.decided.set()
            await first_of(pause(self._backend.clock), self._here.closing.wait())
        finally:
            run.decided.set()
            del self._running[run.job_id]
            self._look.set()
