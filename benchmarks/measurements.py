"""What `benchmarks.suite` measures: each measurement yields samples of lines, for this server and the floor.

Floor and server take turns, a round each, so that what else the machine does weighs on both alike. What the
measurements ask, and how, is what `make bench-requests`, `make bench-execution` and the others ask.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import NamedTuple

import aiohttp
import uvloop

from benchmarks import crowd, execution, feed, requests, scale
from benchmarks.figures import FLOOR, FRESH, SERVER, Goal, Line, Sample
from benchmarks.servers import MB, Client, Server, serving, uwsd
from benchmarks.tables import Figures

CLIENTS = 16
"""Of measurements whose goals say so, and of those that are held against a peer."""
SMALLEST = 1_000
"""Jobs of the smallest store."""
FLAT = 10
"""MB by which memory may grow while a file goes through that is many times as large."""
SETTLED = 2.0
"""Seconds after which a server that has answered has nothing more to do."""


class Sizes(NamedTuple):
    """How much is measured."""

    stores: Sequence[int]
    """Jobs."""
    clients: Sequence[int]
    rounds: int
    seconds: int
    """Of each round, for each kind of request to each server."""
    everywhere: bool
    """Whether what does not depend on the number of jobs is asked of all stores."""
    alone: int
    """Jobs of a round that run one at a time."""
    queued: int
    """Jobs of a round that run many at a time."""
    cold: int
    """Jobs of a round that each start an interpreter."""
    waiting: int
    wake_ups: int
    download: int
    """Bytes."""
    upload: int
    listeners: int
    events: int
    idle: float
    """Seconds."""
    age: int
    """Documents that a peer has served until it is called aged."""
    burst: int
    """Jobs that a peer is given at one time."""


@dataclass(frozen=True)
class Bench:
    """Where measurements work, and the stores that they find."""

    scratch: Path
    sizes: Sizes
    stores: Sequence[scale.Size]

    @contextmanager
    def working(self, declaration: str) -> Iterator[Server]:
        """Run a server of what is declared, which has no jobs yet."""
        with TemporaryDirectory(dir=self.scratch) as name:
            file = Path(name) / "uwsd.toml"
            file.write_text(declaration)
            with serving(uwsd(file, Path(name) / "data"), Path(name) / "log") as server:
                yield server

    @contextmanager
    def bare(self, saved: Path | None = None) -> Iterator[Server]:
        """Run the bare handlers, with the files of a directory."""
        with TemporaryDirectory(dir=self.scratch) as name:
            nothing = Path(name) / "saved"
            nothing.mkdir()
            command: list[str | Path] = [sys.executable, "-m", "benchmarks.bare", saved or nothing]
            with serving(command, Path(name) / "log") as server:
                yield server


# Requests


class Asked(NamedTuple):
    """A request that is made again and again; with a script of wrk's for one that is no GET."""

    path: str
    headers: dict[str, str]
    script: Path | None = None


DOCUMENT, PHASE, CREATE = requests.DOCUMENT, requests.PHASE, "create, durable"
RECENT, COMPLETED = "list, LAST=20", "list, PHASE=COMPLETED&LAST=20"
HISTORY, PAGE = "JSON history", "HTML page of a job"
LISTS = (RECENT, COMPLETED)
GOALS = {
    DOCUMENT: (Goal(0.8, FLOOR), Goal(20, FRESH)),
    PHASE: (Goal(0.8, FLOOR), Goal(20, FRESH)),
    CREATE: (Goal(0.4, FLOOR), Goal(30, FRESH)),
    RECENT: (Goal(0.5, FLOOR),),
}


def rate_line(kind: str, clients: int, jobs: int) -> Line:
    goals = GOALS.get(kind, ()) if clients == CLIENTS else ()
    what = f"{kind}: {clients} client{'s' * (clients > 1)}, {jobs:,} jobs"
    return Line(what, "1/s", goals, f"{kind}, {jobs:,} jobs", clients)


def cost_line(kind: str, jobs: int) -> Line:
    return Line(f"{kind}: processor time, {jobs:,} jobs", "µs")


