"""`make bench-feed`: what it costs a server to tell listeners of an event, over loopback connections.

Nobody listens; then one to a job that does not change, then each of so many to such a job of its own, then so
many to the one list that changes. Events are commands, sent one after the other: what is told of one has been
read by all before the next.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated
from urllib.parse import urlsplit

import aiohttp
import typer
import uvloop

from benchmarks.options import DIRECTORY, Directory, new_app
from benchmarks.servers import Client, Server, ended_in_order, serving, uwsd
from benchmarks.tables import Figures, Line, new_console, show

EVENTS = 200
AT_ONCE = 100
"""Connections that are made at one time."""
PATIENCE = 60.0
"""Seconds in which all are to be told."""
PAUSE = 0.002
"""Seconds between two questions of a client that listens to nothing."""
DECLARATION = '[services.true]\ntitle = "Nothing, with success"\ncommand = ["true"]\n'
JOBS = "/true/async"

COMMAND, ALL_TOLD, PROCESSOR = (
    "a command, until it is answered",
    "until all have read of it",
    "processor time",
)
OTHERS, MEMORY = "longest answer to others", "memory of a listener"
NOBODY, ONE, ELSEWHERE, LIST = "nobody", "one, elsewhere", "all, elsewhere", "all, of this"
LINES = (
    Line(COMMAND, "ms"),
    Line(ALL_TOLD, "ms"),
    Line(OTHERS, "ms"),
    Line(PROCESSOR, "ms"),
    Line(MEMORY, "kB"),
)
app = new_app()


@app.command()
def main(
    listeners: Annotated[int, typer.Option(min=1, help="How many listen at one time.")] = 5_000,
    directory: Directory = DIRECTORY,
) -> None:
    """Measure what listeners cost."""
    console, figures = new_console(), Figures(dict)
    with ended_in_order(), TemporaryDirectory(dir=directory) as name:
        file = Path(name) / "uwsd.toml"
        file.write_text(DECLARATION)
        with serving(uwsd(file, Path(name) / "data"), Path(name) / "log") as server:
            uvloop.run(_measure(server, listeners, figures))
    title = f"{os.cpu_count()} cores, {listeners:,} listeners, {EVENTS} events"
    show(console, title, "an event", LINES, [NOBODY, ONE, ELSEWHERE, LIST], figures, compared=False)


async def _measure(server: Server, listeners: int, figures: Figures) -> None:
    async with aiohttp.ClientSession(server.url) as session:
        client = Client(session, JOBS)
        others = [await client.create() for _ in range(listeners)]
        paths = {
            NOBODY: [],
            ONE: [f"{others[0]}/events"],
            ELSEWHERE: [f"{job}/events" for job in others],
            LIST: [f"{JOBS}/events"] * listeners,
        }
        for column, listened in paths.items():
            print(column, flush=True)
            changing, before = await client.create(), server.memory("VmRSS")
            async with listening(server, listened) as heard:
                if len(listened) > 1:
                    figures[MEMORY][column] = (server.memory("VmRSS") - before) * 1000 / listeners
                told = listeners if column == LIST else 0
                for name, figure in (await _change(server, session, changing, heard, told)).items():
                    figures[name][column] = figure


class Heard:
    """Counts what all listeners were told."""

    def __init__(self) -> None:
        self._left, self._done = 0, asyncio.Event()

    def expect(self, count: int) -> None:
        """Wait for so many from now on."""
        self._left = count
        self._done.clear()

    def note(self, count: int) -> None:
        self._left -= count
        if self._left <= 0:
            self._done.set()

    async def all(self) -> float:
        """Return when all was told. Raises `TimeoutError`."""
        async with asyncio.timeout(PATIENCE):
            await self._done.wait()
        return perf_counter()


class _Listener(asyncio.Protocol):
    def __init__(self, heard: Heard) -> None:
        self._heard = heard

    def data_received(self, data: bytes) -> None:
        self._heard.note(data.count(b"\nevent: "))


@asynccontextmanager
async def listening(server: Server, paths: list[str]) -> AsyncIterator[Heard]:
    """Have each path listened to, and told how things are."""
    where, heard = urlsplit(server.url), Heard()
    loop, transports = asyncio.get_running_loop(), list[asyncio.Transport]()

    async def listen(path: str, client: int) -> None:
        # One address may not have all streams.
        transport, _ = await loop.create_connection(
            lambda: _Listener(heard),
            where.hostname or "",
            where.port or 80,
            local_addr=(f"127.0.1.{1 + client}", 0),
        )
        transports.append(transport)
        transport.write(f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())

    try:
        for begin in range(0, len(paths), AT_ONCE):
            some = paths[begin : begin + AT_ONCE]
            heard.expect(len(some))
            await asyncio.gather(*(listen(path, number % 100) for number, path in enumerate(some)))
            await heard.all()
        yield heard
    finally:
        for transport in transports:
            transport.abort()


async def _change(
    server: Server, session: aiohttp.ClientSession, job: str, heard: Heard, told: int
) -> dict[str, float]:
    """Change a job again and again, of which ``told`` listeners are told; return what that costs."""
    answered, known, waited = [], [], []
    begin = server.processor()
    for number in range(EVENTS):
        heard.expect(told)
        others = asyncio.create_task(_ask(session))
        start = perf_counter()
        answered.append(await change(session, job, number) - start)
        if told:
            known.append(await heard.all() - start)
        others.cancel()
        waited.append(await others)
    used = (server.processor() - begin) / EVENTS
    figures = {COMMAND: median(answered), OTHERS: median(waited), PROCESSOR: used}
    if told:
        figures[ALL_TOLD] = median(known)
    return {name: 1000 * seconds for name, seconds in figures.items()}


async def change(session: aiohttp.ClientSession, job: str, number: int) -> float:
    """Have something told of a job, and return when that was answered."""
    async with session.post(
        job, data={"RUNID": f"{perf_counter()} {number}"}, allow_redirects=False
    ) as answer:
        assert answer.status == 303
    return perf_counter()


async def _ask(session: aiohttp.ClientSession) -> float:
    """Ask for something small until this is cancelled; return the seconds of the longest answer."""
    longest = 0.0
    with suppress(asyncio.CancelledError):
        while True:
            start = perf_counter()
            try:
                async with session.get("/true/parameters.json") as answer:
                    await answer.read()
            finally:
                longest = max(longest, perf_counter() - start)
            await asyncio.sleep(PAUSE)
    return longest


if __name__ == "__main__":
    app()
