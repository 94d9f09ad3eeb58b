"""Admin commands as they are typed: the same words and the same output with a server and without."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from eventstore import SQLiteEventLog
from eventstore.checkpoint import SigningKey
from tests.daemon import UWSD, Daemon, Ended, serving, uwsd, uwsd_on_terminal
from uws.admin import ProjectionsStatus
from uws.admin.client import ask

DECLARATION = """
[services.echo]
title = "Echo"
command = ["echo", "{word}"]
parameters = { word = { type = "str", default = "nothing" } }
"""
READ_MODELS = ["documents", "job_list", "queue", "services", "trail", "usage"]
TRACE = """\
; UnixStartTime: 749433603
1 0 10 5 4 -1 -1 4 60 -1 1 7 1 1 1 -1 -1 -1
2 60 0 5 4 -1 -1 4 60 -1 0 8 1 1 1 -1 -1 -1
3 61 0 5 4 -1 -1 4 60 -1 3 8 1 1 1 -1 -1 -1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "uwsd.toml"
    path.write_text(DECLARATION)
    (tmp_path / "jobs.swf").write_text(TRACE)
    return path


@pytest.fixture(params=["running", "stopped"])
async def jobs(request: pytest.FixtureRequest, file: Path) -> AsyncIterator[list[str]]:
    """The ids of two jobs that have ended and of one that was destroyed; their server runs, or does not."""
    async with serving(file) as server:
        made = [await ran(server, word) for word in ("one", "two", "three")]
        await server.request("DELETE", made[-1])
        ids = [job.rpartition("/")[2] for job in made]
        if request.param == "running":
            yield ids
    if request.param == "stopped":
        yield ids


async def ran(server: Daemon, word: str) -> str:
    job = await server.run("echo", word=word)
    await server.ended(job)
    return job


async def admin(file: Path, *words: str | Path) -> Ended:
    return await uwsd(*words, "--config", file)


