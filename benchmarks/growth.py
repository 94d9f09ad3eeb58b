"""`make bench-growth`: what a job costs on disk, and how long it takes to go through a log that has grown.

The jobs of a real machine go through the commands of this server, at the times of that machine's trace. Only
programs are not run: what they get and leave is made up.
"""

from __future__ import annotations

import gzip
import random
import secrets
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple
from uuid import uuid4

import uvloop
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.options import DIRECTORY, TRACE, Directory, Trace, new_app
from eventstore import Metadata, SQLiteEventStore
from eventstore.archive import verify_archive
from eventstore.checkpoint import SigningKey
from projections import READ_MODELS, JobReadModel, Projector, read_status
from uws.audit import archive, prune
from uws.commands import Caller, Changes
from uws.files import Files
from uws.importing import read_swf
from uws.jobs import Backend, UserUWS, make_uws_for_service
from uws.model import Ending, Failure, FloatParameter, Result, ResultDeclaration, Service, StrParameter
from uws.model.units import format_size

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
FAILING = 20
"""Of so many jobs one fails; the trace does not say which did."""
MANY = 10_000_000
"""Jobs to extrapolate to."""

SERVICE = Service(
    name="cutout",
    title="Image cutout",
    command=["cutout", "{image}", "--ra={ra}", "--dec={dec}", "--size={size}", ["--band={band}"]],
    parameters={
        "image": StrParameter(required=True),
        "ra": FloatParameter(required=True, min=0, max=360, unit="deg"),
        "dec": FloatParameter(required=True, min=-90, max=90, unit="deg"),
        "size": FloatParameter(required=True, min=0.01, max=60, unit="arcmin"),
        "band": StrParameter(values=["J", "H", "K"], multiple=True),
    },
    results=[ResultDeclaration(id="cutout", path="cutout.fits", mime="application/fits")],
)

_EVENTS = """
SELECT sum(length(data)) AS payload, sum(length(metadata)) AS metadata,
    sum(length(salt) + length(digest) + length(hash)) AS "salt, digest, hash",
    sum(length(stream) + length(id) + length(type)) AS "stream, id, type"
FROM event
"""
_PAGES = "SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY sum(pgsize) DESC"
_INDEXES = {"sqlite_autoindex_event_1": "index of ids", "sqlite_autoindex_event_2": "index of streams"}

app = new_app()
console = Console(highlight=False)
console.width = max(console.width, 110)  # figures are for reading: none is cut off


class Run(NamedTuple):
    """One job of a trace; times in seconds, ``submitted`` since the trace began.

    Of what it was and how it was called there are the number of its ``processors`` and its ``executable``.
    """

    submitted: float
    waited: float
    ran: float
    user: str
    processors: int = 1
    executable: str = ""


class TraceClock:
    """A clock for one who sleeps: sleeping moves it on."""

    def __init__(self) -> None:
        self._now = BEGIN

    def now(self) -> datetime:
        return self._now

    async def sleep_until(self, time: datetime) -> None:
        self._now = max(self._now, time)


class Time(NamedTuple):
    """How long something took, in seconds, and how large the file or the files were then, in bytes."""

    seconds: float
    size: int


@app.command()
def main(
    trace: Trace = TRACE,
    directory: Directory = DIRECTORY,
) -> None:
    """Record a trace and measure what it takes. Without the trace, 2000 made-up jobs stand in for it."""
    runs = list(read_trace(trace) if trace.exists() else made_up(2000))
    console.print(f"{len(runs):,} jobs, {trace.name if trace.exists() else 'made up'}")
    with TemporaryDirectory(dir=directory) as scratch:
        uvloop.run(measure(Path(scratch), runs))


async def measure(data: Path, runs: Sequence[Run]) -> None:
    """Record ``runs``, and print what lies on disk then and how long it takes to go through it."""
    clock = TraceClock()
    async with opened(data, clock) as backend:
        await record(runs, make_uws_for_service(SERVICE, backend, ""), clock)
        events = (await backend.store.head()).position
    console.print(f"{events:,} events")
    show_bytes("events.db", parts_of_log(data / "events.db"), len(runs), events)
    show_bytes("projections/", parts_of_views(data / "projections.db"), len(runs), events)
    show_times(await going_through(data, clock), len(runs), events)


async def going_through(data: Path, clock: TraceClock) -> dict[str, Time]:
    """Do what takes longer the longer the log is, and measure it; the log is pruned then."""
    times: dict[str, Time] = {}

    @contextmanager
    def timed(doing: str, path: Path) -> Iterator[None]:
        begin = perf_counter()
        yield
        times[doing] = Time(perf_counter() - begin, size_of(path))

    log, views, packed = data / "events.db", data / "projections", data / "archive.gz"
    async with opened(data, clock) as backend:
        with timed("rebuild the read models", views):
            await backend.projector.rebuild()
        with timed("verify", log):
            await backend.store.verify()
        key = SigningKey.load_or_create(data / "audit.key", "example.org")
        with timed("export", packed):
            await archive(backend.store, packed, key, clock.now(), until=None)
        with timed("verify the archive", packed):
            verify_archive(packed)
        with timed("verify both and prune", log):
            await prune(backend.store, packed, key.verifier, metadata=Metadata(actor="operator"))
    return times


