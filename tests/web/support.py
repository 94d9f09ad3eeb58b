"""What the tests of the HTTP side share: services, raw requests, and jobs put into any phase."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from lxml import etree

from eventstore import Metadata
from tests.harness import NAMESPACES, Answer, Site, job_id
from uws import (
    BoolParameter,
    CircleParameter,
    Failure,
    FileParameter,
    FloatParameter,
    IntervalParameter,
    IntParameter,
    PointParameter,
    PolygonParameter,
    ResultDeclaration,
    Service,
    StrParameter,
    TimestampParameter,
)
from uws.model import events as e

GRAPHVIZ = pytest.mark.skipif(shutil.which("dot") is None, reason="there is no dot to draw with")
"""Marks what needs a drawing."""
PATIENCE = 20.0
"""Seconds after which something is taken not to happen."""

ECHO = Service(
    name="echo",
    title="Echo",
    command=["sh", "-c", 'printf %s "$1"', "echo", "{x}"],
    parameters={"x": StrParameter(default="hello")},
    results=[ResultDeclaration(id="out", path="-")],
)
FAIL = Service(
    name="fail",
    title="Fail",
    command=["sh", "-c", "echo first >&2; echo last words >&2; exit 3"],
)
SLEEP = Service(name="sleep", title="Sleep", command=["sleep", "1000"], max_running=2)
TYPES = Service(
    name="types",
    title="Every type",
    command=["true"],
    parameters={
        "whole": IntParameter(min=-5, max=10),
        "ra": FloatParameter(min=0, max=360),
        "flag": BoolParameter(),
        "word": StrParameter(pattern="[a-z]+", max_length=5),
        "text": StrParameter(),
        "band": StrParameter(values=["J", "H", "K"], multiple=True),
        "time": TimestampParameter(min="2000-01-01"),
        "range": IntervalParameter(),
        "pos": PointParameter(),
        "circle": CircleParameter(),
        "polygon": PolygonParameter(),
    },
)
NEEDY = Service(
    name="needy",
    title="Needy",
    command=["true"],
    parameters={
        "a": IntParameter(required=True),
        "b": StrParameter(required=True),
        "c": IntParameter(default=7),
    },
)
FILES = Service(
    name="files",
    title="Files",
    command=["sh", "-c", 'cat "$1"', "files", "{image}"],
    parameters={
        "image": FileParameter(required=True, max_size=1_000_000),
        "small": FileParameter(max_size=100),
        "more": FileParameter(multiple=True),
        "n": IntParameter(),
    },
    results=[ResultDeclaration(id="out", path="-")],
)
GATE = Service(
    name="gate",
    title="Ends when it is let through",
    command=["sh", "-c", 'read line < "$1"; exit "$line"', "gate", "{gate}"],
    parameters={"gate": StrParameter(required=True)},
)


def keeping(media_type: str, name: str = "keep") -> Service:
    """Return a service whose result is the file that it was given."""
    return Service(
        name=name,
        title="Keep",
        command=["cp", "{file}", "kept"],
        parameters={"file": FileParameter(required=True)},
        results=[ResultDeclaration(id="kept", path="kept", mime=media_type)],
    )


FORM = "application/x-www-form-urlencoded"

BELOW = (
    "", "/phase", "/executionduration", "/destruction", "/quote", "/error", "/owner", "/parameters",
    "/parameters/x", "/results", "/results/out", "/events",
)  # fmt: skip
"""All resources of a job that has a parameter x and a result out, below its URL."""
ACTIONS = [
    ("POST", "", {"x": "1"}),
    ("POST", "", {"ACTION": "DELETE"}),
    ("POST", "/phase", {"PHASE": "RUN"}),
    ("POST", "/phase", {"PHASE": "ABORT"}),
    ("POST", "/executionduration", {"EXECUTIONDURATION": "1"}),
    ("POST", "/destruction", {"DESTRUCTION": "2030"}),
    ("POST", "/parameters", {"x": "1"}),
    ("PUT", "/parameters/x", "1"),
    ("DELETE", "", None),
]
"""All that can be asked of a job, as method, path and body."""


@contextmanager
def no_room(site: Site) -> Iterator[None]:
    """Let the disk be nearly full, as far as the server can tell."""
    files = site.node.backend.files
    reserve, files._reserve = files._reserve, 1 << 62
    try:
        yield
    finally:
        files._reserve = reserve


@contextmanager
def no_directory(site: Site) -> Iterator[None]:
    """Let the directory of all jobs be gone, as when its disk is not mounted."""
    away = site.data.with_name("away")
    site.data.rename(away)
    try:
        yield
    finally:
        away.rename(site.data)


@contextmanager
def gate(path: Path) -> Iterator[Gate]:
    """Make a FIFO that programs of the service `GATE` read their exit status from."""
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR)  # so that nobody's `open` ever blocks, and what is written waits
    try:
        yield Gate(path, fd)
    finally:
        os.close(fd)


class Gate:
    """What `gate` gives: the FIFO's path, and its other end."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd = path, fd

    async def heard(self) -> bytes:
        """Return what a program has written, once it has."""
        loop, there = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._fd, there.set)
        try:
            async with asyncio.timeout(PATIENCE):
                await there.wait()
        finally:
            loop.remove_reader(self._fd)
        return os.read(self._fd, 1 << 16)

    def let_through(self, status: int = 0) -> None:
        """End one program."""
        os.write(self._fd, b"%d\n" % status)