def ask(server: Server, asked: Asked, clients: int, seconds: int) -> tuple[float, float]:
    """Ask for so long; return the answers a second, and the µs that one takes of the server's processor."""
    headers = [f"{name}: {value}" for name, value in asked.headers.items()]
    used = server.processor()
    done, took = requests.asked(server.url + asked.path, headers, clients, seconds, asked.script)
    return done / took, (server.processor() - used) / done * MB


def measure_requests(bench: Bench) -> Iterator[Sample]:
    """Requests a second, and what one costs, beside a handler that returns the same bytes."""
    sizes = bench.sizes
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(dir=bench.scratch)))
        saved = scratch / "saved"
        saved.mkdir()
        post = script(scratch)
        servers = [stack.enter_context(scale.served(store)) for store in bench.stores]
        kinds = [_kinds(store, server, post) for store, server in zip(bench.stores, servers, strict=True)]
        plain = [
            _saved(server, asked, saved / str(store.jobs))
            for store, server, asked in zip(bench.stores, servers, kinds, strict=True)
        ]
        bare = stack.enter_context(bench.bare(saved))
        for _ in range(sizes.rounds):
            recent: list[float] = []
            for number, (store, server) in enumerate(zip(bench.stores, servers, strict=True)):
                everything = number == 0 or sizes.everywhere
                asked_of = (FLOOR, bare, plain[number]), (SERVER, server, kinds[number])
                asked = [kind for kind in kinds[number] if everything or kind in LISTS]
                for kind, clients, (column, asks, paths) in product(asked, sizes.clients, asked_of):
                    rate, cost = ask(asks, paths[kind], clients, sizes.seconds)
                    yield Sample(rate_line(kind, clients, store.jobs), column, rate)
                    if clients == CLIENTS:
                        yield Sample(cost_line(kind, store.jobs), column, cost)
                    if (kind, column, clients) == (RECENT, SERVER, CLIENTS):
                        recent.append(cost)
            compared = f"{bench.stores[-1].title} jobs ÷ {bench.stores[0].title}"
            line = Line(f"{RECENT}: processor time, {compared}", "", (Goal(1.2, at_most=True),))
            yield Sample(line, SERVER, recent[-1] / recent[0])


def script(directory: Path) -> Path:
    """Write what makes wrk send a form."""
    post = directory / "post.lua"
    post.write_text(requests.POST)
    return post


def _kinds(store: scale.Size, server: Server, post: Path) -> dict[str, Asked]:
    """Make some jobs of a user's, and return what is asked for; lists are those of everybody's jobs."""
    somebody = {"Authorization": f"Bearer {requests.token(store)}"}
    job = server.post(scale.LIST, requests.FORM, **somebody)
    return {
        DOCUMENT: Asked(job, somebody),
        PHASE: Asked(f"{job}/phase", somebody),
        HISTORY: Asked(f"{job}/history", somebody),
        PAGE: Asked(job, {**somebody, "Accept": "text/html"}),
        RECENT: Asked(f"{scale.LIST}?LAST=20", {}),
        COMPLETED: Asked(f"{scale.LIST}?PHASE=COMPLETED&LAST=20", {}),
        CREATE: Asked(scale.LIST, somebody, post),
    }


def _saved(server: Server, kinds: dict[str, Asked], directory: Path) -> dict[str, Asked]:
    """Write what the server answers to files of the bare handler's, and return what is asked of that."""
    bare: dict[str, Asked] = {}
    for number, (kind, asked) in enumerate(kinds.items()):
        if asked.script:
            bare[kind] = asked._replace(path="/")
        else:
            name = f"{directory.name}-{number}"
            (directory.parent / name).write_bytes(server.read(asked.path, **asked.headers))
            bare[kind] = asked._replace(path=f"/{name}")
    return bare


# Jobs

NO_OP = f"""
[services.true]
title = "Nothing, with success"
command = ["true"]
max_running = {CLIENTS}
"""
LATENCY = Line(
    "no-op job alone, RUN → COMPLETED seen",
    "ms",
    (Goal(2, FLOOR, at_most=True), Goal(0.1, FRESH, at_most=True)),
)
THROUGHPUT = Line(f"no-op jobs: {CLIENTS} clients", "1/s", (Goal(0.6, FLOOR),))
CREATED_TOO = Line(f"no-op jobs, created with PHASE=RUN: {CLIENTS} clients", "1/s")


