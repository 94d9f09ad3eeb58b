"""`make bench-audit`: how long an auditor waits for answers about a log of a million jobs.

Jobs are those of a trace, repeated until there are enough. Each question is asked as `uwsd audit` asks it,
from opening the files on; what Python takes to start is not in it.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, NamedTuple

import typer

from benchmarks.options import DIRECTORY, TRACE, Directory, Trace, new_app
from benchmarks.scale import DECLARATION, make_up
from benchmarks.tables import Figures, Line, new_console, show
from eventstore import open_store, read_log
from projections import Projector, Sought, Trail
from uws.audit import Past, entry_of
from uws.config import Settings, load
from uws.importing import import_swf
from uws.model.events import job_id_of
from uws.node import looking_back, open_backend
from uws.web import document_then

SMALLER = 10
"""How many times fewer jobs there are in the smaller log."""
ASKED = 50
"""Questions about single jobs."""
STATES = 3

HISTORY, FILTERED, QUEUED = "log JOB", "log --owner --type --limit 50", "replay JOB --at-version, QUEUED"
SINCE, STATE, ALL = "log --since --until, a day", "state --at", "log, all events"
LINES = (
    Line(HISTORY, "ms", most=50),
    Line(FILTERED, "ms"),
    Line(SINCE, "ms"),
    Line(QUEUED, "ms"),
    Line(STATE, "s", most=5),
    Line(ALL, "events/s"),
)
app = new_app()


class Size(NamedTuple):
    """A data directory with so many jobs, some of their ids, and a time in the middle of the history."""

    place: Settings
    jobs: int
    ids: list[str]
    middle: datetime

    @property
    def title(self) -> str:
        return f"{self.jobs:,}"


@app.command()
def main(
    jobs: Annotated[int, typer.Option(min=SMALLER, help="How many there are in the larger log.")] = 1_000_000,
    trace: Trace = TRACE,
    directory: Directory = DIRECTORY,
    output: Annotated[Path | None, typer.Option(help="Write audit.txt to this directory, too.")] = None,
) -> None:
    """Measure answers about logs of two sizes; the exit status is 1 when a target is missed.

    Without the trace, made-up jobs stand in for it.
    """
    console, figures, begin = new_console(), Figures(dict), perf_counter()
    with TemporaryDirectory(dir=directory) as scratch:
        if not trace.exists():
            trace = Path(scratch, "made-up.swf")
            make_up(trace)
        sizes = [asyncio.run(prepare(Path(scratch), trace, number)) for number in (jobs // SMALLER, jobs)]
        for size in sizes:
            asyncio.run(measure(size, figures))
    minutes = (perf_counter() - begin) / 60
    title, columns = f"{os.cpu_count()} cores, {minutes:.1f} minutes", [size.title for size in sizes]
    reached = show(console, title, "jobs", LINES, columns, figures)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "audit.txt").write_text(console.export_text())
    if not reached:
        raise typer.Exit(1)


async def prepare(scratch: Path, trace: Path, jobs: int) -> Size:
    """Import so many jobs and fold the read model that is asked."""
    print(f"{jobs:,} jobs of {trace.name}", flush=True)
    file, data = scratch / "uwsd.toml", scratch / f"{jobs}"
    file.write_text(DECLARATION)
    data.mkdir()
    place = Settings(data=data, services=load(file).services)
    async with open_backend(place, follow=False) as backend:
        done = await import_swf(backend.store, place.services, trace, service="ipsc", jobs=jobs)
        dice, head = random.Random(1), (await backend.store.head()).position  # noqa: S311 - nothing secret
        some = [(await backend.store.read_all(after=dice.randrange(head), limit=1))[0] for _ in range(ASKED)]
    store = await open_store(place.log)
    try:
        projector = await Projector.open(place.projections, store, [Trail()])
        try:
            await projector.caught_up(timeout=3600)
        finally:
            await projector.close()
    finally:
        await store.close()
    ids = [job_id for event in some if (job_id := job_id_of(event.stream))]
    return Size(place, jobs, ids, done.first + (done.last - done.first) / 2)


async def measure(size: Size, figures: Figures) -> None:
    """Ask all questions, each from opening the files on."""
    print(f"asking about {size.title}", flush=True)

    async def history(job_id: str) -> None:
        log = await read_log(size.place.log)
        try:
            for event in await Past(log).history(job_id):
                entry_of(event)
        finally:
            await log.close()

    async def replay(job_id: str) -> None:
        async with looking_back(size.place) as past:
            document_then(await past.job_at_version(job_id, 2), "http://localhost")

    async def log(sought: Sought, limit: int | None = None) -> int:
        found = 0
        async with looking_back(size.place) as past:
            await past.check(sought)
            async for event in past.events(sought, limit=limit):
                entry_of(event)
                found += 1
        return found

    async def state(_: str) -> None:
        async with looking_back(size.place) as past:
            await past.state(size.middle)

    day = 86_400_000_000
    since = int(size.middle.timestamp() * 1_000_000)
    figures[HISTORY][size.title] = 1000 * await timed(history, size.ids)
    figures[QUEUED][size.title] = 1000 * await timed(replay, size.ids[:STATES])
    sought = Sought(owner="user3", type="JobCompleted")
    figures[FILTERED][size.title] = 1000 * await timed(lambda _: log(sought, 50), size.ids[:STATES])
    sought_then = Sought(since=since, until=since + day)
    figures[SINCE][size.title] = 1000 * await timed(lambda _: log(sought_then), size.ids[:STATES])
    figures[STATE][size.title] = await timed(state, size.ids[:STATES])
    begin = perf_counter()
    figures[ALL][size.title] = await log(Sought(), limit=200_000) / (perf_counter() - begin)


async def timed(question: Callable[[str], Awaitable[object]], about: list[str]) -> float:
    """Return the median of how many seconds an answer takes."""
    seconds = []
    for job_id in about:
        begin = perf_counter()
        await question(job_id)
        seconds.append(perf_counter() - begin)
    return median(seconds)


if __name__ == "__main__":
    app()
