"""`make bench-eventstore`: what the log does in a second, beside what SQLite alone can do.

A machine that is shared is faster in one minute than in the next. So everything is measured in several
rounds, each with floors of its own, and what counts is the median: of the rounds' ratios, or of the rates
where the target is one. The floors are plain `sqlite3`, without a loop or a thread: the same table,
rows of the same sizes, the same promise of the disk.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, NamedTuple

import msgspec
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.options import DIRECTORY, Directory, new_app
from eventstore import EventStore, Metadata, NewEvent, SQLiteEventStore, new_id

APPENDS = {1: 2_000, 16: 8_000, 64: 16_000, 256: 32_000}
"""How many appends so many callers make in a round."""
LOG = 500_000
"""Events in the log that is read and verified."""
ERASED = 10
"""Streams that are erased in a round."""
STREAM = 5
"""Events of a stream: as many as most jobs have."""

app = new_app()
INSERT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
EACH, BULK, SCAN = "sqlite3, a commit each", "sqlite3, one transaction", "sqlite3, rows only read"
VERIFY, ALONE = f"verify, {os.cpu_count()} cores", "verify, 1 core"


class Line(NamedTuple):
    """One line of the table: the median of ``name`` in ``unit``, and of its ratios to ``floor``."""

    name: str
    unit: str
    floor: str = ""
    ratio: float = 0
    """The target as a multiple of the floor."""
    rate: float = 0
    """The target in units, for the median round."""


LINES = (
    Line(EACH, "appends/s"),
    Line(BULK, "appends/s", EACH),
    Line("1 caller", "appends/s", EACH, ratio=0.45),
    Line("16 callers", "appends/s", EACH),
    Line("64 callers", "appends/s", EACH, ratio=4),
    Line("256 callers", "appends/s", EACH, ratio=7),
    Line(SCAN, "events/s"),
    Line(VERIFY, "events/s", SCAN, rate=300_000),
    Line(ALONE, "events/s", SCAN),
    Line("read_all", "events/s", SCAN),
    Line("subscribe, catching up", "events/s", SCAN),
    Line("erase a stream", "ms"),
)


class Append(NamedTuple):
    """One call of `EventStore.append`, made beforehand."""

    stream: str
    event: NewEvent
    expected: int


class Result(msgspec.Struct):
    """What became of a `Line`: medians, and whether the target was reached."""

    name: str
    unit: str
    median: float
    lowest: float
    highest: float
    ratio: float | None
    target: str
    reached: bool


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured.")] = 5,
    directory: Directory = DIRECTORY,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file, too.")] = None,
) -> None:
    """Measure the event store; the exit status is 1 when a target is missed."""
    with TemporaryDirectory(dir=directory) as scratch:
        samples = uvloop.run(measure(Path(scratch), rounds))
    results = [result(line, samples) for line in LINES]
    show(results, rounds)
    if json:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    if not all(result.reached for result in results):
        raise typer.Exit(1)


async def measure(scratch: Path, rounds: int) -> dict[str, list[float]]:
    """Return the figures of each round, by the names of `LINES`."""
    samples = defaultdict[str, list[float]](list)
    store = await SQLiteEventStore.open(scratch / "log.db")
    try:
        streams = await fill(store)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            with TemporaryDirectory(dir=scratch) as fresh:
                figures = await appending(Path(fresh))
                figures |= await reading(store, scratch / "log.db")
                figures |= await erasing(store, streams[number * ERASED : (number + 1) * ERASED])
            for name, figure in figures.items():
                samples[name].append(figure)
    finally:
        await store.close()
    return samples


# Appending


async def appending(directory: Path) -> dict[str, float]:
    """Return appends per second, each kind on a fresh log."""
    rows = list(make_rows(APPENDS[1]))
    figures = {EACH: commit_each(directory / "each.db", rows)}
    for callers, count in APPENDS.items():
        store = await SQLiteEventStore.open(directory / f"{callers}.db")
        try:
            # Made in the order in which they are appended, as their ids grow with time.
            makers = (make_appends(count // callers) for _ in range(callers))
            work = list(zip(*zip(*makers, strict=True), strict=True))
            with timed() as seconds:
                async with asyncio.TaskGroup() as group:
                    for appends in work:
                        group.create_task(append_all(store, appends))
            figures[f"{callers} caller{'s' if callers > 1 else ''}"] = count / seconds()
        finally:
            await store.close()
    figures[BULK] = commit_once(directory / "bulk.db", list(make_rows(APPENDS[64])))
    return figures


async def append_all(store: EventStore, appends: Sequence[Append]) -> None:
    """Append one after the other, as a caller does who waits for each answer."""
    for stream, event, expected in appends:
        await store.append(stream, [event], expected=expected)


def make_appends(count: int) -> Iterator[Append]:
    """Make appends as the creation of jobs causes them: 300 bytes of payload, 120 of metadata."""
    for number in range(count):
        if number % STREAM == 0:
            stream = f"job/{new_id()}"
        yield Append(stream, make_event(), number % STREAM)


def make_event() -> NewEvent:
    data = {
        "service": "cutout",
        "declaration": secrets.token_hex(32),
        "execution_duration": 3600,
        "destruction": "2026-02-01T00:00:00Z",
        "owner": "alice",
        "parameters": {"ra": ["266.41683"], "dec": ["-29.00781"], "size": ["6.0"], "band": ["J", "H", "K"],
                       "note": ["the centre of the Galaxy, once more with the other filters"]},
    }  # fmt: skip
    about = Metadata(
        actor="alice", request_id=secrets.token_hex(8), client="192.0.2.17",
        correlation_id=secrets.token_hex(16),
    )  # fmt: skip
    return NewEvent(type="JobCreated", data=msgspec.json.encode(data), metadata=about)


def make_rows(count: int) -> Iterator[tuple[object, ...]]:
    """Make what `make_appends` becomes in the table."""
    for position, (stream, event, expected) in enumerate(make_appends(count), start=1):
        yield (
            position, stream, expected + 1, event.id, event.type, 1_767_225_600_000_000 + position,
            msgspec.json.encode(event.metadata), secrets.token_bytes(16), event.data, secrets.token_bytes(32),
            secrets.token_bytes(32),
        )  # fmt: skip


def commit_each(path: Path, rows: Sequence[tuple[object, ...]]) -> float:
    with plain(path) as connection, timed() as seconds:
        for row in rows:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(INSERT, row)
            connection.execute("COMMIT")
    return len(rows) / seconds()


def commit_once(path: Path, rows: Sequence[tuple[object, ...]]) -> float:
    with plain(path) as connection, timed() as seconds:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, rows)
        connection.execute("COMMIT")
    return len(rows) / seconds()


@contextmanager
def plain(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection to an empty log that keeps the store's promise of the disk, and no other."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(resources.files("eventstore").joinpath("schema.sql").read_text())
        yield connection


# Reading


async def fill(store: SQLiteEventStore) -> list[str]:
    """Append `LOG` events and return their streams."""
    streams = [f"job/{new_id()}" for _ in range(LOG // STREAM)]
    waiting = iter(streams)

    async def append() -> None:
        for stream in waiting:
            await store.append(stream, [make_event() for _ in range(STREAM)], expected=0)

    async with asyncio.TaskGroup() as group:
        for _ in range(64):
            group.create_task(append())
    return streams


async def reading(store: SQLiteEventStore, path: Path) -> dict[str, float]:
    """Return events per second of everything that goes through a whole log."""
    events = (await store.head()).position
    figures = {SCAN: events / scan(path)}
    with timed() as seconds:
        await store.verify()
    figures[VERIFY] = events / seconds()
    with timed() as seconds, on_one_core():
        await store.verify()
    figures[ALONE] = events / seconds()
    with timed() as seconds:
        position = 0
        while page := await store.read_all(after=position):
            position = page[-1].position
    figures["read_all"] = events / seconds()
    with timed() as seconds:
        async for page in store.subscribe(after=0):
            if page[-1].position >= events:
                break
    figures["subscribe, catching up"] = events / seconds()
    return figures


def scan(path: Path) -> float:
    """Return the seconds that it takes to see each row once."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection, timed() as seconds:
        rows = connection.execute("SELECT * FROM event ORDER BY position")
        while rows.fetchmany(1000):
            pass
    return seconds()


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keep this thread, and the processes that it starts, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


