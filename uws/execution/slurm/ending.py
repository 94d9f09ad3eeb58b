"""How a job in Slurm has ended, of what Slurm says of it and what its script has on record."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from msgspec.structs import replace

from uws.files import JobDirectory
from uws.model import Ending, Failure, Service
from uws.model.units import format_duration

from ..records import End
from .claims import Claim, moment
from .commands import Row

_NODE_LOST = frozenset({"NODE_FAIL", "BOOT_FAIL", "PREEMPTED"})
_OVER_MEMORY = b"exceeded memory limit"
"""What Slurm writes where no control group keeps jobs to their memory."""
_TAIL = 4096


class Fate(NamedTuple):
    """How a job has ended: as Slurm has it, as its script has it; or that nobody can tell, and why."""

    row: Row | None
    claim: Claim | None
    lost: str = ""

    @property
    def by_itself(self) -> bool:
        """Whether its program has ended by itself, whatever Slurm makes of that."""
        return self.claim is not None and self.claim.by_itself

    @property
    def began(self) -> bool:
        """Whether it has begun, as far as is known."""
        return bool(self.claim or (self.row and self.row.started and self.row.state != "CANCELLED"))

    @property
    def status(self) -> int:
        """How its program ended, or Slurm's job: as of `os.waitstatus_to_exitcode`."""
        if self.claim and self.claim.ended:
            return self.claim.code
        return self.row.status if self.row else 0

    @property
    def ended(self) -> datetime | None:
        return (moment(self.claim.ended) if self.claim else None) or (self.row.ended if self.row else None)

    def loss(self, *, stopped: bool) -> str:
        """Say why the job is lost; nothing when it has ended. ``stopped`` is whether that was asked for."""
        row, claim = self.row, self.claim
        if self.lost or self.by_itself:
            return self.lost
        if claim and row is None and not stopped:
            return "Slurm has lost the job while it ran, and ended its program"
        if row and row.state in _NODE_LOST:
            return f"the node {row.nodes or 'of the job'} was lost to it ({row.state})"
        if row and row.restarts:
            return "Slurm has lost the program, and tried to start it again"
        return ""

    def is_late(self, deadline: datetime | None) -> bool:
        """Whether Slurm has ended it, in the server's stead, when its execution duration was over."""
        row = self.row
        if row is None or row.state != "TIMEOUT" or self.by_itself:
            return False
        return deadline is not None and row.ended is not None and row.ended >= deadline


def ending(service: Service, directory: JobDirectory, fate: Fate, collect: Callable[[End], Ending]) -> Ending:
    """Return what a job has come to that was not lost.

    ``collect`` returns what became of a program by itself, with what it left behind in ``directory``.
    """
    row, claim = fate.row, fate.claim
    state = row.state if row else ""
    if claim is None:
        return _never_began(row)
    over_memory = state == "OUT_OF_MEMORY" or (fate.status != 0 and _says_over_memory(directory))
    limited = over_memory and service.limits.memory is not None
    found = collect(End(ended=0, status=fate.status, cpu=claim.cpu, exceeded="memory" if limited else None))
    if over_memory and not limited:
        return _with(found, failure="the program used more memory than Slurm gives a job here")
    if claim.by_itself:
        return found
    if state == "CANCELLED":
        return replace(found, failure=None, aborted="cancelled in Slurm")
    if state == "TIMEOUT":
        ran = (row.ended - row.started).total_seconds() if row and row.ended and row.started else 0
        return _with(found, failure=f"Slurm ended the job after {format_duration(round(ran))} (TIMEOUT)")
    if state in {"DEADLINE", "REVOKED"}:
        return _with(found, failure=f"Slurm ended the job ({state})")
    return found


def _says_over_memory(directory: JobDirectory) -> bool:
    """Whether Slurm has written that it ended the program for its memory."""
    with suppress(OSError):
        if file := directory.open(directory.logs / "slurm"):
            with file:
                return _OVER_MEMORY in file.read(_TAIL)
    return False


def _never_began(row: Row | None) -> Ending:
    if row and row.state == "CANCELLED":
        return Ending(aborted="cancelled in Slurm before it started")
    told = f": {row.reason or row.state}" if row else ""
    where = f" on {row.nodes}" if row and row.nodes else ""
    return Ending(failure=Failure(message=f"Slurm could not start the job{where}{told}", type="transient"))


def _with(found: Ending, *, failure: str) -> Ending:
    """Return an ending that Slurm has caused, with what the program said last."""
    detail = found.failure.detail if found.failure else ""
    return replace(found, failure=Failure(message=failure, detail=detail))
