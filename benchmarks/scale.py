"""`make bench-scale`: what a server costs that has a million jobs, beside one that has a thousand.

Servers of all sizes run side by side and are asked in turn, so that what else the machine does weighs on all
of them alike. Their jobs are those of a trace, repeated until there are enough. Then one of them rebuilds its
read models while clients go on working with it.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from collections import defaultdict, deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import aiohttp
import typer
import uvloop

from benchmarks.growth import made_up
from benchmarks.options import DIRECTORY, TRACE, Directory, Trace, new_app
from benchmarks.servers import MB, UWSD, Server, ended_in_order, serving, uwsd
from benchmarks.tables import Figures, Line, new_console, show
from eventstore import SQLiteEventStore
from uws.config import Settings, load
from uws.importing import import_swf
from uws.model.events import job_stream
from uws.model.units import format_time
from uws.node import open_backend

SMALLEST = 1_000
"""Jobs; each size is ten times the one before."""
STARTS = 5
REQUESTS = 300
"""Of each kind, to each server."""
WARMING = 20
"""Requests before those that count."""
REBUILT_FROM = 100_000
"""Fewer jobs are folded sooner than processes are started."""
LOADED = 100_000
"""Jobs of the server that is rebuilt under load."""
PACE = 50
"""Commands a second under load, and as many GETs."""
SECONDS = 20.0
"""How long the server is under load, quiet and rebuilding, at least."""
ROOM = 5_500
"""Bytes a job of the largest size, with the smaller ones and with what a rebuild makes aside."""

DECLARATION = """
[services.ipsc]
title = "Jobs of the iPSC/860"
command = ["true"]
max_running = 2

