"""What a server finds when it starts, and what it leaves when it stops."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from projections import Documents, Event, Services
from tests.daemon import PATIENCE
from tests.execution.programs import Pipe, directory_of, is_running, shell
from tests.execution.test_programs import info, results, summary
from tests.harness import ManualClock, Site, job_id, running, text
from uws import FileParameter, FloatParameter, Job, Service
from uws.execution import scheduler

ROOT = Path(__file__).parents[2]
STOPPED = {"type": "transient", "hasDetail": "false", "message": "the server was stopped while the job ran"}


def held(ready: Pipe) -> Service:
    script = 'echo 1 > "$UWS_RESULTS/partial"; echo $$ > "$READY"; sleep 1000'
    return shell(script, environment={"READY": ready.path})


def again(site: Site, job: str) -> str:
    """Return the URL of a job that was made on an earlier server."""
    return f"{site.list_url('run')}/{job_id(job)}"


def copy(data: Path, elsewhere: Path) -> None:
    """Copy a data directory as it is now; of its socket there can be no copy."""
    shutil.copytree(data, elsewhere, ignore=shutil.ignore_patterns("*.sock"))


async def test_stopping_records_what_runs_as_a_transient_error_and_keeps_the_queue(
    tmp_path: Path, ready: Pipe
) -> None:
    async with running(tmp_path / "data", held(ready), grace=0.5) as site:
        first, second, third = await site.run("run"), await site.run("run"), await site.create("run")
        (pid,) = await ready.numbers(1)
    assert not is_running(pid)
    async with running(tmp_path / "data", held(ready), grace=0.5) as site:
        document = await site.document(again(site, first))
        assert text(document, "phase") == "ERROR"
        assert summary(document) == STOPPED
        assert results(document) == ["partial"]
        assert info(document)["signal"] == "SIGTERM"
        await ready.numbers(1)
        assert await site.phase(again(site, second)) == "EXECUTING"
        assert await site.phase(again(site, third)) == "PENDING"
        assert (await site.get(f"{again(site, first)}/results/partial")).body == b"1\n"


_SERVER = """
import asyncio, sys
from pathlib import Path
from tests.execution.programs import Pipe
from tests.execution.test_restart import held
from tests.harness import running

class Ready:
    path = sys.argv[2]

async def main():
    async with running(Path(sys.argv[1]), held(Ready)) as site:
        print(await site.run("run"), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_after_a_crash_a_running_job_is_a_transient_error_and_its_program_is_ended(
    tmp_path: Path, ready: Pipe
) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, tmp_path / "data", ready.path], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert server.stdout
        job = (await asyncio.to_thread(server.stdout.readline)).decode().strip()
        (pid,) = await ready.numbers(1)
    finally:
        server.send_signal(signal.SIGKILL)
        await asyncio.to_thread(server.wait)
        assert server.stdout
        server.stdout.close()
    assert is_running(pid)
    async with running(tmp_path / "data", held(ready)) as site:
        assert not is_running(pid)
        document = await site.document(again(site, job))
        assert text(document, "phase") == "ERROR"
        assert summary(document) == STOPPED
        assert results(document) == ["partial"]
        events = await site.node.backend.store.read_stream(f"job/{job_id(job)}")
        assert [event.type for event in events] == ["JobCreated", "JobQueued", "JobStarted", "JobFailed"]


async def test_a_crash_gives_back_the_slot_and_a_server_on_a_copy_leaves_the_first_ones_programs_alone(
    tmp_path: Path, ready: Pipe
) -> None:
    """Here a crash is a copy of the data directory, taken while the job ran."""
    async with running(tmp_path / "data", held(ready), grace=0.5) as site:
        jobs = [await site.run("run"), await site.run("run")]
        (pid,) = await ready.numbers(1)
        copy(tmp_path / "data", tmp_path / "copy")
        async with running(tmp_path / "copy", held(ready), grace=0.5) as other:
            await ready.numbers(1)
            assert await other.phase(again(other, jobs[0])) == "ERROR"
            assert await other.phase(again(other, jobs[1])) == "EXECUTING"
        assert is_running(pid)
        assert [await site.phase(job) for job in jobs] == ["EXECUTING", "QUEUED"]


