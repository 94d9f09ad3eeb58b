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
from tests.slurm.support import SOON, counted, ran

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
