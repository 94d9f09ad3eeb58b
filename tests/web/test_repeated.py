"""Requests that come again, byte for byte: they cost little, and are answered as if they came first."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import read_log
from tests.access.support import basic, bearer, guarded
from tests.harness import Answer, ManualClock, Site, job_id, running
from tests.web.support import ECHO, record
from uws.access.users import Users
from uws.commands import SERVER
from uws.model import events as e

_numbers = count()
TAMPERING = "UPDATE document SET document = CAST(replace(CAST(document AS TEXT), 'told', 'lied') AS BLOB)"
EACH_TIME = ("X-Request-ID", "Date")


def forms(job: str) -> list[str]:
    """Return what is asked for again and again."""
    lists = [
        "/echo/async",
        "/echo/async?LAST=2",
        "/echo/async?RESPONSEFORMAT=json",
        "/echo/async?PHASE=PENDING",
    ]
    return [job, f"{job}?RESPONSEFORMAT=json", f"{job}/phase", f"{job}/destruction", *lists]


async def at_first(site: Site, url: str, **headers: str) -> Answer:
    """Return what one is answered who has never asked before."""
    return await site.get(url, headers={"X-Number": str(next(_numbers)), **headers})


async def made(site: Site, headers: dict[str, str]) -> str:
    """Make a job as somebody, and return its URL."""
    return (await site.post("/echo/async", {"x": "1"}, headers=headers)).location


def said(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """Return all of an answer that is not another one each time."""
    headers = {name: value for name, value in answer.headers.items() if name not in EACH_TIME}
    return answer.status, headers, answer.body


def lie(data: Path) -> None:
    """Change the documents of jobs where they are kept, of which the server is not told."""
    (file,) = data.rglob("documents-*.db")
    with closing(sqlite3.connect(file)) as connection, connection:
        assert connection.execute(TAMPERING).rowcount


async def test_a_request_that_comes_again_is_answered_without_being_looked_at(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        url = f"{await site.create('echo', x='told')}/parameters"
        job = await site.create("echo", x="told")
        first = await site.get(job)
        lie(tmp_path)
        assert (await site.get(job)).body == first.body
        assert b"lied" in (await site.get(url)).body, "of what nobody had asked, it had to be looked at"


async def test_it_has_an_id_a_measure_and_a_line_in_the_log_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "uws.access")
    async with guarded(tmp_path) as (site, _):
        job = await made(site, basic("ann"))
        caplog.clear()
        answers = [await site.get(f"{job}/phase", headers=basic("ann")) for _ in range(5)]
        lines = [vars(line) for line in caplog.records]
        metrics = (await site.get("/metrics")).text
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert len(set(ids)) == len(answers)
    assert [line["request_id"] for line in lines] == ids
    assert {(line["user"], line["job_id"], line["status"]) for line in lines} == {("ann", job_id(job), 200)}
    assert {line["message"] for line in lines} == {f"GET {urlsplit(job).path}/phase 200"}
    assert all(0 < line["seconds"] < 60 for line in lines)
    counted = 'route="/{service}/async/{job_id}/phase",status="2xx"} 5.0'
    assert f'uwsd_http_request_duration_seconds_count{{method="GET",{counted}' in metrics


@pytest.mark.parametrize(
    "event",
    [
        e.ParametersSet(parameters={"x": ("2",)}),
        e.JobQueued(),
        e.JobAborted(reason="no more"),
        e.JobDestroyed(reason="old"),
    ],
    ids=lambda event: type(event).__name__,
)
async def test_what_happens_to_a_job_is_seen_at_once(tmp_path: Path, event: e.JobEvent) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job, _ = await site.create("echo", x="1"), await site.create("echo", x="1")
        before = {url: [await site.get(url) for _ in range(2)] for url in forms(job)}
        assert all(said(one) == said(two) for one, two in before.values())
        await record(site, job, event)
        after = {url: said(await site.get(url)) for url in before}
        assert after == {url: said(await at_first(site, url)) for url in before}
        assert after[job] != said(before[job][0])


async def test_the_place_in_the_queue_is_that_of_now(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        first, second = await site.run("echo"), await site.run("echo")
        before = [said(await site.get(second)) for _ in range(3)]
        await site.post(f"{first}/phase", {"PHASE": "ABORT"})
        await site.node.backend.projector.caught_up()
        assert said(await site.get(second)) == said(await at_first(site, second)) != before[-1]


COMMANDS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "ops", None]),
        st.sampled_from(["create", "abort", "delete", "name", "share", "look", "look", "look"]),
        st.integers(0, 3),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(COMMANDS)
async def test_it_is_answered_as_if_it_came_first_whatever_anybody_does_between(
    tmp_path_factory: pytest.TempPathFactory, commands: list[tuple[str | None, str, int]]
) -> None:
    async with guarded(tmp_path_factory.mktemp("data"), anonymous=True) as (site, _):
        jobs: list[str] = []
        for user, command, number in commands:
            headers = basic(user) if user else {}
            if command == "create" or not jobs:
                made = await site.post("/echo/async", {"x": "1"}, headers=headers)
                jobs.append(made.location)
                continue
            job = jobs[number % len(jobs)]
            match command:
                case "abort":
                    await site.post(f"{job}/phase", {"PHASE": "ABORT"}, headers=headers)
                case "delete":
                    await site.request("DELETE", job, headers=headers)
                case "name":
                    await site.post(job, {"RUNID": str(number)}, headers=headers)
                case "share":
                    await site.post(f"{job}/shares", {"WITH": "bob"}, headers=headers)
                case "look":
                    for url in forms(job):
                        again = said(await site.get(url, headers=headers))
                        first = said(await at_first(site, url, **headers))
                        assert again == first, url


async def test_who_is_not_let_in_any_more_is_not_answered_from_before(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with guarded(tmp_path, clock=clock) as (site, authentication):
        job = await made(site, basic("ann"))
        users, tokens = Users(tmp_path / "users.json", clock), authentication.tokens

        async def revoke() -> None:
            await tokens.revoke(token_id, "lost", SERVER)

        async def wait() -> None:
            clock.advance(minutes=5)

        async def remove() -> None:
            users.remove("ann")

        for end in (revoke, wait, remove):
            token_id, token = await tokens.issue("ann", SERVER, lasts=timedelta(minutes=5), listed=True)
            for url in forms(job):
                assert [(await site.get(url, headers=bearer(token))).status for _ in range(3)] == [200] * 3
            await end()
            await site.node.backend.projector.caught_up()
            for url in forms(job):
                assert (await site.get(url, headers=bearer(token))).status == 401


async def test_another_password_is_another_user_to_be(tmp_path: Path, clock: ManualClock) -> None:
    async with guarded(tmp_path, clock=clock) as (site, _):
        job = await made(site, basic("ann"))
        assert [(await site.get(job, headers=basic("ann"))).status for _ in range(3)] == [200] * 3
        Users(tmp_path / "users.json", clock).set_password(
            "ann", "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$aGFzaA"
        )
        assert (await site.get(job, headers=basic("ann"))).status == 401


async def test_what_is_shared_for_a_time_is_shown_until_then(tmp_path: Path, clock: ManualClock) -> None:
    async with guarded(tmp_path, clock=clock) as (site, _):
        job = await made(site, basic("ann"))
        shared = await site.post(f"{job}/shares", {"WITH": "bob", "EXPIRES": "2min"}, headers=basic("ann"))
        assert shared.status == 303, shared.text
        assert [(await site.get(job, headers=basic("bob"))).status for _ in range(3)] == [200] * 3
        clock.advance(minutes=3)
        assert (await site.get(job, headers=basic("bob"))).status == 403


async def test_that_somebody_asks_goes_on_record_each_hour_however_often_he_does(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with guarded(tmp_path, clock=clock) as (site, authentication):
        _, token = await authentication.tokens.issue("ann", SERVER, lasts=timedelta(days=1), listed=True)
        job = await made(site, bearer(token))
        for _ in range(3):
            for _ in range(5):
                await site.get(job, headers=bearer(token))
            clock.advance(minutes=61)
    log = await read_log(tmp_path / "events.db")
    assert Counter(event.type for event in await log.read_all())["TokenUsed"] == 3
    await log.close()


@asynccontextmanager
async def connected(
    site: Site, **options: object
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    parts = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


def head(site: Site, job: str, more: str = "") -> bytes:
    return (
        f"GET {urlsplit(job).path}/phase HTTP/1.1\r\nHost: {urlsplit(site.url).netloc}\r\n{more}\r\n".encode()
    )


async def read(reader: asyncio.StreamReader) -> bytes:
    """Return the body of one answer."""
    async with asyncio.timeout(60):
        fields = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(fields.partition(b"content-length: ")[2].split(b"\r\n")[0])
        return await reader.readexactly(length)


async def test_however_it_comes_in_pieces_or_with_others_each_request_is_answered_in_its_turn(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        one, two = await site.create("echo"), await site.create("echo")
        await site.post(f"{two}/phase", {"PHASE": "ABORT"})
        known, other = head(site, one), head(site, two)
        async with connected(site) as (reader, writer):

            async def exchange(*pieces: bytes, answers: int = 1) -> list[bytes]:
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                return [await read(reader) for _ in range(answers)]

            for _ in range(2):
                assert await exchange(known) == [b"PENDING"]
            assert await exchange(known[:20], known[20:]) == [b"PENDING"]
            assert await exchange(known[:-2], known[-2:] + known, answers=2) == [b"PENDING"] * 2
            assert await exchange(known + other + known, answers=3) == [b"PENDING", b"ABORTED", b"PENDING"]
            (said_of_none,) = await exchange(b"GET /none HTTP/1.1\r\nX: y", known)
            assert b"none" in said_of_none, "what came last was a part of it"
            assert await exchange(other, known, other, answers=3) == [b"ABORTED", b"PENDING", b"ABORTED"]
            wait = head(site, one).replace(b"/phase", b"?WAIT=1&PHASE=PENDING")
            writer.write(wait + known)
            await writer.drain()
            assert (await exchange(known, answers=3))[1:] == [b"PENDING"] * 2


CHUNKED = "Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"


@pytest.mark.parametrize(("header", "body"), [("Content-Length: 3", b"abc"), CHUNKED])
async def test_a_body_that_comes_later_is_no_other_request(tmp_path: Path, header: str, body: bytes) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        for _ in range(3):
            async with connected(site) as (reader, writer):
                writer.write(head(site, job, f"{header}\r\n"))
                assert await read(reader) == b"PENDING"
                writer.write(body + head(site, job))
                assert await read(reader) == b"PENDING"


async def test_what_asks_for_more_than_an_answer_gets_that_each_time(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        async with connected(site) as (reader, writer):
            for _ in range(3):
                writer.write(head(site, job, "Expect: 100-continue\r\n"))
                async with asyncio.timeout(60):
                    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                assert await read(reader) == b"PENDING"
        for _ in range(3):
            async with connected(site) as (reader, writer):
                writer.write(head(site, job, "Connection: close\r\n"))
                async with asyncio.timeout(60):
                    assert (await reader.read()).endswith(b"PENDING")


async def test_each_gets_the_links_that_lead_where_he_came_by(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        await site.create("echo")
        for name in ["one.localhost", "two.localhost"] * 2:
            answer = await site.get("/echo/async", headers={"Host": name})
            (job,) = answer.xml
            assert urlsplit(str(job.get("{http://www.w3.org/1999/xlink}href"))).netloc == name
