"""What happened to a job is told to its owner, step by step, as the log has it."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import html

from tests.harness import BasicUsers, job_id, running
from tests.web.support import ECHO, PHASES, record
from uws.model import events as e
from uws.model.telling import tell

NS = {"h": "urn:uwsd:history"}


async def test_every_event_of_a_job_is_told_in_order_by_whom_and_when(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ada", RUNID="m31")
        await site.post(f"{job}/phase", {"PHASE": "RUN"}, user="ada")
        await site.ended(job, user="ada")
        answer = await site.get(f"{job}/history", user="ada")
        assert answer.headers["Content-Type"] == "text/xml; charset=utf-8"
        steps = answer.xml.findall("h:event", NS)
        assert [(step.get("type"), step.get("actor"), step.text) for step in steps] == [
            ("JobCreated", "ada", "created as m31"),
            ("JobQueued", "ada", "queued"),
            ("JobStarted", "uwsd", "started"),
            ("JobCompleted", "uwsd", "completed, with 1 result"),
        ]
        assert [step.get("version") for step in steps] == ["1", "2", "3", "4"]
        recorded = await site.node.backend.store.read_stream(e.job_stream(job_id(job)))
        assert [int(step.get("position") or 0) for step in steps] == [event.position for event in recorded]
        times = [step.get("time") or "" for step in steps]
        assert times == sorted(times)
        assert all(re.fullmatch(r"[0-9T:.-]+Z", time) and datetime.fromisoformat(time) for time in times)


async def test_programs_get_the_facts_of_each_event(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo", x="1")
        answer = await site.get(f"{job}/history", headers={"Accept": "application/json"})
        (step,) = msgspec.json.decode(answer.body)
        assert step["facts"]["parameters"] == {"x": ["1"]}
        assert step["actor"] is None


async def test_people_get_a_page(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo", RUNID="<b>m31</b>")
        page = html.fromstring((await site.get(f"{job}/history", headers={"Accept": "text/html"})).body)
        (line,) = page.xpath("//ol[@class='timeline']/li")
        assert "created as <b>m31</b>" in line.text_content()
        assert not page.xpath("//b")


async def test_the_history_of_a_job_is_its_owners(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        url = await site.create("echo", user="ada") + "/history"
        assert (await site.get(url, user="bob")).status == 403
        assert (await site.get(url)).status == 401
        await site.request("DELETE", url.removesuffix("/history"), user="ada")
        assert (await site.get(url, user="ada")).status == 410
        nowhere = url.replace(job_id(url), "0" * 32)
        assert (await site.get(nowhere, user="ada")).status == 404


async def test_what_is_held_is_not_sent_again_until_something_happens(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        tag = (await site.get(f"{job}/history")).headers["ETag"]
        assert (await site.get(f"{job}/history", headers={"If-None-Match": tag})).status == 304
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert (await site.get(f"{job}/history", headers={"If-None-Match": tag})).status == 200


@pytest.mark.parametrize("phase", PHASES)
async def test_whatever_became_of_a_job_its_history_can_be_read(tmp_path: Path, phase: str) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES[phase])
        steps = (await site.get(f"{job}/history")).xml.findall("h:event", NS)
        assert [step.get("type") for step in steps] == [
            "JobCreated",
            *(type(event).__name__ for event in PHASES[phase]),
        ]
        assert all(step.text for step in steps)


@given(st.one_of(*(st.from_type(kind) for kind in e.JobEvent.__args__)))
def test_every_event_can_be_told_in_one_line(event: e.JobEvent) -> None:
    assert tell(event)
