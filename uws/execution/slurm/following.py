"""What becomes of a job that Slurm has, or may have: it goes on record as it becomes known."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta

from uws.clock import first_of
from uws.jobs import UserUWS
from uws.model import STARTED, Job, Phase, ProgramFile

from ..run import Here, Run
from .claims import Claim, give_up, moment, read
from .cluster import Cluster
from .commands import Row, Unknown
from .ending import Fate

_log = logging.getLogger(__name__)

_ASK_AGAIN = 10.0
"""Seconds until Slurm is asked again to end a job that it was asked to end."""
_TELL_EVERY, _TELL_PART = 30.0, 0.01
"""Seconds, and the part of the time it has waited, between two reasons of a job on record, at least."""
_HELD = "held"
_TAKEN = 79
"""The exit status of a script that found its submission taken: it has run nothing."""


class Following(Run):
    """A job of which a submission is, or may be, in Slurm: it is followed until that has ended."""

    _job: Job
    _while_it_runs: AsyncExitStack

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

    async def _fate(self) -> Fate | None:
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
                if row and _did_nothing(row, claim):
                    row = None
            if row is None:
                missing = missing or seen
                fate, given_up = await self._missing(claim, seen - missing)
                if fate or given_up:
                    return fate
                continue
            missing, self._number = None, row.id
            if row.has_ended:
                return Fate(row, claim)
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
            _log.warning("job %s: Slurm could not be asked to end it: %s", self.job_id, error)
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

    async def _unseen(self, seen: datetime, error: str) -> Fate | None:
        """Go by the record alone while Slurm cannot be asked: by that, a success is known, and a start."""
        claim = await self._read()
        if claim and claim.ended and claim.code == 0:
            return Fate(None, claim)
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

    async def _missing(self, claim: Claim | None, since: timedelta) -> tuple[Fate | None, bool]:
        """Look elsewhere for a job that Slurm does not know: how it ended, or whether it is given up."""
        if claim and claim.ended:
            return Fate(None, claim), False
        rows = await self._cluster.accounted(self._name, self._job.submitted or self._clock.now())
        row = self._mine({self._name: rows}, claim)
        if row and row.has_ended and not _did_nothing(row, claim):
            return Fate(row, claim), False
        lost = "Slurm has lost the job while it ran"
        try:
            if claim is None and await asyncio.to_thread(give_up, self._path):
                with suppress(Unknown):  # if it comes to run all the same, it does nothing
                    await self._cluster.commands.cancel(self._name, "")
                return None, True
        except FileNotFoundError:
            lost = "the job was lost with its directory"
        if claim and claim.began:
            await self._begin(None, claim)
        if since < timedelta(seconds=self._cluster.settings.lost_after):
            return None, False
        return Fate(None, claim, lost), False

    async def _goes_on(self, row: Row, claim: Claim | None) -> None:
        """Record what is new of a job that has not ended. It begins when its program says so."""
        if not self._began and (row.waits or claim is None):
            await self._accept(waits(row.id, row.reason) if row.waits else _starts(row))
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
                await self._accept(waits(number))
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


def _did_nothing(row: Row, claim: Claim | None) -> bool:
    """Whether this was not the run that counts, of which Slurm does not know."""
    return row.status == _TAKEN and claim is not None and not claim.ended


def waits(number: str, reason: str = "") -> str:
    """Say how a job waits in Slurm."""
    if reason.startswith("JobHeld"):
        who = "its user" if reason == "JobHeldUser" else "an administrator"
        return f"{_HELD} by {who} in Slurm, as job {number} ({reason})"
    return f"waiting in Slurm as job {number}" + (f": {reason}" if reason else "")


def _starts(row: Row) -> str:
    """Say that Slurm runs a job that has not begun: a node may take its time, or be gone."""
    return f"starting{f' on {row.nodes}' if row.nodes else ''} in Slurm, as job {row.id}"
