"""Commands of the server itself: what happens to the programs of jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Literal

from uws.commands import SERVER, Caller, Command
from uws.jobs.carrying_out import Step
from uws.jobs.questions import Questions
from uws.model import Action, Ending, Job, Phase, ProgramFile, Result, fold
from uws.model import events as e

_LEADS_TO_END = "JobSubmitted", "JobStarted", "StopRequested", "ProgramFound"


class ServerCommands(Questions):
    """What the server itself records of jobs."""

    async def start_job(self, job_id: str, program: tuple[ProgramFile, ...] = ()) -> Job:
        """Record that a program, of these files, is started now, under the present declaration."""
        node = self.backend.node
        return await self._start(
            job_id, lambda job, quote: self.transitions.start_job(job, quote, program, node)
        )

    async def submit_job(self, job_id: str, program: tuple[ProgramFile, ...] = ()) -> Job:
        """Record that the job is handed to a batch system now; else as `start_job`."""
        return await self._start(job_id, lambda job, quote: self.transitions.submit_job(job, quote, program))

    async def _start(self, job_id: str, step: Callable[[Job, datetime | None], list[e.JobEvent]]) -> Job:
        """Record that a job leaves the queue, by a step that is told when it is likely to end."""
        self.backend.files.check_room()
        recorded = await self.backend.store.read_stream(e.job_stream(job_id))
        job = self._admitted(fold(recorded), job_id, SERVER)
        quote = await self.estimate(job.owner, job.parameters)
        return await self._carry_out(
            job_id,
            [lambda job: step(job, quote)],
            Command(SERVER, led_by=("JobQueued",)),
            recorded,
        )

    async def accept_job(self, job_id: str, batch_job: str, reason: str, *, start: int) -> Job:
        """Record what the batch system calls a job, and what it waits for there, if that is news."""
        return await self._of_program(
            job_id, start, lambda job: self.transitions.accept_job(job, batch_job, reason), "JobSubmitted"
        )

    async def begin_job(
        self, job_id: str, host: str, program: tuple[ProgramFile, ...], *, started: datetime, start: int
    ) -> Job:
        """Record that the batch system ``started`` the job then, on a host."""
        return await self._of_program(
            job_id,
            start,
            lambda job: self.transitions.begin_job(job, host, program),
            "JobSubmitted",
            occurred=started,
        )

    async def suspend_job(self, job_id: str, reason: str, *, start: int) -> Job:
        """Record that a program is kept from going on, if that is news."""
        return await self._of_program(
            job_id, start, lambda job: self.transitions.suspend_job(job, reason), "JobStarted"
        )

    async def resume_job(self, job_id: str, *, start: int) -> Job:
        """Record that a program goes on, or is known to, if that is news."""
        return await self._of_program(job_id, start, self.transitions.resume_job, "JobStarted")

    async def lose_sight(self, job_id: str, reason: str, *, start: int) -> Job:
        """Record that nobody can tell what becomes of a program, if that is news."""
        return await self._of_program(
            job_id, start, lambda job: self.transitions.lose_sight(job, reason), "JobStarted"
        )

    async def release_job(self, job_id: str) -> bool:
        """Queue a job that is held, if there is room for it now; returns whether there was.

        Raises `IllegalPhase` when it is not HELD any more.
        """
        job = await self.load_job(job_id, SERVER)
        quota = self.backend.quotas.of(SERVER, job)
        async with self.backend.quotas.turn(self.service, job.owner, quota):
            if await self.backend.queueing.full(self.service, job.owner, quota.queued):
                return False
            quote = await self.estimate(job.owner, job.parameters, queued=True, quotas=job.quotas)
            await self._by_server(job_id, lambda job: self.transitions.release_job(job, quote), "JobHeld")
        return True

    async def stop_job(self, job_id: str, reason: e.StopReason, *, start: int | None = None) -> Job:
        """Record why a running program is stopped, unless somebody decided so before."""
        return await self._of_program(
            job_id, start, lambda job: self.transitions.stop_job(job, reason), "JobStarted", "JobSubmitted"
        )

    async def find_program(self, job_id: str, finding: e.Finding, *, start: int | None = None) -> Job:
        """Record what became of a program that no server saw."""
        return await self._of_program(
            job_id, start, lambda job: self.transitions.find_program(job, finding), "JobStarted"
        )

    async def signal_program(
        self, job_id: str, signal: Literal["SIGTERM", "SIGKILL"], *, start: int | None = None
    ) -> Job:
        """Record that a program was told to end."""
        return await self._of_program(
            job_id, start, lambda job: self.transitions.signal_program(job, signal), "StopRequested"
        )

    async def report_progress(
        self, job_id: str, fraction: float | None, text: str, *, start: int | None = None
    ) -> Job:
        """Record what a program told of its progress, unless it is no news or comes too late."""
        return await self._of_program(
            job_id, start, lambda job: self.transitions.report_progress(job, fraction, text), "JobStarted"
        )

    async def end_job(
        self, job_id: str, ending: Ending, *, ended: datetime | None = None, start: int | None = None
    ) -> Job:
        """Record what became of a program, which ``ended`` then, or now."""
        return await self._of_program(
            job_id, start, lambda job: self.transitions.end_job(job, ending), *_LEADS_TO_END, occurred=ended
        )

    async def lose_job(
        self, job_id: str, results: tuple[Result, ...], reason: str, *, start: int | None = None
    ) -> Job:
        """Record that a program is gone and nobody knows how it ended."""
        return await self._of_program(
            job_id,
            start,
            lambda job: self.transitions.lose_job(job, results, reason, self.backend.node),
            *_LEADS_TO_END,
        )

    async def _of_program(
        self, job_id: str, start: int | None, step: Step, *led_by: str, occurred: datetime | None = None
    ) -> Job:
        """Carry out a command about a program: that of one ``start``, or whichever there is.

        Raises `Superseded` when another one is the one that counts, or none any more.
        """
        steps = [step] if start is None else [lambda job: self.transitions.check_start(job, start), step]
        return await self._carry_out(job_id, steps, Command(SERVER, led_by=led_by, occurred=occurred))

    async def expire_job(self, job_id: str) -> Job:
        """Destroy or archive a job whose destruction time has come; nothing when it was put off meanwhile."""

        def expire(job: Job) -> list[e.JobEvent]:
            return self.transitions.purge_job(job, self.backend.clock.now())

        return await self._by_server(job_id, expire, "JobCreated", "DestructionSet")

    async def purge_job(self, job_id: str, caller: Caller, phases: Collection[Phase] = ()) -> Job:
        """Do what `expire_job` does, for ``caller``, and also to a job that is in one of ``phases`` now.

        Returns without waiting for a program that has to be stopped first.
        """

        def purge(job: Job) -> list[e.JobEvent]:
            return self.transitions.purge_job(job, self.backend.clock.now(), phases)

        command = self._command(caller, job_id, actions=(Action.DESTROY,))
        return await self._carry_out(job_id, [purge], command)
