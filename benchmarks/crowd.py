"""`make bench-crowd`: how fast others are answered while many clients are slow and many wait, over loopback.

The server has its default settings. Slow clients send a byte of a head or of a body now and then, or read
nothing of their answers, and come again when they are closed; those that wait do so for jobs of their own,
and again when their time is over. Each address has as many of them as it may.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, TypeVar, cast
from urllib.parse import urlsplit

import aiohttp
import typer
import uvloop

from benchmarks.options import DIRECTORY, Directory, new_app
from benchmarks.servers import Client, Server, ended_in_order, serving, uwsd
from benchmarks.tables import Figures, Line, new_console, show
from uws.config import LimitSettings

ALONE, CROWDED = "alone", "crowded"
SECONDS = {ALONE: 15.0, CROWDED: 100.0}
"""How long others ask: in a crowd until all who wait have come again, and all who are slow were closed."""
PAUSE = 0.005
"""Seconds between two of them."""
DRIP = 1.0
"""Seconds between two bytes of a slow client."""
SETTLED = 0.1
"""Seconds of processor time in a second, below which a server has nothing to do."""
SETTLING = 5.0
"""Seconds after which one who waits is told, whether or not the server has something to do."""
AT_ONCE = 50
"""Connections that are made at one time."""
PER_ADDRESS = LimitSettings().waits_per_owner
PATIENCE = 60.0
"""Seconds in which somebody who waits has to hear of a change."""
DECLARATION = '[services.true]\ntitle = "Nothing, with success"\ncommand = ["true"]\n'
JOBS = "/true/async"
MIDDLE, P99, LONGEST = "an answer: median", "p99", "longest"
SLOW, CLOSED, WAITING = (
    "slow connections open at the end",
    "times that one was closed",
    "requests that wait at the end",
)
MEMORY = "memory of a waiter"
LINES = (
    Line(MIDDLE, "ms"),
    Line(P99, "ms", most=250),
    Line(LONGEST, "ms"),
    Line(SLOW, ""),
    Line(CLOSED, ""),
    Line(WAITING, ""),
    Line(MEMORY, "kB", most=20),
)
app = new_app()


@app.command()
def main(
    slow: Annotated[int, typer.Option(min=1, help="How many connections are slow.")] = 500,
    waiting: Annotated[int, typer.Option(min=1, help="How many clients wait for a job.")] = 5_000,
    directory: Directory = DIRECTORY,
) -> None:
    """Measure what a crowd costs others. The exit status is 1 when a target is missed."""
    console, figures = new_console(), Figures(dict)
    with ended_in_order(), TemporaryDirectory(dir=directory) as name:
        file = Path(name) / "uwsd.toml"
        file.write_text(DECLARATION)
        with serving(uwsd(file, Path(name) / "data"), Path(name) / "log") as server:
            uvloop.run(_measure(server, slow, waiting, figures))
    title = f"{os.cpu_count()} cores, {slow:,} slow connections, {waiting:,} that wait"
    if not show(console, title, "", LINES, [ALONE, CROWDED], figures, compared=False):
        raise typer.Exit(1)


async def _measure(server: Server, slow: int, waiting: int, figures: Figures) -> None:
    async with aiohttp.ClientSession(server.url) as session:
        client = Client(session, JOBS)
        jobs = [await client.create() for _ in range(waiting)]
        print(ALONE, flush=True)
        _tell(figures, ALONE, await _ask(session, jobs[0], SECONDS[ALONE]))
        before = server.memory("VmRSS")
        print(CROWDED, flush=True)
        async with _crowd(server, [_Waiting(job) for job in jobs]) as waiters:
            await _settled(server)
            figures[MEMORY][CROWDED] = (server.memory("VmRSS") - before) * 1000 / waiting
            async with _crowd(server, [_SLOW[n % len(_SLOW)](jobs[0]) for n in range(slow)]) as slow_ones:
                dripping = asyncio.create_task(_drip(slow_ones))
                try:
                    _tell(figures, CROWDED, await _ask(session, jobs[0], SECONDS[CROWDED]))
                finally:
                    dripping.cancel()
                figures[SLOW][CROWDED] = sum(each.is_open for each in slow_ones)
                figures[CLOSED][CROWDED] = sum(each.closed for each in slow_ones)
                figures[WAITING][CROWDED] = sum(each.waits for each in waiters)


class _Crowding(asyncio.Protocol):
    """A client: what it sends at once, and what it does then."""

    receives = 1 << 16
    """Bytes that the system takes for it."""

    def __init__(self, job: str) -> None:
        self.job, self.is_open, self.answer, self.closed = job, False, b"", 0
        self.again: Callable[[], Awaitable[None]] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.is_open = cast(asyncio.Transport, transport), True
        self.transport.write(self.begin().encode())

    def connection_lost(self, exc: BaseException | None) -> None:
        self.is_open = False

    def data_received(self, data: bytes) -> None:
        self.answer = self.answer or data[:40]

    def begin(self) -> str:
        return f"GET {self.job} HTTP/1.1\r\nHost: localhost\r\n"

    def go_on(self) -> None:
        """Send a byte more."""
        if self.transport and self.is_open:
            self.transport.write(b"x")


class _Waiting(_Crowding):
    """Waits for a job, and again when the time is over."""

    def begin(self) -> str:
        return f"GET {self.job}?WAIT=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport and data.startswith(b"HTTP/1.1 200"):
            self.transport.write(self.begin().encode())

    @property
    def waits(self) -> bool:
        return self.is_open and self.answer[9:12] in (b"", b"200")


class _Woken(_Waiting):
    """Waits for a job once, and knows when it was told of a change."""

    def __init__(self, job: str, header: str) -> None:
        super().__init__(job)
        self._header, self.woken = header, asyncio.get_running_loop().create_future()

    def begin(self) -> str:
        return f"GET {self.job}?WAIT=60 HTTP/1.1\r\nHost: localhost\r\n{self._header}\r\n\r\n"

    def data_received(self, data: bytes) -> None:
        if not self.woken.done():
            self.woken.set_result(perf_counter())


class _SlowHead(_Crowding):
    pass


class _SlowBody(_Crowding):
    def begin(self) -> str:
        return (
            f"POST {self.job} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        )


class _SlowReader(_Crowding):
    """Asks for more than all buffers hold, and reads nothing of it."""

    receives = 4096

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport
        self.transport.pause_reading()

    def begin(self) -> str:
        return "GET /static/uws.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100

    def go_on(self) -> None:
        pass


C = TypeVar("C", bound=_Crowding)
_SLOW = (_SlowHead, _SlowBody, _SlowReader)


@asynccontextmanager
async def _crowd(server: Server, clients: list[C]) -> AsyncIterator[list[C]]:
    """Connect all, from as many addresses as the limit of one makes it take."""
    where, loop = urlsplit(server.url), asyncio.get_running_loop()

    async def connect(number: int, client: C) -> None:
        address = number // PER_ADDRESS
        with socket.socket() as mine:
            mine.setblocking(False)
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, client.receives)
            mine.bind((f"127.1.{address // 250}.{address % 250 + 1}", 0))
            await loop.sock_connect(mine, (where.hostname, where.port))
            await loop.create_connection(lambda: client, sock=mine.dup())
        client.again = partial(connect, number, client)

    try:
        for begin in range(0, len(clients), AT_ONCE):
            some = enumerate(clients[begin : begin + AT_ONCE], begin)
            await asyncio.gather(*(connect(number, client) for number, client in some))
        yield clients
    finally:
        for client in clients:
            if client.transport:
                client.transport.abort()


async def wake_ups(
    server: Server, jobs: Sequence[str], header: str, change: Callable[[str], Awaitable[None]], times: int
) -> tuple[list[float], list[float]]:
    """Have all ``jobs`` waited for, and change some of them, one after the other.

    Returns the seconds from a command to the first byte of what it told who waits, and by how many seconds
    this loop was late meanwhile. Raises `TimeoutError` when somebody who waits is not told.
    """
    taken: list[float] = []
    async with _crowd(server, [_Woken(job, header) for job in jobs]) as waiters:
        with suppress(TimeoutError):  # one that polls has never settled
            async with asyncio.timeout(SETTLING):
                await _settled(server)
        late = list[float]()
        watching = asyncio.create_task(_watch_loop(late))
        try:
            for waiter in waiters[:times]:
                begin = perf_counter()
                await change(waiter.job)
                async with asyncio.timeout(PATIENCE):
                    taken.append(await waiter.woken - begin)
        finally:
            watching.cancel()
    return taken, late


async def _watch_loop(late: list[float]) -> None:
    while True:
        begin = perf_counter()
        await asyncio.sleep(PAUSE)
        late.append(perf_counter() - begin - PAUSE)


async def _settled(server: Server) -> None:
    """Return when the server is through with all that came to it."""
    before = -1.0
    while (now := server.processor()) - before > SETTLED:
        before = now
        await asyncio.sleep(1)


async def _drip(clients: Sequence[_Crowding]) -> None:
    """Let each go on, a byte each time, in turn."""
    while True:
        for client in clients:
            if client.is_open:
                client.go_on()
            elif client.again:
                client.closed += 1
                with suppress(OSError):
                    await client.again()
            await asyncio.sleep(DRIP / len(clients))


async def _ask(session: aiohttp.ClientSession, job: str, seconds: float) -> list[float]:
    """Ask for a service, a list and a job in turn, for so long; return the seconds of each answer."""
    taken: list[float] = []
    end = perf_counter() + seconds
    while (begin := perf_counter()) < end:
        async with session.get(("/true", f"{JOBS}?LAST=10", job)[len(taken) % 3]) as answer:
            await answer.read()
            answer.raise_for_status()
        taken.append(perf_counter() - begin)
        await asyncio.sleep(PAUSE)
    return taken


def _tell(figures: Figures, column: str, taken: list[float]) -> None:
    cuts = quantiles(taken, n=100, method="inclusive")
    for name, seconds in ((MIDDLE, cuts[49]), (P99, cuts[98]), (LONGEST, max(taken))):
        figures[name][column] = 1000 * seconds


if __name__ == "__main__":
    app()