@pytest.mark.parametrize("wish", ["ABORT", "DELETE"])
async def test_what_was_to_be_stopped_when_the_server_crashed_ends_as_was_asked(
    tmp_path: Path, ready: Pipe, wish: str
) -> None:
    script = 'trap "" TERM; echo $$ > "$READY"; sleep 1000'
    service = shell(script, environment={"READY": ready.path})
    async with running(tmp_path / "data", service, grace=1.5) as site:
        job = await site.run("run")
        await ready.numbers(1)
        backend = site.node.backend
        with backend.projector.watch(f"job/{job_id(job)}") as changed:
            asking = asyncio.ensure_future(
                site.request("DELETE", job)
                if wish == "DELETE"
                else site.post(f"{job}/phase", {"PHASE": "ABORT"})
            )
            while (recorded := await backend.jobs.get(job_id(job))) and not recorded.stop:
                await changed.wait()
                changed.clear()
        copy(tmp_path / "data", tmp_path / "copy")
        async with running(tmp_path / "copy", service, grace=0.1) as other:
            found = await other.get(again(other, job))
            if wish == "DELETE":
                assert found.status == 410
                assert not directory_of(other, job).exists()
            else:
                assert text(found.xml, "phase") == "ABORTED"
        await asking


async def test_processes_of_other_jobs_are_left_alone(tmp_path: Path, ready: Pipe) -> None:
    other_job = {"UWS_JOB_ID": "0" * 20}
    innocent = subprocess.Popen(["sleep", "1000"], env=other_job, start_new_session=True)
    try:
        async with running(tmp_path / "data", held(ready), grace=0.5) as site:
            job = await site.run("run")
            await ready.numbers(1)
            copy(tmp_path / "data", tmp_path / "copy")
            async with running(tmp_path / "copy", held(ready)) as other:
                assert await other.phase(again(other, job)) == "ERROR"
                assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


async def test_a_lost_directory_of_a_running_job_keeps_no_server_from_starting(
    tmp_path: Path, ready: Pipe
) -> None:
    async with running(tmp_path / "data", held(ready), grace=0.5) as site:
        job = await site.run("run")
        await ready.numbers(1)
        copy(tmp_path / "data", tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy" / "jobs" / job_id(job))
        async with running(tmp_path / "copy", held(ready)) as other:
            assert await other.phase(again(other, job)) == "ERROR"


async def test_what_is_left_of_jobs_that_are_gone_is_cleared_away_and_what_no_log_knows_is_not(
    tmp_path: Path,
) -> None:
    service = shell("true", parameters={"f": FileParameter()})
    async with running(tmp_path, service) as site:
        kept = await site.create("run", f=b"kept")
        destroyed = await site.create("run", f=b"destroyed")
        await site.request("DELETE", destroyed)
    jobs = tmp_path / "jobs"
    (jobs / job_id(destroyed) / "results").mkdir(parents=True)
    (jobs / "stray" / "uploads").mkdir(parents=True)
    (jobs / "stray" / "uploads" / "file").write_text("x")
    (jobs / "a file").write_text("x")
    (tmp_path / "spool" / "half").write_text("x")
    async with running(tmp_path, service) as site:
        assert {path.name for path in jobs.iterdir()} == {job_id(kept), "stray", "a file"}
        assert list((tmp_path / "spool").iterdir()) == []
        assert (await site.get(f"{again(site, kept)}/parameters/f")).body == b"kept"


async def test_read_models_deleted_between_two_runs_change_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, shell("echo 1 > $UWS_RESULTS/x")) as site:
        job = await site.run("run")
        before = await site.ended(job)
        listing = (await site.get(site.list_url("run"))).text.replace(site.url, "")
    for path in tmp_path.glob("projections.db*"):
        path.unlink()
    async with running(tmp_path, shell("echo 1 > $UWS_RESULTS/x")) as site:
        after = await site.document(again(site, job))
        assert [e.text for e in after.iter()] == [e.text for e in before.iter()]
        assert (await site.get(site.list_url("run"))).text.replace(site.url, "") == listing


