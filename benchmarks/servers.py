"""Servers that benchmarks measure, as real processes, and a client of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

import aiohttp
import msgspec

MB = 1_000_000
UWSD = Path(sys.executable).with_name("uwsd")


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: servers are stopped, and nothing is left on the disk."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the end."""
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        raise KeyboardInterrupt


class Server:
    """A server that runs, and a connection to it that is kept."""

    def __init__(self, pid: int, url: str) -> None:
        self.pid, self.url = pid, url
        where = urlsplit(url)
        self.connection = HTTPConnection(where.hostname or "", where.port)

    def get(self, path: str, **headers: str) -> float:
        """Return the seconds until the last byte of an answer. Raises `RuntimeError` unless it is 200."""
        begin = perf_counter()
        self.read(path, **headers)
        return perf_counter() - begin

    def read(self, path: str, **headers: str) -> bytes:
        """Return what is answered. Raises `RuntimeError` unless it is with 200."""
        self.connection.request("GET", path, headers=headers)
        response = self.connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"GET {path}: {response.status} {body.decode()}")
        return body

    def post(self, path: str, form: str | Iterable[bytes], **headers: str) -> str:
        """Send a form and return the path that the answer leads to; `RuntimeError` when it leads nowhere.

        Of one that is given in pieces, the headers tell its type and its length.
        """
        self.connection.request(
            "POST", path, form, {"Content-Type": "application/x-www-form-urlencoded", **headers}
        )
        response = self.connection.getresponse()
        body = response.read()
        if response.status != 303:
            raise RuntimeError(f"POST {path}: {response.status} {body.decode()}")
        return urlsplit(response.headers["Location"]).path

    def count(self, path: str, tag: bytes) -> int:
        """Return how often ``tag`` is in an answer of any length, of which little is held."""
        self.connection.request("GET", path)
        response = self.connection.getresponse()
        found, kept = 0, b""
        while chunk := response.read1(1 << 18):
            part = kept + chunk
            found += part.count(tag)
            kept = part[-len(tag) + 1 :]
        response.read()  # of nothing: so is it known to have been read
        return found

    def drain(self, path: str, **headers: str) -> int:
        """Read an answer to its end, of which nothing is held, and return its length in bytes."""
        self.connection.request("GET", path, headers=headers)
        response, piece, length = self.connection.getresponse(), bytearray(MB), 0
        while count := response.readinto(piece):
            length += count
        if response.status != 200:
            raise RuntimeError(f"GET {path}: {response.status}")
        return length

    def memory(self, which: str) -> float:
        """Return the MB that the process holds in memory (``VmRSS``), or held at most (``VmHWM``)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(which):
                return int(line.split()[1]) * 1024 / MB
        raise AssertionError(f"no {which}")

    def processor(self) -> float:
        """Return the seconds of processor time that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def forget_peak(self) -> None:
        """Let the most that the process held be what it holds now (proc(5))."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@contextmanager
def serving(command: Sequence[str | Path], said: Path) -> Iterator[Server]:
    """Run a server that says where it serves, as ``uwsd serve`` does; ``said`` gets its standard error.

    Raises `RuntimeError`, with what stands there, when it does not serve.
    """
    with ExitStack() as stack:
        err = stack.enter_context(said.open("w"))
        with uninterrupted():
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err))
            # Left by Ctrl-C, the context of the process would not wait for it.
            stack.callback(process.wait)
            stack.callback(process.terminate)
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if not line.startswith("serving on "):
            raise RuntimeError(said.read_text())
        server = Server(process.pid, line.removeprefix("serving on ").strip())
        stack.callback(server.connection.close)
        yield server


def uwsd(file: Path, data: Path) -> list[str | Path]:
    """Return the command of a server on a free port."""
    return [UWSD, "serve", file, "--data", data, "--port", "0"]


class Document(msgspec.Struct, frozen=True, rename="camel"):
    """Of a job's document, what benchmarks look at."""

    phase: str
    creation_time: datetime
    quote: datetime | None
    start_time: datetime | None
    end_time: datetime | None

    @property
    def is_over(self) -> bool:
        return self.phase not in ("PENDING", "QUEUED", "EXECUTING")


class Client:
    """A client of a server that makes jobs and waits for them, as ``user`` where one is given.

    Its methods raise `aiohttp.ClientError` when an answer tells of a failure.
    """

    def __init__(self, session: aiohttp.ClientSession, jobs: str, user: str | None = None) -> None:
        self._session, self._jobs = session, jobs
        self._headers = {"Accept": "application/json"}
        if user:
            credentials = b64encode(f"{user}:-".encode()).decode()
            self._headers["Authorization"] = f"Basic {credentials}"

    async def create(self, **form: str) -> str:
        """Create a job and return its path."""
        return await self._send("POST", self._jobs, form)

    async def run(self, job: str) -> None:
        """Put a job into the queue."""
        await self._send("POST", f"{job}/phase", {"PHASE": "RUN"})

    async def abort(self, job: str) -> None:
        """End a job."""
        await self._send("POST", f"{job}/phase", {"PHASE": "ABORT"})

    async def delete(self, job: str) -> None:
        await self._send("DELETE", job)

    async def document(self, job: str, **query: str) -> Document:
        async with self._session.get(job, params=query, headers=self._headers) as response:
            response.raise_for_status()
            return msgspec.json.decode(await response.read(), type=Document)

    async def completed(self, job: str) -> Document:
        """Wait until a job has ended. Raises `RuntimeError` unless it is COMPLETED."""
        document = await self.document(job, WAIT="30")
        while not document.is_over:
            document = await self.document(job, WAIT="30")
        if document.phase != "COMPLETED":
            raise RuntimeError(f"{job} is {document.phase}")
        return document

    async def _send(self, method: str, path: str, form: dict[str, str] | None = None) -> str:
        request = self._session.request(method, path, data=form, headers=self._headers, allow_redirects=False)
        async with request as response:
            await response.read()
            response.raise_for_status()
            return urlsplit(response.headers["Location"]).path
