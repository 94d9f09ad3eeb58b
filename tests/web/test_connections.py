"""Connections: who is slow, or takes too much, is told so and closed, and keeps nobody from being served."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web_fileresponse

from tests.daemon import UWSD, serving
from tests.harness import BasicUsers, Site, running, text
from tests.web.support import ECHO, FILES, FORM, PATIENCE, SLEEP, TYPES, until_waiting
from uws.config import LimitSettings
from uws.web import connections

HASTY = LimitSettings(head_seconds=0.2, patience=0.2, slowest=500)
"""Who is slow is closed soon."""
POST = f"POST /types/async HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"


class Raw:
    """A connection of a client that keeps to no rule."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def hear(self) -> str:
        """Return all that comes until the connection is closed."""
        async with asyncio.timeout(PATIENCE):
            return (await self.reader.read()).decode()

    async def drip(self, piece: bytes, pause: float, times: int = 10_000) -> str:
        """Send a piece again and again, until something comes; return what it is."""
        for _ in range(times):
            self.writer.write(piece)
            try:
                async with asyncio.timeout(pause):
                    return (await self.reader.readuntil(b"\r\n\r\n")).decode()
            except TimeoutError:
                continue
        return ""


@asynccontextmanager
async def connected(
    site: Site, sent: str = "", *, of: str = "127.0.0.1", receives: int = 0
) -> AsyncIterator[Raw]:
    """Connect from an address, and send something."""
    where = urlsplit(site.url)
    with socket.socket() as mine:
        mine.setblocking(False)
        if receives:
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        mine.bind((of, 0))
        await asyncio.get_running_loop().sock_connect(mine, (where.hostname, where.port))
        reader, writer = await asyncio.open_connection(sock=mine.dup(), limit=1024)
    try:
        writer.write(sent.encode())
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def waiting(site: Site, job: str, count: int, **options: str) -> AsyncIterator[list[Raw]]:
    """Have so many wait for a job."""
    target = urlsplit(job).path
    async with AsyncExitStack() as stack:
        sent = f"GET {target}?WAIT=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        clients = [await stack.enter_async_context(connected(site, sent, **options)) for _ in range(count)]
        await until_waiting(site, count)
        yield clients


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def until_status(site: Site, url: str, status: int) -> None:
    """Ask again and again until the answer has this status."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(aiohttp.ClientConnectionError):
                if (await site.get(url)).status == status:
                    return
            await asyncio.sleep(0.01)


# Slow clients


@pytest.mark.parametrize("begins", ["GET /", "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
async def test_a_head_that_does_not_come_in_time_is_answered_408_however_often_a_byte_comes(
    tmp_path: Path, begins: str
) -> None:
    async with running(tmp_path, ECHO, limits=HASTY) as site, connected(site, begins) as client:
        head = await client.drip(b"x", 0.02)
        assert head.startswith("HTTP/1.1 408 ")
        assert "Connection: close" in head
        assert await client.hear() == "UsageFault: the head of the request did not come within 0.2 s\n"


async def test_a_connection_without_a_request_is_closed_without_a_word(tmp_path: Path) -> None:
    async with (
        running(tmp_path, ECHO, limits=LimitSettings(keep_alive=0.2)) as site,
        connected(site) as mute,
        connected(site, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as idle,
    ):
        assert await mute.hear() == ""
        assert (await idle.hear()).count("HTTP/1.1") == 1


@pytest.mark.parametrize("length", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
async def test_a_body_that_comes_too_slowly_is_answered_408_and_makes_no_job(
    tmp_path: Path, length: str
) -> None:
    piece = b"1\r\nx\r\n" if "chunked" in length else b"x"
    async with running(tmp_path, TYPES, limits=HASTY) as site:
        async with connected(site, f"{POST}{length}\r\n\r\n") as client:
            head = await client.drip(piece, 0.05)
            assert head.startswith("HTTP/1.1 408 ")
        assert len((await site.get("/types/async")).xml) == 0


async def test_a_file_that_comes_too_slowly_leaves_nothing(tmp_path: Path) -> None:
    head = (
        "POST /files/async HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=B\r\n\r\n"
        '--B\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    )
    async with running(tmp_path, FILES, limits=HASTY) as site:
        async with connected(site, head) as client:
            assert (await client.drip(b"x", 0.05)).startswith("HTTP/1.1 408 ")
        assert len((await site.get("/files/async")).xml) == 0
        assert list((tmp_path / "spool").iterdir()) == []


async def test_a_body_that_comes_as_fast_as_it_has_to_is_taken_however_long_it_takes(tmp_path: Path) -> None:
    begins = f"{POST}Content-Length: 2005\r\n\r\ntext="
    async with running(tmp_path, TYPES, limits=HASTY) as site, connected(site, begins) as client:
        assert await client.drip(b"x" * 100, 0.05, times=19) == ""
        assert "HTTP/1.1 303 " in await client.drip(b"x" * 100, 10, times=1)


async def test_who_does_not_read_his_answers_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_fileresponse, "NOSENDFILE", True)  # uvloop, in which servers run, has none
    asked = "GET /static/uws.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000  # more than the system takes
    async with running(tmp_path, ECHO, limits=HASTY) as site:
        await site.get("/")
        before = descriptors()
        async with connected(site, asked, receives=4096) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(PATIENCE / 2):  # later, the session closes what it does not use
                while descriptors() < before + 2:
                    await asyncio.sleep(0)
                while descriptors() > before + 1:
                    await asyncio.sleep(0.01)
            assert (await site.get("/healthz")).status == 200


async def test_who_waits_for_a_job_is_not_taken_for_slow(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP, limits=HASTY, longest_wait=2) as site:
        job = await site.create("sleep")
        async with waiting(site, job, 1) as (client,):
            async with asyncio.timeout(PATIENCE):
                assert b" 200 " in await client.reader.readline()


# How many


async def test_where_there_is_no_room_the_connection_without_a_request_for_longest_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_IDLE", 0)
    async with (
        running(tmp_path, ECHO, limits=LimitSettings(connections=10)) as site,
        AsyncExitStack() as stack,
    ):
        mute = [await stack.enter_async_context(connected(site, "GET /")) for _ in range(10)]
        assert (await site.get("/echo")).status == 200
        assert await mute[0].hear() == ""


async def test_where_all_have_a_request_one_whose_body_is_nobodys_and_does_not_come_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_IDLE", 0)
    begun = f"Host: localhost\r\nContent-Type: {FORM}\r\nContent-Length: 10000\r\n\r\nx"
    known = "Authorization: Basic YW5uOng=\r\n"
    async with (
        running(tmp_path, TYPES, authenticator=BasicUsers(), limits=LimitSettings(connections=20)) as site,
        AsyncExitStack() as stack,
    ):
        anns = await stack.enter_async_context(
            connected(site, f"POST /types/async HTTP/1.1\r\n{known}{begun}")
        )
        slow = [
            await stack.enter_async_context(connected(site, f"POST /types/async HTTP/1.1\r\n{begun}"))
            for _ in range(19)
        ]
        for _ in range(3):
            async with aiohttp.ClientSession() as other, other.get(f"{site.url}/types") as answer:
                assert answer.status == 200
        assert await slow[0].hear() == ""
        anns.writer.write(b"x" * 9999)
        async with asyncio.timeout(PATIENCE):
            assert b"HTTP/1.1 " in await anns.reader.readline()


async def test_more_connections_than_may_are_told_so_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_IDLE", 0)
    limits = LimitSettings(connections=10)
    async with running(tmp_path, SLEEP, limits=limits, longest_wait=3600) as site:
        job = await site.create("sleep")
        async with waiting(site, job, 10) as clients:
            async with connected(site, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
                refused = await client.hear()
            assert refused.startswith("HTTP/1.1 503 ")
            assert "\r\nRetry-After: 5\r\n" in refused
            assert refused.endswith("ServiceUnavailable: 10 connections are open, which is as many as may\n")
            clients[0].writer.transport.abort()
            await clients[0].hear()
            await until_status(site, "/healthz", 200)


async def test_those_who_are_refused_and_stay_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_IDLE", 3600)
    monkeypatch.setattr(connections, "_TIME_TO_READ", 0.1)
    monkeypatch.setattr(connections, "_REFUSED", 1)
    async with (
        running(tmp_path, ECHO, limits=LimitSettings(connections=10)) as site,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(connected(site)) for _ in range(12)]
        assert (await clients[10].hear()).startswith("HTTP/1.1 503 ")
        with suppress(ConnectionError):
            assert await clients[11].hear() == ""
        before = descriptors()
        async with asyncio.timeout(PATIENCE):
            while descriptors() > before - 1:
                await asyncio.sleep(0.01)


async def test_of_one_user_so_many_requests_wait_and_others_are_not_concerned(tmp_path: Path) -> None:
    limits = LimitSettings(waits_per_owner=2)
    async with running(
        tmp_path, SLEEP, ECHO, limits=limits, authenticator=BasicUsers(), longest_wait=3600
    ) as site:
        job, other = await site.create("sleep", user="ann"), await site.create("sleep", user="bob")
        tasks = [asyncio.create_task(site.get(f"{job}?WAIT=-1", user="ann")) for _ in range(2)]
        await until_waiting(site, 2)
        answer = await site.get(f"{job}?WAIT=-1", user="ann")
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "5"
        assert answer.text == "UsageFault: 2 requests of ann wait for jobs, which is as many as may\n"
        outcome = job.replace("/async/", "/sync/")
        assert (await site.get(outcome, user="ann")).status == 429
        assert (await site.get(job, user="ann")).status == 200
        assert (await site.get(f"{other}?WAIT=0", user="bob")).status == 200
        await site.post(f"{job}/phase", {"PHASE": "ABORT"}, user="ann")
        assert [answer.status for answer in await asyncio.gather(*tasks)] == [200, 200]
        assert (await site.get(f"{job}?WAIT=-1", user="ann")).status == 200


async def test_of_nobody_in_particular_so_many_wait_from_each_address(tmp_path: Path) -> None:
    limits = LimitSettings(waits_per_owner=2)
    async with running(tmp_path, SLEEP, limits=limits, longest_wait=3600) as site:
        job = await site.create("sleep")
        async with waiting(site, job, 2) as clients:
            assert (await site.get(f"{job}?WAIT=-1")).status == 429
            sent = f"GET {urlsplit(job).path}?WAIT=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            async with connected(site, sent, of="127.0.0.2"):
                await until_waiting(site, 3)
            for client in clients:
                client.writer.transport.abort()
                await client.hear()
            # Whose clients have gone do not count.
            task = asyncio.create_task(site.get(f"{job}?WAIT=-1"))
            async with asyncio.timeout(PATIENCE):
                # That of the other address has its time.
                while sum(map(len, site.node.backend.projector._watchers.values())) != 1 + 1:
                    await asyncio.sleep(0)
            await site.post(f"{job}/phase", {"PHASE": "ABORT"})
            assert (await task).status == 200


async def test_a_crowd_keeps_nobody_else_from_being_served(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP, ECHO, longest_wait=3600) as site, AsyncExitStack() as stack:
        job = await site.create("sleep")
        for address, count in (("127.0.0.2", 150), ("127.0.0.3", 150)):
            sent = f"GET {urlsplit(job).path}?WAIT=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            for _ in range(count):
                await stack.enter_async_context(connected(site, sent, of=address))
        slow = ["GET / HT", f"{POST}Content-Length: 100000\r\n\r\nx"]
        for number in range(50):
            await stack.enter_async_context(connected(site, slow[number % 2]))
        await until_waiting(site, 300)
        document = await site.ended(await site.run("echo", x="heard"))
        assert text(document, "phase") == "COMPLETED"


# Descriptors


async def test_the_server_has_all_descriptors_that_it_may_and_programs_what_it_was_started_with(
    tmp_path: Path,
) -> None:
    file = tmp_path / "uwsd.toml"
    file.write_text(
        '[services.files]\ntitle = "Files"\ncommand = ["sh", "-c", "ulimit -Sn; ulimit -Hn"]\n'
        'results = [{ id = "out", path = "-" }]\n'
    )
    command = tmp_path / "limited"
    command.write_text(f'#!/bin/sh\nulimit -Sn 200\nulimit -Hn 600\nexec {UWSD} "$@"\n')
    command.chmod(0o700)
    async with serving(file, command=command) as daemon:
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
        assert re.search(r"Max open files +600 +600 ", limits)
        async with AsyncExitStack() as stack:
            for _ in range(700):
                await stack.enter_async_context(connected(daemon, "GET / HT"))
            await until_status(daemon, "/healthz", 200)  # who sends no request gives way within a second
            job = await daemon.run("files")
            await daemon.ended(job)
            assert (await daemon.get(f"{job}/results/out")).text.split() == ["200", "600"]


# Heads


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("GET /" + "x" * 9000 + " HTTP/1.1\r\nHost: localhost", "Got more than 8190 bytes when reading"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nX: " + "x" * 9000, "Got more than 8190 bytes when reading"),
        ("GET / HTTP/1.1\r\nHost: localhost" + "\r\nX: x" * 200, "Too many headers received"),
    ],
)
async def test_a_head_that_is_too_large_is_431(
    tmp_path: Path, head: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, ECHO) as site, connected(site, f"{head}\r\n\r\n") as client:
        answer = await client.hear()
        assert re.match(r"HTTP/1.[01] 431 ", answer)
        assert f"UsageFault: the head of the request is too large: {said}" in answer
        assert "Traceback" not in caplog.text
        assert not [record for record in caplog.records if record.exc_info]


async def test_the_operator_says_how_large_a_head_may_be(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, limits=LimitSettings(line_bytes=20_000)) as site:
        sent = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + "x" * 15_000
        async with connected(site, f"{sent}\r\n\r\n") as client:
            assert (await client.hear()).startswith("HTTP/1.1 200 ")
