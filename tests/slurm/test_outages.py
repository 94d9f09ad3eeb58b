"""What becomes of jobs when Slurm's daemons die, or cannot be asked: none runs twice, none is an error."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from tests.execution.programs import Pipe
from tests.execution.test_programs import info
from tests.harness import Site, job_id, running, text
from tests.slurm.cluster import Slurm
from tests.slurm.support import SOON, batch_job, counted, ran, state_of, until


async def types(site: Site, job: str) -> list[str]:
    return [event.type for event in await site.node.backend.store.read_stream(f"job/{job_id(job)}")]


async def is_in(site: Site, job: str, *phases: str) -> bool:
    return await site.phase(job) in phases


async def test_jobs_that_slurm_forgets_before_they_begin_are_submitted_again_and_run_once(
    tmp_path: Path, cluster: Slurm
) -> None:
    service = counted(tmp_path, "sleep 0.5")
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        await site.ended(await site.run("run"))  # so that a later id is handed out again
        await asyncio.to_thread(cluster.down)
        held = cluster.run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true")
        await asyncio.to_thread(cluster.saved, held)  # with the last id
        jobs = [await site.run("run") for _ in range(3)]
        numbers = [await until(lambda job=job: batch_job(site, job)) for job in jobs]
        cluster.kill("slurmctld")
        cluster.start()
        cluster.up()
        others = [await site.run("run") for _ in range(3)]
        for job in jobs + others:
            assert text(await site.ended(job), "phase") == "COMPLETED"
        again = [info(await site.document(job))["batchJob"] for job in jobs + others]
        assert set(numbers) & set(again), "no id was handed out again: this shows nothing"
        assert len(set(again)) == 6
    assert len(ran(tmp_path)) == len(set(ran(tmp_path))) == 7


async def test_slurmctld_may_die_and_return_while_jobs_run(
    tmp_path: Path, cluster: Slurm, ready: Pipe, gate: Pipe
) -> None:
    script = 'echo 1 > "$READY"; read line < "$GATE"; exit 3'
    service = counted(tmp_path, script, environment={"READY": ready.path, "GATE": gate.path})
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        job = await site.run("run")
        await ready.line()
        number = info(await site.executing(job))["batchJob"]
        await asyncio.to_thread(cluster.saved, number)
        cluster.kill("slurmctld")
        gate.send()
        cluster.start()
        document = await until(lambda: ended(site, job))
        assert (text(document, "phase"), info(document)["exitCode"]) == ("ERROR", "3")
        assert "JobLost" not in await types(site, job)
    assert len(ran(tmp_path)) == 1


async def test_a_job_begins_when_its_program_does_and_not_when_slurm_has_a_node_for_it(
    tmp_path: Path, cluster: Slurm
) -> None:
    nodes = [cluster.pid(f"n{number}") for number in (1, 2, 3)]
    async with running(tmp_path / "data", counted(tmp_path, "true"), slurm=SOON) as site:
        for pid in nodes:
            os.kill(pid, signal.SIGSTOP)
        try:
            job = await site.run("run", EXECUTIONDURATION="1")
            await until(lambda: is_running(cluster, site, job))
            await asyncio.sleep(2)  # Slurm counts its time from there on
            assert await site.phase(job) == "QUEUED"
        finally:
            for pid in nodes:
                os.kill(pid, signal.SIGCONT)
        assert text(await site.ended(job), "phase") == "COMPLETED"
    assert ran(tmp_path) == [job_id(job)]


async def is_running(cluster: Slurm, site: Site, job: str) -> bool:
    number = await batch_job(site, job)
    return number is not None and state_of(cluster, number) == "RUNNING"


async def ended(site: Site, job: str) -> object:
    document = await site.document(job)
    return document if text(document, "phase") in ("COMPLETED", "ERROR", "ABORTED") else None


async def test_while_slurm_cannot_be_asked_jobs_that_run_are_unknown_and_those_that_wait_are_queued(
    tmp_path: Path, cluster: Slurm, ready: Pipe, gate: Pipe
) -> None:
    environment = {"READY": ready.path, "GATE": gate.path}
    service = counted(tmp_path, 'echo 1 > "$READY"; read line < "$GATE"', environment=environment)
    late = counted(tmp_path, "", name="late")
    async with running(tmp_path / "data", service, late, slurm=SOON) as site:
        runs, succeeds = await site.run("run"), await site.run("run")
        for _ in range(2):
            await ready.line()
        numbers = [info(await site.executing(job))["batchJob"] for job in (runs, succeeds)]
        await asyncio.to_thread(cluster.saved, numbers[0])
        cluster.kill("slurmctld")
        waits = await site.run("late")
        await until(lambda: is_in(site, runs, "UNKNOWN"), 40)
        assert "Slurm cannot be asked" in info(await site.document(runs))["reason"]
        gate.send()
        done = await until(lambda: one_of(site, runs, succeeds, "COMPLETED"), 40)
        other = succeeds if done == runs else runs
        assert await site.phase(waits) == "QUEUED"
        cluster.start()
        await until(lambda: is_in(site, other, "EXECUTING"))
        gate.send()
        assert text(await site.ended(other), "phase") == "COMPLETED"
        assert text(await site.ended(waits), "phase") == "COMPLETED"
    assert len(ran(tmp_path)) == len(set(ran(tmp_path))) == 3


async def one_of(site: Site, first: str, second: str, phase: str) -> str | None:
    for job in (first, second):
        if await site.phase(job) == phase:
            return job
    return None


async def test_slurmd_may_die_and_return_while_its_job_runs(
    tmp_path: Path, cluster: Slurm, ready: Pipe, gate: Pipe
) -> None:
    script = 'echo 1 > "$READY"; read line < "$GATE"'
    service = counted(tmp_path, script, environment={"READY": ready.path, "GATE": gate.path})
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        job = await site.run("run")
        await ready.line()
        node = info(await site.executing(job))["host"]
        cluster.kill(node)
        cluster.start()
        gate.send()
        assert text(await site.ended(job), "phase") == "COMPLETED"
    assert len(ran(tmp_path)) == 1


async def test_a_job_whose_node_is_lost_is_an_error_or_starts_again_as_its_service_says(
    tmp_path: Path, cluster: Slurm, ready: Pipe
) -> None:
    script = (
        'echo 1 > "$READY"; case $(grep -c "$UWS_JOB_ID" "$LEDGER") in 1) exec sleep 600;; *) exit 0;; esac'
    )
    environment = {"READY": ready.path}
    once = counted(tmp_path, script, name="once", on_lost="error", environment=environment)
    again = counted(tmp_path, script, name="again", on_lost="requeue", environment=environment)
    async with running(tmp_path / "data", once, again, slurm=SOON) as site:
        jobs = [await site.run(name) for name in ("once", "again")]
        for _ in jobs:
            await ready.line()
        nodes = [info(await site.executing(job))["host"] for job in jobs]
        for node in {*nodes}:
            cluster.kill(node)
        await ready.line()
        lost, restarted = [await until(lambda job=job: ended(site, job), 100) for job in jobs]
        assert text(lost, "phase") == "ERROR"
        assert text(lost, "message") == f"the node {nodes[0]} was lost to it (NODE_FAIL)"
        assert text(restarted, "phase") == "COMPLETED"
        assert info(restarted)["requeued"] == "1"
        assert info(restarted)["host"] not in nodes
    once_id, again_id = map(job_id, jobs)
    assert ran(tmp_path) == sorted([once_id, again_id, again_id])


async def test_a_job_that_runs_and_is_unknown_to_slurm_is_lost_after_a_while_only(
    tmp_path: Path, cluster: Slurm, ready: Pipe
) -> None:
    service = counted(tmp_path, 'echo 1 > "$READY"; exec sleep 600', environment={"READY": ready.path})
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        job = await site.run("run")
        await ready.line()
        await site.executing(job)
        cluster.forget(signal.SIGKILL)
        document = await until(lambda: ended(site, job), 60)
        assert text(document, "phase") == "ERROR"
        assert text(document, "message") == "Slurm has lost the job while it ran"
    assert len(ran(tmp_path)) == 1


async def test_what_slurm_has_forgotten_is_known_by_its_record(
    tmp_path: Path, cluster: Slurm, ready: Pipe, gate: Pipe
) -> None:
    service = counted(
        tmp_path, 'echo 1 > "$READY"; read line < "$GATE"; exit 3',
        environment={"READY": ready.path, "GATE": gate.path},
    )  # fmt: skip
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        job = await site.run("run")
        await ready.line()
        await site.executing(job)
    gate.send()
    while cluster.run("squeue", "-h", "--me"):
        await asyncio.sleep(0.1)
    cluster.forget()
    async with running(tmp_path / "data", service, slurm=SOON) as site:
        document = await site.ended(f"{site.list_url('run')}/{job_id(job)}")
        assert (text(document, "phase"), info(document)["exitCode"]) == ("ERROR", "3")
    assert len(ran(tmp_path)) == 1
