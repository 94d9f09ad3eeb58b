"""`uwsd audit log`, `replay` and `state`, as they are typed: beside a server and without one."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from tests.audit.logs import ECHO, log_again, log_in
from tests.daemon import PATIENCE, UWSD, Ended, serving, uwsd, uwsd_on_terminal, uwsd_unread
from tests.harness import job_id, tamper
from uws.model import Failure
from uws.model import events as e
from uws.model.units import format_time

DECLARATION = """
data = "var"
[services.echo]
title = "Echo"
command = ["echo", "{word}"]
parameters = { word = { type = "str", required = true } }
max_running = 1
lifetime = { default = "1h", max = "1h" }
"""
TO_COME = "is to come: nobody knows what will be then"
HEADING = ["position", "time", "stream", "version", "type", "actor", "what"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "uwsd.toml"
    path.write_text(DECLARATION)
    return path


async def audit(file: Path, *words: str) -> Ended:
    return await uwsd("audit", *words, "--config", file)


async def test_the_log_is_a_table_for_people_and_lines_of_json_for_programs(file: Path) -> None:
    async with serving(file) as server:
        url = await server.create("echo", word="red", RUNID="mine")
        job = job_id(url)
        beside = await audit(file, "log", job)
        everything = await audit(file, "log", "--json")
    alone = await audit(file, "log", job)
    assert (alone.status, alone.err, alone.out) == (0, "", beside.out)
    heading, created = beside.out.splitlines()
    assert heading.split() == HEADING
    assert created.split()[2:5] == [f"job/{job}", "1", "JobCreated"]
    assert created.endswith("created as mine")
    entries = [json.loads(line) for line in everything.out.splitlines()]
    assert [(entry["type"], entry.get("job")) for entry in entries] == [
        ("ServiceDeclared", None),
        ("JobCreated", job),
    ]
    filtered = await audit(file, "log", "--json", "--type", "JobCreated", "--service", "echo")
    assert [json.loads(line) for line in filtered.out.splitlines()] == entries[1:]
    assert (await audit(file, "log", "--json", "--until", entries[1]["time"])).out.count("\n") == 1


async def test_what_is_followed_comes_until_ctrl_c(file: Path) -> None:
    async with serving(file) as server:
        command = UWSD, "audit", "log", "--follow", "--json", "--service", "echo", "--config", file
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
        assert process.stdout
        assert json.loads(await process.stdout.readline())["type"] == "ServiceDeclared"
        url = await server.run("echo", word="x")
        await server.ended(url)
        told = [json.loads(await process.stdout.readline()) for _ in range(4)]
        process.send_signal(signal.SIGINT)
        assert await process.communicate() == (b"", b"")
        assert process.returncode == 130
    assert [each["type"] for each in told] == ["JobCreated", "JobQueued", "JobStarted", "JobCompleted"]
    assert {each["job"] for each in told} == {job_id(url)}


HELD = """
import sys
from contextlib import asynccontextmanager
from uws.audit import Past
from uws.cli import past
from uws.cli import main

looking_back, history = past.looking_back, Past.history

def wait():
    print("held", flush=True)
    sys.stdin.readline()

@asynccontextmanager
async def held(place):
    async with looking_back(place) as there:
        wait()
        yield there

async def held_history(self, job):
    wait()
    return await history(self, job)

