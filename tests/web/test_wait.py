"""WAIT on a job (UWS 1.1 section 2.2.1.1): blocks until the phase changes, woken by the event."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.harness import Site, job_id, running, text
from tests.web.support import ECHO, GATE, PATIENCE, PHASES, SLEEP, gate, record, until_waiting
from uws import Service

BLOCKING = ("PENDING", "EXECUTING")


def waiting(site: Site, url: str) -> asyncio.Task[str | None]:
    """Ask for a job in the background; the task's result is the phase that the answer tells."""

    async def ask() -> str | None:
        return text(await site.document(url), "phase")

    return asyncio.create_task(ask())


async def soon(task: asyncio.Task[str | None]) -> str | None:
    """Return the result of what is to happen without any timer: well before WAIT is over."""
    async with asyncio.timeout(PATIENCE):
        return await task


@pytest.mark.parametrize(
    "query", ["WAIT=30", "WAIT=-1", "wait=30", "WAIT=30&PHASE=PENDING", "WAIT=99999999999"]
)
async def test_wait_is_woken_by_the_phase_change(tmp_path: Path, query: str) -> None:
    async with running(tmp_path, SLEEP, longest_wait=3600) as site:
        job = await site.create("sleep")
        task = waiting(site, f"{job}?{query}")
        await until_waiting(site)
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert await soon(task) == "ABORTED"


async def test_wait_sees_every_step_of_a_run(tmp_path: Path) -> None:
    with gate(tmp_path / "gate") as fifo:
        async with running(tmp_path / "data", GATE, longest_wait=3600) as site:
            job = await site.create("gate", gate=fifo.path)
            task = waiting(site, f"{job}?WAIT=-1")
            await until_waiting(site)
            await site.post(f"{job}/phase", {"PHASE": "RUN"})
            assert await soon(task) in ("QUEUED", "EXECUTING")
            assert await soon(waiting(site, f"{job}?WAIT=-1&PHASE=QUEUED")) == "EXECUTING"
            task = waiting(site, f"{job}?WAIT=-1&PHASE=EXECUTING")
            await until_waiting(site)
            fifo.let_through()
            assert await soon(task) == "COMPLETED"


async def test_wait_blocks_while_queued(tmp_path: Path) -> None:
    one = Service(name="one", title="One at a time", command=["sleep", "1000"], max_running=1)
    async with running(tmp_path, one, longest_wait=3600) as site:
        first, second = await site.run("one"), await site.run("one")
        await site.executing(first)
        task = waiting(site, f"{second}?WAIT=-1")
        await until_waiting(site)
        assert not task.done()
        await site.request("DELETE", first)
        assert await soon(task) == "EXECUTING"


async def test_a_change_that_is_not_of_the_phase_does_not_end_the_wait(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, longest_wait=3600) as site:
        job = await site.create("echo")
        task = waiting(site, f"{job}?WAIT=-1")
        await until_waiting(site)
        for value in ("1", "2", "3"):
            await site.post(f"{job}/parameters", {"x": value})
        assert not task.done()
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert await soon(task) == "ABORTED"


async def test_a_change_of_another_job_does_not_end_the_wait(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, longest_wait=3600) as site:
        job, other = await site.create("echo"), await site.create("echo")
        task = waiting(site, f"{job}?WAIT=-1")
        await until_waiting(site)
        await site.post(f"{other}/phase", {"PHASE": "ABORT"})
        await site.get("/echo/async")
        assert not task.done()
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert await soon(task) == "ABORTED"


async def test_all_who_wait_are_answered(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, longest_wait=3600) as site:
        job = await site.create("echo")
        tasks = [waiting(site, f"{job}?WAIT=-1") for _ in range(20)]
        await until_waiting(site, 20)
        assert await site.phase(job) == "PENDING"  # the server is as lively as ever
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert [await soon(task) for task in tasks] == ["ABORTED"] * 20


async def test_who_waits_for_a_job_that_is_destroyed_learns_that_it_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, longest_wait=3600) as site:
        job = await site.create("echo")
        task = asyncio.create_task(site.get(f"{job}?WAIT=-1"))
        await until_waiting(site)
        await site.request("DELETE", job)
        async with asyncio.timeout(PATIENCE):
            assert (await task).status == 410


