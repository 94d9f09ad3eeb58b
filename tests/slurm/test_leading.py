"""Several servers on one log: one leads and hands jobs to Slurm, and the next leader sees them through."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.databases import needs_postgres
from tests.execution.programs import Pipe
from tests.execution.test_programs import info
from tests.harness import job_id, text
from tests.nodes.conftest import Start, start, url
from tests.slurm.cluster import Slurm
from tests.slurm.support import SOON, counted, ran, until

__all__ = ["start", "url"]
pytestmark = [needs_postgres, pytest.mark.usefixtures("cluster")]


async def test_what_one_leader_handed_to_slurm_the_next_one_sees_through(
    tmp_path: Path, start: Start, ready: Pipe, gate: Pipe
) -> None:
    service = counted(
        tmp_path, 'echo 1 > "$READY"; read line < "$GATE"', max_running=2,
        environment={"READY": ready.path, "GATE": gate.path},
    )  # fmt: skip
    async with AsyncExitStack() as leader:
        one = await leader.enter_async_context(start("one", service, slurm=SOON))
        assert one.node.backend.node == "one"
        async with start("two", service, slurm=SOON) as two:
            jobs = [await two.run("run") for _ in range(3)]
            for _ in range(2):
                await ready.line()
            for job in jobs[:2]:
                assert info(await two.executing(job))["host"] in ("n1", "n2", "n3")
            waits = info(await two.document(jobs[2]))["waitsFor"]
            assert waits == "2 jobs of run running, at most 2 allowed"
            await leader.aclose()
            gate.send()
            gate.send()
            for job in jobs[:2]:
                assert text(await two.ended(job), "phase") == "COMPLETED"
            await ready.line()
            gate.send()
            assert text(await two.ended(jobs[2]), "phase") == "COMPLETED"
    assert ran(tmp_path) == sorted(map(job_id, jobs))


async def test_a_job_whose_directory_the_next_leader_does_not_have_is_lost_and_runs_no_second_time(
    tmp_path: Path, start: Start, ready: Pipe, gate: Pipe, cluster: Slurm
) -> None:
    service = counted(
        tmp_path, 'echo 1 > "$READY"; read line < "$GATE"', max_running=1,
        environment={"READY": ready.path, "GATE": gate.path},
    )  # fmt: skip
    async with AsyncExitStack() as leader:
        one = await leader.enter_async_context(start("one", service, slurm=SOON, jobs=tmp_path / "there"))
        job = await one.run("run")
        await ready.line()
        await one.executing(job)
    gate.send()
    await until(lambda: is_idle(cluster))
    async with start("two", service, slurm=SOON, jobs=tmp_path / "not there") as two:
        document = await two.ended(f"{two.list_url('run')}/{job_id(job)}")
        assert text(document, "phase") == "ERROR"
        assert text(document, "message") == "the job was lost with its directory"
    assert ran(tmp_path) == [job_id(job)]


async def is_idle(cluster: Slurm) -> bool:
    return not cluster.run("squeue", "-h", "--me")
