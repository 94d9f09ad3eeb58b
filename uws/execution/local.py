"""One job on its way from the queue to its end, with a program on this machine."""

from __future__ import annotations

import asyncio
import logging
from contextlib import closing, suppress
from datetime import timedelta
from errno import EAGAIN, EIO
from typing import Any

from eventstore import EventStoreError, RecordedEvent, from_microseconds
from uws.clock import first_of, pause
from uws.jobs import UserUWS
from uws.model import (
    STARTED,
    Ending,
    Failure,
    Job,
    JobGone,
    MissingParameters,
    ParameterError,
    ProgramFile,
    Superseded,
    Unavailable,
    fold,
)
from uws.model import events as e
from uws.model.events import Finding, job_stream

from . import _failpoints as failpoint
from .fetching import fetch
from .process import LAST_WAIT, LauncherGone, NotStarted, Process, end_sessions, sessions_with
from .records import End, Record, last_record, next_record
from .results import not_started
from .run import Here, Run
from .sandbox import sandboxed, with_room
from .supervisor import LEASE

_log = logging.getLogger(__name__)

_NUDGE = 2.0
"""Seconds for which a program may keep its own supervisor from working, by SIGSTOP."""
_LAUNCHERS = 3
"""Launchers that may end one after the other until starting a program is given up."""

MARK = "UWS_RESULTS"
"""The variable in the environment of programs that tells whose they are."""


