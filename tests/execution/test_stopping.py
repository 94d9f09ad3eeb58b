"""Abort, destruction, execution duration: the program is gone with all it started, and the job says why."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from eventstore import NewEvent, RecordedEvent, StoreUnavailable, _failpoints
from tests.execution.programs import Pipe, directory_of, is_running, shell
from tests.execution.test_programs import info, results, used
from tests.harness import ManualClock, job_id, running, text
from uws import Caller, ExecutionDuration, Job, ResultDeclaration, UserUWS
from uws.execution.process import end_sessions, sessions_with
from uws.model import ProgramFile
from uws.model.events import decode
from uws.model.units import parse_time

FAMILY = """
echo partial > "$UWS_RESULTS/partial"
sh -c 'echo $$ > "$READY"; exec sleep 1000' &
(sh -c 'echo $$ > "$READY"; sleep 1000; true' &)
sh -c 'trap "" TERM; echo $$ > "$READY"; sleep 1000; sleep 1000' &
python -S -E -c 'import os, time; os.setpgid(0, 0); open(os.environ["READY"], "w").write(f"{os.getpid()}\\n"); time.sleep(1000)' &
echo $$ > "$READY"
wait
"""  # noqa: E501
"""A program with a child, a grandchild, a child that ignores SIGTERM, and one in a group of its own."""


async def test_abort_ends_the_whole_family_and_keeps_the_results_made_so_far(
    tmp_path: Path, ready: Pipe
) -> None:
    service = shell(FAMILY.replace("{", "{{"), environment={"READY": ready.path})
    async with running(tmp_path / "data", service, grace=0.2) as site:
        job = await site.run("run")
        pids = await ready.numbers(5)
        assert all(map(is_running, pids))
        assert (await site.post(f"{job}/phase", {"PHASE": "ABORT"})).status == 303
        document = await site.ended(job)
        assert text(document, "phase") == "ABORTED"
        assert not any(map(is_running, pids))
        assert results(document) == ["partial"]
        assert (await site.get(f"{job}/results/partial")).body == b"partial\n"
        assert info(document) == {"reason": "aborted on request", "signal": "SIGTERM"}
        assert text(document, "endTime")


async def test_a_program_may_clean_up_within_the_grace_period(tmp_path: Path, ready: Pipe) -> None:
    script = """
    trap 'echo cleaned > "$UWS_RESULTS/note"; exit 0' TERM
    echo > "$READY"; sleep 1000 & wait
    """
    async with running(tmp_path / "data", shell(script, environment={"READY": ready.path}), grace=30) as site:
        job = await site.run("run")
        await ready.line()
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        document = await site.ended(job)
        assert text(document, "phase") == "ABORTED"
        assert (await site.get(f"{job}/results/note")).text == "cleaned\n"


async def test_what_a_program_started_may_clean_up_as_well_and_keeps_nobody_busy(
    tmp_path: Path, ready: Pipe
) -> None:
    """The program ends at once, and a child of it only at the end of the grace period."""
    script = """
    sh -c 'trap "echo x > $UWS_RESULTS/told" TERM; echo > "$READY"; sleep 1000; sleep 1000' &
    sh -c 'trap "" TERM; echo > "$READY"; sleep 1000' & wait
    """
    async with running(tmp_path / "data", shell(script, environment={"READY": ready.path}), grace=2) as site:
        job = await site.run("run")
        await ready.line()
        await ready.line()
        gc.collect()  # which is not what is asked about here
        before = time.process_time()
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        document = await site.ended(job)
        assert time.process_time() - before < 1
        assert results(document) == ["told"]
        assert info(document) == {"reason": "aborted on request", "signal": "SIGTERM"}
        assert used(document)[0] < 0.25


async def test_every_step_of_an_abort_is_on_record(tmp_path: Path, ready: Pipe) -> None:
    script = 'trap "" TERM; echo > "$READY"; sleep 1000; sleep 1000'
    async with running(
        tmp_path / "data", shell(script, environment={"READY": ready.path}), grace=0.3
    ) as site:
        job = await site.run("run")
        await ready.line()
        store, projector = site.node.backend.store, site.node.backend.projector
        with projector.watch(f"job/{job_id(job)}") as changed:
            await site.post(f"{job}/phase", {"PHASE": "ABORT"})
            while info(document := await site.document(job)).get("signalled") != "SIGTERM":
                await changed.wait()
                changed.clear()
        assert text(document, "phase") == "EXECUTING"
        assert info(document) == {"stopping": "abort", "signalled": "SIGTERM"}
        assert info(await site.ended(job)) == {"reason": "aborted on request", "signal": "SIGKILL"}
        events = await store.read_stream(f"job/{job_id(job)}")
        assert [(event.type, getattr(decode(event), "signal", None)) for event in events[3:]] == [
            ("StopRequested", None),
            ("ProgramSignalled", "SIGTERM"),
            ("ProgramSignalled", "SIGKILL"),
            ("JobAborted", "SIGKILL"),
        ]


async def test_a_queued_job_is_aborted_at_once_and_never_runs(tmp_path: Path, ready: Pipe) -> None:
    service = shell('echo $$ > "$READY"; sleep 1000', environment={"READY": ready.path})
    async with running(tmp_path / "data", service, grace=0.2) as site:
        first, second = await site.run("run"), await site.run("run")
        await ready.line()
        await site.post(f"{second}/phase", {"PHASE": "ABORT"})
        document = await site.document(second)
        assert text(document, "phase") == "ABORTED"
        assert text(document, "startTime") is None
        await site.post(f"{first}/phase", {"PHASE": "ABORT"})
        await site.ended(first)
        assert not directory_of(site, second).exists()


async def test_aborting_in_the_same_breath_as_the_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop is on record before the program is there to be stopped."""
    start = UserUWS.start_job

    async def start_and_abort(self: UserUWS, job_id: str, program: tuple[ProgramFile, ...]) -> Job:
        job = await start(self, job_id, program)
        await self.abort_job(job_id, Caller())
        return job

    monkeypatch.setattr(UserUWS, "start_job", start_and_abort)
    async with running(tmp_path, shell("sleep 1000"), grace=0.2) as site:
        jobs = [await site.run("run") for _ in range(3)]
        for job in jobs:
            assert text(await site.ended(job), "phase") == "ABORTED"


