"""Starts of programs that fail, or of which nobody tells: the job is told why, and the queue goes on."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Iterator
from datetime import timedelta
from errno import EMFILE, ENOENT
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from eventstore.processes import boot_id
from tests.execution.programs import Pipe, is_running, shell
from tests.execution.test_programs import info, summary
from tests.execution.test_restart import held, stat_of
from tests.harness import ManualClock, job_id, running, text
from uws import Failure, Limits, Service
from uws.execution import process, records
from uws.execution.local import LocalRun
from uws.execution.process import Launcher, Launchers, NotStarted
from uws.execution.programs import Programs
from uws.execution.records import End, Record, Supervisor, last_record
from uws.execution.results import collect
from uws.execution.run import Here
from uws.files import Files, JobDirectory


async def test_a_program_that_cannot_be_started_is_an_error_of_its_job_and_the_queue_goes_on(
    tmp_path: Path,
) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    commands = {
        "missing": (["no-such-program-anywhere"], "No such file or directory"),
        "absent": ([str(tmp_path / "absent")], "No such file or directory"),
        "forbidden": ([str(plain)], "Permission denied"),
        "relative": (["./tool"], "No such file or directory"),
        "directory": ([str(tmp_path)], "Permission denied"),
        "long": (["true", "x" * 200_000], "Argument list too long"),
    }
    services = [Service(name=name, title=name, command=[*argv]) for name, (argv, _) in commands.items()]
    async with running(tmp_path / "data", shell("true"), *services) as site:
        for name, (argv, reason) in commands.items():
            jobs = [await site.run(name) for _ in range(3)]  # max_running is 1: each gives its slot back
            for job in jobs:
                assert summary(await site.ended(job)) == {
                    "type": "fatal",
                    "hasDetail": "false",
                    "message": f"the program {argv[0]} could not be started: {reason}",
                }
        assert text(await site.ended(await site.run("run")), "phase") == "COMPLETED"


def launcher() -> int:
    """Return the process from which programs are started: a child of the server's, which is this process."""
    (pid,) = [
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
        if b"supervisor.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return pid


async def test_limits_that_the_server_itself_may_not_have_are_told(tmp_path: Path) -> None:
    async with running(tmp_path, shell("true", limits=Limits(open_files=1 << 40))) as site:
        assert summary(await site.ended(await site.run("run")))["message"] == (
            "the program sh could not be started: the limits: Operation not permitted"
        )


def test_a_program_of_which_the_record_says_that_it_never_began_did_not_end_well(tmp_path: Path) -> None:
    """Who reads the record while it is being written learns of it as of an end."""
    ending = collect(shell("true"), JobDirectory(tmp_path), End(1, errno=ENOENT, what="the program"))
    assert ending.exit_code is None
    assert ending.failure == Failure(message="the program sh could not be started: No such file or directory")


async def test_a_job_that_was_deleted_when_its_turn_came_leaves_no_directory(tmp_path: Path) -> None:
    async with running(tmp_path / "data", shell("true")) as site:
        job = await site.create("run")
        await site.request("DELETE", job)
        here = Here(Launchers(), Programs(), 1.0, asyncio.Event(), restarted=False)
        await LocalRun(site.node.services[0], job_id(job), here).start()
        assert not (site.data / job_id(job)).exists()


async def test_a_supervisor_that_cannot_be_looked_at_costs_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record"
    path.touch()
    who = Supervisor(os.getpid(), 1, boot_id(), path.stat().st_ino, 1)
    path.write_bytes(msgspec.json.encode(who) + b"\n")
    before = os.listdir("/proc/self/fd")

    def none_left(pid: int) -> int:
        raise OSError(EMFILE, os.strerror(EMFILE))

    monkeypatch.setattr(records, "started", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        Record(path).watch()
    assert os.listdir("/proc/self/fd") == before


async def test_too_many_open_files_are_an_error_of_the_job_and_the_queue_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, shell("true")) as site:
        await site.ended(await site.run("run"))
        pid = launcher()
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, hard))
        job = await site.run("run")
        assert summary(await site.ended(job)) == {
            "type": "transient",
            "hasDetail": "false",
            "message": "the program sh could not be started: the supervisor: Too many open files",
        }
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert text(await site.ended(await site.run("run")), "phase") == "COMPLETED"