def measure_jobs(bench: Bench) -> Iterator[Sample]:
    """A job that does nothing, alone and among others, beside programs that are merely started."""
    sizes = bench.sizes
    with bench.working(NO_OP) as server:
        client = partial(Client, jobs="/true/async")
        uvloop.run(run_queued(server, client, 4 * CLIENTS))
        for _ in range(sizes.rounds):
            _, seconds = asyncio.run(execution.floor(sizes.alone, 1))
            yield Sample(LATENCY, FLOOR, 1000 * seconds)
            yield Sample(LATENCY, SERVER, 1000 * median(uvloop.run(run_alone(server, client, sizes.alone))))
            rate, _ = asyncio.run(execution.floor(sizes.queued, CLIENTS, bench.scratch / "floor.db"))
            yield Sample(THROUGHPUT, FLOOR, rate)
            yield Sample(THROUGHPUT, SERVER, uvloop.run(run_queued(server, client, sizes.queued)))
            yield Sample(CREATED_TOO, FLOOR, rate)  # what a program costs that nobody has to ask for
            yield Sample(CREATED_TOO, SERVER, uvloop.run(run_created(server, client, sizes.queued)))


async def run_alone(
    server: Server, new_client: Callable[[aiohttp.ClientSession], Client], jobs: int
) -> list[float]:
    """Run jobs one after the other; return the seconds of each until its client sees it COMPLETED."""
    async with aiohttp.ClientSession(server.url) as session:
        client = new_client(session)
        return [(await execution.alone(client, await client.create()))[0] for _ in range(jobs)]


async def run_queued(
    server: Server, new_client: Callable[[aiohttp.ClientSession], Client], jobs: int
) -> float:
    """Queue jobs that are there already; return how many ended in a second."""
    async with aiohttp.ClientSession(server.url) as session:
        client = new_client(session)
        made = await execution.create(client, jobs, CLIENTS)
        begin = perf_counter()
        await execution.through_queue(client, made, CLIENTS)
        took = perf_counter() - begin
        for job in made:
            await client.completed(job)
    return jobs / took


async def run_created(
    server: Server, new_client: Callable[[aiohttp.ClientSession], Client], jobs: int
) -> float:
    """Create jobs that are to run at once; return how many ended in a second."""
    async with aiohttp.ClientSession(server.url) as session:
        client = new_client(session)
        begin = perf_counter()
        for job in await execution.create(client, jobs, CLIENTS, PHASE="RUN"):
            await client.completed(job)
        return jobs / (perf_counter() - begin)


FUNCTIONS = {"warm function, imports nothing": "nothing:nothing",
             "warm function, imports astropy.coordinates": "sky:galactic"}  # fmt: skip


def measure_functions(bench: Bench) -> Iterator[Sample]:
    """Python functions that are kept warm; the floor is an interpreter for each job, of the same server."""
    declaration = "".join(
        f'[services.{module}-{state}]\nfunction = "benchmarks.{function}"\n'
        f"warm = {str(state == 'warm').lower()}\nmax_running = {CLIENTS}\n"
        for function in FUNCTIONS.values()
        for module in [function.partition(":")[0]]
        for state in ("warm", "cold")
    )
    with bench.working(declaration) as server:
        for name, function in FUNCTIONS.items():
            line = Line(f"{name}: {CLIENTS} clients", "jobs/s", (Goal(10, FLOOR),))
            module = function.partition(":")[0]
            warm = partial(Client, jobs=f"/{module}-warm/async")
            cold = partial(Client, jobs=f"/{module}-cold/async")
            uvloop.run(run_queued(server, warm, CLIENTS))
            for _ in range(bench.sizes.rounds):
                yield Sample(line, FLOOR, uvloop.run(run_queued(server, cold, bench.sizes.cold)))
                yield Sample(line, SERVER, uvloop.run(run_queued(server, warm, bench.sizes.queued)))


# Waiting and listening


def wake_up_line(waiting: int) -> Line:
    what = f"WAIT wake-up, p95, {waiting:,} waiting, beyond the loop's delay"
    return Line(what, "ms", (Goal(10, at_most=True),))


