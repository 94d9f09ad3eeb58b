"""`make bench-execution`: what it costs to run a program as a job, beside what it costs to run it.

The floor is a bare asyncio loop that starts `true`, waits for it and commits one row, with as many programs
at one time as the server has slots. Between them stands the least that a server can do (`benchmarks.least`).
They take turns in several rounds, so that what else the machine does weighs on all alike; each figure is the
median of the rounds.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, NamedTuple, TypeVar

import aiohttp
import msgspec
import typer
import uvloop

from benchmarks.options import DIRECTORY, Directory, new_app
from benchmarks.servers import Client, Document, Server, ended_in_order, serving, uwsd
from benchmarks.tables import Figures, Line, new_console, show

ROUNDS = 4
ALONE = 50
"""Jobs of a round that are run one at a time, beside those that go through the queue."""
SLEEPERS = 20
"""Jobs that run at one time while the memory of their supervisors is looked at."""
PATIENCE = 10.0
"""Seconds in which what belongs to no job any more has to go."""
REST = 0.3
"""Seconds in which nothing changes when everything has come to rest."""
_PR_SET_CHILD_SUBREAPER = 36

DECLARATION = """
[server]
jobs_end_with_server = true

[services.true]
title = "Nothing, with success"
command = ["true"]
max_running = {slots}