[services.ipsc.parameters]
processors     = { type = "int", description = "Nodes that the job was given" }
requested_time = { type = "float", unit = "s" }
executable     = { type = "str" }
"""
LIST = "/ipsc/async"

app = new_app()
START, RECENT, DOCUMENT = "start, to the first answer", "job list, LAST=20", "job document"
FILTERED, MEMORY = "JSON, PHASE & AFTER, LIMIT=20", "resident memory"
WHOLE, ABOVE, REBUILD = "whole job list", "memory for it, at most", "rebuild, without a server"
SCALE = (
    Line(START, "s", most=2),
    Line(RECENT, "ms", ratio=1.3),
    Line(DOCUMENT, "ms", ratio=1.2),
    Line(FILTERED, "ms"),
    Line(MEMORY, "MB", ratio=1.3),
    Line(WHOLE, "entries/s", least=20_000),
    Line(ABOVE, "MB", most=50),
    Line(REBUILD, "events/s", least=150_000),
)
QUIET, REBUILDING = "quiet", "rebuilding"
ANSWERED, FAILED, ONE_REBUILD = "answered requests", "requests that failed", "one rebuild"
VERIFIED = "read models verified"
LOAD = (
    Line("GET, median", "ms"),
    Line("GET, 99 of 100", "ms", ratio=3),
    Line("command, median", "ms"),
    Line("command, 99 of 100", "ms"),
    Line(ANSWERED, "1/s"),
    Line(FAILED, "", most=0),
    Line(ONE_REBUILD, "s"),
    Line(VERIFIED, "", least=1),
)


@app.command()
def main(
    jobs: Annotated[int, typer.Option(min=1, help="How many the largest server has.")] = 1_000_000,
    trace: Trace = TRACE,
    directory: Directory = DIRECTORY,
    output: Annotated[
        Path | None, typer.Option(help="Write scale.txt and scale.svg to this directory, too.")
    ] = None,
) -> None:
    """Measure servers of growing size; the exit status is 1 when a target is missed.

    Without the trace, made-up jobs stand in for it.
    """
    if shutil.disk_usage(directory).free < jobs * ROOM:
        raise typer.BadParameter(f"{directory}: {jobs:,} jobs need {jobs * ROOM // MB:,} MB there")
    console = new_console()
    scale, load = Figures(dict), Figures(dict)
    begin = perf_counter()
    with ended_in_order(), TemporaryDirectory(dir=directory) as scratch:
        sizes = prepare(Path(scratch), trace, jobs, scale)
        measure_starts(sizes, scale)
        measure_requests(sizes, scale)
        loaded = [size for size in sizes if size.jobs <= LOADED][-1]
        measure_load(loaded, load)
    columns = [size.title for size in sizes]
    minutes = (perf_counter() - begin) / 60
    reached = [
        show(console, f"{os.cpu_count()} cores, {minutes:.1f} minutes", "jobs", SCALE, columns, scale),
        show(console, f"{loaded.title} jobs, {PACE} commands and {PACE} GETs a second", "under load", LOAD,
             [QUIET, REBUILDING], load),
    ]  # fmt: skip
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "scale.txt").write_text(console.export_text())
        plot(output / "scale.svg", sizes, scale)
    if not all(reached):
        raise typer.Exit(1)


# Preparing


class Size(NamedTuple):
    """A data directory with so many jobs, ids of some of them, and a time between the first and the last."""

    jobs: int
    file: Path
    data: Path
    ids: Sequence[str]
    middle: datetime

    @property
    def title(self) -> str:
        return f"{self.jobs:,}"


def prepare(scratch: Path, trace: Path, jobs: int, figures: Figures) -> list[Size]:
    """Make the data directories, each from the one before, and rebuild their read models."""
    file = scratch / "uwsd.toml"
    file.write_text(DECLARATION)
    if not trace.exists():
        trace = scratch / "made-up.swf"
        make_up(trace)
    sizes: list[Size] = []
    for number in sizes_up_to(jobs):
        print(f"{number:,} jobs of {trace.name}", flush=True)
        data = scratch / f"{number}"
        data.mkdir()
        if sizes:
            shutil.copyfile(sizes[-1].data / "events.db", data / "events.db")
        sizes.append(uvloop.run(fill(file, data, trace, number, figures)))
    return sizes


def sizes_up_to(jobs: int) -> Iterator[int]:
    size = SMALLEST
    while size < jobs:
        yield size
        size *= 10
    yield jobs


def make_up(path: Path) -> None:
    """Write a trace for those who have none."""
    with path.open("w") as file:
        for number, run in enumerate(made_up(SMALLEST), start=1):
            times = f"{run.submitted:.0f} {run.waited:.0f} {run.ran:.0f}"
            file.write(
                f"{number} {times} 8 -1 -1 8 3600 -1 1 {run.user.removeprefix('user')} 1 1 1 1 -1 -1\n"
            )


async def fill(file: Path, data: Path, trace: Path, jobs: int, figures: Figures | None = None) -> Size:
    """Import what is missing, and make the read models; make them anew where that gives ``figures``."""
    services = load(file).services
    store = await SQLiteEventStore.open(data / "events.db")
    try:
        done = await import_swf(store, services, trace, service="ipsc", jobs=jobs, anonymous=True)
        size = Size(jobs, file, data, await some_ids(store), done.first + (done.last - done.first) / 2)
    finally:
        await store.close()
    async with open_backend(Settings(data=data, services=services)) as backend:
        await backend.projector.caught_up(timeout=3600)
        if figures is not None:
            begin = perf_counter()
            rebuilt = await backend.projector.rebuild()
            if jobs >= REBUILT_FROM:
                figures[REBUILD][size.title] = max(each.events for each in rebuilt) / (perf_counter() - begin)
    return size


async def some_ids(store: SQLiteEventStore) -> list[str]:
    """Return the ids of as many jobs, from anywhere in the log, as are asked for."""
    dice = random.Random(1)  # noqa: S311 - nothing secret comes of it
    head = (await store.head()).position
    pages = [await store.read_all(after=dice.randrange(head), limit=1) for _ in range(WARMING + REQUESTS)]
    return [event.stream.removeprefix(job_stream("")) for page in pages for event in page]


# Asking


def served(size: Size) -> AbstractContextManager[Server]:
    return serving(uwsd(size.file, size.data), size.data.with_suffix(".log"))


def into_cache(sizes: Sequence[Size]) -> None:
    """Have the files in the system's cache: the largest are not to be slower for having been read less."""
    for path in (path for size in sizes for path in size.data.rglob("*.db")):
        with path.open("rb", buffering=0) as file:
            while file.read(MB):
                pass


