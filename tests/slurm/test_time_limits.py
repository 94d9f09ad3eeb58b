"""Slurm's own time limits, which are minutes: what they end is told as such, or as the server would."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.execution.test_programs import info
from tests.harness import job_id, running, text
from tests.slurm.cluster import Slurm
from tests.slurm.conftest import JOBS
from tests.slurm.support import SOON, in_slurm, state_of
from uws.model import ExecutionDuration


@pytest.fixture(autouse=True)
def with_time(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--jobs", JOBS) <= JOBS:
        pytest.skip("Slurm counts minutes: make slurm waits for them")


async def test_what_slurm_ends_at_a_limit_of_its_own_is_an_error(tmp_path: Path, cluster: Slurm) -> None:
    async with running(tmp_path / "data", in_slurm("exec sleep 600"), slurm=SOON) as site:
        job = await site.run("run")
        number = info(await site.executing(job))["batchJob"]
        cluster.run("scontrol", "update", f"jobid={number}", "timelimit=1")
        document = await site.ended(job)
        assert state_of(cluster, number) == "TIMEOUT"
        assert text(document, "phase") == "ERROR"
        assert str(text(document, "message")).startswith("Slurm ended the job after 1min")


async def test_the_execution_duration_is_kept_by_slurm_while_no_server_runs(
    tmp_path: Path, cluster: Slurm
) -> None:
    service = in_slurm("exec sleep 600", execution_duration=ExecutionDuration(default=5, max=60))
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        job = await site.run("run")
        number = info(await site.executing(job))["batchJob"]
    while state_of(cluster, number) in ("RUNNING", "COMPLETING"):
        await asyncio.sleep(0.5)
    assert state_of(cluster, number) == "TIMEOUT"
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        document = await site.ended(f"{site.list_url('run')}/{job_id(job)}")
        assert text(document, "phase") == "ABORTED"
        assert info(document)["reason"] == "the execution duration of 5 s (5s) was exceeded"