async def test_a_child_that_outlived_its_program_and_the_server_is_ended(tmp_path: Path, ready: Pipe) -> None:
    async with running(tmp_path / "data", held(ready), grace=0.5) as site:
        job = await site.run("run")
        await ready.numbers(1)
        copy(tmp_path / "data", tmp_path / "copy")
        await site.request("DELETE", job)
        # Its leader has ended, and a child of it goes on.
        left = subprocess.Popen(
            ["sh", "-c", 'sleep 1000 & echo $! > "$READY"'],
            env={
                "UWS_RESULTS": str((tmp_path / "copy" / "jobs" / job_id(job) / "results").resolve()),
                "READY": ready.path,
                "PATH": "/usr/bin:/bin",
            },
            start_new_session=True,
        )
        (pid,) = await ready.numbers(1)
        await asyncio.to_thread(left.wait)
        async with running(tmp_path / "copy", held(ready)) as other:
            assert await other.phase(again(other, job)) == "ERROR"
            assert not is_running(pid)


async def test_a_queued_job_that_a_changed_declaration_no_longer_allows_is_an_error_that_says_so(
    tmp_path: Path, ready: Pipe
) -> None:
    def declared(highest: float) -> Service:
        return shell(
            'echo $$ > "$READY"; sleep 1000',
            environment={"READY": ready.path},
            parameters={"x": FloatParameter(max=highest)},
        )

    async with running(tmp_path, declared(360), grace=0.5) as site:
        first, second = await site.run("run", x=100), await site.run("run", x=100)
        await ready.numbers(1)
    async with running(tmp_path, declared(90), grace=0.5) as site:
        assert await site.phase(again(site, first)) == "ERROR"
        assert summary(await site.ended(again(site, second))) == {
            "type": "fatal",
            "hasDetail": "false",
            "message": "the declaration has changed: x: 100 is above the maximum 90",
        }


async def test_results_that_cannot_be_collected_end_the_job_and_keep_no_server_from_starting(
    tmp_path: Path, ready: Pipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    async with running(tmp_path / "data", held(ready), shell("true", name="quick"), grace=0.5) as site:
        left = await site.run("run")
        await ready.numbers(1)
        copy(tmp_path / "data", tmp_path / "copy")
        monkeypatch.setattr(scheduler, "collect", fail)
        monkeypatch.setattr(scheduler, "results_of", fail)
        jobs = [await site.run("quick"), await site.run("quick")]
        for job in jobs:
            assert summary(await site.ended(job)) == {
                "type": "transient",
                "hasDetail": "false",
                "message": "the server could not see the program through: Permission denied",
            }
        async with running(tmp_path / "copy", held(ready)) as other:
            assert summary(await other.document(again(other, left))) == STOPPED
    assert "cannot be collected" in caplog.text
    assert "could not be seen through" in caplog.text


async def test_a_read_model_of_services_that_stopped_keeps_no_server_from_settling_jobs_of_old_services(
    tmp_path: Path, ready: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "data", held(ready), grace=0.5) as site:
        left = await site.run("run")
        await ready.numbers(1)
        copy(tmp_path / "data", tmp_path / "copy")
    for path in (tmp_path / "copy" / "projections").glob("services-*"):
        path.unlink()

    def fail(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Services, "apply", fail)
    clock = ManualClock(datetime.now(UTC))
    async with running(tmp_path / "copy", shell("true", name="other"), clock=clock) as site:
        backend = site.node.backend
        stream = f"job/{job_id(left)}"
        assert (await backend.store.read_stream(stream))[-1].type == "JobFailed"
        assert text(await site.ended(await site.run("other")), "phase") == "COMPLETED"
        with backend.projector.watch(stream) as changed:
            clock.advance(days=365)
            while (await backend.store.read_stream(stream))[-1].type != "JobDestroyed":
                await changed.wait()
                changed.clear()


async def test_a_server_begins_without_read_models_that_only_questions_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, shell("true")) as site:
        job = await site.run("run")
        await site.ended(job)
    for path in (tmp_path / "projections").glob("documents-*"):
        path.unlink()
    may, apply = threading.Event(), Documents.apply

    def wait(model: Documents, row: Job | None, event: Event) -> Job | None:
        may.wait(PATIENCE / 2)
        return apply(model, row, event)

    monkeypatch.setattr(Documents, "apply", wait)
    async with asyncio.timeout(PATIENCE / 4), running(tmp_path, shell("true")) as site:
        may.set()
        assert text(await site.document(again(site, job)), "phase") == "COMPLETED"
