"""Admin commands on jobs: whoever they belong to, the same with a server and without."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventstore import SQLiteEventLog
from tests.daemon import PATIENCE, UWSD, Ended, announcements, has_ended, serving, uwsd
from tests.harness import BasicUsers, ManualClock, job_id, running
from uws import Service, StrParameter
from uws.admin import ListJobs, Wanted
from uws.admin.client import ask
from uws.execution.progress import EVERY
from uws.model import Phase
from uws.model.units import format_time

DECLARATION = """
[services.echo]
title = "Echo"
command = ["echo", "{word}"]
parameters = { word = { type = "str", default = "nothing" } }

[services.kept]
title = "Kept"
command = ["false"]
archive = true
"""
SLEEP = """
[services.sleep]
title = "Sleep"
command = ["sh", "-c", "echo $$ > ready; exec sleep 1000"]
"""
TRACE = "; UnixStartTime: 749433603\n1 0 10 5 4 -1 -1 4 60 -1 1 7 1 1 1 -1 -1 -1\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "uwsd.toml"
    path.write_text(DECLARATION)
    return path


@pytest.fixture(params=["running", "stopped"])
async def jobs(request: pytest.FixtureRequest, file: Path) -> AsyncIterator[dict[str, str]]:
    """The ids of a job that COMPLETED, one in ERROR and one PENDING; their server runs, or does not."""
    async with serving(file) as server:
        made = {"completed": await server.run("echo", word="one"), "failed": await server.run("kept")}
        for job in made.values():
            await server.ended(job)
        made["pending"] = await server.create("echo", word="two")
        ids = {name: job_id(job) for name, job in made.items()}
        if request.param == "running":
            yield ids
    if request.param == "stopped":
        yield ids


async def admin(file: Path, *words: str | Path) -> Ended:
    return await uwsd("jobs", *words, "--config", file)


async def listed(file: Path, *words: str) -> list[str]:
    """The ids of the jobs that ``uwsd jobs list`` prints."""
    told = await admin(file, "list", "--json", *words)
    assert (told.status, told.err) == (0, "")
    return [entry["id"] for entry in json.loads(told.out)]


async def phase_of(file: Path, job: str) -> Any:
    told = await admin(file, "show", job, "--json")
    assert told.status == 0, told.err
    return json.loads(told.out)["phase"]


# list and show


async def test_list_prints_the_jobs_of_all_services_and_filters_choose(
    file: Path, jobs: dict[str, str]
) -> None:
    told = await admin(file, "list")
    assert (told.status, told.err) == (0, "")
    heading, *lines = told.out.splitlines()
    assert heading.split() == ["job", "phase", "created", "service", "owner", "run", "id"]
    assert [(line.split()[:2], line.split()[3:]) for line in lines] == [
        ([jobs["pending"], "PENDING"], ["echo", "-", "-"]),
        ([jobs["completed"], "COMPLETED"], ["echo", "-", "-"]),
        ([jobs["failed"], "ERROR"], ["kept", "-", "-"]),
    ]
    assert await listed(file, "--phase", "error", "--phase", "PENDING") == [jobs["pending"], jobs["failed"]]
    assert await listed(file, "--service", "kept") == [jobs["failed"]]
    assert await listed(file, "--owner", "ada") == []
    assert len(await listed(file, "--anonymous", "--newer-than", "1d")) == 3
    assert await listed(file, "--older-than", "1d") == []
    nothing = await admin(file, "list", "--service", "ecco")
    assert (nothing.status, nothing.out, nothing.err) == (0, "", "")


async def test_show_tells_what_is_known_of_a_job_even_when_it_is_gone(
    file: Path, jobs: dict[str, str]
) -> None:
    told = await admin(file, "show", jobs["completed"])
    assert (told.status, told.err) == (0, "")
    assert f"id: {jobs['completed']}\nservice: echo\n" in told.out
    assert "phase: COMPLETED\n" in told.out
    assert "parameter word: one\n" in told.out
    assert (await admin(file, "destroy", jobs["completed"])).status == 0
    gone = json.loads((await admin(file, "show", jobs["completed"], "--json")).out)
    assert gone["destroyed"]
    assert gone["note"] == "destroyed on request"


async def test_a_list_of_many_jobs_comes_page_by_page_each_job_once(file: Path) -> None:
    (file.parent / "jobs.swf").write_text(TRACE)
    data = file.parent / "var"
    async with serving(file):
        trace = "import", "swf", file.parent / "jobs.swf", "--service", "echo", "--jobs", "250"
        assert (await uwsd(*trace, "--config", file)).status == 0
        found: list[str] = []
        operation, pages = ListJobs(Wanted(phases=(Phase.COMPLETED, Phase.ABORTED)), limit=100), 0
        while True:
            page = await ask(data, operation, lambda done, of: None)
            assert len(page.jobs) <= 100
            found += [entry.id for entry in page.jobs]
            pages += 1
            if page.next is None:
                break
            operation = ListJobs(operation.wanted, page.next, limit=100)
        assert pages == 3
        assert len(set(found)) == len(found) == 250
        assert found == await listed(file)
        destroyed = await admin(file, "destroy", "--service", "echo")
        assert destroyed.out.endswith("250 destroyed\n")
        assert await listed(file) == []


def test_no_question_of_an_admin_scans_jobs_that_are_not_asked_for() -> None:
    from projections import JobList
    from projections.job_list import _EXPIRED

    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(f"{JobList.tables} {JobList.indexes}")
        asked = {"now": 0, "time": 0, "position": 0, "limit": 1}
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {_EXPIRED}", asked)]
    assert len(plan) == 1
    assert plan[0].startswith("SEARCH job USING INDEX job_by_destruction")


async def test_what_clients_sent_does_not_steer_the_terminal(file: Path) -> None:
    async with serving(file) as server:
        job = await server.create("echo", word="\x9b31m")
        told = await admin(file, "show", job_id(job))
    assert "parameter word: \ufffd31m\n" in told.out


# abort and destroy


async def test_abort_ends_jobs_that_have_not_begun_and_the_admin_is_on_record(
    file: Path, jobs: dict[str, str]
) -> None:
    told = await admin(file, "abort", "--service", "echo")
    assert (told.status, told.err) == (0, "")
    assert told.out == f"job {jobs['pending']}: PENDING, is aborted\n1 aborted\n"
    assert await phase_of(file, jobs["pending"]) == "ABORTED"
    log = await SQLiteEventLog.read(file.parent / "var" / "events.db")
    last = (await log.read_stream(f"job/{jobs['pending']}"))[-1]
    await log.close()
    assert (last.type, last.about.client) == ("JobAborted", "uwsd jobs abort")
    assert last.about.actor not in (None, "uwsd")


async def test_destroy_takes_jobs_and_their_files_away_or_archives_them(
    file: Path, jobs: dict[str, str]
) -> None:
    directories = file.parent / "var" / "jobs"
    told = await admin(file, "destroy", jobs["completed"], jobs["failed"])
    assert (told.status, told.err) == (0, "")
    assert told.out == (
        f"job {jobs['completed']}: COMPLETED, is destroyed\n"
        f"job {jobs['failed']}: ERROR, is archived\n"
        "1 archived, 1 destroyed\n"
    )
    assert await listed(file) == [jobs["pending"]]
    assert await listed(file, "--phase", "ARCHIVED") == [jobs["failed"]]
    assert not set(os.listdir(directories)) & {jobs["completed"], jobs["failed"]}


async def test_what_cannot_be_done_to_a_job_is_told_and_keeps_nothing_else_from_being_done(
    file: Path, jobs: dict[str, str]
) -> None:
    told = await admin(file, "abort", "x", jobs["completed"], jobs["pending"])
    assert told.status == 2
    assert told.out == f"job {jobs['pending']}: PENDING, is aborted\n1 aborted, 2 refused\n"
    missing, wrong = told.err.splitlines()
    assert missing == "there is no job x"
    assert wrong.startswith(f"job {jobs['completed']} is COMPLETED: ABORT is only possible in ")


async def test_a_dry_run_tells_the_same_and_changes_nothing(file: Path, jobs: dict[str, str]) -> None:
    before = await listed(file)
    for words in (
        ("abort", "--service", "echo"),
        ("abort", jobs["completed"], jobs["pending"]),
        ("destroy", "--anonymous"),
        ("purge", "--include-failed", "--include-completed", "--include-forgotten", "--older-than", "0s"),
    ):
        dry = await admin(file, *words, "--dry-run")
        assert "dry run, nothing is changed: " in dry.out
        assert "would be" in dry.out
        assert await listed(file) == before
    done = await admin(file, "destroy", "--anonymous")
    dry = await admin(file, "destroy", "--anonymous", "--dry-run")
    assert (done.out.count("is destroyed"), done.out.count("is archived")) == (2, 1)
    assert dry.out == "dry run, nothing is changed: no job\n"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("abort",), "expected either ids of jobs, or filters such as --service and --older-than\n"),
        (("destroy", "x", "--anonymous"), "expected either ids of jobs, or filters such as"),
        (("list", "--owner", "ada", "--anonymous"), "--anonymous: these jobs have no owner, such as --owner"),
        (("list", "--older-than", "soon"), "--older-than: expected a duration such as 60 (seconds)"),
        (("purge", "--include-forgotten"), "--include-forgotten: say with --older-than when a job counts"),
        (("purge", "--older-than", "7d"), "--older-than: it is for what is included with --include-failed"),
        (("show", "x"), "there is no job x\n"),
    ],
)
async def test_what_is_not_clear_is_refused_with_what_would_be_right(
    file: Path, words: tuple[str, ...], problem: str
) -> None:
    async with serving(file):
        refused = await admin(file, *words)
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith(problem)


async def test_a_program_that_runs_is_stopped_by_the_server_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "uwsd.toml"
    file.write_text(SLEEP.replace("> ready", f"> {tmp_path / 'ready'}"))
    async with announcements(tmp_path / "ready") as heard, serving(file) as server:
        job = await server.run("sleep")
        (pid,) = await heard()
        told = await admin(file, "abort", job_id(job))
        assert (told.status, told.err) == (0, "")
        assert told.out == (
            f"job {job_id(job)}: its program is to be stopped, by the server that runs or the next one\n"
            "1 to be stopped\n"
        )
        await has_ended(int(pid))
        await server.ended(job)
        assert await server.phase(job) == "ABORTED"


async def test_a_program_that_runs_without_a_server_is_stopped_by_the_next_one(tmp_path: Path) -> None:
    data = tmp_path / "var"
    sleep = Service(
        name="sleep", title="S", command=["sh", "-c", f"echo $$ > {tmp_path / 'ready'}; exec sleep 1000"]
    )
    async with announcements(tmp_path / "ready") as heard:
        async with running(data, sleep, jobs_end_with_server=False) as site:
            job = job_id(await site.run("sleep"))
            (pid,) = await heard()
        told = await uwsd("jobs", "destroy", job, "--data", data)
        assert (told.status, told.err) == (0, "")
        assert "is to be stopped, by the server that runs or the next one\n" in told.out
        shown = await uwsd("jobs", "show", job, "--data", data)
        assert "phase: EXECUTING\n" in shown.out
        assert "stop: destroy\n" in shown.out
        async with running(data, sleep) as site:
            await has_ended(int(pid))
            while (await site.get(f"/sleep/async/{job}")).status != 410:
                pass


# purge

ECHO = Service(
    name="echo",
    title="Echo",
    command=["sh", "-c", 'exit "$1"', "sh", "{code}"],
    parameters={"code": StrParameter(default="0")},
)
NOW = datetime.now(UTC)


@pytest.fixture
async def made(tmp_path: Path) -> dict[str, str]:
    """The ids of jobs that were made ten days ago: of every kind, and of them one that has expired."""
    ids = {}
    clock = ManualClock(NOW - timedelta(days=10))
    async with running(tmp_path / "var", ECHO, clock=clock, authenticator=BasicUsers()) as site:

        async def make(name: str, user: str, destruction: datetime, **parameters: str) -> str:
            job = await site.create("echo", user=user, **parameters)
            await site.post(f"{job}/destruction", {"DESTRUCTION": format_time(destruction)}, user=user)
            ids[name] = job_id(job)
            return job

        late, soon = NOW + timedelta(days=10), NOW - timedelta(minutes=30)
        await site.ended(await make("completed", "ada", late, PHASE="RUN"), user="ada")
        await site.ended(await make("failed", "ada", late, PHASE="RUN", code="1"), user="ada")
        aborted = await make("aborted", "bob", late)
        await site.post(f"{aborted}/phase", {"PHASE": "ABORT"}, user="bob")
        await make("forgotten", "bob", late)
        await make("expired", "bob", soon)
        await site.ended(await make("expired too", "ada", soon, PHASE="RUN", code="1"), user="ada")
        clock.advance(days=9, hours=23)
        await make("new", "ada", late)
    return ids


EXPIRED = {"expired", "expired too"}


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        ((), EXPIRED),
        (("--owner", "ada"), {"expired too"}),
        (("--service", "ecco"), set()),
        (("--include-failed",), EXPIRED | {"failed", "aborted"}),
        (("--include-completed",), EXPIRED | {"completed"}),
        (("--include-completed", "--older-than", "30d"), EXPIRED),
        (("--include-forgotten", "--older-than", "7d"), EXPIRED | {"forgotten"}),
        (("--include-forgotten", "--older-than", "0"), EXPIRED | {"forgotten", "new"}),
        (("--include-failed", "--include-completed", "--owner", "bob"), {"expired", "aborted"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
async def test_purge_destroys_what_has_expired_and_what_is_included(
    tmp_path: Path, made: dict[str, str], words: tuple[str, ...], gone: set[str]
) -> None:
    place = "--data", tmp_path / "var"
    dry = await uwsd("jobs", "purge", *words, "--dry-run", *place)
    done = await uwsd("jobs", "purge", *words, *place)
    assert (dry.status, dry.err, done.status, done.err) == (0, "", 0, "")
    for told in (dry, done):
        lines = told.out.splitlines()[:-1]
        assert sorted(line.split()[1].rstrip(":") for line in lines) == sorted(made[name] for name in gone)
    left = json.loads((await uwsd("jobs", "list", "--json", *place)).out)
    assert {entry["id"] for entry in left} == {made[name] for name in made.keys() - gone}


async def test_filters_choose_by_owner_and_by_age(tmp_path: Path, made: dict[str, str]) -> None:
    async def listed(*words: str) -> set[str]:
        told = await uwsd("jobs", "list", "--json", *words, "--data", tmp_path / "var")
        assert (told.status, told.err) == (0, "")
        return {entry["id"] for entry in json.loads(told.out)}

    adas = {made[name] for name in ("completed", "failed", "expired too", "new")}
    assert await listed("--owner", "ada") == adas
    assert await listed("--anonymous") == set()
    assert await listed("--newer-than", "2d") == {made["new"]}
    assert await listed("--older-than", "2d", "--owner", "ada") == adas - {made["new"]}
    assert await listed("--older-than", "2d", "--newer-than", "2d") == set()


# watch


def stepping(tmp_path: Path) -> Service:
    """Declare a program that tells of its progress, says that it did (``ready``), and ends when it may."""
    script = (
        f'echo "0.35 reading catalogue" >> "$UWS_PROGRESS"; echo > {tmp_path / "ready"}; '
        f'read code < {tmp_path / "gate"}; exit "$code"'
    )
    return Service(name="steps", title="Steps", command=["sh", "-c", script])


async def line_of(stream: asyncio.StreamReader | None) -> str:
    assert stream
    async with asyncio.timeout(PATIENCE):
        return (await stream.readline()).decode()


@pytest.mark.parametrize(
    ("code", "last", "status"), [("0", "COMPLETED", 0), ("3", "ERROR: the program ended", 1)]
)
async def test_watch_tells_how_a_job_goes_on_until_it_has_ended(
    tmp_path: Path, clock: ManualClock, code: str, last: str, status: int
) -> None:
    os.mkfifo(gate := tmp_path / "gate")
    async with (
        announcements(tmp_path / "ready") as heard,
        running(tmp_path / "var", stepping(tmp_path), clock=clock) as site,
    ):
        job = await site.create("steps")
        watching = await asyncio.create_subprocess_exec(
            UWSD, "jobs", "watch", job_id(job), "--data", tmp_path / "var", stdout=PIPE
        )
        assert await line_of(watching.stdout) == "PENDING\n"
        await site.post(f"{job}/phase", {"PHASE": "RUN"})
        lines = [await line_of(watching.stdout)]
        while lines[-1] != "EXECUTING\n":
            lines.append(await line_of(watching.stdout))
        await heard()
        await clock.until_sleeping_for(clock.now() + timedelta(seconds=EVERY))
        clock.advance(seconds=EVERY)
        assert await line_of(watching.stdout) == "EXECUTING 35% reading catalogue\n"
        gate.write_text(f"{code}\n")
        out, _ = await watching.communicate()
        assert out.decode().startswith(last)
        assert watching.returncode == status
        again = await uwsd("jobs", "watch", job_id(job), "--data", tmp_path / "var")
        assert (again.status, again.out) == (status, out.decode())
    later = await uwsd("jobs", "watch", job_id(job), "--data", tmp_path / "var")
    assert (later.status, later.out) == (status, out.decode()), "of a job that has ended, the log alone tells"


async def test_watch_shows_a_bar_on_a_terminal(tmp_path: Path, clock: ManualClock) -> None:
    os.mkfifo(gate := tmp_path / "gate")
    ours, theirs = os.openpty()
    try:
        async with (
            announcements(tmp_path / "ready") as heard,
            running(tmp_path / "var", stepping(tmp_path), clock=clock) as site,
        ):
            job = await site.run("steps")
            await heard()
            await clock.until_sleeping_for(clock.now() + timedelta(seconds=EVERY))
            clock.advance(seconds=EVERY)
            watching = await asyncio.create_subprocess_exec(
                UWSD, "jobs", "watch", job_id(job), "--data", tmp_path / "var", stdout=theirs
            )
            drawn = ""
            while "reading catalogue" not in drawn:
                drawn += await asyncio.to_thread(lambda: os.read(ours, 10_000).decode(errors="replace"))
            assert "35%" in drawn
            assert "━" in drawn
            gate.write_text("0\n")
            assert await watching.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)


async def test_a_job_that_no_server_runs_is_not_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path / "var", ECHO) as site:
        job = job_id(await site.create("echo"))
    told = await uwsd("jobs", "watch", job, "--data", tmp_path / "var")
    assert (told.status, told.out) == (2, "")
    assert told.err == f"job {job} is PENDING, and no server runs: nothing can be seen of it now\n"
