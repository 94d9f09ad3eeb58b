"""`uwsd queue`: the same words and the same output with a server and without."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.daemon import Daemon, Ended, serving, uwsd
from tests.execution.programs import Pipe
from tests.harness import job_id, text

DECLARATION = """
[queue]
max_queued_per_owner = 2

[services.slow]
title = "Slow"
command = ["sh", "-c", "echo started > started; read line < gate"]
when_full = "hold"

[services.quick]
title = "Quick"
command = ["true"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "uwsd.toml"
    here = DECLARATION.replace("> started", f"> {tmp_path}/started").replace("< gate", f"< {tmp_path}/gate")
    path.write_text(here)
    return path


@pytest.fixture(params=["running", "stopped"])
async def paused(request: pytest.FixtureRequest, file: Path) -> AsyncIterator[tuple[str, str, str]]:
    """Three jobs of a paused service, of which one is held; their server runs, or does not."""
    async with serving(file) as server:
        assert (await admin(file, "queue", "pause", "slow")).out == "the queue of slow is paused\n"
        one, two, three = [job_id(await server.run("slow")) for _ in range(3)]
        if request.param == "running":
            yield one, two, three
    if request.param == "stopped":
        yield one, two, three


async def admin(file: Path, *words: str | Path) -> Ended:
    return await uwsd(*words, "--config", file)


async def test_the_queue_is_shown_with_the_reason_why_each_job_waits(
    file: Path, paused: tuple[str, str, str]
) -> None:
    shown = await admin(file, "queue", "--json")
    assert (shown.status, shown.err) == (0, "")
    found = json.loads(shown.out)
    assert [service for service, _ in found["paused"]] == ["slow"]
    assert (found["running"], found["more"]) == (0, False)
    told = [
        (each["job"]["job_id"], each["job"]["phase"], each["place"], each["reason"])
        for each in found["waiting"]
    ]
    assert told == [
        (paused[0], "QUEUED", 1, "the queue of slow is paused"),
        (paused[1], "QUEUED", 2, "the queue of slow is paused"),
        (paused[2], "HELD", None, "held: 2 jobs of the same owner queued, at most 2 allowed"),
    ]
    table = await admin(file, "queue")
    first, second, *rows = table.out.splitlines()
    assert first.startswith("the queue of slow is paused since ")
    assert second == "0 running, 3 waiting"
    assert "paused" in "".join(rows)
    some = await admin(file, "queue", "--limit", "1")
    assert "0 running, 1 and more waiting" in some.out


async def test_what_is_paused_is_resumed_once(file: Path, paused: tuple[str, str, str]) -> None:
    expected = {
        ("pause", "slow"): "the queue of slow was paused already\n",
        ("pause",): "the queue is paused\n",
        ("resume", "quick"): "the queue of quick was not paused\n",
        ("resume",): "the queue goes on\n",
    }
    for words, out in expected.items():
        done = await admin(file, "queue", *words)
        assert (done.status, done.out, done.err) == (0, out, "")
    assert [service for service, _ in json.loads((await admin(file, "queue", "--json")).out)["paused"]] == [
        "slow"
    ]


async def test_what_cannot_be_is_refused(file: Path, paused: tuple[str, str, str]) -> None:
    expected = {
        ("pause", "slwo"): "there is no service slwo (did you mean slow?); declared are: slow, quick\n",
        ("--limit", "0"): "--limit: 0 is below the minimum 1\n",
    }
    for words, err in expected.items():
        refused = await admin(file, "queue", *words)
        assert (refused.status, refused.out, refused.err) == (2, "", err)
    misplaced = await uwsd("queue", "--config", file, "pause")
    assert (misplaced.status, misplaced.out) == (2, "")
    assert misplaced.err == "options go behind the command: uwsd queue pause --config FILE\n"


async def test_what_is_resumed_by_command_is_started_by_the_server_that_runs(
    file: Path, tmp_path: Path
) -> None:
    with Pipe(tmp_path / "started") as started, Pipe(tmp_path / "gate") as gate:
        async with serving(file) as server:
            await admin(file, "queue", "pause")
            job = await server.run("slow")
            other = await server.run("quick")
            assert await reason(server, job) == "the queue is paused"
            await admin(file, "queue", "resume")
            assert await started.line() == "started"
            assert text(await server.ended(other), "phase") == "COMPLETED"
            gate.send()
            assert text(await server.ended(job), "phase") == "COMPLETED"
            table = await admin(file, "queue")
            assert (table.status, table.out) == (0, "0 running, 0 waiting\n")


async def reason(server: Daemon, job: str) -> str | None:
    document = await server.document(job)
    found: str | None = document.findtext(".//{urn:uwsd:jobinfo}waitsFor")
    return found
