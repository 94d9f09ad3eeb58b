"""What a server finds when it starts, and what it leaves when it stops."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from eventstore import from_microseconds
from eventstore.processes import boot_id
from projections import Documents, Event, Services
from tests.daemon import PATIENCE
from tests.execution.programs import Pipe, directory_of, is_running, shell
from tests.execution.test_programs import info, results, summary, used
from tests.harness import ManualClock, Site, job_id, running, text
from uws import FileParameter, FloatParameter, Job, Service
from uws.execution import _failpoints as execution_failpoints
from uws.execution import run
from uws.execution.process import Process
from uws.execution.records import Record, started
from uws.files import Files
from uws.model.events import decode
from uws.model.units import format_time

ROOT = Path(__file__).parents[2]
STOPPED = {"type": "transient", "hasDetail": "false", "message": "the server was stopped while the job ran"}


LOST = {"type": "transient", "hasDetail": "false", "message": "the program was lost while no server ran"}


def held(ready: Pipe, gate: Pipe | None = None) -> Service:
    """Declare a service whose program waits for ever, or at the gate and then fails."""
    end = 'read line < "$GATE"; exit 3' if gate else "sleep 1000"
    script = f'echo 1 > "$UWS_RESULTS/partial"; echo $$ > "$READY"; {end}'
    return shell(script, environment={"READY": ready.path, **({"GATE": gate.path} if gate else {})})


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
import asyncio, os, signal, sys
from pathlib import Path
from tests.execution.programs import Pipe
from tests.execution.test_restart import held
from tests.harness import running
from uws.execution import _failpoints

class Ready:
    path = sys.argv[2]

class Gate:
    path = sys.argv[3]

def reached(place):
    if place == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)

_failpoints.reached = reached

async def main():
    async with running(Path(sys.argv[1]), held(Ready, Gate)) as site:
        job = await site.create("run")
        print(job, flush=True)
        await site.post(f"{job}/phase", {"PHASE": "RUN"})
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def crashed(data: Path, ready: Pipe, gate: Pipe, at: str = "") -> str:
    """Run a job on a server that is killed ``at`` a failpoint, or once the program runs; return its URL."""
    command = [sys.executable, "-c", _SERVER, data, ready.path, gate.path, at]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert server.stdout
        job = (await asyncio.to_thread(server.stdout.readline)).decode().strip()
        if not at:
            await ready.line()
            server.send_signal(signal.SIGKILL)
        return job
    finally:
        await asyncio.to_thread(server.wait)
        assert server.stdout
        server.stdout.close()


async def types(site: Site, job: str) -> list[str]:
    return [event.type for event in await site.node.backend.store.read_stream(f"job/{job_id(job)}")]


@pytest.mark.parametrize("ends", ["by itself", "on request"])
async def test_a_program_outlives_a_crash_and_the_next_server_sees_it_through(
    tmp_path: Path, ready: Pipe, gate: Pipe, ends: str
) -> None:
    job = await crashed(tmp_path / "data", ready, gate)
    async with running(tmp_path / "data", held(ready, gate)) as site:
        assert await site.phase(again(site, job)) == "EXECUTING"
        waiting = await site.run("run")
        assert await site.phase(waiting) == "QUEUED"
        if ends == "by itself":
            gate.send()
        else:
            await site.post(f"{again(site, job)}/phase", {"PHASE": "ABORT"})
        document = await site.ended(again(site, job))
        found = ["JobCreated", "JobQueued", "JobStarted", "ProgramFound"]
        if ends == "by itself":
            assert (text(document, "phase"), info(document)) == ("ERROR", {"exitCode": "3"})
            assert await types(site, job) == [*found, "JobFailed"]
        else:
            assert text(document, "phase") == "ABORTED"
            assert await types(site, job) == [*found, "StopRequested", "ProgramSignalled", "JobAborted"]
        assert results(document) == ["partial"]
        await ready.line()
        assert await site.phase(waiting) == "EXECUTING"


async def test_a_program_that_ended_while_no_server_ran_ended_when_it_did(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    job = await crashed(tmp_path / "data", ready, gate)
    gate.send()
    while not (ended := end_of(tmp_path / "data", job)):
        await asyncio.sleep(0)
    async with running(tmp_path / "data", held(ready, gate)) as site:
        document = await site.document(again(site, job))
        assert text(document, "phase") == "ERROR"
        assert text(document, "endTime") == format_time(from_microseconds(ended))
        assert info(document) == {"exitCode": "3"}
        assert used(document)[1] > 0
        assert (await types(site, job))[3:] == ["ProgramFound", "JobFailed"]


def end_of(data: Path, job: str) -> int:
    """Return when the program of a job ended, going by its record; 0 while it runs."""
    (path,) = (data / "jobs" / job_id(job) / "starts").iterdir()
    record = Record(path)
    return record.end.ended if record.end else 0


async def test_a_program_whose_supervisor_was_killed_is_lost_and_nothing_is_left_of_it(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    async with running(tmp_path, held(ready, gate)) as site:
        job = await site.run("run")
        (pid,) = await ready.numbers(1)
        os.kill(int(stat_of(pid)[1]), signal.SIGKILL)
        document = await site.ended(job)
        assert summary(document) == LOST | {"message": "the program was lost: its supervisor is gone"}
        assert results(document) == ["partial"]
        assert not is_running(pid)


async def test_a_lost_program_is_started_again_where_its_service_says_so_but_not_for_ever(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    service = replace(held(ready, gate), on_lost="requeue", requeues=2)
    async with running(tmp_path, service) as site:
        job = await site.run("run")
        for count in range(3):
            (pid,) = await ready.numbers(1)
            assert info(await site.executing(job)).get("requeued", "0") == str(count)
            os.kill(int(stat_of(pid)[1]), signal.SIGKILL)
        document = await site.ended(job)
        assert text(document, "phase") == "ERROR"
        assert info(document) == {"requeued": "2"}
        assert (await types(site, job)).count("JobStarted") == 3


async def test_a_process_that_has_the_number_of_a_supervisor_of_old_is_let_alone(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    job = await crashed(tmp_path / "data", ready, gate)
    (path,) = (tmp_path / "data" / "jobs" / job_id(job) / "starts").iterdir()
    record = Record(path)
    process = Process.of(record)
    assert process
    assert record.supervisor
    with closing(process):
        process.kill()
        await process.ended()
    innocent = subprocess.Popen(["sleep", "1000"])
    try:
        for forged in ({"start": 1}, {"boot": "x"}, {"file": 1}, {"start": 1, "boot": "x"}):
            who = {"start": started(innocent.pid), "boot": boot_id(), "file": path.stat().st_ino, **forged}
            line = msgspec.json.encode(replace(record.supervisor, pid=innocent.pid, **who))
            path.write_bytes(line + b"\n")
            assert Process.of(Record(path)) is None
        async with running(tmp_path / "data", held(ready, gate)) as site:
            assert summary(await site.document(again(site, job))) == LOST
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


@pytest.mark.parametrize("place", execution_failpoints.NAMES)
async def test_wherever_a_server_is_killed_while_it_starts_a_program_it_runs_once_and_is_on_record(
    tmp_path: Path, ready: Pipe, gate: Pipe, place: str
) -> None:
    job = await crashed(tmp_path, ready, gate, place)
    async with running(tmp_path, held(ready, gate)) as site:
        (pid,) = await ready.numbers(1)
        assert await site.phase(again(site, job)) == "EXECUTING"
        records = {path.name: Record(path) for path in (site.data / job_id(job) / "starts").iterdir()}
        (record,) = (record for record in records.values() if record.supervisor)
        assert record.supervisor
        assert str(record.supervisor.pid) == stat_of(pid)[1]
        gate.send()
        assert info(await site.ended(again(site, job))) == {"exitCode": "3"}
        (found,) = [
            decode(event).finding  # type: ignore[union-attr]
            for event in await site.node.backend.store.read_stream(f"job/{job_id(job)}")
            if event.type == "ProgramFound"
        ]
        assert (found, sorted(records)) == {
            execution_failpoints.DECIDED: ("not started", ["3-1", "3-2"]),
            execution_failpoints.LAUNCHED: ("running", ["3-1"]),
        }[place]


async def test_a_start_without_a_record_is_not_repeated_when_the_machine_was_restarted(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    """What was not on the disk is gone then: the program may have run."""
    job = await crashed(tmp_path, ready, gate, execution_failpoints.DECIDED)
    Files(tmp_path).boot.write_text("an earlier run")
    async with running(tmp_path, held(ready, gate)) as site:
        assert summary(await site.ended(again(site, job))) == LOST | {
            "message": "the program was lost with its record"
        }
    assert Files(tmp_path).boot.read_text() == boot_id()


def stat_of(pid: int) -> list[str]:
    """Return the fields of proc(5)'s ``stat`` from the third on: the second of these is the parent."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


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
        monkeypatch.setattr(run, "collect", fail)
        monkeypatch.setattr(run, "results_of", fail)
        jobs = [await site.run("quick"), await site.run("quick")]
        for job in jobs:
            assert summary(await site.ended(job)) == {
                "type": "transient",
                "hasDetail": "false",
                "message": "what the program left could not be collected: Permission denied",
            }
        async with running(tmp_path / "copy", held(ready)) as other:
            assert summary(await other.document(again(other, left))) == LOST
    assert "cannot be collected" in caplog.text


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