PHASES: dict[str, tuple[e.JobEvent, ...]] = {
    "PENDING": (),
    "HELD": (e.JobHeld(reason="later"),),
    "ABORTED": (e.JobAborted(reason="no more"),),
    "EXECUTING": (e.JobQueued(), e.JobStarted(declaration="")),
    "SUSPENDED": (e.JobQueued(), e.JobStarted(declaration=""), e.JobSuspended(reason="a break")),
    "UNKNOWN": (e.JobQueued(), e.JobStarted(declaration=""), e.JobLost(reason="out of sight")),
    "COMPLETED": (e.JobQueued(), e.JobStarted(declaration=""), e.JobCompleted()),
    "ERROR": (e.JobQueued(), e.JobStarted(declaration=""), e.JobFailed(failure=Failure(message="wrong"))),
    "ARCHIVED": (e.JobAborted(reason="no more"), e.JobArchived(reason="old")),
}
"""What brings a new job into each phase but QUEUED, which the scheduler would end at once."""


def child(element: etree._Element, path: str) -> etree._Element:
    """Return the one element at ``path``."""
    (found,) = element.findall(path, NAMESPACES)
    return found


async def record(site: Site, job: str, *events: e.JobEvent) -> None:
    """Put events into a job's stream, all at once, as if somebody had caused them."""
    encoded = [e.encode(event, Metadata(actor="test")) for event in events]
    if encoded:
        await site.node.backend.store.append(e.job_stream(job_id(job)), encoded)


async def events_of(site: Site, job: str) -> list[e.JobEvent]:
    stream = await site.node.backend.store.read_stream(e.job_stream(job_id(job)))
    return [e.decode(recorded) for recorded in stream]


async def until_started(site: Site, job: str) -> None:
    """Return when a job's program runs, and the server, which is this process, watches its record."""
    starts = str(site.data / job_id(job) / "starts")
    async with asyncio.timeout(PATIENCE):
        while not any(target.startswith(starts) for target in open_files()):
            await asyncio.sleep(0)


def open_files() -> Iterator[str]:
    """Give the paths of all that this process has open."""
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # it has just been closed
            yield str(Path(f"/proc/self/fd/{descriptor}").readlink())


async def until_waiting(site: Site, count: int = 1) -> None:
    """Return when so many requests are blocked by WAIT."""
    async with asyncio.timeout(PATIENCE):
        while sum(map(len, site.node.backend.projector._watchers.values())) < count:
            await asyncio.sleep(0)
        # Questions are answered in their order: after this one they have had their first look at the job.
        await site.node.backend.jobs.get("")


async def raw(
    site: Site, method: str, target: str, body: bytes = b"", rest: bytes = b"", **headers: Any
) -> Answer:
    """Send a request byte for byte, which a client library would mend. ``_`` in a header's name is ``-``.

    Headers are text or bytes. The ``rest`` of the body is sent only after the answer has come.
    """
    fields = {
        "Host": urlsplit(site.url).netloc,
        "Connection": "close",
        "Content_Length": str(len(body + rest)),
    }
    lines = [f"{method} {target} HTTP/1.1".encode()]
    for name, value in (fields | headers).items():
        encoded = value.encode() if isinstance(value, str) else value
        lines.append(name.replace("_", "-").encode() + b": " + encoded)
    return await exchange(site, b"\r\n".join(lines) + b"\r\n\r\n" + body, rest)


async def exchange(site: Site, sent: bytes, rest: bytes = b"") -> Answer:
    """Send bytes on a connection of their own and read the answer; then send the ``rest``, too late."""
    parts = urlsplit(site.url)
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(sent)
            await writer.drain()
            head, _, fields = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
            headers = BytesHeaderParser().parsebytes(fields)
            body = await reader.readexactly(int(headers["Content-Length"])) if rest else b""
            writer.write(rest)
            body += await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
    return Answer(int(head.split()[1]), headers, body)


def multipart(*parts: bytes, end: bytes = b"--BOUND--\r\n") -> bytes:
    """Return a multipart body of parts that are headers, an empty line, and content."""
    return b"".join(b"--BOUND\r\n" + part + b"\r\n" for part in parts) + end


MULTIPART = "multipart/form-data; boundary=BOUND"
FIELD = b"Content-Disposition: form-data; name="
