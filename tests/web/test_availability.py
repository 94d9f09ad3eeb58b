"""VOSI availability: what it says is so at the moment of asking, and it says it to everybody."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from projections import Documents, Event, JobList, Queue, Usage
from tests.daemon import Client
from tests.harness import Answer, BasicUsers, ManualClock, job_id, running, text
from tests.web.support import ECHO, PATIENCE, SLEEP, no_room
from tests.web.test_documents import schemas
from uws import Caller, make_application, make_uws_application
from uws.config import Settings

VOSI = "{http://www.ivoa.net/xml/VOSIAvailability/v1.0}"


def checked(answer: Answer, *, available: bool, noted: bool | None = None) -> list[str]:
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
    assert bool(notes) is (not available if noted is None else noted)
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
    app = make_uws_application(Settings(data=tmp_path, services=(ECHO,)), clock=clock)
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


def broken(*_: object) -> None:
    raise RuntimeError("a bug")


async def test_a_read_model_that_has_stopped_is_told_until_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO) as site:
        site.node.backend.projector.retry_seconds = 0
        with monkeypatch.context() as patch:
            patch.setattr(Documents, "apply", broken)
            job = await site.create("echo")
            why, hint = checked(await site.get("/availability"), available=False)
            assert why.startswith("the read model documents stopped at position 2")
            assert why.endswith(": a bug")
            assert "cannot be looked at" in hint
            assert (await site.get(job)).status == 503
        while site.node.backend.projector.position < 2:
            await asyncio.sleep(0)
        checked(await site.get("/availability"), available=True)


async def test_a_read_model_that_has_stopped_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO) as site:
        for model in (Documents, JobList, Queue):
            monkeypatch.setattr(model, "apply", broken)
        await site.create("echo")
        notes = checked(await site.get("/availability"), available=False)
        stopped = [name for note in notes for name in re.findall(r"the read model (\w+) stopped", note)]
        assert sorted(stopped) == ["documents", "job_list", "queue"]
        assert len(notes) == 2 * len(stopped)


async def test_a_read_model_that_has_stopped_does_not_give_away_whose_event_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO) as site:
        monkeypatch.setattr(JobList, "apply", broken)
        job = job_id(await site.create("echo"))
        for url in ("/availability", "/echo/async"):
            answer = await site.get(url)
            assert "the read model job_list stopped" in answer.text
            assert job not in answer.text


async def test_jobs_can_be_looked_at_though_they_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO) as site:
        monkeypatch.setattr(JobList, "apply", broken)
        job = await site.create("echo")
        assert (await site.get("/echo/async")).status == 503
        assert (await site.get(job)).status == 200


async def test_jobs_can_be_listed_though_they_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO) as site:
        monkeypatch.setattr(Documents, "apply", broken)
        await site.create("echo")
        assert len((await site.get("/echo/async")).xml) == 1
        assert (await site.get("/echo/async?RUNID=x")).status == 200
        for query in ("RESPONSEFORMAT=json", "TEXT=x"):  # these look into jobs
            assert (await site.get(f"/echo/async?{query}")).status == 503


async def test_a_read_model_that_jobs_do_not_need_makes_nothing_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO) as site:
        monkeypatch.setattr(Usage, "apply", broken)
        job = await site.run("echo")
        assert text(await site.ended(job), "phase") == "COMPLETED"
        why, hint = checked(await site.get("/availability"), available=True, noted=True)
        assert why.startswith("the read model usage stopped at position ")
        assert hint == "jobs are not concerned"


class Held:
    """Lets a read model fold nothing until it may; ``entered`` is set when it would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self._may = asyncio.Event(), threading.Event()
        loop, fold = asyncio.get_running_loop(), JobList.fold

        def wait(model: JobList, connection: sqlite3.Connection, events: Sequence[Event]) -> None:
            loop.call_soon_threadsafe(self.entered.set)
            self._may.wait(PATIENCE)
            fold(model, connection, events)

        monkeypatch.setattr(JobList, "fold", wait)

    def let_go(self) -> None:
        self._may.set()


async def test_a_read_model_that_lags_behind_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uws.web.availability.LONGEST_LAG", 0.01)
    async with running(tmp_path, ECHO) as site:
        held = Held(monkeypatch)
        await site.create("echo")
        try:
            notes = checked(await site.get("/availability"), available=False)
            assert "the read model job_list is at position 1 of 2" in notes
        finally:
            held.let_go()
        await site.node.backend.projector.caught_up()
        checked(await site.get("/availability"), available=True)


async def test_a_read_model_that_is_made_anew_is_told_and_what_there_is_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, ECHO) as site:
        await site.create("echo")
        await site.node.backend.projector.caught_up()
        held = Held(monkeypatch)
        rebuilding = asyncio.create_task(site.node.backend.projector.rebuild(["job_list"]))
        try:
            await held.entered.wait()
            (note,) = checked(await site.get("/availability"), available=True, noted=True)
            assert note == "the read model job_list is being made anew (version 1), so far to position 0 of 2"
            assert len((await site.get("/echo/async")).xml) == 1
        finally:
            held.let_go()
            await rebuilding
        checked(await site.get("/availability"), available=True)


async def test_a_paused_queue_is_told_until_it_is_resumed(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        queueing = site.node.backend.queueing
        await queueing.pause("echo", Caller("ann"))
        (note,) = checked(await site.get("/availability"), available=True, noted=True)
        assert note == (
            "the queue of echo is paused since 2026-01-01T00:00:00.000Z: no job of echo is started until "
            "it is resumed; those that run go on"
        )
        await queueing.pause(None, Caller("ann"))
        notes = checked(await site.get("/availability"), available=False)
        assert notes[0] == (
            "the queue is paused since 2026-01-01T00:00:00.000Z: no job is started until it is resumed; "
            "those that run go on"
        )
        await queueing.resume(None, Caller("ann"))
        await queueing.resume("echo", Caller("ann"))
        checked(await site.get("/availability"), available=True)


async def test_a_service_tells_what_concerns_it(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, SLEEP, clock=clock, authenticator=BasicUsers()) as site:
        wrong = {"Authorization": "Basic nonsense"}
        answer = await site.get("/echo/availability", headers=wrong)
        checked(answer, available=True)
        assert answer.xml.findtext(f"{VOSI}upSince") == "2026-01-01T00:00:00.000Z"
        queueing = site.node.backend.queueing
        await queueing.pause("echo", Caller("ann"))
        (note,) = checked(await site.get("/echo/availability"), available=False)
        assert note.startswith("the queue of echo is paused since ")
        checked(await site.get("/sleep/availability"), available=True)
        await queueing.pause(None, Caller("ann"))
        for service, count in (("echo", 2), ("sleep", 1)):
            assert len(checked(await site.get(f"/{service}/availability"), available=False)) == count


async def test_a_service_cannot_do_what_the_server_cannot(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        with no_room(site):
            notes = checked(await site.get("/echo/availability"), available=False)
            assert notes == checked(await site.get("/availability"), available=False)
            assert notes[0].startswith("the disk is nearly full")
        checked(await site.get("/echo/availability"), available=True)