def measure_starts(sizes: Sequence[Size], figures: Figures) -> None:
    """Measure how long it takes from starting the process to its first answer."""
    print("starts", flush=True)
    into_cache(sizes)
    seconds = defaultdict[str, list[float]](list)
    for _ in range(STARTS):
        for size in sizes:
            seconds[size.title].append(start(size))
    for title, samples in seconds.items():
        figures[START][title] = median(samples)


def start(size: Size) -> float:
    """Start a server, and return the seconds until its first answer."""
    begin = perf_counter()
    with served(size) as server:
        server.get(f"{LIST}?LAST=1")
        return perf_counter() - begin


def measure_requests(sizes: Sequence[Size], figures: Figures) -> None:
    """Measure answers, and the memory that they take, of servers that run side by side."""
    print("requests", flush=True)
    into_cache(sizes)
    with ExitStack() as stack:
        servers = [(size, stack.enter_context(served(size))) for size in sizes]
        seconds = defaultdict[tuple[str, str], list[float]](list)
        for number in range(WARMING + REQUESTS):
            for size, server in servers:
                for kind, path in paths(size, number).items():
                    seconds[kind, size.title].append(server.get(path))
        for (kind, title), samples in seconds.items():
            figures[kind][title] = median(samples[WARMING:]) * 1000
        for size, server in servers:
            figures[MEMORY][size.title] = server.memory("VmRSS")
        for size, server in servers:
            print(f"the whole list of {size.title}", flush=True)
            measure_list(size, server, figures)


def paths(size: Size, number: int) -> Mapping[str, str]:
    """Return what is asked for in a round, by the names of lines."""
    wanted = {"PHASE": "COMPLETED", "AFTER": format_time(size.middle), "LIMIT": 20, "RESPONSEFORMAT": "json"}
    return {
        RECENT: f"{LIST}?LAST=20",
        DOCUMENT: f"{LIST}/{size.ids[number]}",
        FILTERED: f"{LIST}?{urlencode(wanted)}",
    }


def measure_list(size: Size, server: Server, figures: Figures) -> None:
    """Read a list from its beginning to its end. Raises `RuntimeError` unless all jobs are in it."""
    server.forget_peak()
    idle, begin = server.memory("VmRSS"), perf_counter()
    found = server.count(LIST, b"<uws:jobref ")
    figures[WHOLE][size.title] = found / (perf_counter() - begin)
    figures[ABOVE][size.title] = server.memory("VmHWM") - idle
    if found != size.jobs:
        raise RuntimeError(f"{found:,} of {size.title} jobs are in the list")


# Rebuilding under load


def measure_load(size: Size, figures: Figures) -> None:
    """Measure a server that is worked with, while nothing else happens and while read models are rebuilt."""
    print("under load", flush=True)
    with served(size) as server:
        uvloop.run(work(size, server.url, figures))


async def work(size: Size, url: str, figures: Figures) -> None:
    """Work with the server, in turn while nothing else happens and while read models are rebuilt."""
    async with aiohttp.ClientSession(url) as session:
        quiet, rebuilding = Clients(session, size.ids), Clients(session, size.ids)
        rebuilds: list[float] = []
        while sum(rebuilds) < SECONDS:
            await quiet.work(asyncio.sleep(SECONDS / 4))
            rebuilds.append(await rebuilding.work(rebuild(size)))
    quiet.tell(QUIET, figures)
    rebuilding.tell(REBUILDING, figures)
    figures[ONE_REBUILD][REBUILDING] = median(rebuilds)
    figures[VERIFIED][REBUILDING] = not await projections("verify", size)


