"""How jobs ended that left no record, and that Slurm has forgotten: accounting knows, where there is one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.execution.programs import Pipe
from tests.execution.test_programs import info
from tests.harness import job_id, running, text
from tests.slurm.cluster import ACCOUNTING, Slurm, missing, slurm
from tests.slurm.support import SOON, batch_job, counted, ran, until
from uws.model.service import Slurm as Asked


@pytest.fixture
def accounted() -> Iterator[Slurm]:
    """A cluster that keeps accounts."""
    if why := missing(*ACCOUNTING):
        pytest.skip(f"Slurm's accounting: what the server makes of it is not tested: {why}")
    with slurm(accounting=True) as cluster:
        yield cluster


async def test_how_a_job_ended_that_slurm_has_forgotten_its_accounting_tells(
    tmp_path: Path, accounted: Slurm, ready: Pipe
) -> None:
    runs = counted(tmp_path, 'echo $PPID > "$READY"; exec sleep 600', environment={"READY": ready.path})
    waits = counted(tmp_path, "true", name="waits", slurm=Asked(cpus=99))
    async with running(tmp_path / "data", runs, waits, slurm=SOON) as site:
        killed, cancelled = await site.run("run"), await site.run("waits")
        script = int(await ready.line())
        await site.executing(killed)
        number = await until(lambda: batch_job(site, cancelled))
    accounted.run("scancel", number)
    os.kill(script, signal.SIGKILL)

    async def is_accounted() -> bool:
        told = accounted.run("sacct", "--allocations", "--noheader", "--parsable2", "--format=State")
        return sorted(told.split("\n")) == ["CANCELLED by 0", "FAILED"]

    await until(is_accounted)
    accounted.forget()
    async with running(tmp_path / "data", runs, waits, slurm=SOON) as site:
        document = await site.ended(f"{site.list_url('run')}/{job_id(killed)}")
        assert text(document, "message") == "the program was ended by signal SIGKILL"
        document = await site.ended(f"{site.list_url('waits')}/{job_id(cancelled)}")
        assert text(document, "phase") == "ABORTED"
        assert info(document)["reason"] == "cancelled in Slurm before it started"
    assert ran(tmp_path) == [job_id(killed)]
