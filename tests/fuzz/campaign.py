"""Requests of all kinds against a real server, and what must be true of it meanwhile and afterwards."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Set
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from tests.access.support import PASSWORDS, bearer
from tests.harness import Site, job_id, running
from tests.processes import children
from tests.web.support import ECHO, FAIL, FILES, NEEDY, PATIENCE, SLEEP, TYPES, open_files
from uws.access.tokens import Tokens
from uws.access.users import Users
from uws.commands import SERVER
from uws.config import AuthSettings, load
from uws.model import QuotaSettings, QuotaTable
from uws.web import Authentication

SERVICES = (ECHO, FAIL, FILES, NEEDY, SLEEP, TYPES)
EXAMPLES = Path(__file__).parents[2] / "examples" / "uwsd.toml"
_KEPT = 40
"""Jobs that are there at one time: of more, the oldest are destroyed."""
_AT_ONCE = 500
"""Requests after which chance begins anew, so that what is remembered of them stays little."""
_JOB = re.compile(r"/(\w+)/(?:async|sync)/([0-9a-f]{32})")
_NOT_NOW = (503, 507)
"""What the server is excused with when it says when to come back."""


USER = "ann"
_AUTH = AuthSettings(users="users.json", tokens=True)
_QUOTAS = QuotaSettings(
    QuotaTable(queued=10, stored="20MB", uploads="3MB", lifetime="30d", jobs_per_day=100_000)
)


@dataclass
class Campaign:
    """How many requests are made in all tests, and what chance begins with."""

    requests: int
    seed: int
    note: Callable[[str], None]

    async def run(
        self, target: Target, share: float, strategy: SearchStrategy[Any], send: Callable[[Any], None]
    ) -> None:
        """Send a share of all requests, drawn from ``strategy``."""
        try:
            await asyncio.to_thread(self._run, round(self.requests * share), strategy, send)
        finally:
            answers = ", ".join(f"{count} × {status}" for status, count in sorted(target.answers.items()))
            self.note(f"{target.answers.total()} requests, seed {self.seed}: {answers}")

    def _run(self, count: int, strategy: SearchStrategy[Any], send: Callable[[Any], None]) -> None:
        for number, begin in enumerate(range(0, count, _AT_ONCE)):

            @seed(self.seed + number)
            @settings(
                max_examples=min(_AT_ONCE, count - begin),
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(strategy)
            def some(request: Any) -> None:
                send(request)

            some()


@dataclass
class Target:
    """A server as a fuzzer has it: what it answers is looked at, and which jobs there are is known."""

    url: str
    answers: Counter[str] = field(default_factory=Counter)
    jobs: list[tuple[str, str]] = field(default_factory=list)
    """The jobs that may be there, as service and id; the first two have ended, and stay."""
    session: requests.Session = field(default_factory=requests.Session)
    credentials: dict[str, str] = field(default_factory=dict)
    """The headers that say who asks, unless a request says otherwise."""

    def job(self, number: int) -> tuple[str, str]:
        return self.jobs[number % len(self.jobs)]

    def check(self, asked: object, status: int, headers: Any, body: bytes) -> None:
        """Hold an answer against what is promised of all."""
        self.answers[str(status)] += 1
        excused = status in _NOT_NOW and "Retry-After" in headers
        assert status < 500 or excused, f"{asked} was answered {status}: {body[:1000]!r}"
        if found := _JOB.search(headers.get("Location", "")):
            self._note((found[1], found[2]))

    def _note(self, job: tuple[str, str]) -> None:
        if job not in self.jobs:
            self.jobs.append(job)
        if len(self.jobs) > _KEPT:
            service, oldest = self.jobs.pop(2)
            self.session.delete(f"{self.url}/{service}/async/{oldest}", allow_redirects=False)

    def exchange(self, sent: bytes, *, is_whole: bool = True) -> None:
        """Send bytes on a connection of their own. What is not a whole request need not be answered."""
        parts = urlsplit(self.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE) as connection:
            try:
                connection.sendall(sent)
                if not is_whole:
                    connection.shutdown(socket.SHUT_WR)
                answer = b""
                while chunk := connection.recv(1 << 16):
                    answer += chunk
                    if b"text/event-stream" in answer and b"\r\n\r\n" in answer:
                        break  # it would go on for ever
            except (ConnectionResetError, BrokenPipeError):
                pass  # it has answered before all was sent
        if not answer:
            assert not is_whole, f"{sent[:2000]!r} was not answered"
            self.answers["none"] += 1
            return
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        self.check(sent[:2000], int(lines[0].split()[1]), headers, body)

    def send(
        self, method: str, path: str, body: bytes = b"", *, length: int | None = None, **headers: bytes
    ) -> None:
        """Send a request byte for byte; ``_`` in a header's name is ``-``. Its ``length`` may be a lie."""
        known = {name: value.encode() for name, value in self.credentials.items()}
        fields = {"Host": urlsplit(self.url).netloc.encode(), "Connection": b"close", **known, **headers}
        length = len(body) if length is None else length
        fields["Content_Length"] = b"%d" % length
        lines = [f"{method} {path} HTTP/1.1".encode()]
        lines += [name.replace("_", "-").encode() + b": " + value for name, value in fields.items()]
        self.exchange(b"\r\n".join(lines) + b"\r\n\r\n" + body, is_whole=length <= len(body))


