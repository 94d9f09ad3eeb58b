"""The hot paths whose instructions `benchmarks.guard` counts: it runs this file under valgrind.

``python -P hot_paths.py DIRECTORY [NAME ...]`` goes through those named, or all, and works in DIRECTORY,
which is empty. It calls `mark` where a stretch that is counted begins, and where it ends; the file `TOLD`
then has, in order, of which path that was, and of how many operations.

What it imports of this project is whatever is first on the path, be it another revision: so it goes through
the doors that all of them have (HTTP, the contract of the log, the fold, the projector), and imports nothing
of the benchmarks.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec
import uvloop

from eventstore import EventStore, MemoryEventStore, NewEvent, SQLiteEventStore, new_id, read_log

TOLD = "told.json"
ROUNDS = 5
"""Of each path. The first fills caches and makes Python know its bytecode, and is not for comparing."""
DECLARATION = """
[auth]
users = "users.json"
tokens = true

[services.cutout]
title = "Cut-outs of an image"
command = ["true"]

[services.cutout.parameters]
ra   = { type = "float", unit = "deg", min = 0, max = 360, required = true }
dec  = { type = "float", unit = "deg", min = -90, max = 90, required = true }
size = { type = "float", unit = "arcmin", min = 0.1, max = 60, default = 6 }
band = { type = "str", values = ["J", "H", "K"] }
note = { type = "str" }
"""
JOBS = "/cutout/async"
FORM = {"ra": "266.41683", "dec": "-29.00781", "size": "6.5", "band": "K", "note": "the centre of the Galaxy"}
REFUSED_FORM = {**FORM, "ra": "366.41683"}
ENTRIES = 20
RECENT = f"{JOBS}?LAST={ENTRIES}"
SETTLED = 0.2
"""Seconds in which a server has done what follows an answer, such as a line of its log."""


Counted = AbstractContextManager[None]


def mark() -> None:
    """Call a function of the C library that nothing else here calls: callgrind is told to wait for it."""
    os.getpgid(0)


@contextmanager
def between_marks() -> Iterator[None]:
    mark()
    yield
    mark()


# The log, and what is made of its events


async def append(place: Path, times: int, counted: Counted) -> None:
    """One caller, who awaits each event of a job of its own."""
    events = [(f"job/{new_id()}", created()) for _ in range(times)]
    store = await SQLiteEventStore.open(place / "events.db")
    with counted:
        for stream, event in events:
            await store.append(stream, [event], expected=0)
    await store.close()


async def fold_jobs(place: Path, times: int, counted: Counted) -> None:
    """Five events of each, from the file."""
    from uws.model.job import fold

    store = await SQLiteEventStore.open(place / "events.db")
    streams = await filled(store, times)
    await store.close()
    log = await read_log(place / "events.db")
    with counted:
        for stream in streams:
            fold(await log.read_stream(stream))
    await log.close()


async def project(place: Path, times: int, counted: Counted) -> None:
    """A new job's, by all read models, of many that come at once."""
    from projections import Projector

    store = MemoryEventStore()
    projector = await Projector.open(place / "projections.db", store)
    events = [(f"job/{new_id()}", created()) for _ in range(times)]
    with counted:
        for stream, event in events:
            await store.append(stream, [event], expected=0)
        await projector.caught_up()
    await projector.close()
    await store.close()