def measure_wake_ups(bench: Bench) -> Iterator[Sample]:
    """How long after a command those who wait are told, while many wait for other jobs."""
    with bench.working(NO_OP) as server:
        for _ in range(bench.sizes.rounds):
            client = partial(Client, jobs="/true/async")
            p95 = uvloop.run(wake_ups(server, client, bench.sizes))
            yield Sample(wake_up_line(bench.sizes.waiting), SERVER, p95)


async def wake_ups(
    server: Server, new_client: Callable[[aiohttp.ClientSession], Client], sizes: Sizes, header: str = ""
) -> float:
    """Return the p95 of the ms until who waits is told, less that of the delay of this loop."""
    async with aiohttp.ClientSession(server.url) as session:
        client = new_client(session)
        jobs = await execution.create(client, sizes.waiting, CLIENTS)
        taken, late = await crowd.wake_ups(server, jobs, header, client.abort, sizes.wake_ups)
    return 1000 * (_p95(taken) - _p95(late or [0]))


def _p95(seconds: Sequence[float]) -> float:
    return sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]


def measure_listeners(bench: Bench) -> Iterator[Sample]:
    """How long it takes until all who listen to a list have read of an event, beside writing it to all."""
    listeners, events = bench.sizes.listeners, bench.sizes.events
    told = Line(f"an event, until {listeners:,} have read it", "ms")
    cost = Line("an event: processor time for each listener", "µs")
    with bench.working(feed.DECLARATION) as server, bench.bare() as bare:
        job = server.post(feed.JOBS, "")
        for _ in range(bench.sizes.rounds):
            for column, asked, path, changed in (
                (FLOOR, bare, "/events", "/"),
                (SERVER, server, f"{feed.JOBS}/events", job),
            ):
                seconds, used = uvloop.run(_tell(asked, path, changed, listeners, events))
                yield Sample(told, column, 1000 * seconds)
                yield Sample(cost, column, used / listeners * MB)


async def _tell(server: Server, path: str, changed: str, listeners: int, events: int) -> tuple[float, float]:
    taken: list[float] = []
    async with (
        aiohttp.ClientSession(server.url) as session,
        feed.listening(server, [path] * listeners) as heard,
    ):
        used = server.processor()
        for number in range(events):
            heard.expect(listeners)
            begin = perf_counter()
            await feed.change(session, changed, number)
            taken.append(await heard.all() - begin)
        return median(taken), (server.processor() - used) / events


# Files

FILES = """
[services.make]
title = "A large file"
command = ["truncate", "--size={{size}}", "{{results}}/large"]
parameters = {{ size = {{ type = "int", required = true }} }}
results = [{{ id = "large", path = "large" }}]

[services.take]
title = "Takes a file"
command = ["true"]
parameters = {{ data = {{ type = "file", max_size = "{megabytes}MB" }} }}
"""


