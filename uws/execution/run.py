"""One job on its way from the queue to its end, wherever its program runs: what goes on record of it."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from datetime import datetime
from errno import EIO
from functools import partial
from typing import Literal, NamedTuple

from eventstore import EventStoreError, RecordedEvent
from uws.clock import first_of, pause
from uws.environment import job_environment
from uws.jobs import UserUWS
from uws.model import Ending, Failure, IllegalPhase, Job, JobGone, Result, Unavailable
from uws.model import events as e
from uws.model.events import StopReason
from uws.model.queueing import Running

from . import _failpoints as failpoint
from .fetching import take_away
from .process import Launchers, NotStarted
from .programs import Programs
from .progress import Progress
from .records import End
from .results import collect, results_of

_log = logging.getLogger(__name__)


class Here(NamedTuple):
    """What all jobs have in common that this server runs."""

    launchers: Launchers
    programs: Programs
    grace: float
    closing: asyncio.Event
    restarted: bool
    """Whether the machine has, since an earlier server: what tells of a start may be lost."""


class Run(ABC):
    """One job on its way from the queue to its end. A cancelled one is taken over by the next server."""

    task: asyncio.Task[None]

    def __init__(self, uws: UserUWS, job_id: str, here: Here, owner: str | None = None) -> None:
        self.job_id = job_id
        self._uws, self._here, self._owner = uws, here, owner
        self._directory = uws.backend.files.of(job_id)
        self._progress = Progress(uws, job_id, self._directory)
        self.decided: asyncio.Event = asyncio.Event()
        """Set when it is on record that the job was started or what was found, or nothing is to be done."""
        self.failed = False
        """Whether nothing could be recorded: somebody else has to take the job up."""
        self.fetches = False
        """Whether files that it needs are on their way from another node."""
        self.awaits: str | None = None
        """A node whose files it could not get, or the job itself where it is not known whose they are."""
        self.node: str | None = uws.backend.node
        """Where the job was started that is taken over."""
        self._stop = asyncio.Event()
        self._stop_reason: StopReason | None = None
        self._start = 0
        """The version of the event that decided the start."""

    @abstractmethod
    async def start(self) -> None:
        """Start the program of a job that waits, and see it through. Raises `FilesAway`."""

    @abstractmethod
    async def take_over(self) -> None:
        """Find out what became of the program of a job that was started, and see it through."""

    def stop(self, reason: StopReason | None) -> None:
        """Have the program stopped; ``reason`` goes on record, None when one stands there already."""
        self._stop_reason = reason
        self._stop.set()

    def hear(self, event: RecordedEvent) -> None:
        """Do what follows from an event of the job, whoever has caused it."""
        given_up = 0 < self._start < event.version and event.type != e.JobStarted.__name__
        if given_up or event.type == e.StopRequested.__name__:
            self.stop(None)  # since the job was given up after this start of it, or as somebody wants it

    @property
    def as_running(self) -> Running:
        """The job as one that takes room where it is not started yet."""
        backend = self._uws.backend
        return Running(self._uws.service.name, self._owner, backend.clock.now(), self.job_id, backend.node)

    async def _start_recorded(self, decide: Callable[[], Awaitable[Job]]) -> Job | None:
        """Put the start of a job that waits on record; None where it is no longer to be started here."""
        try:
            job = await self._recording(decide)
        except IllegalPhase:  # aborted in the meantime, or started elsewhere
            await take_away(self._uws.backend, self.job_id)
            return None
        except JobGone:
            await self._directory.remove()
            return None
        finally:
            self.decided.set()
        failpoint.reached(failpoint.DECIDED)
        return job

    # The program

    def _prepared(self, job: Job) -> tuple[list[str], dict[str, str]]:
        """Make the job's directory ready; return command and environment. Raises what `_spawn` does."""
        directory, service = self._directory, self._uws.service
        try:
            directory.make()
        except OSError as error:
            raise NotStarted(error.errno or EIO, "the job's directory") from error
        self._progress.begin()
        typed = self._uws.job_class.from_values(job.parameters, str(directory.uploads))
        directory.parameters.unlink(missing_ok=True)  # a program of an earlier start may have left a pipe
        with directory.parameters.open("xb") as file:
            file.write(typed.to_json())
        places = {"results": str(directory.results), "parameters": str(directory.parameters)}
        environment = job_environment(
            service.environment, job_id=job.id, progress=str(directory.progress), **places
        )
        return typed.argv(job_id=job.id, **places), environment

    async def _collected(self, judge: Callable[[Callable[[End], Ending]], Ending]) -> Ending:
        """Return what ``judge`` says, who is given what collects and judges what a program left."""
        try:
            return await asyncio.to_thread(judge, partial(collect, self._uws.service, self._directory))
        except Exception as error:  # whatever it is, the job does not stay EXECUTING
            _log.exception("job %s: what its program left cannot be collected", self.job_id)
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            message = f"what the program left could not be collected: {reason}"
            return Ending(failure=Failure(message=message, type="transient"))

    async def _lose(self, reason: str) -> None:
        """Record that the program was lost, with the results that it has left."""
        try:
            results = await asyncio.to_thread(results_of, self._uws.service, self._directory)
        except Exception:
            _log.exception("the results of job %s cannot be collected", self.job_id)
            results = ()
        await self._record_progress()
        await self._record_loss(results, reason)

    # What goes on record

    async def _record_loss(self, results: tuple[Result, ...], reason: str) -> None:
        await self._recording(lambda: self._uws.lose_job(self.job_id, results, reason, start=self._start))

    async def _record_end(self, ending: Ending, ended: datetime | None = None) -> None:
        await self._record_progress()
        await self._recording(lambda: self._uws.end_job(self.job_id, ending, ended=ended, start=self._start))

    async def _record_progress(self) -> None:
        """Record what the program told last."""
        if told := await self._progress.last():
            await self._recording(lambda: self._uws.report_progress(self.job_id, *told, start=self._start))

    async def _record_stop(self, reason: StopReason | None) -> None:
        if reason:
            await self._recording(lambda: self._uws.stop_job(self.job_id, reason, start=self._start))

    async def _record_signal(self, signal: Literal["SIGTERM", "SIGKILL"]) -> None:
        """Record what the program was sent, if the log takes it: nobody waits for that."""
        try:
            await self._uws.signal_program(self.job_id, signal, start=self._start)
        except (EventStoreError, Unavailable) as error:
            _log.warning("job %s: %s was sent, and could not be recorded: %s", self.job_id, signal, error)

    async def _recording(self, command: Callable[[], Awaitable[Job]]) -> Job:
        """Carry out a command however long the log refuses it, unless the server stops."""
        while True:
            try:
                return await command()
            except (EventStoreError, Unavailable) as error:
                if self._here.closing.is_set():
                    raise
                _log.warning("job %s: %s; trying again", self.job_id, error)
                await first_of(pause(self._uws.backend.clock), self._here.closing.wait())
