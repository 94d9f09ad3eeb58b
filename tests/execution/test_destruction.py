"""Destruction times: one task, awake when the next job is due, for all services."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

import pytest

from tests.execution.programs import Pipe, directory_of, is_running, shell, until_gone
from tests.harness import ManualClock, job_id, running, text
from uws import FileParameter, Job, Lifetime, Phase, UserUWS
from uws.model.units import format_time

HOUR = timedelta(hours=1)


async def test_jobs_of_all_services_go_when_their_time_has_come(
    tmp_path: Path, clock: ManualClock, ready: Pipe
) -> None:
    quick = shell('echo 1 > "$UWS_RESULTS/x"', name="quick", parameters={"f": FileParameter()})
    slow = shell('echo $$ > "$READY"; sleep 1000', name="slow", environment={"READY": ready.path})
    async with running(tmp_path / "data", quick, slow, clock=clock, grace=0.2) as site:
        start = clock.now()
        times = [format_time(start + hours * HOUR) for hours in range(5)]
        pending = await site.create("quick", DESTRUCTION=times[1], f=b"an upload")
        completed = await site.run("quick", DESTRUCTION=times[2])
        executing = await site.run("slow", DESTRUCTION=times[3], EXECUTIONDURATION=86400)
        waiting = await site.create("slow", DESTRUCTION=times[4])
        await site.ended(completed)
        (pid,) = await ready.numbers(1)
        tasks = [task for task in asyncio.all_tasks() if task.get_name() == "destruction"]
        assert len(tasks) == 1

        await clock.until_sleeping_for(start + HOUR)
        assert directory_of(site, pending).exists()
        clock.advance(hours=1)
        await until_gone(site, pending)
        assert [(await site.get(job)).status for job in (completed, executing, waiting)] == [200] * 3

        await clock.until_sleeping_for(start + 2 * HOUR)
        clock.advance(hours=1)
        await until_gone(site, completed)
        assert (await site.get(f"{completed}/results/x")).status == 410

        await clock.until_sleeping_for(start + 3 * HOUR)
        clock.advance(hours=1)
        await until_gone(site, executing)
        assert not is_running(pid)

        await clock.until_sleeping_for(start + 4 * HOUR)
        assert (await site.get(waiting)).status == 200
        clock.advance(hours=1)
        await until_gone(site, waiting)
        events = await site.node.backend.store.read_stream(f"job/{job_id(executing)}")
        assert [event.type for event in events][-4:] == [
            "StopRequested", "ProgramSignalled", "JobAborted", "JobDestroyed",
        ]  # fmt: skip


async def test_a_job_lives_as_long_as_its_service_says(tmp_path: Path, clock: ManualClock) -> None:
    async with running(
        tmp_path, shell("true", lifetime=Lifetime(default="2h", max="1d")), clock=clock
    ) as site:
        job = await site.create("run")
        await clock.until_sleeping_for(clock.now() + 2 * HOUR)
        clock.advance(hours=2)
        await until_gone(site, job)


async def test_a_time_that_is_put_off_counts_and_one_that_is_brought_forward(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, shell("true"), clock=clock) as site:
        start = clock.now()
        later = await site.create("run", DESTRUCTION=format_time(start + HOUR))
        await clock.until_sleeping_for(start + HOUR)
        await site.post(f"{later}/destruction", {"DESTRUCTION": format_time(start + 5 * HOUR)})
        clock.advance(hours=1)
        await clock.until_sleeping_for(start + 5 * HOUR)
        assert (await site.get(later)).status == 200
        await site.post(f"{later}/destruction", {"DESTRUCTION": format_time(start + 2 * HOUR)})
        await clock.until_sleeping_for(start + 2 * HOUR)
        clock.advance(hours=1)
        await until_gone(site, later)


async def test_a_job_that_was_put_off_in_the_last_moment_stays(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, shell("true"), clock=clock) as site:
        job = await site.create("run")
        (uws,) = site.node.services
        assert (await uws.expire_job(job_id(job))).phase is Phase.PENDING
        assert (await site.get(job)).status == 200


async def test_a_time_in_the_past_destroys_at_once(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, shell("true"), clock=clock) as site:
        job = await site.create("run", DESTRUCTION="2001-01-01")
        await until_gone(site, job)


async def test_a_job_without_a_destruction_time_stays(tmp_path: Path, clock: ManualClock) -> None:
    async with running(
        tmp_path, shell("true", lifetime=Lifetime(default=0, max=0)), shell("true", name="other"), clock=clock
    ) as site:
        stays = await site.create("run")
        assert text(await site.document(stays), "destruction") is None
        goes = await site.create("other")
        await clock.until_sleeping_for(clock.now() + timedelta(days=7))
        clock.advance(days=10000)
        await until_gone(site, goes)
        assert (await site.get(stays)).status == 200


async def test_a_service_that_keeps_a_record_archives(tmp_path: Path, clock: ManualClock) -> None:
    service = shell('echo 1 > "$UWS_RESULTS/x"', archive=True)
    async with running(tmp_path, service, clock=clock) as site:
        job = await site.run("run", RUNID="mine")
        await site.ended(job)
        await clock.until_sleeping_for(clock.now() + timedelta(days=7))
        backend = site.node.backend
        with backend.projector.watch(f"job/{job_id(job)}") as changed:
            clock.advance(days=7)
            await changed.wait()
        document = await site.document(job)
        assert (text(document, "phase"), text(document, "runId")) == ("ARCHIVED", "mine")
        while directory_of(site, job).exists():
            await asyncio.sleep(0)
        assert (await site.get(f"{job}/results/x")).status == 404
        assert b"jobref" not in (await site.get(site.list_url("run"))).body
        assert b"jobref" in (await site.get(f"{site.list_url('run')}?PHASE=ARCHIVED")).body
        await site.request("DELETE", job)
        assert (await site.get(job)).status == 410


async def test_what_was_due_while_the_server_was_down_goes_at_its_start(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, shell("true"), clock=clock) as site:
        job = job_id(await site.create("run"))
    clock.advance(days=8)
    async with running(tmp_path, shell("true"), clock=clock) as site:
        await until_gone(site, f"{site.list_url('run')}/{job}")


async def test_a_job_that_cannot_be_destroyed_now_is_tried_again_and_holds_up_no_other(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, shell("true"), clock=clock) as site:
        soon = clock.now() + HOUR
        stuck = await site.create("run", DESTRUCTION=format_time(soon))
        other = await site.create("run", DESTRUCTION=format_time(soon))
        expire = UserUWS.expire_job

        async def fail(self: UserUWS, job: str) -> Job:
            if job == job_id(stuck):
                raise OSError("disk full")
            return await expire(self, job)

        monkeypatch.setattr(UserUWS, "expire_job", fail)
        await clock.until_sleeping_for(soon)
        clock.advance(hours=1)
        await until_gone(site, other)
        await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
        monkeypatch.undo()
        clock.advance(seconds=1)
        await until_gone(site, stuck)


async def test_directories_that_programs_made_unwritable_are_deleted_all_the_same(
    tmp_path: Path, clock: ManualClock
) -> None:
    script = """
    mkdir -p deep/er; touch deep/er/file; ln -s /etc deep/link
    chmod 000 deep/er/file; chmod 500 deep/er deep
    """
    async with running(tmp_path, shell(script), clock=clock) as site:
        job = await site.run("run")
        await site.ended(job)
        assert (await site.request("DELETE", job)).status == 303
        assert not directory_of(site, job).exists()
        assert Path("/etc/passwd").exists()


async def test_a_job_whose_program_takes_its_time_to_end_is_asked_to_go_once(
    tmp_path: Path, clock: ManualClock, ready: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = shell('trap "" TERM; echo > "$READY"; sleep 1000', environment={"READY": ready.path})
    expire, asked = UserUWS.expire_job, []

    async def count(self: UserUWS, job: str) -> Job:
        asked.append(job)
        return await expire(self, job)

    monkeypatch.setattr(UserUWS, "expire_job", count)
    async with running(tmp_path / "data", service, clock=clock, grace=0.3) as site:
        soon = clock.now() + HOUR
        job = await site.run("run", DESTRUCTION=format_time(soon), EXECUTIONDURATION=86400)
        await ready.line()
        await clock.until_sleeping_for(soon)
        clock.advance(hours=1)
        await until_gone(site, job)
        assert asked == [job_id(job)]