async def test_aborting_while_the_program_ends_by_itself_leaves_one_end(tmp_path: Path) -> None:
    async with running(tmp_path, shell("exit 0", max_running=4)) as site:
        jobs = [await site.run("run") for _ in range(12)]
        aborted = await asyncio.gather(*(site.post(f"{job}/phase", {"PHASE": "ABORT"}) for job in jobs))
        for job, answer in zip(jobs, aborted, strict=True):
            phase = text(await site.ended(job), "phase")
            assert phase in (("ABORTED",) if answer.status == 303 else ("COMPLETED",))
            types = [e.type for e in await site.node.backend.store.read_stream(f"job/{job_id(job)}")]
            assert sum(kind in ("JobCompleted", "JobAborted") for kind in types) == 1


async def test_deleting_a_running_job_ends_its_program_and_deletes_its_directory(
    tmp_path: Path, ready: Pipe
) -> None:
    service = shell(FAMILY.replace("{", "{{"), environment={"READY": ready.path})
    async with running(tmp_path / "data", service, grace=0.2) as site:
        job = await site.run("run")
        pids = await ready.numbers(5)
        answer = await site.request("DELETE", job)
        assert (answer.status, answer.location) == (303, f"{site.list_url('run')}?LAST=100")
        assert not any(map(is_running, pids))
        assert not directory_of(site, job).exists()
        assert (await site.get(job)).status == 410
        assert (await site.get(f"{job}/results/partial")).status == 410


