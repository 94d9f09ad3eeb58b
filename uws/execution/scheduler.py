"""The scheduler: reads the queue, starts programs while there are slots, and records how they end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from errno import EAGAIN, EDQUOT, EMFILE, ENFILE, ENOMEM, ENOSPC
from pathlib import Path
from typing import Any

from eventstore import EventStoreError
from projections import Behind, QueueHead
from uws.files import JobDirectory
from uws.jobs import Backend, UserUWS, first_of
from uws.model import (
    Ending,
    Failure,
    IllegalPhase,
    Job,
    JobGone,
    MissingParameters,
    ParameterError,
    Unavailable,
    fold,
)
from uws.model.events import StopReason, job_id_of, job_stream
from uws.model.transitions import SERVER_STOPPED

from ._persistence import follow, keep_doing, pause
from .process import Process, end_session, sessions_with
from .results import collect, results_of

log = logging.getLogger(__name__)

INHERITED = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TMPDIR", "TZ")
"""The variables of the server's own environment that programs see."""
_MOVES_THE_QUEUE = frozenset({"JobQueued", "JobAborted", "JobDestroyed"})


class Scheduler:
    """Runs the jobs of services on this machine; ``grace`` seconds lie between SIGTERM and SIGKILL.

    ``offered`` are the services whose jobs are started. Those of others stay in the queue; what an earlier
    server was running of theirs is settled, with the service that ``find`` returns for a name.
    """

    def __init__(
        self,
        backend: Backend,
        offered: Mapping[str, UserUWS],
        find: Callable[[str], Awaitable[UserUWS]],
        *,
        grace: float = 10.0,
    ) -> None:
        self._backend, self._offered, self._find, self._grace = backend, offered, find, grace
        self._running: dict[str, Run] = {}
        self._settled = False
        self._look = asyncio.Event()
        self._closing = asyncio.Event()
        self._turn = itertools.count(1)
        self._last_turn: dict[str | None, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Settle what an earlier server left behind, then begin to run jobs."""
        position = (await self._backend.store.head()).position
        try:
            await self._settle_all()
        except Behind as error:
            log.error("what an earlier server was running is not settled yet: %s", error)
        self._look.set()
        self._tasks = [
            asyncio.create_task(self._follow(position), name="scheduler: following the log"),
            asyncio.create_task(keep_doing(self._fill, self._backend.clock), name="scheduler: filling"),
        ]

    async def close(self) -> None:
        """Stop all programs, record their jobs as ERROR (transient), and return when all is recorded."""
        self._closing.set()
        for task in self._tasks[1:]:
            task.cancel()
        runs = list(self._running.values())
        for run in runs:
            run.stop("shutdown")
        await asyncio.gather(*(run.task for run in runs), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, position: int) -> None:
        async for batch in follow(self._backend, position):
            for event in batch:
                if event.type == "StopRequested" and (
                    run := self._running.get(job_id_of(event.stream) or "")
                ):
                    run.stop(None)
            if any(event.type in _MOVES_THE_QUEUE for event in batch):
                self._look.set()

    async def _fill(self) -> None:
        """Wait until something has moved, and start what there are slots for."""
        await self._settle_all()
        await self._look.wait()
        while head := await self._next():
            await self._launch(head)

    async def _settle_all(self) -> None:
        """End what is left of an earlier server's programs, and record it. Raises `Behind`."""
        if self._settled:
            return
        await self._backend.projector.caught_up("queue")
        left = [job_id for job_id, _ in await self._backend.jobs.started()]
        await asyncio.gather(*(self._end_left_over(job_id) for job_id in left))
        for job_id in left:
            if job := fold(await self._backend.store.read_stream(job_stream(job_id))):
                await self._settle(job)
        self._settled = True

    async def _next(self) -> QueueHead | None:
        """Choose the job to start now: of the owner whose last turn is longest ago, the oldest one."""
        self._look.clear()  # what moves from now on is looked at in another round
        if not any(self._has_slot(service) for service in self._offered):
            return None
        await self._backend.projector.caught_up("queue")
        heads = [
            head
            for head in await self._backend.jobs.queue_heads()
            if head.job_id not in self._running and self._has_slot(head.service)
        ]
        return min(heads, key=lambda head: (self._last_turn.get(head.owner, 0), head.queued), default=None)

    def _has_slot(self, service: str) -> bool:
        if service not in self._offered:
            return False
        used = sum(1 for run in self._running.values() if run.service == service)
        return used < self._offered[service].service.max_running

    async def _launch(self, head: QueueHead) -> None:
        run = Run(self._offered[head.service], head.job_id, self._grace, self._closing)
        self._running[head.job_id] = run
        self._last_turn[head.owner] = next(self._turn)
        run.task = asyncio.create_task(self._see_through(run), name=f"job {head.job_id}")
        # The queue is read again only when this job has left it.
        await run.decided.wait()

    async def _see_through(self, run: Run) -> None:
        try:
            await run.through()
        except Exception:
            log.exception("job %s was given up by the scheduler", run.job_id)
            # It may still be first in the queue: not again at once.
            await first_of(pause(self._backend.clock), self._closing.wait())
        finally:
            run.decided.set()
            del self._running[run.job_id]
            self._look.set()

    async def _end_left_over(self, job_id: str) -> None:
        """End what is left of the program that an earlier server started for a job."""
        # The results directory tells this server's jobs from those of a server on a copy of the data.
        sessions = await asyncio.to_thread(
            sessions_with, "UWS_RESULTS", str(self._backend.files.of(job_id).results)
        )
        await asyncio.gather(*(end_session(session, self._grace) for session in sessions))

    async def _settle(self, job: Job) -> None:
        """Record the end of a job that an earlier server was running."""
        uws = await self._find(job.service)
        try:
            results = await asyncio.to_thread(results_of, uws.service, self._backend.files.of(job.id))
        except Exception:  # one strange directory must not keep the server from starting
            log.exception("the results of job %s cannot be collected", job.id)
            results = ()
        await uws.end_job(job.id, Ending(results=results, failure=SERVER_STOPPED))


class Run:
    """One job on its way from the queue to its end."""

    task: asyncio.Task[None]

    def __init__(self, uws: UserUWS, job_id: str, grace: float, closing: asyncio.Event) -> None:
        self._uws, self.job_id, self._grace, self._closing = uws, job_id, grace, closing
        self.service = uws.service.name
        self.decided = asyncio.Event()
        """Set when it is on record that the job was started, or that it was not."""
        self._stop = asyncio.Event()
        self._stop_reason: StopReason | None = None

    def stop(self, reason: StopReason | None) -> None:
        """Have the program stopped; ``reason`` goes on record, None when one stands there already."""
        self._stop_reason = reason
        self._stop.set()

    async def through(self) -> None:
        """Start the program, wait for its end or stop it, and record what became of it."""
        if self._closing.is_set():
            return
        try:
            job = await self._recording(lambda: self._uws.start_job(self.job_id))
        except (IllegalPhase, JobGone):  # aborted or destroyed in the meantime
            return
        finally:
            self.decided.set()
        try:
            ending = await self._execute(job)
        except Exception as error:  # whatever it is, the job does not stay EXECUTING
            log.exception("job %s: its program could not be seen through", self.job_id)
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            ending = Ending(
                failure=Failure(
                    message=f"the server could not see the program through: {reason}", type="transient"
                )
            )
        await self._recording(lambda: self._uws.end_job(self.job_id, ending))

    async def _execute(self, job: Job) -> Ending:
        """Run the program to its end, of its own or not; nothing of it is left then, whatever is raised."""
        if self._stop.is_set():  # decided in the same breath as the start
            await self._record_stop(self._stop_reason)
            return Ending()
        directory = self._uws.backend.files.of(job.id)
        try:
            process = self._spawn(job, directory)
        except (ParameterError, MissingParameters) as error:
            return Ending(failure=Failure(message=f"the declaration has changed: {error}"))
        except OSError as error:
            return Ending(failure=_start_failure(error, self._uws.service.command[0]))
        try:
            await self._until_over(process, job)
        finally:
            status = await process.finish()
        return await asyncio.to_thread(collect, self._uws.service, directory, status)

    def _spawn(self, job: Job, directory: JobDirectory) -> Process:
        directory.make()
        typed = self._uws.job_class.from_values(job.parameters, str(directory.uploads))
        directory.parameters.write_bytes(typed.to_json())
        places = {"results": str(directory.results), "parameters": str(directory.parameters)}
        return Process.start(
            typed.argv(job_id=job.id, **places),
            directory=directory.work,
            environment=environment_of(self._uws, job.id, directory),
            stdout=directory.logs / "stdout",
            stderr=directory.logs / "stderr",
        )

    async def _until_over(self, process: Process, job: Job) -> None:
        exited = asyncio.ensure_future(process.exited())
        stopped = asyncio.ensure_future(self._stop.wait())
        over: list[asyncio.Future[Any]] = [exited, stopped]
        if job.execution_duration and job.started:
            limit = job.started + timedelta(seconds=job.execution_duration)
            over.append(asyncio.ensure_future(self._uws.backend.clock.sleep_until(limit)))
        try:
            await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                return
            await self._record_stop(self._stop_reason if stopped.done() else "duration")
            await process.stop(self._grace)
        finally:
            for future in over:
                future.cancel()
            await asyncio.gather(*over, return_exceptions=True)

    async def _record_stop(self, reason: StopReason | None) -> None:
        if reason:
            await self._recording(lambda: self._uws.stop_job(self.job_id, reason))

    async def _recording(self, command: Callable[[], Awaitable[Job]]) -> Job:
        """Carry out a command however long the log refuses it, unless the server stops."""
        while True:
            try:
                return await command()
            except (EventStoreError, Unavailable) as error:
                if self._closing.is_set():
                    raise
                log.warning("job %s: %s; trying again", self.job_id, error)
                await first_of(pause(self._uws.backend.clock), self._closing.wait())


def environment_of(uws: UserUWS, job_id: str, directory: JobDirectory) -> dict[str, str]:
    """Return all that a program sees of an environment.

    ``PATH`` begins with the directory of the server's own Python, so that ``python`` in a declaration is
    the one that the server runs on.
    """
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    path = [str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]
    return {
        **inherited,
        "PATH": os.pathsep.join(path),
        **uws.service.environment,
        "UWS_JOB_ID": job_id,
        "UWS_RESULTS": str(directory.results),
        "UWS_PARAMETERS": str(directory.parameters),
    }


def _start_failure(error: OSError, program: object) -> Failure:
    transient = error.errno in (EAGAIN, EDQUOT, EMFILE, ENFILE, ENOMEM, ENOSPC)
    message = f"the program {program} could not be started: {error.strerror or error}"
    return Failure(message=message, type="transient" if transient else "fatal")