class LocalRun(Run):
    """One job on its way from the queue to its end, on this machine."""

    def __init__(self, uws: UserUWS, job_id: str, here: Here, owner: str | None = None) -> None:
        super().__init__(uws, job_id, here, owner)
        # It tells this server's jobs from those of a server on a copy of the data.
        self._mark = MARK, str(self._directory.results)
        self._passed_over = asyncio.Event()

    def hear(self, event: RecordedEvent) -> None:
        """See `Run.hear`."""
        if event.type == e.JobStarted.__name__:  # perhaps elsewhere: nothing is fetched for it any more
            self._passed_over.set()
        super().hear(event)

    async def start(self) -> None:
        """Start the program of a job that waits, and see it through.

        Where it needs files of another node, these are fetched, and it waits for its turn again. Raises
        `FilesAway` when they cannot be had.
        """
        if self._here.closing.is_set() or await self._fetch():
            return
        with suppress(OSError):  # it is tried again, and told, when the start is decided
            self._directory.make()
        program = await self._here.programs.of(self._uws.service)
        if job := await self._start_recorded(lambda: self._decide_start(program)):
            self._start = job.start
            await self._launch(job)

    async def _decide_start(self, program: tuple[ProgramFile, ...]) -> Job:
        """Record the start, once the others count this node as there: else they take it for lost."""
        if member := self._uws.backend.membership:
            await first_of(member.there(), self._here.closing.wait())
        return await self._uws.start_job(self.job_id, program)

    async def _fetch(self) -> bool:
        """Fetch what other nodes have of the job's files; returns whether there was such."""
        backend = self._uws.backend
        if not backend.keeper:
            return False
        job = fold(await backend.store.read_stream(job_stream(self.job_id)))
        if not (job and any(backend.is_elsewhere(job, upload) for upload in job.uploads)):
            return False
        self.fetches = True
        self.decided.set()  # others have their turn meanwhile
        fetching = asyncio.ensure_future(fetch(backend, job))
        await first_of(fetching, self._passed_over.wait(), self._here.closing.wait())
        if not fetching.cancelled():
            fetching.result()
        return True

    async def take_over(self) -> None:
        """Find out what became of the program of a job that was started, and see it through."""
        recorded = await self._uws.backend.store.read_stream(job_stream(self.job_id))
        job = fold(recorded)
        if job is None or job.destroyed or job.phase not in STARTED or job.node != self.node:
            return
        self._start = job.start
        if job.stop:
            self.stop(None)
        try:
            record = await asyncio.to_thread(last_record, self._directory, self._start)
        except FileNotFoundError:  # with the directory, what stood in it is lost
            await self._clear_away("the program was lost with its directory", found=True)
            return
        left = set() if record else await asyncio.to_thread(sessions_with, *self._mark)
        elsewhere = self.node != self._uws.backend.node
        if left or (record is None and (self._here.restarted or elsewhere)):
            await self._clear_away("the program was lost with its record", found=True)
        elif record is None:
            await self._record_finding("not started")
            self.decided.set()
            await self._launch(job)
        elif process := Process.of(record):
            with closing(process):
                await self._record_finding("running")
                self.decided.set()
                await self._see_to_end(job, process)
        elif (ended := record.read()) and ended.exceeded == LEASE:
            await self._record_finding("ended")
            await self._over(ended)
        elif ended:  # just now, perhaps
            await self._record_finding("ended")
            if job.execution_duration and record.seconds > job.execution_duration + self._here.grace:
                await self._record_stop("duration")
            await self._record_end(await self._collect(ended), from_microseconds(ended.ended))
        else:
            await self._clear_away("the program was lost while no server ran", found=True)

    async def _launch(self, job: Job) -> None:
        """Start the program, as was decided, and see it through."""
        if self._stop.is_set():  # decided in the same breath as the start
            await self._record_stop(self._stop_reason)
            await self._record_end(Ending())
            return
        try:
            record = await self._spawn(job)
        except (ParameterError, MissingParameters) as error:
            await self._record_end(Ending(failure=Failure(message=f"the declaration has changed: {error}")))
            return
        except OSError as error:
            what = error.what if isinstance(error, NotStarted) else "the program"
            await self._record_end(Ending(failure=not_started(self._uws.service, error.errno, what)))
            return
        failpoint.reached(failpoint.LAUNCHED)
        if process := Process.of(record):
            with closing(process):
                await self._see_to_end(job, process)
        else:
            await self._over(record.read())

    async def _spawn(self, job: Job) -> Record:
        """Have the program started and return its record. Raises `OSError`, `ParameterError` and such."""
        directory, service = self._directory, self._uws.service
        argv, environment = self._prepared(job)
        limits = service.limits.numbers
        if service.sandbox:
            directory.progress.touch(mode=0o600)  # what is not there cannot be shown to it
            argv, limits = sandboxed(argv, directory, limits), with_room(limits)
        gone = 0
        while True:
            try:
                path = next_record(directory, self._start)
                return await self._here.launchers.of(service).launch(
                    argv,
                    record=path,
                    root=directory.root,
                    directory=directory.work,
                    environment=environment,
                    stdout=directory.logs / "stdout",
                    stderr=directory.logs / "stderr",
                    limits=limits,
                    nice=service.nice,
                    lease=self._uws.backend.files.lease if job.leased else None,
                )
            except LauncherGone:
                if record := await asyncio.to_thread(last_record, directory, self._start):
                    return record
                gone += 1
                if gone == _LAUNCHERS:
                    raise NotStarted(EIO, "its launcher ends before it can do anything") from None
            except OSError as error:
                if error.errno != EAGAIN:
                    raise
                _log.warning("job %s: the machine is full; trying again", self.job_id)
                await first_of(pause(self._uws.backend.clock), self._stop.wait())
                if self._stop.is_set():
                    raise

    async def _see_to_end(self, job: Job, process: Process) -> None:
        """Wait until the program has ended, or stop it, and record what became of it."""
        try:
            async with self._progress.followed(job):
                ended = await self._until_over(process, job)
            await self._over(ended)
        except (Superseded, JobGone):  # another node took this one for gone
            process.kill()
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WAIT):
                    await process.ended()
            raise

    async def _over(self, ended: End | None) -> None:
        if ended and ended.exceeded == LEASE:
            await self._clear_away("the program was stopped: its node was cut off for too long")
        elif ended:
            await self._record_end(await self._collect(ended))
        else:
            await self._clear_away("the program was lost: its supervisor is gone")

    async def _until_over(self, process: Process, job: Job) -> End | None:
        over = asyncio.ensure_future(process.ended())
        stopped = asyncio.ensure_future(self._stop.wait())
        waiting: list[asyncio.Future[Any]] = [over, stopped]
        if job.execution_duration and job.started:
            limit = job.started + timedelta(seconds=job.execution_duration)
            waiting.append(asyncio.ensure_future(self._uws.backend.clock.sleep_until(limit)))
        try:
            while not (await asyncio.wait(waiting, timeout=_NUDGE, return_when=asyncio.FIRST_COMPLETED))[0]:
                process.go_on()
            if not over.done():
                try:
                    await self._record_stop(self._stop_reason if stopped.done() else "duration")
                except (EventStoreError, Unavailable):  # the server stops, and its programs with it
                    await self._stop_program(process, over)
                    raise
                await self._stop_program(process, over)
            return over.result() if over.done() else None
        finally:
            for future in waiting:
                future.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _stop_program(self, process: Process, over: asyncio.Future[End | None]) -> None:
        """Send SIGTERM, SIGKILL after the grace period, and wait for the end, within reason."""
        process.terminate()
        await self._record_signal("SIGTERM")
        if (await asyncio.wait([over], timeout=self._here.grace))[0]:
            return
        process.kill()
        await self._record_signal("SIGKILL")
        if not (await asyncio.wait([over], timeout=LAST_WAIT))[0]:
            _log.error("job %s: something of its program cannot be killed", self.job_id)
            process.give_up()
            await asyncio.wait([over], timeout=LAST_WAIT)

    async def _collect(self, ended: End) -> Ending:
        return await self._collected(lambda collect: collect(ended))

    async def _clear_away(self, reason: str, *, found: bool = False) -> None:
        """Clear away what is left of a program that has no supervisor, and record that it was lost."""
        if found:
            await self._record_finding("lost")
        await self._here.launchers.of(self._uws.service).settle()
        await end_sessions(*self._mark)
        await self._lose(reason)

    async def _record_finding(self, finding: Finding) -> None:
        await self._recording(lambda: self._uws.find_program(self.job_id, finding, start=self._start))
