"""`make bench-nodes`: what several servers on one log do together, and what they cost.

All run on this machine, the database and the clients too: they share its cores, so that more nodes bring more
only as long as there are some left.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated

import aiohttp
import typer
import uvloop

from benchmarks.eventstore import append_all, make_appends
from benchmarks.options import DIRECTORY, Directory, new_app
from benchmarks.servers import Client, Server, ended_in_order, serving, uwsd
from benchmarks.tables import Figures, Line, new_console, show
from eventstore import EventStore, open_store
from tests.databases import emptied, postgres

DECLARATION = """
[services.true]
title = "Nothing"
command = ["true"]
parameters = { name = { type = "str" } }
"""
CALLERS = (1, 16, 256)
APPENDS = 3000
CONNECTIONS = 16
SECONDS = 5.0
WAKE_UPS = 200
ASKED = 300
JOBS = "/true/async"

FILE = "SQLite"
COMMANDS, READ_ELSEWHERE, MEDIAN, P99 = (
    "commands, 16 clients",
    "GET at another node, median",
    "wake-up at another, median",
    "wake-up at another, 99 of 100",
)
BYTES = "a recorded event of 420 bytes"
PROCESSOR, OF_DATABASE = "processor time a command", "of that, the database's"
LINES = (
    *(Line(f"appends, {callers} callers", "1/s") for callers in CALLERS),
    Line(BYTES, "bytes"),
    Line(COMMANDS, "1/s"),
    Line(PROCESSOR, "ms"),
    Line(OF_DATABASE, "ms"),
    Line(READ_ELSEWHERE, "ms"),
    Line(MEDIAN, "ms", most=10),
    Line(P99, "ms"),
)
app = new_app()


@app.command()
def main(
    nodes: Annotated[int, typer.Option(min=2, help="As many as there are at most.")] = 3,
    directory: Directory = DIRECTORY,
) -> None:
    """Measure one server on a file, then several on a database. The status is 1 when a target is missed."""
    console, figures, begin = new_console(), Figures(dict), perf_counter()
    columns = [FILE, *(told(count) for count in range(1, nodes + 1))]
    with ended_in_order(), TemporaryDirectory(dir=directory) as name, postgres(durable=True) as database:
        scratch = Path(name)
        with served(scratch / "alone", [""]) as servers:
            uvloop.run(ask(FILE, servers, 0, figures))
        uvloop.run(append(FILE, [scratch / "alone.db"], figures))
        for count in range(1, nodes + 1):
            url = uvloop.run(emptied(database))
            stores = [
                f'store = "{url}"\njobs = "{scratch}/{count}/jobs"\n[node]\nname = "node{n}"\n'
                for n in range(count)
            ]
            with served(scratch / str(count), stores) as servers:
                uvloop.run(ask(told(count), servers, database.pid, figures))
            url = uvloop.run(emptied(database))
            uvloop.run(append(told(count), [url] * count, figures))
    title = f"{os.cpu_count()} cores, {(perf_counter() - begin) / 60:.1f} minutes"
    if not show(console, title, "", LINES, columns, figures):
        raise typer.Exit(1)


def told(count: int) -> str:
    return f"{count} node{'s' * (count > 1)}"


@contextmanager
def served(scratch: Path, stores: Sequence[str]) -> Iterator[list[Server]]:
    """Run a server for each of ``stores``, what stands in its file besides the service."""
    scratch.mkdir()
    with ExitStack() as stack:
        servers = []
        for number, store in enumerate(stores):
            file = scratch / f"{number}.toml"
            file.write_text(store + DECLARATION)
            servers.append(
                stack.enter_context(serving(uwsd(file, scratch / str(number)), scratch / f"{number}.log"))
            )
        yield servers


async def append(column: str, places: Sequence[Path | str], figures: Figures) -> None:
    """Measure appends by so many callers in all, shared out among stores."""
    for callers in CALLERS:
        async with AsyncExitStack() as stack:
            stores: list[EventStore] = []
            for place in places:
                stores.append(await open_store(place))
                stack.push_async_callback(stores[-1].close)
            count = max(APPENDS, 4 * callers) if callers > 1 else APPENDS // 3
            work = [list(make_appends(count // callers)) for _ in range(callers)]
            begin = perf_counter()
            async with asyncio.TaskGroup() as group:
                for number, appends in enumerate(work):
                    group.create_task(append_all(stores[number % len(stores)], appends))
            figures[f"appends, {callers} callers"][column] = sum(map(len, work)) / (perf_counter() - begin)
            figures[BYTES][column] = await stores[0].size() / (await stores[0].head()).position


async def ask(column: str, servers: Sequence[Server], database: int, figures: Figures) -> None:
    """Measure commands at all of the servers, and what others than the one that was told know of them."""
    print(column, flush=True)
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(aiohttp.ClientSession(server.url)) for server in servers]
        before = [used(server.pid) for server in servers], used(database) if database else 0.0
        done = await command(sessions)
        after = [used(server.pid) for server in servers], used(database) if database else 0.0
        figures[COMMANDS][column] = done / SECONDS
        of_database = 1000 * (after[1] - before[1]) / done
        figures[PROCESSOR][column] = 1000 * (sum(after[0]) - sum(before[0])) / done + of_database
        if database:
            figures[OF_DATABASE][column] = of_database
        here, there = sessions[0], sessions[-1]
        read, woken = [], []
        for _ in range(ASKED):
            job = await Client(here, JOBS).create()
            begin = perf_counter()
            await Client(there, JOBS).document(job)
            read.append(1000 * (perf_counter() - begin))
        for _ in range(WAKE_UPS):
            job = await Client(here, JOBS).create()
            woken.append(1000 * await woken_after(job, here, there))
        figures[READ_ELSEWHERE][column] = sorted(read)[len(read) // 2]
        cuts = quantiles(woken, n=100, method="inclusive")
        figures[MEDIAN][column], figures[P99][column] = cuts[49], cuts[98]


async def command(sessions: Sequence[aiohttp.ClientSession]) -> int:
    """Have jobs made by some clients at each of the servers in turn, for some seconds; return how many."""
    end, done = perf_counter() + SECONDS, 0

    async def client(number: int) -> None:
        nonlocal done
        while perf_counter() < end:
            await Client(sessions[number % len(sessions)], JOBS).create()
            done += 1

    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            group.create_task(client(number))
    return done


async def woken_after(job: str, here: aiohttp.ClientSession, there: aiohttp.ClientSession) -> float:
    """Return how many seconds after one server acknowledges a change who waits at another hears of it."""
    heard = 0.0

    async def wait() -> None:
        nonlocal heard
        await Client(there, JOBS).document(job, WAIT="30", PHASE="PENDING")
        heard = perf_counter()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(random.uniform(0.01, 0.02))  # noqa: S311 - until it waits
    async with here.post(f"{job}/phase", data={"PHASE": "ABORT"}, allow_redirects=False) as answer:
        answer.raise_for_status()
    acknowledged = perf_counter()
    await waiting
    return max(0.0, heard - acknowledged)


def used(pid: int) -> float:
    """Return the seconds of processor time of a process and of those it has started, ended ones included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(used(int(child)) for child in children)


if __name__ == "__main__":
    app()