def measure_files(bench: Bench) -> Iterator[Sample]:
    """Files up and down, and their memory, beside aiohttp's own FileResponse and a form read to a file."""
    up, down = bench.sizes.upload, bench.sizes.download
    with bench.working(FILES.format(megabytes=up // MB + 1)) as server, bench.bare() as bare:
        job = server.post("/make/async", f"size={down}&PHASE=RUN")
        uvloop.run(_completed(server, job))
        _upload(bare, "/file", down)
        for _ in range(bench.sizes.rounds):
            for column, asked, path in ((FLOOR, bare, "/file"), (SERVER, server, f"{job}/results/large")):
                yield from _moved("download", down, column, asked, partial(_download, asked, path, down))
        for _ in range(bench.sizes.rounds):
            for column, asked, path in ((FLOOR, bare, "/file"), (SERVER, server, "/take/async")):
                yield from _moved("upload", up, column, asked, partial(_upload, asked, path, up))


def _moved(what: str, size: int, column: str, server: Server, move: Callable[[], None]) -> Iterator[Sample]:
    """Move a file, and yield how fast that was and by how much the server grew."""
    goals = (Goal(0.9, FLOOR),) if what == "download" else ()
    server.forget_peak()
    before, begin = server.memory("VmRSS"), perf_counter()
    move()
    rate = size / MB / (perf_counter() - begin)
    yield Sample(Line(f"{what} of {size // MB:,} MB", "MB/s", goals), column, rate)
    line = Line(f"{what} of {size // MB:,} MB: memory more than before", "MB", (Goal(FLAT, at_most=True),))
    yield Sample(line, column, server.memory("VmHWM") - before)


def _download(server: Server, path: str, size: int) -> None:
    if (length := server.drain(path)) != size:
        raise RuntimeError(f"{path} has {length:,} bytes")


def _upload(server: Server, path: str, size: int) -> None:
    head = b'--part\r\nContent-Disposition: form-data; name="data"; filename="data"\r\n\r\n'
    tail = b"\r\n--part--\r\n"
    piece = bytes(MB)

    def form() -> Iterator[bytes]:
        yield head
        for begin in range(0, size, MB):
            yield piece[: size - begin]
        yield tail

    headers = {
        "Content-Type": "multipart/form-data; boundary=part",
        "Content-Length": str(len(head) + size + len(tail)),
    }
    server.post(path, form(), **headers)


async def _completed(server: Server, job: str) -> None:
    async with aiohttp.ClientSession(server.url) as session:
        await Client(session, "").completed(job)


# At rest

START, MEMORY, PROCESSOR = "start, to the first answer", "memory, idle", "processor, idle"


def start_line(jobs: int) -> Line:
    return Line(f"{START}, {jobs:,} jobs", "s", (Goal(2, at_most=True),))


def memory_line(jobs: int) -> Line:
    return Line(f"{MEMORY}, {jobs:,} jobs", "MB", (Goal(120, at_most=True),))


def processor_line(jobs: int) -> Line:
    return Line(f"{PROCESSOR}, {jobs:,} jobs", "ms/s")


def measure_rest(bench: Bench) -> Iterator[Sample]:
    """What servers cost that nobody asks for anything, and how soon they answer."""
    scale.into_cache(bench.stores)
    for _ in range(bench.sizes.rounds):
        for store in bench.stores:
            begin = perf_counter()
            with bench.bare():
                yield Sample(start_line(store.jobs), FLOOR, perf_counter() - begin)
            yield Sample(start_line(store.jobs), SERVER, scale.start(store))
    with ExitStack() as stack:
        bare = stack.enter_context(bench.bare())
        servers = [(store, stack.enter_context(scale.served(store))) for store in bench.stores]
        for _, server in servers:
            server.get(f"{scale.LIST}?LAST=20")
        sleep(SETTLED)
        idle = at_rest([bare, *(server for _, server in servers)], bench.sizes.idle)
        for number, (store, _) in enumerate(servers, start=1):
            for column, (memory, used) in ((FLOOR, idle[0]), (SERVER, idle[number])):
                yield Sample(memory_line(store.jobs), column, memory)
                yield Sample(processor_line(store.jobs), column, used)
        compared = f"{bench.stores[-1].title} jobs ÷ {bench.stores[0].title}"
        line = Line(f"{MEMORY}, {compared}", "", (Goal(1.3, at_most=True),))
        yield Sample(line, SERVER, idle[-1][0] / idle[1][0])


def at_rest(servers: Sequence[Server], seconds: float) -> list[tuple[float, float]]:
    """Return the MB that each has, and the ms of processor that it takes in a second."""
    before = [server.processor() for server in servers]
    sleep(seconds)
    return [
        (server.memory("VmRSS"), 1000 * (server.processor() - used) / seconds)
        for server, used in zip(servers, before, strict=True)
    ]


def measure_whole_list(bench: Bench) -> Iterator[Sample]:
    """How fast a list is read that has all jobs."""
    for store in bench.stores:
        figures = Figures(dict)
        with scale.served(store) as server:
            scale.measure_list(store, server, figures)
        yield Sample(
            Line(f"{scale.WHOLE}, {store.title} jobs", "entries/s"), SERVER, figures[scale.WHOLE][store.title]
        )


Measurement = Callable[[Bench], Iterator[Sample]]
UNTOUCHED: Sequence[Measurement] = (measure_rest, measure_whole_list)
"""What needs stores that nobody has made jobs in."""
MEASUREMENTS: Sequence[Measurement] = (
    measure_requests,
    measure_jobs,
    measure_functions,
    measure_wake_ups,
    measure_files,
    *UNTOUCHED,
    measure_listeners,
)
"""In the order of the table."""
