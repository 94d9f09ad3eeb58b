"""VOSI availability: what it says is so at the moment of asking, and it says it to everybody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import aiosqlite
import pytest
from aiohttp import web

from eventstore import RecordedEvent
from projections import JobTables
from tests.daemon import Client
from tests.harness import Answer, BasicUsers, ManualClock, running
from tests.web.support import ECHO
from tests.web.test_documents import schemas
from uws import make_application, make_uws_application

VOSI = "{http://www.ivoa.net/xml/VOSIAvailability/v1.0}"


def checked(answer: Answer, *, available: bool) -> list[str]:
    """Hold a document against the schema, where it is at hand, and return its notes."""
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/xml; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    document = answer.xml
    assert document.tag == f"{VOSI}availability"
    if schemas():
        schemas().assertValid(document)
    assert document.findtext(f"{VOSI}available") == str(available).lower()
    notes = [note.text or "" for note in document.iterfind(f"{VOSI}note")]
    assert bool(notes) is not available
    return notes


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[Client]:
    """Serve an application on a free port of the loopback interface."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            yield Client(f"http://127.0.0.1:{runner.addresses[0][1]}", session)
    finally:
        await runner.cleanup()


async def test_a_server_that_does_its_work_says_so_and_since_when(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        clock.advance(days=1)
        answer = await site.get("/availability")
        checked(answer, available=True)
        assert answer.xml.findtext(f"{VOSI}upSince") == "2026-01-01T00:00:00.000Z"
        assert (await site.request("HEAD", "/availability")).status == 200
        assert (await site.post("/availability")).status == 405


async def test_it_is_told_without_asking_who_asks(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        wrong = {"Authorization": "Basic nonsense"}
        assert (await site.get("/echo/async", headers=wrong)).status == 401
        checked(await site.get("/availability", headers=wrong), available=True)


@pytest.mark.parametrize("mount", [None, "/vo/"])
async def test_a_whole_server_tells_it_wherever_it_is_mounted(
    tmp_path: Path, clock: ManualClock, mount: str | None
) -> None:
    app = make_uws_application(tmp_path, [ECHO], clock=clock)
    outer = web.Application()
    if mount:
        outer.add_subapp(mount, app)
    async with serving(outer if mount else app) as site:
        answer = await site.get(f"{(mount or '').rstrip('/')}/availability")
        checked(answer, available=True)
        assert answer.xml.findtext(f"{VOSI}upSince") == "2026-01-01T00:00:00.000Z"


async def test_a_server_without_services_has_nothing_to_complain_of() -> None:
    async with serving(make_application(())) as site:
        answer = await site.get("/availability")
        checked(answer, available=True)
        assert answer.xml.find(f"{VOSI}upSince") is None


async def test_a_log_that_cannot_be_written_is_told_until_it_can_be(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        writer = site.node.backend.store._writer  # type: ignore[attr-defined]
        await writer.execute("PRAGMA query_only = ON")
        assert (await site.post(f"{job}/parameters", {"x": "1"})).status == 503
        why, hint = checked(await site.get("/availability"), available=False)
        assert why == "the log cannot be written: attempt to write a readonly database"
        assert "can be looked at" in hint
        assert (await site.get(job)).status == 200
        await writer.execute("PRAGMA query_only = OFF")
        checked(await site.get("/availability"), available=True)


async def test_read_models_that_have_failed_are_told_until_they_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO) as site:
        site.node.backend.projector.retry_seconds = 0

        async def fail(*_: object) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(JobTables, "apply", fail)
            await site.create("echo")
            why, hint = checked(await site.get("/availability"), available=False)
            assert why.startswith("the read models stopped at position ")
            assert "commands are carried out" in hint
        while site.node.backend.projector.position < 2:
            await asyncio.sleep(0)
        checked(await site.get("/availability"), available=True)


async def test_read_models_that_lag_behind_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uws.web.availability.LONGEST_LAG", 0.01)
    may = asyncio.Event()
    apply = JobTables.apply

    async def wait(
        self: JobTables, events: Sequence[RecordedEvent], connection: aiosqlite.Connection
    ) -> None:
        await may.wait()
        await apply(self, events, connection)

    async with running(tmp_path, ECHO) as site:
        monkeypatch.setattr(JobTables, "apply", wait)
        await site.create("echo")
        try:
            why, _ = checked(await site.get("/availability"), available=False)
            assert why == "the read models are at position 1 of 2"
        finally:
            may.set()
        await site.node.backend.projector.caught_up()
        checked(await site.get("/availability"), available=True)