async def rebuild(size: Size) -> None:
    """Rebuild all read models as an operator does. Raises `RuntimeError` when that fails."""
    if await projections("rebuild", size):
        raise RuntimeError("the read models cannot be rebuilt")


async def projections(command: str, size: Size) -> int:
    """Run ``uwsd projections`` to its end and return the exit status."""
    process = await asyncio.create_subprocess_exec(
        UWSD, "projections", command, "--config", size.file, "--data", size.data, stdout=subprocess.DEVNULL
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


class Clients:
    """Clients that go on at their pace, however long the answers take."""

    def __init__(self, session: aiohttp.ClientSession, ids: Sequence[str]) -> None:
        self._session, self._ids = session, ids
        self._seconds: dict[str, list[float]] = {"GET": [], "command": []}
        self._worked, self._failed = 0.0, 0
        self._made = deque[str]()
        """Jobs that nothing has been done to yet."""

    async def work(self, meanwhile: Coroutine[Any, Any, None]) -> float:
        """Send requests for as long as something else lasts, and return how many seconds that was."""
        begin = perf_counter()
        async with asyncio.TaskGroup() as group:
            doing = group.create_task(meanwhile)
            for number in count():
                await asyncio.sleep(begin + number / PACE - perf_counter())
                if doing.done():
                    break
                group.create_task(self._look(number))
                group.create_task(self._command(number))
        seconds = perf_counter() - begin
        self._worked += seconds
        return seconds

    def tell(self, column: str, figures: Figures) -> None:
        for kind, samples in self._seconds.items():
            figures[f"{kind}, median"][column] = median(samples) * 1000
            figures[f"{kind}, 99 of 100"][column] = quantiles(samples, n=100)[-1] * 1000
        figures[ANSWERED][column] = sum(map(len, self._seconds.values())) / self._worked
        figures[FAILED][column] = self._failed

    async def _look(self, number: int) -> None:
        job = f"{LIST}/{self._ids[number // 2 % len(self._ids)]}"
        await self._send("GET", "GET", f"{LIST}?LAST=20" if number % 2 else job)

    async def _command(self, number: int) -> None:
        """Of ten commands six make a job, two run one; one is aborted, one deleted."""
        step = number % 10
        if step < 6 or not self._made:
            if made := await self._send("command", "POST", LIST, processors="8"):
                self._made.append(urlsplit(made).path)
        elif step < 9:
            job = self._made.popleft()
            await self._send("command", "POST", f"{job}/phase", PHASE="RUN" if step < 8 else "ABORT")
        else:
            await self._send("command", "DELETE", self._made.popleft())

    async def _send(self, kind: str, method: str, path: str, **form: str) -> str:
        """Send a request, wait for the whole answer, and return where it leads to."""
        begin = perf_counter()
        try:
            request = self._session.request(method, path, data=form or None, allow_redirects=False)
            async with request as response:
                await response.read()
                response.raise_for_status()
        except (aiohttp.ClientError, TimeoutError):
            self._failed += 1
            return ""
        self._seconds[kind].append(perf_counter() - begin)
        return response.headers.get("Location", "")


# Telling


def plot(path: Path, sizes: Sequence[Size], figures: Figures) -> None:
    """Draw what jobs cost against their number."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scale", "font.size": 10}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for name, unit, factor in (
            (START, "ms", 1000), (MEMORY, "MB", 1), (RECENT, "ms", 1), (DOCUMENT, "ms", 1)
        ):  # fmt: skip
            costs = [figures[name][size.title] * factor for size in sizes]
            axes.plot([size.jobs for size in sizes], costs, marker="o", color="black", linewidth=1)
            axes.annotate(
                f"{name}, {unit}", (sizes[0].jobs, costs[0]), xytext=(0, 6), textcoords="offset points"
            )
        axes.set(xscale="log", yscale="log", xlabel="jobs", ylabel="ms, MB", ylim=(0.1, 10_000))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
            axis.set_minor_formatter("")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9")
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    app()