@pytest.fixture
def pids() -> Iterator[Path]:
    """A control group that limits how many processes there are."""
    group = Path(f"/sys/fs/cgroup/pids/uwsd-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error.strerror}")
    yield group
    group.rmdir()


async def test_a_machine_that_is_full_of_processes_makes_jobs_wait_and_fails_none(
    tmp_path: Path, pids: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, shell("true"), clock=clock) as site:
        await site.ended(await site.run("run"))
        (pids / "pids.max").write_text("1")
        (pids / "cgroup.procs").write_text(str(launcher()))
        job = await site.run("run")
        for _ in range(3):
            await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
            assert await site.phase(job) == "EXECUTING"
            clock.advance(seconds=1)
        assert "the machine is full; trying again" in caplog.text
        await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
        (pids / "pids.max").write_text("max")
        clock.advance(seconds=1)
        assert text(await site.ended(job), "phase") == "COMPLETED"


async def test_a_supervisor_that_dies_before_it_has_answered_keeps_nobody_waiting(
    tmp_path: Path, ready: Pipe, gate: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_LONGEST_ANSWER", 0.5)
    async with running(tmp_path, held(ready, gate)) as site:
        job = await site.run("run")
        (pid,) = await ready.numbers(1)
        (launcher,) = {int(stat_of(int(stat_of(pid)[1]))[1])}
        os.kill(int(stat_of(pid)[1]), signal.SIGKILL)
        assert text(await site.ended(job), "phase") == "ERROR"
        os.kill(launcher, signal.SIGSTOP)
        second = await site.run("run")
        for number in (1, 2):
            while not (site.data / job_id(second) / "starts" / f"3-{number}").exists():
                await asyncio.sleep(0)
        os.kill(launcher, signal.SIGCONT)
        await ready.line()
        gate.send()
        assert info(await site.ended(second)) == {"exitCode": "3"}
        ran = [Record(path) for path in (site.data / job_id(second) / "starts").iterdir()]
        assert len([record for record in ran if record.end and record.end.errno is None]) == 1


async def test_what_an_earlier_server_asked_for_too_late_is_not_started(tmp_path: Path, ready: Pipe) -> None:
    """The next server has found no record, and none can be made any more."""
    directory = Files(tmp_path).of("j1")
    Files(tmp_path).prepare()
    directory.make()
    assert last_record(directory, 3) is None
    launcher = Launcher()
    with pytest.raises(NotStarted, match="File exists"):
        await launcher.launch(
            ["sh", "-c", f"echo $$ > {ready.path}"],
            record=directory.starts / "3-1",
            root=directory.root,
            directory=directory.work,
            environment={"PATH": "/usr/bin:/bin"},
            stdout=directory.logs / "stdout",
            stderr=directory.logs / "stderr",
            limits={},
            nice=0,
        )
    await launcher.close()
    assert not (directory.logs / "stdout").exists()


async def test_a_launcher_that_is_killed_costs_no_job(tmp_path: Path, ready: Pipe, gate: Pipe) -> None:
    async with running(tmp_path, replace(held(ready, gate), max_running=2)) as site:
        first = await site.run("run")
        (pid,) = await ready.numbers(1)
        launcher = int(stat_of(int(stat_of(pid)[1]))[1])
        os.kill(launcher, signal.SIGKILL)
        while is_running(launcher):
            await asyncio.sleep(0)
        second = await site.run("run")
        await ready.line()
        gate.send()
        gate.send()
        for job in (first, second):
            assert info(await site.ended(job)) == {"exitCode": "3"}
