"""A server that is killed at any moment, or stopped: the next one takes over, and each program runs once."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.execution.programs import Pipe
from tests.execution.test_programs import info
from tests.harness import job_id, running, text
from tests.slurm.cluster import Slurm
from tests.slurm.conftest import JOBS
from tests.slurm.support import SOON, batch_job, counted, ran, state_of, until
from uws import Service
from uws.execution import _failpoints as failpoint
from uws.model.service import Slurm as Asked
from uws.model.units import parse_time

MOMENTS = [0.002, 0.01, 0.02, 0.03, 0.05, 0.5, 1.5]
"""Seconds after RUN at which a server is killed, in the long form."""
ROOT = Path(__file__).parents[2]
_SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.harness import running
from tests.slurm.support import SOON, batch_job
from tests.slurm.test_kills import service
from uws.execution import _failpoints

def reached(place):
    if place == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

_failpoints.reached = reached

async def main():
    directory = Path(sys.argv[1])
    async with running(directory / "data", service(directory), slurm=SOON) as site:
        job = await site.create("run")
        print(job, flush=True)
        await site.post(f"{job}/phase", {"PHASE": "RUN"})
        await asyncio.Event().wait()

asyncio.run(main())
"""


def service(directory: Path) -> Service:
    """Declare the service of the server that is killed, and of the one after it."""
    return counted(directory, "sleep 1")


async def killed(directory: Path, at: str, after: float = 0) -> str:
    """Run a job on a server that is killed ``at`` a failpoint, or some seconds after RUN; return its id."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, directory, at], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert server.stdout
        job = (await asyncio.to_thread(server.stdout.readline)).decode().strip()
        if not at:
            await asyncio.sleep(after)
            server.send_signal(signal.SIGKILL)
        return job_id(job)
    finally:
        await asyncio.to_thread(server.wait)
        assert server.stdout
        server.stdout.close()


@pytest.mark.parametrize("at", failpoint.NAMES_IN_SLURM)
async def test_wherever_a_server_is_killed_while_it_submits_a_job_that_runs_once(
    tmp_path: Path, cluster: Slurm, at: str
) -> None:
    job = await killed(tmp_path, at)
    async with running(tmp_path / "data", service(tmp_path), slurm=SOON) as site:
        document = await site.ended(f"{site.list_url('run')}/{job}")
        assert text(document, "phase") == "COMPLETED"
    assert ran(tmp_path) == [job]
    submitted = [name for name in cluster.names() if job in name]
    assert len(submitted) == 1, "it was not looked for before it was submitted again"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "after" in metafunc.fixturenames:
        moments = [0.02] if metafunc.config.getoption("--jobs", JOBS) <= JOBS else MOMENTS
        metafunc.parametrize("after", moments)


@pytest.mark.usefixtures("cluster")
async def test_whenever_a_server_is_killed_its_job_runs_once(tmp_path: Path, after: float) -> None:
    job = await killed(tmp_path, "", after)
    async with running(tmp_path / "data", service(tmp_path), slurm=SOON) as site:
        url = f"{site.list_url('run')}/{job}"
        if await site.phase(url) == "PENDING":
            await site.post(f"{url}/phase", {"PHASE": "RUN"})
        document = await site.ended(url)
        assert text(document, "phase") == "COMPLETED"
    assert ran(tmp_path) == [job]


async def test_a_job_that_ends_while_no_server_runs_has_ended_when_it_did(
    tmp_path: Path, cluster: Slurm, ready: Pipe, gate: Pipe
) -> None:
    held = counted(
        tmp_path, 'echo 1 > "$READY"; read line < "$GATE"; date +%s.%N > "$UWS_RESULTS/when"',
        environment={"READY": ready.path, "GATE": gate.path},
    )  # fmt: skip
    async with running(tmp_path / "data", held, slurm=SOON) as site:
        job = await site.run("run")
        await ready.line()
        number = info(await site.executing(job))["batchJob"]
    gate.send()
    await until(lambda: has_completed(cluster, number))
    when = tmp_path / "data/jobs" / job_id(job) / "results/when"
    async with running(tmp_path / "data", held, slurm=SOON) as site:
        document = await site.ended(f"{site.list_url('run')}/{job_id(job)}")
        assert text(document, "phase") == "COMPLETED"
        ended = parse_time(str(text(document, "endTime"))).timestamp()
        assert abs(ended - float(when.read_text())) < 0.5
    assert len(ran(tmp_path)) == 1


async def has_completed(cluster: Slurm, number: str) -> bool:
    return state_of(cluster, number) == "COMPLETED"


async def test_an_abort_that_its_server_did_not_live_to_see_is_done_by_the_next(
    tmp_path: Path, cluster: Slurm
) -> None:
    waits = counted(tmp_path, "true", slurm=Asked(cpus=99))
    async with running(tmp_path / "data", waits, slurm=SOON) as site:
        job = await site.run("run")
        number = await until(lambda: batch_job(site, job))
    async with running(tmp_path / "data", waits, slurm=SOON, executes=False) as site:
        await site.post(f"{site.list_url('run')}/{job_id(job)}/phase", {"PHASE": "ABORT"})
        assert await site.phase(f"{site.list_url('run')}/{job_id(job)}") == "QUEUED"
    async with running(tmp_path / "data", waits, slurm=SOON) as site:
        document = await site.ended(f"{site.list_url('run')}/{job_id(job)}")
        assert text(document, "phase") == "ABORTED"
    assert cluster.run("squeue", "-h", "-t", "all", "-j", str(number), "-o", "%T") == "CANCELLED"
    assert ran(tmp_path) == []


async def test_a_submission_that_slurm_has_and_the_server_gave_up_runs_nothing(
    tmp_path: Path, cluster: Slurm
) -> None:
    """Slurm begins a job that was taken for lost: whoever made the record first has it."""
    with_pending = counted(tmp_path, "true")
    cluster.run("scontrol", "update", "partitionname=main", "state=down")
    try:
        async with running(tmp_path / "data", with_pending, slurm=SOON) as site:
            job = await site.run("run")
            number = str(await until(lambda: batch_job(site, job)))
        # As if Slurm had not told of it: the next server looks for the job by another name.
        cluster.run("scontrol", "update", f"jobid={number}", "jobname=hidden")
        async with running(tmp_path / "data", with_pending, slurm=SOON) as site:
            url = f"{site.list_url('run')}/{job_id(job)}"

            async def another() -> bool:
                return await batch_job(site, url) != number

            await until(another)
            cluster.up()
            assert text(await site.ended(url), "phase") == "COMPLETED"
    finally:
        cluster.up()
    while cluster.run("squeue", "-h", "--me"):
        await asyncio.sleep(0.05)
    assert cluster.run("squeue", "-h", "-t", "all", "-j", number, "-o", "%T") == "FAILED"  # with status 79
    assert ran(tmp_path) == [job_id(job)]
