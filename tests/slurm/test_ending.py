"""What a job comes to, by what Slurm says of it and what its script has on record: a table without Slurm."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.slurm.support import in_slurm
from uws.execution.results import collect
from uws.execution.slurm.claims import Claim
from uws.execution.slurm.commands import Row
from uws.execution.slurm.ending import Fate, ending
from uws.files import JobDirectory
from uws.model import Limits

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
NS = 1_000_000_000


def row(state: str, status: int = 0, *, started: bool = True, **told: object) -> Row:
    """Return what Slurm says of a job that ended a minute after it was started."""
    return Row(**{
        "id": "4", "state": state, "status": status, "started": BEGAN if started else None,
        "ended": BEGAN + timedelta(minutes=1), "restarts": 0, "nodes": "n1", "reason": "", **told,
    })  # type: ignore[arg-type]  # fmt: skip


def claim(status: int | None = None, *, told: bool = False) -> Claim:
    """Return the record of a program that began, and has ended with ``status``, if there is one."""
    began = int(BEGAN.timestamp()) * NS
    if status is None:
        return Claim(job="4", host="n1", began=began)
    return Claim(
        job="4", host="n1", began=began, ended=began + 30 * NS, status=status, told=told, used="0m1.5s"
    )


LOST = "lost: "


def comes_to(
    directory: Path, fate: Fate, *, memory: str | None = None, says: str = "", stopped: bool = False
) -> str:
    """Return in words what a job comes to: why it is lost, or how it has ended."""
    if loss := fate.loss(stopped=stopped):
        return LOST + loss
    service, files = in_slurm("true", limits=Limits(memory=memory)), JobDirectory(directory / "job")
    files.make()
    (files.logs / "slurm").write_text(says)
    (files.logs / "stdout").touch()
    found = ending(service, files, fate, partial(collect, service, files))
    how = found.signal or found.exit_code
    if found.aborted:
        return f"aborted: {found.aborted}"
    return f"failed: {found.failure.message}" if found.failure else f"done: {how}"


STATUS_3 = "failed: the program ended with exit status 3"
KILLED = "failed: the program was ended by signal SIGKILL"
USED_MORE = "failed: the program used more memory than Slurm gives a job here"
EXCEEDED = "failed: the program exceeded the limit memory = 64MB"
OVER = "slurmstepd: error: Detected 1 exceeded memory limit"


@pytest.mark.parametrize(
    ("told", "record", "becomes"),
    [
        (row("COMPLETED"), claim(0), "done: 0"),
        (row("FAILED", 3), claim(3), STATUS_3),
        (row("FAILED", 3), None, "failed: Slurm could not start the job on n1: FAILED"),
        (row("FAILED", -9), claim(128 + 9), KILLED),
        (row("FAILED", -9), claim(), KILLED),
        (row("FAILED", 75), claim(75), "failed: the program ended with exit status 75"),
        # The record counts where the program has ended by itself, whatever Slurm makes of that.
        (row("CANCELLED", -15), claim(0), "done: 0"),
        (row("NODE_FAIL"), claim(3), STATUS_3),
        (row("TIMEOUT", -15), claim(3), STATUS_3),
        (row("COMPLETED", restarts=1), claim(0), "done: 0"),
        (None, claim(0), "done: 0"),
        (None, claim(3), STATUS_3),
        # Slurm has ended it.
        (row("CANCELLED", -15), claim(128 + 15, told=True), "aborted: cancelled in Slurm"),
        (row("CANCELLED", -15), claim(), "aborted: cancelled in Slurm"),
        (row("CANCELLED", started=False), None, "aborted: cancelled in Slurm before it started"),
        (row("TIMEOUT", -15), claim(), "failed: Slurm ended the job after 1min (TIMEOUT)"),
        (row("DEADLINE", -15), claim(), "failed: Slurm ended the job (DEADLINE)"),
        (row("REVOKED", -15), claim(), "failed: Slurm ended the job (REVOKED)"),
        (row("OUT_OF_MEMORY", -9), claim(), USED_MORE),
        # It could not be started.
        (
            row("FAILED", 1, reason="JobLaunchFailure"), None,
            "failed: Slurm could not start the job on n1: JobLaunchFailure",
        ),
        # It is lost.
        (row("NODE_FAIL"), claim(), LOST + "the node n1 was lost to it (NODE_FAIL)"),
        (row("BOOT_FAIL"), None, LOST + "the node n1 was lost to it (BOOT_FAIL)"),
        (row("PREEMPTED", -15), claim(143, told=True), LOST + "the node n1 was lost to it (PREEMPTED)"),
        (
            row("FAILED", 79, restarts=1), claim(),
            LOST + "Slurm has lost the program, and tried to start it again",
        ),
        (None, claim(143, told=True), LOST + "Slurm has lost the job while it ran, and ended its program"),
    ],
)  # fmt: skip
def test_what_a_job_comes_to_is_told_of_what_slurm_and_its_record_say(
    tmp_path: Path, told: Row | None, record: Claim | None, becomes: str
) -> None:
    assert comes_to(tmp_path, Fate(told, record)) == becomes


@pytest.mark.parametrize(
    ("memory", "told", "record", "says", "becomes"),
    [
        ("64MB", row("FAILED", -9), claim(), OVER, EXCEEDED),
        ("64MB", row("OUT_OF_MEMORY", -9), claim(), "", EXCEEDED),
        (None, row("FAILED", -9), claim(), OVER, USED_MORE),
        ("64MB", row("FAILED", -9), claim(), "", KILLED),
        # What a program writes that ends well makes no limit of it.
        ("64MB", row("COMPLETED"), claim(0), OVER, "done: 0"),
    ],
)  # fmt: skip
def test_a_program_that_slurm_ends_for_its_memory_is_told_so(
    tmp_path: Path, memory: str | None, told: Row, record: Claim, says: str, becomes: str
) -> None:
    assert comes_to(tmp_path, Fate(told, record), memory=memory, says=says) == becomes


def test_a_stop_that_was_asked_for_is_no_loss(tmp_path: Path) -> None:
    fate = Fate(None, claim(143, told=True))
    assert comes_to(tmp_path, fate, stopped=True) == "failed: the program was ended by signal SIGTERM"


@pytest.mark.parametrize(
    ("fate", "seconds", "late"),
    [
        (Fate(row("TIMEOUT", -15), claim()), 5, True),
        (Fate(row("TIMEOUT", -15), claim()), 120, False),  # Slurm's own limit was shorter
        (Fate(row("TIMEOUT", -15), claim(0)), 5, False),  # it was faster than Slurm
        (Fate(row("CANCELLED", -15), claim()), 5, False),
        (Fate(None, claim(0)), 5, False),
    ],
)
def test_only_what_slurm_ends_for_its_time_has_exceeded_its_duration(
    fate: Fate, seconds: float, late: bool
) -> None:
    assert fate.is_late(BEGAN + timedelta(seconds=seconds)) is late
    assert not fate.is_late(None)