async def erasing(store: SQLiteEventStore, streams: Sequence[str]) -> dict[str, float]:
    """Return the milliseconds that an erasure takes."""
    with timed() as seconds:
        for stream in streams:
            await store.erase(stream, reason="measured")
    return {"erase a stream": seconds() / len(streams) * 1000}


# Telling


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Give a function that tells the seconds from the block's beginning to its end."""
    begin = perf_counter()
    end: list[float] = []
    yield lambda: end[0] - begin
    end.append(perf_counter())


def result(line: Line, samples: dict[str, list[float]]) -> Result:
    """Hold what was measured against the target."""
    mine, floors = samples[line.name], samples.get(line.floor)
    ratio = median(a / b for a, b in zip(mine, floors, strict=True)) if floors else None
    return Result(
        name=line.name, unit=line.unit, median=median(mine), lowest=min(mine), highest=max(mine), ratio=ratio,
        target=f"{line.ratio} x" if line.ratio else f"{line.rate:,.0f}/s" if line.rate else "",
        reached=(ratio or 0) >= line.ratio and median(mine) >= line.rate,
    )  # fmt: skip


def show(results: Sequence[Result], rounds: int) -> None:
    """Print the table."""
    table = Table(title=f"medians of {rounds} rounds, {os.cpu_count()} cores")
    for column in ("what", "unit", "median", "lowest to highest", "of the floor", "target", "reached"):
        table.add_column(column, justify="left" if column in ("what", "unit") else "right")
    for one in results:
        digits = 1 if one.median < 100 else 0
        table.add_row(
            one.name, one.unit, f"{one.median:,.{digits}f}",
            f"{one.lowest:,.{digits}f} - {one.highest:,.{digits}f}",
            f"{one.ratio:.2f} x" if one.ratio else "", one.target,
            ("yes" if one.reached else "no") if one.target else "",
        )  # fmt: skip
    console = Console()
    console.width = max(console.width, 110)  # figures are for reading: none is cut off
    console.print(table)


if __name__ == "__main__":
    app()
