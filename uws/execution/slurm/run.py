"""One job on its way from the queue to its end, with a program in Slurm."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from uws.clock import first_of
from uws.jobs import UserUWS
from uws.model import (
    STARTED,
    Ending,
    Failure,
    IllegalPhase,
    Job,
    JobGone,
    MissingParameters,
    ParameterError,
    Phase,
    ProgramFile,
    fold,
)
from uws.model import events as e
from uws.model.events import job_stream
from uws.model.units import format_duration

from .. import _failpoints as failpoint
from ..process import NotStarted
from ..records import End
from ..results import not_started, results_of
from ..run import Here, Run
from .claims import Claim, attempt, give_up, moment, read
from .cluster import Cluster
from .commands import NotTaken, Refused, Row, Unknown

log = logging.getLogger(__name__)

_SCRIPT = Path(__file__).with_name("job.sh")
_MEGABYTE = 1 << 20
_SPARE_MINUTES = 1
"""What Slurm's time limit is above the execution duration, which the server keeps to the second."""
_ASK_AGAIN = 10.0
"""Seconds until Slurm is asked again to end a job that it was asked to end."""
_LONGEST_PAUSE = 60.0
"""Seconds until a job is submitted again at most that Slurm did not take."""
_TELL_EVERY, _TELL_PART = 30.0, 0.01
"""Seconds, and the part of the time it has waited, between two reasons of a job on record, at least."""
_HELD = "held"
_NODE_LOST = frozenset({"NODE_FAIL", "BOOT_FAIL", "PREEMPTED"})
_OVER_MEMORY = b"exceeded memory limit"
"""What Slurm writes where no control group keeps jobs to their memory."""
_TAIL = 4096
_TAKEN = 79
"""The exit status of a script that found its submission taken: it has run nothing."""


class _Fate(NamedTuple):
    """How a job has ended: as Slurm has it, as its script has it; or that nobody can tell, and why."""

    row: Row | None
    claim: Claim | None
    lost: str = ""


