"""One job on its way from the queue to its end, with a program in Slurm."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path

from uws.clock import first_of
from uws.model import Ending, Failure, Job, MissingParameters, ParameterError, fold
from uws.model import events as e
from uws.model.events import job_stream

from .. import _failpoints as failpoint
from ..process import NotStarted
from ..results import not_started
from .claims import attempt, give_up
from .commands import NotTaken, Refused, Unknown
from .ending import Fate, ending
from .following import Following, waits

_log = logging.getLogger(__name__)

_SCRIPT = Path(__file__).with_name("job.sh")
_MEGABYTE = 1 << 20
_SPARE_MINUTES = 1
"""What Slurm's time limit is above the execution duration, which the server keeps to the second."""
_LONGEST_PAUSE = 60.0
"""Seconds until a job is submitted again at most that Slurm did not take."""


class SlurmRun(Following):
    """One job on its way from the queue to its end, in Slurm."""

    async def start(self) -> None:
        """Hand a job that waits to Slurm, and see it through."""
        if self._here.closing.is_set():
            return
        with suppress(OSError):  # it is tried again, and told, when the job is submitted
            self._directory.make()
        self._program = await self._here.programs.of(self._uws.service)
        if job := await self._start_recorded(lambda: self._uws.submit_job(self.job_id, self._program)):
            await self._see_through(job, is_new=True)

    async def take_over(self) -> None:
        """Find out what became of a job that was to be submitted, and see it through."""
        recorded = await self._uws.backend.store.read_stream(job_stream(self.job_id))
        self.decided.set()
        job = fold(recorded)
        if job is None or job.destroyed or not job.is_under_way:
            return
        decided = e.decode(next(event for event in recorded if event.version == job.start))
        assert isinstance(decided, e.JobSubmitted)
        self._program = decided.program
        if job.stop:
            self.stop(None)
        await self._see_through(job, is_new=False)

    async def _see_through(self, job: Job, *, is_new: bool) -> None:
        """Submit the job, unless an earlier server may have, as often as Slurm loses it before it begins."""
        self._job, self._start, submits, pause = job, job.start, is_new, 0.0
        async with AsyncExitStack() as self._while_it_runs:
            if self._began:
                await self._follow_progress()
            while True:
                number, self._path = await asyncio.to_thread(attempt, self._directory, self._start)
                self._name, self._number = (
                    f"{self._uws.service.name}-{self.job_id}-{self._start}-{number}",
                    "",
                )
                if submits and not await self._submitted():
                    return
                if submits and not self._number:
                    pause = min(_LONGEST_PAUSE, max(2 * pause, self._cluster.settings.every))
                    await first_of(self._clock.sleep_until(self._in(pause)), self._stop.wait())
                    continue
                fate, submits = await self._fate(), True
                if fate:
                    await self._while_it_runs.aclose()
                    await self._conclude(fate)
                    return
                _log.warning("job %s: Slurm does not know %s; submitting it anew", self.job_id, self._name)

    async def _submitted(self) -> bool:
        """Hand the job to Slurm; False when it has ended instead. Without a number, it was not taken yet.

        A number that is unknown, as the outcome is, is "?".
        """
        if self._stop.is_set():
            await self._record_stop(self._stop_reason)
            await self._record_end(Ending())
            return False
        try:
            argv, environment = self._prepared(self._job)
            command = [str(_SCRIPT), str(self._path), str(self._directory.logs), *argv]
            self._number = await self._cluster.commands.submit(command, self._options(), environment)
        except (ParameterError, MissingParameters) as error:
            return await self._refused(f"the declaration has changed: {error}")
        except OSError as error:
            what = error.what if isinstance(error, NotStarted) else "the program"
            await self._record_end(Ending(failure=not_started(self._uws.service, error.errno, what)))
            return False
        except Refused as error:
            return await self._refused(f"Slurm refuses the job: {error}")
        except NotTaken as error:
            await self._accept(f"Slurm does not take it now: {error}")
            return True
        except Unknown as error:
            _log.warning("job %s: whether Slurm has it is not known: %s", self.job_id, error)
            self._number = "?"
            return True
        failpoint.reached(failpoint.LAUNCHED)
        await self._accept(waits(self._number))
        failpoint.reached(failpoint.ACCEPTED)
        return True

    async def _refused(self, message: str) -> bool:
        await self._record_end(Ending(failure=Failure(message=message)))
        return False

    def _options(self) -> list[str]:
        """Return what sbatch is to be told of the job."""
        service, directory = self._uws.service, self._directory
        said = str(directory.logs / "slurm").replace("%", "%%")
        options = [
            f"--job-name={self._name}", f"--chdir={directory.work}", f"--output={said}",
            "--open-mode=truncate", "--nodes=1", "--ntasks=1", *service.slurm.options,
        ]  # fmt: skip
        if memory := service.limits.numbers.get("memory"):
            options.append(f"--mem={math.ceil(memory / _MEGABYTE)}M")
        if seconds := self._job.execution_duration:
            options.append(f"--time={math.ceil(seconds / 60) + _SPARE_MINUTES}")
        return options

    async def _conclude(self, fate: Fate) -> None:
        """Record how the job has ended."""
        if fate.claim is None and fate.row:
            fate = await self._with_claim(fate)
        if fate.began:
            await self._record_start(fate.row, fate.claim)
        if loss := fate.loss(stopped=self._stop.is_set()):
            await self._lose(loss)
            return
        if fate.is_late(self._deadline()):
            await self._record_stop("duration")
        found = await self._collected(
            lambda collect: ending(self._uws.service, self._directory, fate, collect)
        )
        ended = fate.ended
        if ended:  # clocks differ
            ended = min(max(ended, self._job.started or ended), self._clock.now())
        await self._record_end(found, ended)

    async def _with_claim(self, fate: Fate) -> Fate:
        """Return what is known of an end with its record, if it was not to be seen before."""
        try:
            if await asyncio.to_thread(give_up, self._path):
                return fate
        except FileNotFoundError:
            is_cancelled = fate.row is not None and fate.row.state == "CANCELLED"
            return fate if is_cancelled else fate._replace(lost="the job was lost with its directory")
        return fate._replace(claim=await self._read())

    def _in(self, seconds: float) -> datetime:
        return self._clock.now() + timedelta(seconds=seconds)