past.looking_back, Past.history = held, held_history
main()
"""
"""The command, which waits for a line before it asks."""


@asynccontextmanager
async def held(*words: str | Path) -> AsyncIterator[tuple[Process, Callable[[], None]]]:
    """Give a command that has opened all that it reads, and what makes it go on."""
    command = sys.executable, "-c", HELD, "audit", *words
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdin
    assert process.stdout
    try:
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"held\n"
            yield process, partial(process.stdin.write, b"go on\n")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize(
    ("of", "before"), [("one", []), ("--service=echo", ["ServiceDeclared"])], ids=["a job", "a filter"]
)
async def test_what_is_recorded_while_following_begins_comes_once(
    tmp_path: Path, of: str, before: list[str]
) -> None:
    expected = [*before, "JobCreated", "JobQueued", "JobStarted", "JobCompleted"]
    data, limit = tmp_path / "var", str(len(expected))
    async with log_in(data) as log:
        await log.create("one")
    async with held("log", of, "--follow", "--json", "--limit", limit, "--data", data) as (process, go_on):
        async with log_again(data) as log:
            await log.append("one", e.JobStarted(declaration=ECHO.digest))
        go_on()
        assert process.stdout
        told = [await process.stdout.readline() for _ in (*before, "JobCreated", "JobQueued")]
        async with log_again(data) as log:
            await log.append("one", e.JobCompleted(results=()))
        rest, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert [json.loads(line)["type"] for line in (*told, *rest.splitlines())] == expected


async def test_a_job_is_replayed_as_it_was_answered(file: Path) -> None:
    async with serving(file) as server:
        url = await server.create("echo", word="<x> & y")
        seen = await server.get(url)
        seen_as_json = await server.get(url, headers={"Accept": "application/json"})
        await server.post(f"{url}/executionduration", {"EXECUTIONDURATION": "9"})
        later = await server.get(url)
        version = "--at-version", "1", "--url", server.url
        for words, answer in (
            (version, seen), ((*version, "--xml"), seen), ((*version, "--json"), seen_as_json),
            (("--url", server.url), later),
        ):  # fmt: skip
            replayed = await audit(file, "replay", job_id(url), *words)
            assert (replayed.status, replayed.err, replayed.out.encode()) == (0, "", answer.body)
        steps = await audit(file, "replay", job_id(url), "--steps", "--url", server.url)
    lines = steps.out.splitlines()
    assert [line.split()[2] for line in lines if not line.startswith(" ")] == [
        "JobCreated:",
        "ExecutionDurationSet:",
    ]
    assert lines[-2:] == [
        "  -  <uws:executionDuration>3600</uws:executionDuration>",
        "  +  <uws:executionDuration>9</uws:executionDuration>",
    ]


async def test_a_time_that_was_told_is_the_time_when_it_had_happened(tmp_path: Path) -> None:
    """Times are told to the millisecond, and things happen in between."""
    data = tmp_path / "var"
    async with log_in(data, begin=datetime(2026, 3, 1, microsecond=500, tzinfo=UTC)) as log:
        await log.run("one")
    told = await uwsd("audit", "log", "one", "--json", "--data", data)
    replay = "audit", "replay", "one", "--url", "http://x", "--data", data, "--json", "--at"
    state = "audit", "state", "--data", data, "--json", "--at"
    for entry, phase in zip(
        map(json.loads, told.out.splitlines()), ["QUEUED", "QUEUED", "EXECUTING", "COMPLETED"], strict=True
    ):
        replayed = await uwsd(*replay, entry["time"])
        assert json.loads(replayed.out)["phase"] == phase, (entry, replayed.err)
        listed = await uwsd(*state, entry["time"])
        assert json.loads(listed.out)["phase"] == phase, (entry, listed.err)
    for time, phase in (("02.000499", "QUEUED"), ("02.000500", "EXECUTING")):  # which is exact
        at = f"2026-03-01T00:00:{time}Z"
        assert json.loads((await uwsd(*replay, at)).out)["phase"] == phase
        assert json.loads((await uwsd(*state, at)).out)["phase"] == phase
    refused = await uwsd(*replay, "2026-03-01T00:00:01.000499Z")
    assert refused.err == (
        "job one was created at 2026-03-01T00:00:01.000500Z, after 2026-03-01T00:00:01.000499Z\n"
    )


async def test_an_erased_job_is_shown_by_what_is_left_of_it_and_by_nothing_else(file: Path) -> None:
    async with serving(file) as server:
        url = await server.create("echo", word="Xanadu-2718281828")
        await server.request("DELETE", url)
        job = job_id(url)
        assert (await audit(file, "erase", job, "--reason", "on request")).status == 0
        told = await audit(file, "log", job, "--json")
        assert [json.loads(line).get("erased", False) for line in told.out.splitlines()][:1] == [True]
        assert "Xanadu" not in told.out
        found = [json.loads(line)["type"] for line in (await audit(file, "log", "--json")).out.splitlines()]
        assert found == ["ServiceDeclared", "$erased"]
        refused = await audit(file, "replay", job, "--at-version", "1", "--url", server.url)
        assert (refused.status, refused.out) == (2, "")
        assert refused.err.startswith(f"job {job} was erased at ")


async def test_the_state_tells_who_waited_for_whom(file: Path) -> None:
    async with serving(file) as server:
        assert (await uwsd("queue", "pause", "--config", file)).status == 0
        url = await server.run("echo", word="x")
        created = json.loads((await audit(file, "log", job_id(url), "--json", "--limit", "1")).out)["time"]
        then = format_time(datetime.now(UTC))
        shown = await audit(file, "state", "--at", then)
        lines = await audit(file, "state", "--at", then, "--json")
        before = await audit(file, "state", "--at", "2001")
    assert shown.status == lines.status == before.status == 0
    assert "the queue was paused since " in shown.out
    assert "1 waiting" in shown.out
    (told,) = map(json.loads, lines.out.splitlines())
    assert (told["id"], told["phase"], told["place"]) == (job_id(url), "QUEUED", 1)
    assert told["waits_for"] == "the queue is paused"
    assert told["created"].startswith(created[:19])
    assert before.out == "0 jobs at 2001-01-01T00:00:00.000Z\n"


async def test_without_a_declaration_it_is_said_that_places_may_have_been_others(tmp_path: Path) -> None:
    data = tmp_path / "var"
    async with log_in(data) as log:
        await log.run("one")
        await log.create("two")
    replay, note = ("replay", "--url", "http://x"), "note: no declaration was read, so places and reasons are"
    state, at = ("state", "--at"), "2026-03-01T00:01:00Z"
    for words in ((*replay, "two"), (*replay, "one", "--steps"), (*state, at), (*state, at, "--json")):
        told = await uwsd("audit", *words, "--data", data, cwd=tmp_path)
        assert (told.status, told.err.count("\n")) == (0, 1), words
        assert told.err.startswith(note), words
    for words in ((*replay, "one"), (*state, "2001"), ("log", "two")):
        told = await uwsd("audit", *words, "--data", data, cwd=tmp_path)
        assert (told.status, told.err) == (0, ""), words
    (tmp_path / "uwsd.toml").write_text(DECLARATION)
    told = await uwsd("audit", *state, at, cwd=tmp_path)
    assert (told.status, told.err) == (0, "")
    assert "1 waiting" in told.out


async def test_what_cannot_be_asked_is_refused_in_words(file: Path) -> None:
    async with serving(file):
        pass
    for words, error in {
        ("log", "nope"): "there is no job nope",
        ("log", "--type", "JobAbort"): "no event is of the type JobAbort (did you mean JobAborted?)",
        (
            "log",
            "--service",
            "ecco",
        ): "there never was a service ecco (did you mean echo?); on record are: echo",
        ("log", "--since", "now"): "--since: 'now' is not a UTC time such as 2015-10-26T09:00:00Z",
        ("state", "--at", "noon"): "--at: 'noon' is not a UTC time such as 2015-10-26T09:00:00Z",
        ("replay", "nope", "--url", "http://x"): "there is no job nope",
        ("replay", "nope"): "there is no job nope",
        ("replay", "nope", "--at", "2999"): f"--at: 2999-01-01T00:00:00.000Z {TO_COME}",
        ("state", "--at", "2999"): f"--at: 2999-01-01T00:00:00.000Z {TO_COME}",
        ("replay", "nope", "--at", "2001", "--at-version", "1"): "expected either --at or --at-version",
        ("replay", "nope", "--xml", "--json"): "expected either --xml or --json",
    }.items():
        refused = await audit(file, *words)
        assert (refused.status, refused.out, refused.err) == (2, "", error + "\n"), words


async def test_an_event_that_was_tampered_with_is_not_told_as_if_it_were_true(file: Path) -> None:
    async with serving(file) as server:
        url = await server.run("echo", word="x")
        await server.ended(url)
    tamper(file.parent / "var", "JobQueued", "}", " }")
    for words in (("log", job_id(url)), ("log", "--type", "JobQueued"), ("replay", job_id(url))):
        told = await audit(file, *words)
        assert told.status == 1, words
        assert "payload or metadata are not those that were recorded" in told.err
        assert "JobQueued" not in told.out


async def test_no_document_is_made_under_a_declaration_that_was_tampered_with(file: Path) -> None:
    async with serving(file) as server:
        job = job_id(await server.create("echo", word="x"))
    tamper(file.parent / "var", "ServiceDeclared", "Echo", "Evil")
    for words in ((), ("--at-version", "1"), ("--json",)):
        told = await audit(file, "replay", job, *words)
        assert (told.status, told.out) == (1, ""), words
        assert "payload or metadata are not those that were recorded" in told.err


async def test_what_is_followed_is_held_against_its_digest_too(tmp_path: Path) -> None:
    data = tmp_path / "var"
    async with log_in(data) as log:
        await log.create("one")
    async with held("log", "--service", "echo", "--follow", "--json", "--data", data) as (process, go_on):
        async with log_again(data) as log:
            await log.append("one", e.JobFailed(failure=Failure(message="the disk broke")))
        tamper(data, "JobFailed", "disk broke", "user erred")
        go_on()
        out, err = await process.communicate()
    assert process.returncode == 1
    assert [json.loads(line)["type"] for line in out.splitlines()] == [
        "ServiceDeclared", "JobCreated", "JobQueued",
    ]  # fmt: skip
    assert b"payload or metadata are not those that were recorded" in err


STEERS = "\x9b2J \u202e \U000e0001"
"""What clears the screen of some terminals, and turns or hides text on all."""


async def test_what_clients_sent_steers_no_terminal(tmp_path: Path) -> None:
    data = tmp_path / "var"
    async with log_in(data) as log:
        await log.create("a", parameters={"word": (STEERS,)}, run_id=STEERS)
    beside = "--data", data
    for replaying in (("--json",), ("--xml",), ("--steps",)):
        command = "audit", "replay", "a", "--at-version", "1", "--url", "http://x", *replaying, *beside
        shown = await uwsd_on_terminal(*command, shows="out")
        assert (shown.status, shown.err) == (0, "")
        assert not {c for c in shown.out if not c.isprintable()} - {"\r", "\n"}
        assert "\ufffd2J \ufffd" in shown.out
    command = "audit", "replay", "a", "--at-version", "1", "--url", "http://x", *beside
    assert STEERS in (await uwsd(*command, "--json")).out, "byte for byte what a client would have seen"
    told = await uwsd("audit", "log", "a", "--json", *beside)
    assert told.out.isascii()
    assert STEERS in json.loads(told.out.splitlines()[0])["text"]


@pytest.mark.parametrize(
    "command", [("log",), ("log", "--json"), ("state", "--at", "2026-06-01"), ("usage",)]
)
async def test_to_have_read_enough_is_told_as_of_other_programs(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    data = tmp_path / "var"
    async with log_in(data) as log:
        await log.create("a")
    ended = await uwsd_unread("audit", *command, "--data", data)
    assert (ended.status, "Broken" in ended.err, "Traceback" in ended.err) == (141, False, False)


async def test_there_is_no_version_before_the_first(file: Path) -> None:
    async with serving(file) as server:
        url = await server.run("echo", word="x")
        await server.ended(url)
    refused = await audit(file, "replay", job_id(url), "--at-version", "0")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == f"job {job_id(url)} has versions 1 to 4, not 0\n"
