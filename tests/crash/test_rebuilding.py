"""A server that is killed while it makes its read models anew, again and again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from pathlib import Path

import msgspec

from eventstore import NewEvent, SQLiteEventStore
from projections import READ_MODELS
from tests.crash.kills import Campaign
from tests.daemon import UWSD, Daemon, serving, uwsd
from uws.model import events as e

DECLARATION = """
[services.echo]
title = "Echo"
command = ["true"]
"""
JOBS = 6_000
"""Of five events each: enough to be made by processes of their own."""
STREAM = (
    e.JobCreated(service="echo", declaration="", execution_duration=0, destruction=None, run_id="a"),
    e.RunIdSet(run_id="b"),
    e.JobQueued(),
    e.JobStarted(declaration=""),
    e.JobCompleted(),
)


async def test_a_server_killed_while_it_rebuilds_comes_back_with_the_old_tables_and_the_next_rebuild_succeeds(
    tmp_path: Path, campaign: Campaign
) -> None:
    file = tmp_path / "uwsd.toml"
    file.write_text(DECLARATION)
    await _record_jobs(tmp_path / "var")
    async with serving(file) as server:
        longest = await _time_to_rebuild(tmp_path)
    kills = 0
    while kills < max(2, campaign.kills // 15):
        async with serving(file) as server:
            assert await _listed(server) == JOBS, f"after {kills} kills"
            if await _kill_while_rebuilding(server, tmp_path, campaign.random.uniform(0, longest)):
                kills += 1
    campaign.places["while rebuilding"] = kills
    async with serving(file) as server:
        assert await _listed(server) == JOBS
        rebuilt = await uwsd("projections", "rebuild", cwd=tmp_path)
        assert rebuilt.status == 0, rebuilt.err
        assert await _listed(server) == JOBS
        verified = await uwsd("projections", "verify", cwd=tmp_path)
        assert verified.status == 0, verified.err
    assert len([*(tmp_path / "var" / "projections").iterdir()]) == len(READ_MODELS), "files are left"


async def _record_jobs(data: Path) -> None:
    data.mkdir(mode=0o700)
    store = await SQLiteEventStore.open(data / "events.db")
    await asyncio.gather(
        *(
            store.append(
                f"job/{number:032x}",
                [NewEvent(type=type(event).__name__, data=msgspec.json.encode(event)) for event in STREAM],
            )
            for number in range(JOBS)
        )
    )
    await store.close()


async def _listed(server: Daemon) -> int:
    return (await server.get("/echo/async")).body.count(b"<uws:jobref ")


async def _rebuild(directory: Path) -> Process:
    return await asyncio.create_subprocess_exec(
        UWSD, "projections", "rebuild", cwd=directory, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
    )


async def _time_to_rebuild(directory: Path) -> float:
    begun = time.monotonic()
    assert await (await _rebuild(directory)).wait() == 0
    return time.monotonic() - begun


async def _kill_while_rebuilding(server: Daemon, directory: Path, seconds: float) -> bool:
    """Kill the server after so many seconds, or as soon as all is made; return whether it was not."""
    rebuild = await _rebuild(directory)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await rebuild.wait()
    killed_meanwhile = rebuild.returncode is None
    os.kill(server.process.pid, signal.SIGKILL)
    await server.process.wait()
    await rebuild.wait()
    return killed_meanwhile
