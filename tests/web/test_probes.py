"""Probes: whether the process answers, and whether it can do its work."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from projections import Documents, Usage
from tests.harness import Answer, Site, job_id, running
from tests.web.support import ECHO, no_directory, no_room
from tests.web.test_availability import Held, broken, serving
from uws import Caller, make_application


def lines(answer: Answer, status: int) -> list[str]:
    """Return what a probe says, in its lines."""
    assert answer.status == status, answer.text
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.text.splitlines()


async def told(site: Site, status: int) -> list[str]:
    """Return what the server says of being ready; it is alive in any case."""
    assert lines(await site.get("/healthz"), 200) == ["the server answers"]
    return lines(await site.get("/readyz", headers={"Accept": "text/html"}), status)


async def test_a_server_that_does_its_work_is_ready(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        assert await told(site, 200) == ["the server is ready"]
        for probe in ("/healthz", "/readyz"):
            assert (await site.request("HEAD", probe)).status == 200
            assert (await site.post(probe)).status == 405


async def test_a_server_without_services_is_ready_for_none() -> None:
    async with serving(make_application(())) as site:
        assert await told(site, 200) == ["the server is ready"]


async def test_who_cannot_write_the_log_is_not_ready_until_he_can(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        writer = site.node.backend.store._writer  # type: ignore[attr-defined]  # of SQLite alone
        await writer.execute("PRAGMA query_only = ON")
        assert (await site.post(f"{job}/parameters", {"x": "1"})).status == 503
        assert (await told(site, 503))[0] == "the log cannot be written: attempt to write a readonly database"
        await writer.execute("PRAGMA query_only = OFF")
        await told(site, 200)


async def test_who_has_no_room_or_no_directory_for_jobs_is_not_ready(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        with no_room(site):
            assert "no job is created" in (await told(site, 503))[1]
        with no_directory(site):
            assert "no job is created" in (await told(site, 503))[1]
        await told(site, 200)


async def test_who_lacks_a_read_model_that_jobs_need_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO) as site:
        monkeypatch.setattr(Documents, "apply", broken)
        job = job_id(await site.create("echo"))
        why, hint = await told(site, 503)
        assert why.startswith("the read model documents stopped at position 2")
        assert job not in why
        assert hint.startswith("jobs cannot be looked at")


async def test_who_lags_behind_is_not_ready_until_he_has_caught_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uws.web.availability.LONGEST_LAG", 0.01)
    async with running(tmp_path, ECHO) as site:
        held = Held(monkeypatch)
        await site.create("echo")
        try:
            assert "the read model job_list is at position 1 of 2" in await told(site, 503)
        finally:
            held.let_go()
        await site.node.backend.projector.caught_up()
        await told(site, 200)


async def test_who_lacks_a_read_model_that_jobs_do_not_need_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO) as site:
        monkeypatch.setattr(Usage, "apply", broken)
        await site.create("echo")
        await told(site, 200)


async def test_a_queue_that_was_paused_on_purpose_is_no_reason_not_to_be_ready(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        await site.node.backend.queueing.pause(None, Caller("ann"))
        assert "false" in (await site.get("/availability")).text
        await told(site, 200)