class SlurmRun(Run):
    """One job on its way from the queue to its end, in Slurm."""

    def __init__(self, uws: UserUWS, job_id: str, here: Here, cluster: Cluster) -> None:
        super().__init__(uws, job_id, here)
        self._cluster, self._clock = cluster, uws.backend.clock
        self._program: tuple[ProgramFile, ...] = ()
        self._told = False
        self._name = self._number = ""
        self._path = self._directory.starts
        self._asked: datetime | None = None
        self._reason_from: datetime | None = None

    @property
    def _began(self) -> bool:
        """Whether it is on record that the program has begun."""
        return self._job.phase in STARTED

    async def start(self) -> None:
        """Hand a job that waits to Slurm, and see it through."""
        if self._here.closing.is_set():
            return
        self._program = await self._here.programs.of(self._uws.service)
        try:
            job = await self._recording(lambda: self._uws.submit_job(self.job_id, self._program))
        except IllegalPhase:  # aborted in the meantime
            return
        except JobGone:
            await self._directory.remove()
            return
        finally:
            self.decided.set()
        failpoint.reached(failpoint.DECIDED)
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
                log.warning("job %s: Slurm does not know %s; submitting it anew", self.job_id, self._name)

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
            log.warning("job %s: whether Slurm has it is not known: %s", self.job_id, error)
            self._number = "?"
            return True
        failpoint.reached(failpoint.LAUNCHED)
        await self._accept(_waits(self._number))
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

    # What becomes of it

    async def _fate(self) -> _Fate | None:
        """Wait for the job's end; None when it was lost before it began, and never will."""
        seen, missing = self._clock.now(), None
        while True:
            try:
                rows = await self._next_look()
            except Unknown as error:
                if fate := await self._unseen(seen, str(error)):
                    return fate
                continue
            seen, claim = self._clock.now(), None
            row = self._mine(rows, None)
            if row is None or not row.waits or self._began:
                claim = await self._read()
                row = self._mine(rows, claim)
                if row and row.status == _TAKEN and claim and not claim.ended:
                    row = None  # that was not the run that counts, of which Slurm does not know
            if row is None:
                missing = missing or seen
                fate, given_up = await self._missing(claim, seen - missing)
                if fate or given_up:
                    return fate
                continue
            missing, self._number = None, row.id
            if row.has_ended:
                return _Fate(row, claim)
            await self._goes_on(row, claim)
            if self._stop.is_set():
                await self._ask_to_end()

    async def _next_look(self) -> dict[str, list[Row]]:
        """Return what Slurm says next; meanwhile, a stop that is asked for and the time limit are kept."""
        look = asyncio.ensure_future(self._cluster.look())
        try:
            while not look.done():
                waiting: list[Awaitable[object]] = [asyncio.shield(look)]
                if self._asked is None:
                    waiting.append(self._stop.wait())
                    if limit := self._deadline():
                        waiting.append(self._clock.sleep_until(limit))
                await first_of(*waiting)
                if self._asked is None and (self._stop.is_set() or self._is_late()):
                    await self._ask_to_end()
            return look.result()
        finally:
            look.cancel()

    def _deadline(self) -> datetime | None:
        job = self._job
        if not self._began or not job.execution_duration or not job.started:
            return None
        return job.started + timedelta(seconds=job.execution_duration)

    def _is_late(self) -> bool:
        limit = self._deadline()
        return limit is not None and self._clock.now() >= limit

    async def _ask_to_end(self) -> None:
        """Have Slurm end the job: it has when it says so, and is asked again until then."""
        now = self._clock.now()
        if self._asked and now < self._asked + timedelta(seconds=_ASK_AGAIN):
            return
        if self._asked is None:
            await self._record_stop(self._stop_reason if self._stop.is_set() else "duration")
            self._stop.set()
        self._asked = now
        try:
            await self._cluster.commands.cancel(self._name, self._number.strip("?"))
        except Unknown as error:
            log.warning("job %s: Slurm could not be asked to end it: %s", self.job_id, error)
            return
        if self._began and not self._told:
            self._told = True
            await self._record_signal("SIGTERM")

    def _mine(self, rows: dict[str, list[Row]], claim: Claim | None) -> Row | None:
        """Return what Slurm says of this submission, of those of its name the one that has the record."""
        found = rows.get(self._name, [])
        for number in (claim.job if claim else "", self._number):
            if named := [row for row in found if row.id == number]:
                return named[0]
        return found[0] if found else None

    async def _read(self) -> Claim | None:
        return await asyncio.to_thread(read, self._directory, self._path)

    async def _unseen(self, seen: datetime, error: str) -> _Fate | None:
        """Go by the record alone while Slurm cannot be asked: by that, a success is known, and a start."""
        claim = await self._read()
        if claim and claim.ended and claim.code == 0:
            return _Fate(None, claim)
        if claim and claim.began:
            await self._begin(None, claim)
        if self._clock.now() - seen < timedelta(seconds=self._cluster.settings.unknown_after):
            return None
        if self._began:
            await self._note(
                lambda: self._uws.lose_sight(
                    self.job_id, f"Slurm cannot be asked: {error}", start=self._start
                )
            )
        else:  # that it has not begun is known
            await self._accept(f"Slurm cannot be asked: {error}")
        return None

    async def _missing(self, claim: Claim | None, since: timedelta) -> tuple[_Fate | None, bool]:
        """Look elsewhere for a job that Slurm does not know: how it ended, or whether it is given up."""
        if claim and claim.ended:
            return _Fate(None, claim), False
        row = await self._cluster.commands.accounted(self._name, self._job.submitted or self._clock.now())
        if row and row.has_ended:
            return _Fate(row, claim), False
        if claim is None and await asyncio.to_thread(give_up, self._path):
            with suppress(Unknown):  # if it comes to run all the same, it does nothing
                await self._cluster.commands.cancel(self._name, "")
            return None, True
        if claim and claim.began:
            await self._begin(None, claim)
        if since < timedelta(seconds=self._cluster.settings.lost_after):
            return None, False
        return _Fate(None, claim, "Slurm has lost the job while it ran"), False

    async def _goes_on(self, row: Row, claim: Claim | None) -> None:
        """Record what is new of a job that has not ended. It begins when its program says so."""
        if not self._began and (row.waits or claim is None):
            await self._accept(_waits(row.id, row.reason) if row.waits else _starts(row))
            return
        if row.waits:
            return
        await self._begin(row, claim)
        if row.is_suspended:
            await self._note(
                lambda: self._uws.suspend_job(self.job_id, f"{row.state} in Slurm", start=self._start)
            )
        elif self._job.phase in {Phase.SUSPENDED, Phase.UNKNOWN}:
            await self._note(lambda: self._uws.resume_job(self.job_id, start=self._start))

    async def _accept(self, reason: str) -> None:
        """Record what Slurm calls the job, or that it is held, at once; other reasons now and then."""
        number, now = self._number.strip("?") or self._job.batch_job, self._clock.now()
        if number == self._job.batch_job:
            is_early = self._reason_from and now < self._reason_from
            if reason == self._job.note or (is_early and not reason.startswith(_HELD)):
                return
            waited = now - (self._job.submitted or now)
            self._reason_from = now + max(timedelta(seconds=_TELL_EVERY), _TELL_PART * waited)
        await self._note(lambda: self._uws.accept_job(self.job_id, number, reason, start=self._start))

    async def _begin(self, row: Row | None, claim: Claim | None) -> None:
        """Record, once, that the job has begun, and from then on what it tells of its progress."""
        if not self._began:
            await self._record_start(row, claim)
            await self._follow_progress()

    async def _record_start(self, row: Row | None, claim: Claim | None) -> None:
        """Record, once, when the job has begun, and where."""
        if self._began:
            return
        if number := (claim.job if claim else "") or (row.id if row else ""):
            self._number = number
            if number != self._job.batch_job:
                await self._accept(_waits(number))
        told = moment(claim.began) if claim else None
        now = self._clock.now()
        started = told or (row.started if row else None) or now
        # Clocks differ, and Slurm's tells no parts of seconds.
        started = min(max(started, self._job.submitted or started), now)
        host = (claim.host if claim else "") or (row.nodes if row else "")
        await self._note(
            lambda: self._uws.begin_job(self.job_id, host, self._program, started=started, start=self._start)
        )

    async def _follow_progress(self) -> None:
        await self._while_it_runs.enter_async_context(self._progress.followed(self._job))

    async def _note(self, command: Callable[[], Awaitable[Job]]) -> None:
        self._job = await self._recording(command)

    # How it ends

    async def _conclude(self, fate: _Fate) -> None:
        """Record how the job has ended."""
        row, claim = fate.row, fate.claim
        if claim is None and row and not await asyncio.to_thread(give_up, self._path):
            claim = await self._read()  # it was not to be seen yet
        if claim or (row and row.started and row.state != "CANCELLED"):
            await self._record_start(row, claim)
        if fate.lost:
            await self._lose(fate.lost)
        elif claim and claim.by_itself:
            await self._end(row, claim)
        elif claim and row is None and not self._stop.is_set():
            await self._lose("Slurm has lost the job while it ran, and ended its program")
        elif row and row.state in _NODE_LOST:
            await self._lose(f"the node {row.nodes or 'of the job'} was lost to it ({row.state})")
        elif row and row.restarts:
            await self._lose("Slurm has lost the program, and tried to start it again")
        else:
            await self._end(row, claim)

    async def _end(self, row: Row | None, claim: Claim | None) -> None:
        ended = (moment(claim.ended) if claim else None) or (row.ended if row else None)
        if row and row.state == "TIMEOUT" and self._ran_its_time(row) and not (claim and claim.by_itself):
            await self._record_stop("duration")
        ending = await self._ending(row, claim)
        if ended:
            ended = min(max(ended, self._job.started or ended), self._clock.now())
        await self._record_end(ending, ended)

    def _ran_its_time(self, row: Row) -> bool:
        """Whether the execution duration was over, of a job that Slurm has ended in our stead."""
        limit = self._deadline()
        return limit is not None and row.ended is not None and row.ended >= limit

    async def _ending(self, row: Row | None, claim: Claim | None) -> Ending:
        service, state = self._uws.service, row.state if row else ""
        if claim is None:
            if state == "CANCELLED":
                return Ending(aborted="cancelled in Slurm before it started")
            told = f": {row.reason or state}" if row else ""
            where = f" on {row.nodes}" if row and row.nodes else ""
            return Ending(
                failure=Failure(message=f"Slurm could not start the job{where}{told}", type="transient")
            )
        status = claim.code if claim.ended else row.status if row else 0
        over_memory = state == "OUT_OF_MEMORY" or (status != 0 and await asyncio.to_thread(self._over_memory))
        limited = over_memory and service.limits.memory is not None
        ending = await self._collect(
            End(ended=0, status=status, cpu=claim.cpu, exceeded="memory" if limited else None)
        )
        if over_memory and not limited:
            return _with(ending, failure="the program used more memory than Slurm gives a job here")
        if claim.by_itself:
            return ending
        if state == "CANCELLED":
            return _with(ending, aborted="cancelled in Slurm")
        if state == "TIMEOUT":
            ran = (row.ended - row.started).total_seconds() if row and row.ended and row.started else 0
            return _with(ending, failure=f"Slurm ended the job after {format_duration(round(ran))} (TIMEOUT)")
        if state in {"DEADLINE", "REVOKED"}:
            return _with(ending, failure=f"Slurm ended the job ({state})")
        return ending

    def _over_memory(self) -> bool:
        with suppress(OSError):
            if file := self._directory.open(self._directory.logs / "slurm"):
                with file:
                    return _OVER_MEMORY in file.read(_TAIL)
        return False

    async def _lose(self, reason: str, *, found: bool = False) -> None:
        """Record that the job was lost. What may be left of its program is for Slurm to end."""
        try:
            results = await asyncio.to_thread(results_of, self._uws.service, self._directory)
        except Exception:
            log.exception("the results of job %s cannot be collected", self.job_id)
            results = ()
        await self._record_progress()
        await self._recording(lambda: self._uws.lose_job(self.job_id, results, reason, start=self._start))

    def _in(self, seconds: float) -> datetime:
        return self._clock.now() + timedelta(seconds=seconds)


def _waits(number: str, reason: str = "") -> str:
    """Say how a job waits in Slurm."""
    if reason.startswith("JobHeld"):
        who = "its user" if reason == "JobHeldUser" else "an administrator"
        return f"{_HELD} by {who} in Slurm, as job {number} ({reason})"
    return f"waiting in Slurm as job {number}" + (f": {reason}" if reason else "")


def _starts(row: Row) -> str:
    """Say that Slurm runs a job that has not begun: a node may take its time, or be gone."""
    return f"starting{f' on {row.nodes}' if row.nodes else ''} in Slurm, as job {row.id}"


def _with(ending: Ending, *, failure: str = "", aborted: str = "") -> Ending:
    """Return an ending as it is told when Slurm has caused it."""
    if aborted:
        return replace(ending, failure=None, aborted=aborted)
    detail = ending.failure.detail if ending.failure else ""
    return replace(ending, failure=Failure(message=failure, detail=detail))