@asynccontextmanager
async def attacked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, guarded: bool = False
) -> AsyncIterator[Target]:
    """Serve what is to be asked; in the end nothing is left of it, and no traceback was logged.

    Where it is ``guarded``, it is asked by users who have quotas.
    """
    services = (*SERVICES, *load(EXAMPLES).services)
    with _loopback_only():
        authenticator = Authentication(_AUTH, tmp_path, anonymous=False) if guarded else None
        async with running(
            tmp_path, *services, longest_wait=0.05, sync_seconds=0.1, authenticator=authenticator,
            quotas=_QUOTAS if guarded else None,
        ) as site:  # fmt: skip
            credentials = await _credentials(site) if guarded else {}
            site.session.headers.update(credentials)
            ended = [await site.run("echo", x="1"), await site.run("files", image=b"0123456789" * 10)]
            for job in ended:
                await site.ended(job)
            before = _tasks(), children().keys()
            target = Target(
                site.url,
                jobs=[("echo", job_id(ended[0])), ("files", job_id(ended[1]))],
                credentials=credentials,
            )
            target.session.headers.update(credentials)
            with target.session:
                yield target
            for service in services:
                await _destroy_all(site, service.name)
            await _nothing_is_left(site, tmp_path, *before)
    gc.collect()  # what became of tasks that nobody waited for is told now
    traces = [record for record in caplog.records if record.exc_info or "Traceback" in record.getMessage()]
    assert not traces, f"{traces[0].getMessage()}: {traces[0].exc_info}"


async def _credentials(site: Site) -> dict[str, str]:
    """Make a user, and return what he sends: a token, which is taken whatever passwords others try."""
    backend = site.node.backend
    Users(site.data.parent / "users.json", backend.clock).add(USER, PASSWORDS["ann"], ("staff",))
    tokens = Tokens(backend.store, backend.clock)
    _, token = await tokens.issue(USER, SERVER, lasts=timedelta(days=1), listed=True)
    return bearer(token)


async def _destroy_all(site: Site, service: str) -> None:
    while jobs := json.loads((await site.get(f"/{service}/async?RESPONSEFORMAT=json")).body)["jobs"]:
        for job in jobs:
            assert (await site.request("DELETE", job["href"])).status == 303


async def _nothing_is_left(site: Site, data: Path, tasks: Counter[str], programs: Set[int]) -> None:
    left: object = None
    try:
        async with asyncio.timeout(PATIENCE):
            while left := [
                *(_tasks() - tasks).elements(),
                *(command for pid, command in children().items() if pid not in programs),
                *os.listdir(site.data),
                *os.listdir(data / "spool"),
                *(file for file in open_files() if file.startswith((str(site.data), str(data / "spool")))),
            ]:
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"left behind: {left}") from None


def _tasks() -> Counter[str]:
    """Return what is going on, by name, but for two who sleep now and then.

    The task of destruction does so until there is more to do, the record of refusals to the end of a
    minute in which there were too many.
    """
    names = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    return names - Counter({"SystemClock.sleep_until": 2})


_outside: list[object] | None = None
"""Where connections went that left this machine, while somebody looks."""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _outside is not None and event in ("socket.connect", "socket.sendto"):
        address = arguments[-1]
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            _outside.append(address)
            raise PermissionError(f"a connection to {address}")


@contextmanager
def _loopback_only() -> Iterator[None]:
    """Let nothing connect to anything but this machine, and fail when that was tried."""
    global _outside  # noqa: PLW0603 - hooks cannot be taken off again
    sys.addaudithook(_watch)
    _outside = found = []
    try:
        yield
    finally:
        _outside = None
    assert not found, "connections left this machine"