@asynccontextmanager
async def opened(data: Path, clock: TraceClock) -> AsyncIterator[Backend]:
    """Give what commands need; when it is left, the read models have everything."""
    async with AsyncExitStack() as stack:
        store = await SQLiteEventStore.open(data / "events.db", now=clock.now)
        stack.push_async_callback(store.close)
        projector = await Projector.open(data / "projections.db", store)
        stack.push_async_callback(projector.close)
        files = Files(data)
        files.prepare()
        yield Backend(store, projector, JobReadModel(projector), files, clock)
        await projector.caught_up(timeout=3600)


# Recording


def read_trace(path: Path) -> Iterator[Run]:
    """Read the jobs of a trace in Standard Workload Format."""
    with gzip.open(path, "rt") as lines:
        for record in read_swf(lines, path.name):
            waited, ran = max(0.0, record.wait_time), max(0.0, record.run_time)
            called = max(1, record.processors), f"{record.executable}"
            yield Run(float(record.submit_time), waited, ran, f"user{record.user}", *called)


def made_up(count: int) -> Iterator[Run]:
    """Make jobs up."""
    dice, submitted = random.Random(1), 0.0  # noqa: S311 - nothing secret comes of it
    for _ in range(count):
        submitted += dice.expovariate(1 / 400)
        user = f"user{dice.randrange(1, 70)}"
        yield Run(submitted, dice.expovariate(1 / 60), dice.expovariate(1 / 700), user)


async def record(runs: Sequence[Run], uws: UserUWS, clock: TraceClock) -> None:
    """Take each job from its creation to its destruction, each step at its time."""
    lifetime = SERVICE.lifetime.seconds + 1
    steps = sorted(
        (run.submitted + later, step, number)
        for number, run in enumerate(runs)
        for step, later in enumerate((0, run.waited, run.waited + run.ran, lifetime))
    )
    ids: dict[int, str] = {}
    for time, step, number in track(
        steps, "recording", console=console, transient=True, disable=not console.is_terminal
    ):
        # A fraction of a second, for the trace has none and clocks have.
        await clock.sleep_until(BEGIN + timedelta(seconds=time, microseconds=secrets.randbelow(1_000_000)))
        match step:
            case 0:
                caller = Caller(runs[number].user, request_id=uuid4().hex, client="pyVO/1.6 (Linux)")
                ids[number] = (await uws.create_job(request(), caller, run=True)).id
            case 1:
                await uws.start_job(ids[number])
            case 2:
                await uws.end_job(ids[number], ending(failed=number % FAILING == 0))
            case 3:
                await uws.expire_job(ids.pop(number))


def request() -> Changes:
    """Make up what a client asks for."""
    parameters = {
        "image": ["ivo://example.org/2mass/k?gc_2mass_k.fits"],
        "ra": [f"{secrets.randbelow(360_000_000) / 1e6}"],
        "dec": [f"{secrets.randbelow(180_000_000) / 1e6 - 90:.6f}"],
        "size": ["6.0"],
        "band": ["J", "K"],
    }
    return Changes(parameters=parameters, run_id="survey-2026a")


def ending(*, failed: bool) -> Ending:
    """Make up what a program leaves."""
    if failed:
        message = "ValueError: the position lies outside the image"
        detail = '  File "cutout.py", line 100, in cut\n    return image[box]\n' * 6 + message
        return Ending(exit_code=1, failure=Failure(message=message, detail=detail))
    result = Result(
        id="cutout", path="results/cutout.fits", size=secrets.randbelow(10_000_000),
        sha256=secrets.token_hex(32), media_type="application/fits",
    )  # fmt: skip
    return Ending(results=(result,), exit_code=0)


# Looking


def parts_of_log(path: Path) -> dict[str, int]:
    """Return the bytes of the log's file by what they are for."""
    pages = pages_of(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        parts = dict(connection.execute(_EVENTS).fetchone())
    parts["numbers, headers, free room"] = pages.pop("event") - sum(parts.values())
    parts |= {title: pages.pop(name) for name, title in _INDEXES.items()}
    return parts | {"other": sum(pages.values())}


def parts_of_views(path: Path) -> dict[str, int]:
    """Return the bytes of each read model's file, by its name, and of the registry at ``path``."""
    sizes = {status.name: status.size for status in read_status(path, 0, READ_MODELS)}
    return sizes | {"other": path.stat().st_size}


def pages_of(path: Path) -> dict[str, int]:
    """Return the bytes of a file's tables and indexes."""
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute(_PAGES))


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a directory."""
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


def show_bytes(name: str, parts: Mapping[str, int], jobs: int, events: int) -> None:
    """Print what a file is made of."""
    total = sum(parts.values())
    table = table_of(name, "bytes", "share", "a job", "an event", f"{MANY:,} jobs")
    for part, size in [*parts.items(), ("all", total)]:
        table.add_row(
            part, f"{size:,}", f"{size / total:.1%}", f"{size / jobs:,.0f}", f"{size / events:,.0f}",
            format_size(size * MANY // jobs), end_section=part == "other",
        )  # fmt: skip
    console.print(table)


def show_times(times: Mapping[str, Time], jobs: int, events: int) -> None:
    """Print how long things took, and what they left."""
    table = table_of("all events", "seconds", "events/s", f"{MANY:,} jobs", "file then", "a job")
    for doing, (seconds, size) in times.items():
        table.add_row(
            doing, f"{seconds:.2f}", f"{events / seconds:,.0f}", f"{seconds * MANY / jobs / 60:,.0f} min",
            format_size(size), f"{size / jobs:,.0f}",
        )  # fmt: skip
    console.print(table)


def table_of(*columns: str) -> Table:
    table = Table(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


if __name__ == "__main__":
    app()