async def test_deleting_a_queued_job_takes_it_out_of_the_queue(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    script = 'echo "$UWS_JOB_ID" > "$READY"; read line < "$GATE"'
    service = shell(script, environment={"READY": ready.path, "GATE": gate.path})
    async with running(tmp_path / "data", service) as site:
        first, second, third = [await site.run("run") for _ in range(3)]
        assert await ready.line() == job_id(first)
        await site.request("DELETE", second)
        gate.send()
        assert await ready.line() == job_id(third)
        gate.send()
        assert text(await site.ended(third), "phase") == "COMPLETED"


async def test_exceeding_the_execution_duration_aborts_with_the_reason(
    tmp_path: Path, clock: ManualClock, ready: Pipe
) -> None:
    service = shell(
        'echo 1 > "$UWS_RESULTS/partial"; echo $$ > "$READY"; sleep 1000',
        environment={"READY": ready.path},
        execution_duration=ExecutionDuration(default=60, max=3600),
    )
    async with running(tmp_path / "data", service, clock=clock, grace=0.2) as site:
        job = await site.run("run", EXECUTIONDURATION=90)
        (pid,) = await ready.numbers(1)
        await clock.until_sleeping_for(clock.now() + timedelta(seconds=90))
        clock.advance(seconds=89)
        assert await site.phase(job) == "EXECUTING"
        clock.advance(seconds=1)
        document = await site.ended(job)
        assert text(document, "phase") == "ABORTED"
        assert not is_running(pid)
        reason = "the execution duration of 90 s (1min 30s) was exceeded"
        assert info(document) == {"reason": reason, "signal": "SIGTERM"}
        assert (await site.get(f"{job}/error")).text == reason
        assert results(document) == ["partial"]
        assert parse_time(text(document, "endTime") or "") == clock.now()


async def test_an_unlimited_job_is_not_ended(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    service = shell(
        'echo > "$READY"; read line < "$GATE"',
        environment={"READY": ready.path, "GATE": gate.path},
        execution_duration=ExecutionDuration(default=0, max=0),
    )
    async with running(tmp_path / "data", service, clock=clock) as site:
        job = await site.run("run", DESTRUCTION="2030-01-01")
        await ready.line()
        clock.advance(days=6)
        gate.send()
        assert text(await site.ended(job), "phase") == "COMPLETED"


# The processes themselves


async def test_the_sessions_of_a_job_are_found_by_its_id() -> None:
    sleeper = subprocess.Popen(["sleep", "1000"], env={"UWS_JOB_ID": "j1"}, start_new_session=True)
    try:
        assert sessions_with("UWS_JOB_ID", "j1") == {sleeper.pid}
        assert sessions_with("UWS_JOB_ID", "j") == set()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert sessions_with("UWS_JOB_ID", "j1") == set()


async def test_ending_what_is_not_there_is_nothing() -> None:
    await end_sessions("UWS_JOB_ID", "nobody's")


# When the log is in trouble


def broken_disk(place: str) -> None:
    """Fail where the log commits."""
    if place == _failpoints.BEFORE_COMMIT:
        raise OSError(errno.EIO, "Input/output error")


async def test_an_end_that_cannot_be_recorded_is_recorded_later(
    tmp_path: Path, clock: ManualClock, gate: Pipe, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.CRITICAL)
    service = shell('read line < "$GATE"; echo done', environment={"GATE": gate.path},
                    results=[ResultDeclaration(id="out", path="-")])  # fmt: skip
    async with running(tmp_path / "data", service, clock=clock) as site:
        job = await site.run("run")
        await site.executing(job)
        monkeypatch.setattr(_failpoints, "reached", broken_disk)
        gate.send()
        await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
        assert await site.phase(job) == "EXECUTING"
        assert (await site.post(site.list_url("run"))).status == 503
        monkeypatch.undo()
        clock.advance(seconds=1)
        assert text(await site.ended(job), "phase") == "COMPLETED"
        assert (await site.get(f"{job}/results/out")).text == "done\n"


async def test_a_start_that_cannot_be_recorded_waits_and_starts_no_program(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path / "data", shell("true"), clock=clock) as site:
        job = await site.create("run")
        append, refused = site.node.backend.store.append, []

        async def no_starts(stream: str, events: Sequence[NewEvent], **expected: int) -> object:
            if any(event.type == "JobStarted" for event in events):
                refused.append(1)
                raise StoreUnavailable("disk I/O error")
            return await append(stream, events, **expected)

        monkeypatch.setattr(site.node.backend.store, "append", no_starts)
        await site.post(f"{job}/phase", {"PHASE": "RUN"})
        await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
        assert await site.phase(job) == "QUEUED"
        assert list((directory_of(site, job) / "starts").iterdir()) == []
        assert len(refused) == 1
        monkeypatch.undo()
        clock.advance(seconds=1)
        assert text(await site.ended(job), "phase") == "COMPLETED"


async def test_a_server_that_cannot_write_its_log_can_still_be_stopped(
    tmp_path: Path, clock: ManualClock, ready: Pipe, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.CRITICAL)
    service = shell('echo $$ > "$READY"; sleep 1000', environment={"READY": ready.path})
    async with running(tmp_path / "data", service, clock=clock, grace=0.2) as site:
        job = await site.run("run")
        (pid,) = await ready.numbers(1)
        monkeypatch.setattr(_failpoints, "reached", broken_disk)
    assert not is_running(pid)
    monkeypatch.undo()
    async with running(tmp_path / "data", service, clock=clock) as site:
        job = f"{site.list_url('run')}/{job_id(job)}"
        assert text(await site.document(job), "phase") == "ERROR"


# Another event loop


def test_programs_are_watched_and_stopped_under_uvloop_too(tmp_path: Path, ready: Pipe) -> None:
    async def run() -> None:
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
        service = shell(FAMILY.replace("{", "{{"), name="family", environment={"READY": ready.path})
        files = shell('ls /proc/self/fd > "$UWS_RESULTS/open"', name="files")
        async with running(tmp_path / "data", shell("exit 3"), service, files, grace=0.2) as site:
            assert text(await site.ended(await site.run("run")), "phase") == "ERROR"
            job = await site.run("files")
            await site.ended(job)
            # Nothing of the server's; the last is the directory that is listed.
            assert (await site.get(f"{job}/results/open")).text.split() == ["0", "1", "2", "3"]
            job = await site.run("family")
            pids = await ready.numbers(5)
            await site.post(f"{job}/phase", {"PHASE": "ABORT"})
            assert text(await site.ended(job), "phase") == "ABORTED"
            assert not any(map(is_running, pids))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def test_a_log_that_cannot_be_read_for_a_while_makes_no_job_unstoppable(
    tmp_path: Path, clock: ManualClock, ready: Pipe, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.CRITICAL)
    service = shell('echo $$ > "$READY"; sleep 1000', environment={"READY": ready.path})
    async with running(tmp_path / "data", service, clock=clock, grace=0.2) as site:
        store, projector = site.node.backend.store, site.node.backend.projector
        projector.retry_seconds = 0
        job = await site.run("run")
        (pid,) = await ready.numbers(1)

        async def fail(**_: int) -> tuple[RecordedEvent, ...]:
            raise StoreUnavailable("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(store, "read_all", fail)
            patch.setattr(store, "_just_written", lambda after: ())  # else nobody would have to read it
            await site.post(f"{job}/phase", {"PHASE": "ABORT"})
            # Both the scheduler and the destruction have met it, and will try again.
            await clock.until_sleeping_for(clock.now() + timedelta(seconds=1), sleepers=2)
        clock.advance(seconds=1)
        while (answer := await site.get(f"{job}?WAIT=20")).status == 503:
            await asyncio.sleep(0)
        assert text(answer.xml, "phase") == "ABORTED"
        assert not is_running(pid)