[services.sleep]
title = "Nothing, for a minute"
command = ["sleep", "60"]
max_running = {sleepers}
"""

T = TypeVar("T")
app = new_app()

FLOOR, LEAST, SERVER = "floor", "least", "server"
RATE, LATENCY, RECORDED = (
    "jobs, many at once",
    "a job alone, until it is COMPLETED",
    "until that is on record",
)
PROCESSOR, OWN = "processor time of a job", "of it the server's own process"
BEYOND = "beyond `true` itself"
COSTS = (
    Line(RATE, "1/s", share=0.5),
    Line(LATENCY, "ms", ratio=3),
    Line(RECORDED, "ms"),
    Line(PROCESSOR, "ms"),
    Line(OWN, "ms"),
    Line(BEYOND, "ms"),
)
BEFORE, AFTER = "before", "after"
PROCESSES, DESCRIPTORS, DIRECTORIES = "processes", "their descriptors", "directories of data"
LEFT = (Line(PROCESSES, "", ratio=1), Line(DESCRIPTORS, "", ratio=1), Line(DIRECTORIES, "", ratio=1))
EACH = "each"
SHARED, DIRTY = "memory, its share of what is shared (Pss)", "memory that it alone has written"
SUPERVISOR = (Line(SHARED, "kB"), Line(DIRTY, "kB"))


@app.command()
def main(
    jobs: Annotated[int, typer.Option(min=1, help="How many go through the queue, in all.")] = 2_000,
    slots: Annotated[int, typer.Option(min=1, help="How many programs run at one time.")] = 8,
    directory: Directory = DIRECTORY,
    output: Annotated[
        Path | None, typer.Option(help="Write execution.txt and execution.json to this directory, too.")
    ] = None,
) -> None:
    """Measure what a job costs; the exit status is 1 when a target is missed."""
    console = new_console()
    costs, left, supervisor = Figures(dict), Figures(dict), Figures(dict)
    _adopt_orphans()
    with ended_in_order(), TemporaryDirectory(dir=directory) as name, Accounting.opened() as accounting:
        scratch = Path(name)
        file, data = scratch / "uwsd.toml", scratch / "data"
        file.write_text(DECLARATION.format(slots=slots, sleepers=SLEEPERS))
        (scratch / "least").mkdir()
        least: list[str | Path] = [sys.executable, "-m", "benchmarks.least", scratch / "least"]
        with serving(uwsd(file, data), scratch / "log") as server, serving(least, scratch / "log2") as other:
            accounting.take(server.pid)
            bench = Bench(server, other.url, data, scratch, slots, accounting)
            bench.measure(max(1, jobs // ROUNDS), costs, left)
            bench.measure_supervisors(supervisor)
    heads = f"{os.cpu_count()} cores, {jobs:,} jobs, {slots} at one time"
    reached = [
        show(console, heads, "median of the rounds", COSTS, [FLOOR, LEAST, SERVER], costs),
        show(console, f"{jobs:,} jobs, all deleted", "what is there", LEFT, [BEFORE, AFTER], left),
        show(
            console,
            f"{SLEEPERS} programs that sleep",
            "a supervisor",
            SUPERVISOR,
            [EACH],
            supervisor,
            compared=False,
        ),
    ]
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "execution.txt").write_text(console.export_text())
        (output / "execution.json").write_bytes(msgspec.json.encode({**costs, **left, **supervisor}))
    if not all(reached):
        raise typer.Exit(1)


# Looking at processes


def _adopt_orphans() -> None:
    """Have whatever outlives its parents become a child of this process, so that it is counted (prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> dict[int, str]:
    """Return the processes below this one, also those that have ended and wait to be noticed, by name."""
    children = defaultdict[int, list[tuple[int, str]]](list)
    for name in os.listdir("/proc"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if name.isdigit():
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
                title, _, rest = text.partition("(")[2].rpartition(")")
                children[int(rest.split()[1])].append((int(name), title))
    found: dict[int, str] = {}
    ahead = [os.getpid()]
    while ahead:
        below = children[ahead.pop()]
        found |= below
        ahead += [pid for pid, _ in below]
    return found


def descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return 0


def memory(pid: int, which: str) -> int:
    """Return the kB of one kind of a process's memory (proc(5), ``smaps_rollup``)."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{which}:"):
                return int(line.split()[1])
    return 0


def own_seconds(pid: int) -> float:
    """Return the processor time of one process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


class Accounting:
    """The processor time of a process and all that descend from it, also of those that nobody waits for.

    A control group (cgroups(7), version 2) counts it, where one may be made.
    """

    def __init__(self, group: Path | None) -> None:
        self._group = group

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[Accounting]:
        group = None
        with suppress(OSError, StopIteration):
            mounts = map(str.split, Path("/proc/self/mounts").read_text().splitlines())
            mount = next(fields[1] for fields in mounts if fields[2] == "cgroup2")
            lines = Path("/proc/self/cgroup").read_text().splitlines()
            own = next(line for line in lines if line.startswith("0::"))[3:]
            new = Path(mount) / own.lstrip("/") / f"bench-execution-{os.getpid()}"
            new.mkdir()
            group = new
        accounting = cls(group)
        try:
            yield accounting
        finally:
            accounting.close()

    def take(self, pid: int) -> None:
        """Count what the process does from now on."""
        if self._group:
            try:
                (self._group / "cgroup.procs").write_text(str(pid))
            except OSError:
                self.close()

    def seconds(self) -> float | None:
        """Return what was counted, None where nothing is."""
        if self._group is None:
            return None
        words = (self._group / "cpu.stat").read_text().split()
        return int(words[words.index("usage_usec") + 1]) / 1e6

    def close(self) -> None:
        if self._group:
            with suppress(OSError):  # something is left in it, as the table tells
                self._group.rmdir()
            self._group = None


# Running


class Ran(NamedTuple):
    """What running so many programs took: jobs a second, and processor time in ms a job."""

    rate: float
    processor: float | None
    own: float | None = None


class Bench:
    """A server that runs, and the floor beside it."""

    def __init__(
        self, server: Server, least: str, data: Path, scratch: Path, slots: int, accounting: Accounting
    ) -> None:
        self._server, self._least_url, self._data, self._scratch = server, least, data, scratch
        self._slots, self._accounting = slots, accounting
        self._made: list[str] = []

    def measure(self, jobs: int, costs: Figures, left: Figures) -> None:
        """Let floor and servers take turns, then delete all jobs and look at what is left of them."""
        # What a server has for good, it has when it has run some jobs.
        uvloop.run(self._through_queue(4 * self._slots))
        uvloop.run(self._least(self._slots, self._slots))
        uvloop.run(self._delete())
        before = self._census()
        floors: list[Ran] = []
        servers: list[Ran] = []
        leasts: list[Ran] = []
        latencies: dict[str, list[float]] = defaultdict(list)
        for number in range(1, ROUNDS + 1):
            print(f"round {number} of {ROUNDS}", flush=True)
            floors.append(self._floor(jobs, self._slots)[0])
            leasts.append(uvloop.run(self._least(jobs, self._slots))[0])
            servers.append(uvloop.run(self._through_queue(jobs)))
            latencies[FLOOR].append(self._floor(ALONE, 1)[1])
            latencies[LEAST].append(uvloop.run(self._least(ALONE, 1))[1])
            completed, recorded = uvloop.run(self._alone())
            latencies[SERVER].append(completed)
            latencies[RECORDED].append(recorded)
        print("deleting", flush=True)
        uvloop.run(self._delete())
        after = self._census(before)
        for name in before:
            left[name] |= {BEFORE: before[name], AFTER: after[name]}
        for column, ran in ((FLOOR, floors), (LEAST, leasts), (SERVER, servers)):
            costs[RATE][column] = median(each.rate for each in ran)
            costs[LATENCY][column] = median(latencies[column]) * 1000
            _put(costs[PROCESSOR], column, [each.processor for each in ran])
            _put(costs[OWN], column, [each.own for each in ran])
        costs[RECORDED][SERVER] = median(latencies[RECORDED]) * 1000
        if SERVER in costs[PROCESSOR]:
            costs[BEYOND][SERVER] = costs[PROCESSOR][SERVER] - costs[PROCESSOR][FLOOR]

    def _floor(self, programs: int, at_once: int) -> tuple[Ran, float]:
        """Run programs and record a row for each; returns also the median seconds that one took."""
        used = _children_seconds()
        rate, seconds = asyncio.run(floor(programs, at_once, self._scratch / "floor.db"))
        used = _children_seconds() - used
        return Ran(rate, used / programs * 1000), seconds

    async def _least(self, jobs: int, at_once: int) -> tuple[Ran, float]:
        """Have as little done for jobs as can be; returns also the median seconds that one took."""
        async with aiohttp.ClientSession(self._least_url) as session:

            async def run(_: int) -> None:
                async with session.post("/", data={"PHASE": "RUN"}) as response:
                    await response.read()
                    response.raise_for_status()

            rate, seconds = await timed(jobs, run, at_once)
        return Ran(rate, None), seconds

    async def _through_queue(self, jobs: int) -> Ran:
        """Queue jobs that are there already, and wait until all have ended."""
        async with self._client("true") as client:
            made = await self._create(client, jobs)
            used, own = self._accounting.seconds(), own_seconds(self._server.pid)
            begin = datetime.now(UTC)
            await through_queue(client, made, self._slots)
            own = own_seconds(self._server.pid) - own
            after = self._accounting.seconds()
            documents = [await client.completed(job) for job in made]
        end = max(document.end_time for document in documents if document.end_time)
        processor = None if used is None or after is None else (after - used) / jobs * 1000
        return Ran(jobs / (end - begin).total_seconds(), processor, own / jobs * 1000)

    async def _alone(self) -> tuple[float, float]:
        """Run jobs one after the other; returns median seconds until the client, and until the log knows."""
        recorded: list[float] = []
        known: list[float] = []
        async with self._client("true") as client:
            for job in await self._create(client, ALONE):
                begin = datetime.now(UTC)
                seconds, document = await alone(client, job)
                assert document.end_time
                known.append(seconds)
                recorded.append((document.end_time - begin).total_seconds())
        return median(known), median(recorded)

    async def _create(self, client: Client, jobs: int) -> list[str]:
        made = await create(client, jobs, self._slots)
        self._made += made
        return made

    async def _delete(self) -> None:
        async with self._client("true") as client:
            await each(self._made, client.delete, self._slots)
        self._made.clear()

    @asynccontextmanager
    async def _client(self, service: str) -> AsyncIterator[Client]:
        async with aiohttp.ClientSession(self._server.url) as session:
            yield Client(session, f"/{service}/async")

    def _census(self, before: dict[str, int] | None = None) -> dict[str, int]:
        """Count what is there when it has come to rest; what is more than ``before`` has longer to go."""
        deadline = perf_counter() + PATIENCE
        now = self._count()
        while perf_counter() < deadline:
            last = now
            time.sleep(REST)
            now = self._count()
            if now == last and (before is None or all(now[name] <= before[name] for name in now)):
                break
        return now

    def _count(self) -> dict[str, int]:
        found = descendants()
        return {
            PROCESSES: len(found),
            DESCRIPTORS: sum(map(descriptors, found)),
            DIRECTORIES: sum(len(names) for _, names, _ in os.walk(self._data)),
        }

    def measure_supervisors(self, figures: Figures) -> None:
        """Look at what all processes but server and programs have, with programs and without."""
        print("supervisors", flush=True)
        before = self._others()
        shared = sum(memory(pid, "Pss") for pid in before)
        uvloop.run(self._run_sleepers())
        deadline = perf_counter() + PATIENCE
        while [*descendants().values()].count("sleep") < SLEEPERS:
            if perf_counter() > deadline:
                raise RuntimeError(f"the {SLEEPERS} programs that sleep are not all there")
            time.sleep(0.05)
        now = self._others()
        shared = sum(memory(pid, "Pss") for pid in now) - shared
        written = sum(memory(pid, "Private_Dirty") for pid in now - before)
        uvloop.run(self._delete())
        figures[SHARED][EACH], figures[DIRTY][EACH] = shared / SLEEPERS, written / SLEEPERS

    async def _run_sleepers(self) -> None:
        async with self._client("sleep") as client:
            for _ in range(SLEEPERS):
                self._made.append(await client.create(PHASE="RUN"))

    def _others(self) -> set[int]:
        return {pid for pid, name in descendants().items() if pid != self._server.pid and name != "sleep"}


async def floor(programs: int, at_once: int, database: Path | None = None) -> tuple[float, float]:
    """Run programs, and commit a row for each where there is a ``database``; returns what `timed` does."""
    with closing(sqlite3.connect(database or ":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS ended (number INTEGER, status INTEGER, time REAL)")

        async def run(number: int) -> None:
            process = await asyncio.create_subprocess_exec(
                "true", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
            )
            row = (number, await process.wait(), time.time())
            if database:
                connection.execute("INSERT INTO ended VALUES (?, ?, ?)", row)

        return await timed(programs, run, at_once)


async def create(client: Client, jobs: int, at_once: int, **form: str) -> list[str]:
    """Create jobs, and return their paths."""
    made: list[str] = []

    async def one(_: int) -> None:
        made.append(await client.create(**form))

    await each(range(jobs), one, at_once)
    return made


async def through_queue(client: Client, made: Sequence[str], at_once: int) -> None:
    """Queue jobs, and wait until the last of them have ended, before which those ahead of them have."""
    await each(made, client.run, at_once)
    for job in made[-2 * at_once :]:
        await client.completed(job)


async def alone(client: Client, job: str) -> tuple[float, Document]:
    """Run a job, and return the seconds until its client knows that it is COMPLETED."""
    begin = perf_counter()
    await client.run(job)
    document = await client.completed(job)
    return perf_counter() - begin, document


async def timed(times: int, doing: Callable[[int], Awaitable[None]], at_once: int) -> tuple[float, float]:
    """Do something so many times; return how often a second that was, and the median seconds of one."""
    seconds: list[float] = []

    async def one(number: int) -> None:
        begin = perf_counter()
        await doing(number)
        seconds.append(perf_counter() - begin)

    begin = perf_counter()
    await each(range(times), one, at_once)
    return times / (perf_counter() - begin), median(seconds)


async def each(items: Iterable[T], doing: Callable[[T], Awaitable[None]], at_once: int) -> None:
    """Do something for all of ``items``, so many at one time."""
    left = iter(items)

    async def work() -> None:
        for item in left:
            await doing(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _put(figures: dict[str, float], column: str, samples: Sequence[float | None]) -> None:
    """Put down a median, where something was measured."""
    known = [sample for sample in samples if sample is not None]
    if known:
        figures[column] = median(known)


if __name__ == "__main__":
    app()