async def test_wait_zero_returns_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, longest_wait=3600) as site:
        job = await site.create("echo")
        assert await soon(waiting(site, f"{job}?WAIT=0")) == "PENDING"
        assert await soon(waiting(site, f"{job}?WAIT=0&PHASE=PENDING")) == "PENDING"


@pytest.mark.parametrize("phase", sorted(set(PHASES) - set(BLOCKING)))
async def test_wait_returns_at_once_in_a_phase_that_is_not_active(tmp_path: Path, phase: str) -> None:
    async with running(tmp_path, ECHO, longest_wait=3600, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES[phase])
        assert await soon(waiting(site, f"{job}?WAIT=-1")) == phase
        assert await soon(waiting(site, f"{job}?WAIT=-1&PHASE={phase}")) == phase


@pytest.mark.parametrize("phase", BLOCKING)
async def test_wait_returns_at_once_when_the_phase_is_not_the_given_one(tmp_path: Path, phase: str) -> None:
    async with running(tmp_path, ECHO, longest_wait=3600, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES[phase])
        for other in sorted(set(PHASES) - {phase} | {"QUEUED"}):
            assert await soon(waiting(site, f"{job}?WAIT=-1&PHASE={other}")) == phase


async def test_wait_returns_after_so_many_seconds_though_nothing_changed(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, longest_wait=3600) as site:
        job = await site.create("echo")
        begun = asyncio.get_running_loop().time()
        assert await soon(waiting(site, f"{job}?WAIT=1")) == "PENDING"
        assert 1.0 <= asyncio.get_running_loop().time() - begun < PATIENCE


@pytest.mark.parametrize("wait", ["-1", "3600"])
async def test_wait_is_never_longer_than_the_server_allows(tmp_path: Path, wait: str) -> None:
    async with running(tmp_path, ECHO, longest_wait=0.05) as site:
        job = await site.create("echo")
        begun = asyncio.get_running_loop().time()
        assert await soon(waiting(site, f"{job}?WAIT={wait}")) == "PENDING"
        assert asyncio.get_running_loop().time() - begun >= 0.05 / 2  # so that not all come again at once


@pytest.mark.parametrize(
    "query", ["WAIT=", "WAIT=-2", "WAIT=1.5", "WAIT=long", "WAIT=1&WAIT=2", "WAIT=1&PHASE=RUN",
              "WAIT=1&PHASE=", "WAIT=1&PHASE=PENDING&PHASE=QUEUED", "PHASE=NONSENSE"],
)  # fmt: skip
async def test_a_malformed_wait_is_400(tmp_path: Path, query: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.get(f"{await site.create('echo')}?{query}")
        assert answer.status == 400
        assert answer.text.startswith("UsageFault: ")


async def test_waiting_for_a_job_that_does_not_exist_is_404(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, longest_wait=3600) as site:
        assert (await site.get("/echo/async/nosuchjob?WAIT=-1")).status == 404


async def test_a_client_that_goes_away_is_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, longest_wait=3600) as site:
        job = await site.create("echo")
        task = waiting(site, f"{job}?WAIT=-1")
        await until_waiting(site)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await site.post(f"{job}/phase", {"PHASE": "ABORT"})).status == 303
        assert await site.phase(job) == "ABORTED"


@pytest.mark.parametrize("mount", [None, "/vo"])
async def test_a_server_that_stops_answers_those_who_wait(tmp_path: Path, mount: str | None) -> None:
    async with aiohttp.ClientSession() as session:
        async with running(tmp_path, ECHO, longest_wait=3600, mount=mount) as site:
            job = await site.create("echo")
            outlasting = Site(site.node, site.url, session, site.app)
            task = asyncio.create_task(outlasting.get(f"{job}?WAIT=-1"))
            await until_waiting(site)
        async with asyncio.timeout(PATIENCE):
            answer = await task
        assert answer.status == 200
        assert text(answer.xml, "jobId") == job_id(job)
        assert text(answer.xml, "phase") == "PENDING"