async def verify(place: Path, times: int, counted: Counted) -> None:
    """As an auditor of the file does."""
    store = await SQLiteEventStore.open(place / "events.db")
    await filled(store, times // 5)
    with counted:
        await store.verify()
    await store.close()


async def know_token(place: Path, times: int, counted: Counted) -> None:
    """Whose it is, of a user who has it already."""
    from uws.access.tokens import Tokens
    from uws.clock import SystemClock
    from uws.commands import SERVER

    store = await SQLiteEventStore.open(place / "events.db")
    tokens = Tokens(store, SystemClock())
    _, token = await tokens.issue("ada", SERVER, lasts=timedelta(days=1))
    with counted:
        for _ in range(times):
            await tokens.verify(token)
    await store.close()


def created() -> NewEvent:
    from uws.commands import SERVER
    from uws.model import events as e

    event = e.JobCreated(
        service="cutout",
        declaration="0" * 64,
        execution_duration=3600,
        destruction=None,
        owner="ada",
        parameters={name: (value,) for name, value in FORM.items()},
    )
    return e.encode(event, SERVER.metadata)


async def filled(store: EventStore, jobs: int) -> Sequence[str]:
    """Append five events of each of so many jobs, and return their streams."""
    from uws.commands import SERVER
    from uws.model import events as e

    sizes = [e.ParametersSet(parameters={"size": (str(size),)}) for size in range(1, 5)]
    streams = [f"job/{new_id()}" for _ in range(jobs)]
    for stream in streams:
        changes = [e.encode(event, SERVER.metadata) for event in sizes]
        await store.append(stream, [created(), *changes], expected=0)
    return streams


# What a server answers


class Client:
    """A connection to the server, of somebody who has a token."""

    def __init__(self, url: str, token: str) -> None:
        where = urlsplit(url)
        self._head = f"HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {token}\r\n"
        self._socket = socket.create_connection((where.hostname, where.port))
        self.close = self._socket.close

    def get(self, path: str, accept: str = "*/*") -> bytes:
        """Return a request."""
        return f"GET {path} {self._head}Accept: {accept}\r\n\r\n".encode()

    def post(self, path: str, form: dict[str, str]) -> bytes:
        """Return a request."""
        body = urlencode(form)
        kind = f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}"
        return f"POST {path} {self._head}{kind}\r\n\r\n{body}".encode()

    def ask(self, requests: Sequence[bytes], status: int = 200) -> bytes:
        """Send one after the other, and return the last answer. Raises `RuntimeError` for another status."""
        for request in requests:
            self._socket.sendall(request)
            answer = self._socket.recv(1 << 16)
            while answer and not is_whole(answer):
                answer += self._socket.recv(1 << 16)
            if answer[9:12] != b"%d" % status:
                raise RuntimeError(f"{request.decode()}\n{answer.decode()}")
        return answer

    def create(self) -> str:
        """Create a job, and return its path."""
        answer = self.ask([self.post(JOBS, FORM)], 303)
        [location] = [line for line in answer.split(b"\r\n") if line.lower().startswith(b"location: ")]
        return urlsplit(location.split()[1].decode()).path

    def settle(self) -> None:
        """Return when the read models have all that there is, and the server has nothing to do."""
        self.ask([self.get(f"{JOBS}?LAST=1")])
        time.sleep(SETTLED)


def is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    _, _, length = head.lower().partition(b"content-length: ")
    return len(body) >= int(length.split()[0]) if length else body.endswith(b"0\r\n\r\n")


def create(client: Client, times: int, counted: Counted) -> None:
    """And see it in the list: so the read models take one at a time, and not as many as have come by then."""
    requests = [client.post(JOBS, FORM), client.get(f"{JOBS}?LAST=1")]
    client.settle()
    with counted:
        for _ in range(times):
            client.ask(requests[:1], 303)
            client.ask(requests[1:])
        time.sleep(SETTLED)


def refuse(client: Client, times: int, counted: Counted) -> None:
    """A form with a value that is out of its range."""
    requests = [client.post(JOBS, REFUSED_FORM)] * times
    with counted:
        client.ask(requests, 400)
        time.sleep(SETTLED)


def first_time(path: str, accept: str, client: Client, times: int, counted: Counted) -> None:
    """What nobody has asked for yet: of a new ``{job}`` each time, or with another ``{number}``."""
    requests = [client.get(path.format(job=client.create(), number=n), accept) for n in range(times)]
    client.settle()
    with counted:
        client.ask(requests)
        time.sleep(SETTLED)


def again(path: str, client: Client, times: int, counted: Counted) -> None:
    """The same, byte for byte, as who polls does."""
    for _ in range(ENTRIES):
        job = client.create()
    requests = [client.get(path.format(job=job))] * times
    client.settle()
    client.ask(requests[:1])
    time.sleep(SETTLED)
    with counted:
        client.ask(requests)
        time.sleep(SETTLED)