def edit(file: Path, model: str, sql: str) -> None:
    """Change what is in the file of a read model behind everybody's back."""
    (path,) = (file.parent / "var" / "projections").glob(f"{model}-*.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        assert other.execute(sql).rowcount > 0


def files(file: Path) -> set[str]:
    """The names of the read models' files."""
    return {path.name for path in (file.parent / "var" / "projections").glob("*.db")}


# Wherever they run


async def test_errors_and_statuses_are_the_same(file: Path, jobs: list[str], tmp_path: Path) -> None:
    junk = tmp_path / "junk.gz"
    junk.write_text("no archive")
    known = "read models are documents, job_list, queue, services, trail, usage"
    expected: dict[tuple[str | Path, ...], tuple[int, str]] = {
        ("audit", "erase", "x", "--reason", "y"): (2, "there is no job x\n"),
        ("audit", "erase", jobs[0], "--reason", "y"): (
            2, f"job {jobs[0]} is COMPLETED: only a destroyed job can be erased\n",
        ),
        ("audit", "prune", junk): (1, f"{junk}: it cannot be unpacked: Not a gzipped file (b'no')\n"),
        ("audit", "prune", tmp_path / "none.gz"): (2, f"{tmp_path / 'none.gz'}: No such file or directory\n"),
        ("projections", "rebuild", "job_lst"): (
            2, f"there is no read model job_lst (did you mean job_list?); {known}\n",
        ),
        ("projections", "verify", "queue", "jobs"): (
            2, f"there is no read model jobs (did you mean job_list?); {known}\n",
        ),
        ("import", "swf", tmp_path / "jobs.swf", "--service", "ecco"): (
            2, "there is no service ecco (did you mean echo?); declared are: echo\n",
        ),
    }  # fmt: skip
    for words, (status, err) in expected.items():
        refused = await admin(file, *words)
        assert (refused.status, refused.out, refused.err) == (status, "", err)


@pytest.mark.parametrize(
    "words", [("projections", "status"), ("projections", "rebuild"), ("audit", "erase", "x", "--reason", "y")]
)
async def test_a_data_directory_without_a_log_is_told_and_stays_as_it_is(
    file: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    refused = await admin(file, *words)
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == f"{tmp_path / 'var' / 'events.db'}: there is no log\n"
    assert not (tmp_path / "var").exists()


async def test_the_data_directory_alone_will_do(jobs: list[str], file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    data = "--data", tmp_path / "var"
    assert (await uwsd("projections", "rebuild", "queue", *data, cwd=elsewhere)).status == 0
    erased = await uwsd("audit", "erase", jobs[2], "--reason", "asked for", *data, cwd=elsewhere)
    assert (erased.status, erased.err) == (0, "")


async def test_files_are_named_as_seen_from_where_the_command_is_typed(jobs: list[str], file: Path) -> None:
    elsewhere = file.parent / "elsewhere"
    elsewhere.mkdir()
    (file.parent / "jobs.swf").rename(elsewhere / "jobs.swf")
    done = await uwsd("import", "swf", "jobs.swf", "--service", "echo", "--config", file, cwd=elsewhere)
    assert (done.status, done.err) == (0, "")


# projections


async def test_status_tells_how_each_read_model_is(file: Path, jobs: list[str]) -> None:
    told = await admin(file, "projections", "status", "--json")
    assert (told.status, told.err) == (0, "")
    found = json.loads(told.out)
    assert [each["name"] for each in found] == READ_MODELS
    assert {each["lag"] for each in found} == {0}
    assert len({each["position"] for each in found}) == 1
    assert {(each["error"], each["making"]) for each in found} == {(None, None)}
    assert all(each["version"] >= 1 and each["size"] > 0 for each in found)
    table = await admin(file, "projections", "status")
    assert re.findall(r"^│ (\w+) .*│ serves +│$", table.out, re.MULTILINE) == READ_MODELS


async def test_status_of_a_stopped_server_changes_nothing_and_tells_what_is_behind(
    file: Path, tmp_path: Path
) -> None:
    async with serving(file) as server:
        await ran(server, "one")
    edit(file, "usage", "UPDATE checkpoint SET position = 2, error = 'at position 3 (what of it): too much'")
    for path in (tmp_path / "var" / "projections").glob("queue-*"):
        path.unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "var").glob("**/*.db")}
    found = {
        each["name"]: each for each in json.loads((await admin(file, "projections", "status", "--json")).out)
    }
    assert (found["usage"]["position"], found["usage"]["lag"]) == (2, 3)
    assert found["usage"]["error"] == "at position 3 (what of it): too much"
    assert found["queue"]["position"] == 0
    table = await admin(file, "projections", "status")
    assert "usage: stopped at position 3 (what of it): too much\n" in table.out
    assert {path: path.read_bytes() for path in (tmp_path / "var").glob("**/*.db")} == before


async def test_rebuild_makes_all_read_models_or_those_that_are_named(file: Path, jobs: list[str]) -> None:
    before = files(file)
    line = r"(\w+): 14 events in \d+\.\d s, [\d,]+ a second\n"
    some = await admin(file, "projections", "rebuild", "queue", "usage")
    assert (some.status, some.err) == (0, "")
    assert re.fullmatch(line * 2, some.out)
    assert {name.partition("-")[0] for name in files(file) - before} == {"queue", "usage"}
    everything = await admin(file, "projections", "rebuild")
    assert re.findall(line, everything.out) == READ_MODELS
    assert not files(file) & before


async def test_verify_tells_what_is_as_the_log_says(file: Path, jobs: list[str]) -> None:
    verified = await admin(file, "projections", "verify")
    assert (verified.status, verified.err) == (0, "")
    assert verified.out == "".join(f"{name}: as the log says\n" for name in READ_MODELS)


async def test_verify_tells_the_first_difference_and_the_event_behind_it_until_it_is_rebuilt(
    file: Path, jobs: list[str]
) -> None:
    edit(file, "job_list", f"UPDATE job SET phase = 'ERROR' WHERE id = '{jobs[1]}'")
    verified = await admin(file, "projections", "verify", "queue", "job_list")
    assert (verified.status, verified.out) == (1, "queue: as the log says\n")
    assert re.fullmatch(
        rf"job_list: job, position \d+: phase is 'ERROR', should be 'COMPLETED' "
        rf"since position 9 \(JobCompleted of job/{jobs[1]}\)\n",
        verified.err,
    )
    assert (await admin(file, "projections", "rebuild", "job_list")).status == 0
    assert (await admin(file, "projections", "verify", "job_list")).out == "job_list: as the log says\n"


async def test_rebuild_shows_a_bar_on_a_terminal(file: Path, jobs: list[str]) -> None:
    rebuilt = await uwsd_on_terminal("projections", "rebuild", "--config", file)
    assert rebuilt.out.startswith("documents: 14 events in ")
    assert "rebuilding" in rebuilt.err


async def test_ctrl_c_ends_a_rebuild_and_the_next_one_goes_on_where_it_was(file: Path) -> None:
    some = "projections", "rebuild", "documents", "job_list"
    async with serving(file) as server:
        await imported(file, "--jobs", "10000")
        ended = 0
        while ended == 0:  # it was through before it was seen at work
            process = await asyncio.create_subprocess_exec(
                UWSD, *some, "--config", file, stdout=PIPE, stderr=PIPE
            )
            while process.returncode is None and not any((await positions(file)).values()):
                await asyncio.sleep(0)
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
            out, err = await process.communicate()
            assert process.returncode is not None
            ended = process.returncode
        assert (ended, out) == (130, b"")
        assert err == b"interrupted: what was made is kept, and the next rebuild goes on there\n"
        while "projections rebuild is given up" not in server.err:
            await server.get("/")
        table = await admin(file, "projections", "status")
        assert "was being made, until that was interrupted, at position" in table.out
        begun = files(file)
        rebuilt = await admin(file, *some)
        folded = {name: int(events) for name, events in re.findall(r"(\w+): (\d+) events", rebuilt.out)}
        assert folded.keys() == {"documents", "job_list"}
        assert min(folded.values()) < 40001 >= max(folded.values()), "nothing is folded twice"
        assert files(file) < begun, "those that were begun are read now"
        assert (await admin(file, "projections", "verify", "documents", "job_list")).status == 0


async def positions(file: Path) -> dict[str, int]:
    """How far the read models are which are being made."""
    found = await ask(file.parent / "var", ProjectionsStatus(), lambda done, of: None)
    return {status.name: status.making.position for status in found if status.making}


# import


async def imported(file: Path, *options: str) -> Ended:
    return await admin(file, "import", "swf", file.parent / "jobs.swf", "--service", "echo", *options)


async def test_a_trace_is_imported_once_and_found_by_clients(file: Path, jobs: list[str]) -> None:
    first = await imported(file)
    assert (first.status, first.err) == (0, "")
    assert first.out == (
        "2 jobs imported, 8 events\n"
        "1 left out: parts of jobs that have records of their own\n"
        "from 1993-10-01T00:00:03.000Z to 1993-10-01T00:01:08.000Z\n"
    )
    more = await imported(file, "--jobs", "3")
    assert more.out.startswith("1 jobs imported, 4 events\n2 jobs were there already\n")
    log = await SQLiteEventLog.read(file.parent / "var" / "events.db")
    events = [event for event in await log.read_all() if event.about.client == "uwsd import swf"]
    await log.close()
    assert len(events) == 12
    assert all(event.about.actor for event in events)


async def test_a_log_can_begin_with_an_import_and_the_next_server_shows_it(
    file: Path, tmp_path: Path
) -> None:
    begun = await imported(file, "--anonymous")
    assert (begun.status, begun.err) == (0, "")
    told = await admin(file, "projections", "status", "--json")
    assert [(each["name"], each["position"], each["lag"]) for each in json.loads(told.out)] == [
        (name, 0, 9) for name in READ_MODELS
    ], "the declaration, and eight events of jobs"
    async with serving(file) as server:
        assert len((await server.get("/echo/async")).xml) == 2
    told = await admin(file, "projections", "status", "--json")
    assert {(each["position"], each["lag"]) for each in json.loads(told.out)} == {(9, 0)}


async def test_what_is_no_trace_is_refused_and_nothing_of_it_is_told(
    file: Path, jobs: list[str], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe.swf"
    os.mkfifo(pipe)
    SigningKey.load_or_create(tmp_path / "var" / "audit.key", "uwsd")
    for path, problem in (
        (pipe, f"{pipe} cannot be read: it is not a regular file\n"),
        (tmp_path / "var" / "audit.key", "audit.key line 1: line: expected 18 numbers, got 2 words\n"),
    ):
        refused = await admin(file, "import", "swf", path, "--service", "echo")
        assert (refused.status, refused.out, refused.err) == (2, "", problem)