class Door(NamedTuple):
    """How often an operation is done in a round, and the function that does it."""

    times: int
    go: Callable[[Path, int, Counted], Awaitable[None]]


class Request(NamedTuple):
    """How often requests are made in a round, and the function that makes them."""

    times: int
    go: Callable[[Client, int, Counted], None]


WITHIN = {
    "append an event": Door(50, append),
    "read and fold a job": Door(50, fold_jobs),
    "project an event": Door(200, project),
    "verify an event": Door(500, verify),
    "know a bearer token": Door(200, know_token),
}
OVER_HTTP = {
    "create and list a job": Request(40, create),
    "refuse a form": Request(25, refuse),
    "job document": Request(25, partial(first_time, "{job}", "*/*")),
    "job document, JSON": Request(25, partial(first_time, "{job}", "application/json")),
    "phase": Request(50, partial(first_time, "{job}/phase", "*/*")),
    "phase, again": Request(400, partial(again, "{job}/phase")),
    "job list, LAST=20": Request(
        25, partial(first_time, f"{RECENT}&AFTER=2000-01-01T00:00:{{number:02}}", "*/*")
    ),
    "job list, LAST=20, again": Request(200, partial(again, RECENT)),
}
PATHS = (*WITHIN, *OVER_HTTP)


def main(directory: Path, names: Sequence[str]) -> None:
    """Go through the paths, with all turned off that comes when it likes."""
    gc.disable()
    sys.setswitchinterval(1000)  # seconds: a thread is not interrupted, as under valgrind all take long
    wanted = [name for name in PATHS if not names or name in names]
    counted: list[tuple[str, int]] = []
    uvloop.run(within([name for name in wanted if name in WITHIN], directory, counted))
    if requests := [name for name in wanted if name in OVER_HTTP]:
        serve(directory, lambda client: over_http(requests, client, counted))
    (directory / TOLD).write_bytes(msgspec.json.encode(counted))


async def within(names: Sequence[str], directory: Path, counted: list[tuple[str, int]]) -> None:
    for name in names:
        times, go = WITHIN[name]
        for _ in range(ROUNDS):
            with TemporaryDirectory(dir=directory) as place:
                await go(Path(place), times, between_marks())
            counted.append((name, times))


def over_http(names: Sequence[str], client: Client, counted: list[tuple[str, int]]) -> None:
    for name in names:
        times, go = OVER_HTTP[name]
        for _ in range(ROUNDS):
            go(client, times, between_marks())
            counted.append((name, times))


def serve(directory: Path, ask: Callable[[Client], None]) -> None:
    """Be `uwsd serve` until all is asked, which a thread does. Raises what ``ask`` does."""
    from uws.cli import main

    file, data = directory / "uwsd.toml", directory / "data"
    file.write_text(DECLARATION)
    options = ["--config", str(file), "--data", str(data)]

    def uwsd(*words: str, reads: str = "") -> str:
        command = [str(Path(sys.executable).with_name("uwsd")), *words, *options]
        return subprocess.run(command, input=reads, stdout=subprocess.PIPE, text=True, check=True).stdout

    uwsd("user", "add", "ada", reads="a password of ada's\n")
    token = uwsd("token", "create", "--user", "ada").split()[0]
    says, hears = os.pipe()[::-1]
    os.dup2(says, sys.stdout.fileno())
    os.close(says)

    def asking() -> None:
        with os.fdopen(hears) as said:
            url = said.readline().split()[-1]  # none when the server ends without a word
        try:
            with closing(Client(url, token)) as client:
                ask(client)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor(1) as executor:
        asked = executor.submit(asking)
        sys.argv = ["uwsd", "serve", str(file), "--data", str(data), "--port", "0"]
        try:
            with suppress(SystemExit):
                main()
        finally:
            os.close(sys.stdout.fileno())  # so that nobody waits for what it says
    asked.result()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
