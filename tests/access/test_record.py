"""The record over HTTP: auditors search it, look at jobs and at the queue as they were, and at the chain."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from lxml import html

from eventstore.checkpoint import SigningKey, write_checkpoint
from tests.access.support import basic, guarded
from tests.harness import ManualClock, Site, job_id
from uws.audit import sign_head
from uws.model.units import format_time

AUD, ANN, BOB, OPS = (basic(user) for user in ("aud", "ann", "bob", "ops"))
PAGE = {"Accept": "text/html"}


async def asked(site: Site, path: str, **query: str) -> Any:
    """Return what an auditor is told as JSON."""
    answer = await site.get(f"{path}?{urlencode({**query, 'RESPONSEFORMAT': 'json'})}", headers=AUD)
    assert answer.status == 200, answer.text
    return msgspec.json.decode(answer.body)


async def page(site: Site, path: str) -> html.HtmlElement:
    answer = await site.get(path, headers={**AUD, **PAGE})
    assert answer.status == 200, answer.text
    return html.fromstring(answer.body.decode())


async def some_jobs(site: Site, clock: ManualClock) -> tuple[str, str]:
    """Let ann make a job and abort it, and bob make one; return their ids."""
    first = (await site.post("/echo/async", {"x": "1", "RUNID": "<b>m31</b>"}, headers=ANN)).location
    clock.advance(seconds=60)
    second = (await site.post("/echo/async", {"x": "2"}, headers=BOB)).location
    clock.advance(seconds=60)
    await site.post(f"{first}/phase", {"PHASE": "ABORT"}, headers=OPS)
    return job_id(first), job_id(second)


async def test_an_auditor_finds_events_by_whatever_they_are_about(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        began = clock.now()
        first, second = await some_jobs(site, clock)
        minute = [f"{began.replace(minute=began.minute + n):%Y-%m-%dT%H:%M:%S}" for n in range(3)]
        for query, found in (
            ({"JOB": first}, [(first, "JobCreated"), (first, "JobAborted")]),
            ({"JOB": first, "TYPE": "JobAborted"}, [(first, "JobAborted")]),
            ({"OWNERID": "bob"}, [(second, "JobCreated")]),
            ({"ACTOR": "ops", "TYPE": "JobAborted"}, [(first, "JobAborted")]),
            ({"TYPE": "JobCreated"}, [(first, "JobCreated"), (second, "JobCreated")]),
            ({"TYPE": "JobCreated", "SINCE": minute[1]}, [(second, "JobCreated")]),
            ({"TYPE": "JobCreated", "UNTIL": minute[1]}, [(first, "JobCreated")]),
            ({"SERVICE": "echo", "TYPE": "ServiceDeclared"}, [(None, "ServiceDeclared")]),
            ({"JOB": "0" * 32}, []),
        ):
            told = await asked(site, "/audit", **query)
            assert [(event.get("job"), event["type"]) for event in told["events"]] == found, query
            assert told["next"] is None


async def test_pages_of_events_lead_to_each_other_and_miss_none(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        await some_jobs(site, clock)
        every = [event.position for event in await site.node.backend.store.read_all()]
        found, url = [], f"{site.url}/audit?LIMIT=2&RESPONSEFORMAT=json"
        while url:
            told = msgspec.json.decode((await site.get(url, headers=AUD)).body)
            assert len(told["events"]) <= 2
            found += [event["position"] for event in told["events"]]
            url = told["next"]
        assert found[: len(every)] == every
        shown = await page(site, "/audit?LIMIT=2")
        rows = [int(row) for row in shown.xpath("//tbody/tr/th/text()")]
        assert rows == [event.position for event in await site.node.backend.store.read_all()][-2:], "the last"


async def test_a_page_shows_what_was_asked_for_and_leads_to_the_job_as_it_was(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        first, _ = await some_jobs(site, clock)
        shown = await page(site, f"/audit?JOB={first}&OWNERID=&ACTOR=&TYPE=&SINCE=&UNTIL=&SERVICE=")
        assert shown.xpath("//input[@id='JOB']/@value") == [first]
        assert shown.xpath("//tbody/tr/td[4]/a/@href") == [
            f"audit/jobs/{first}?VERSION=1",
            f"audit/jobs/{first}?VERSION=2",
        ]
        assert "created as <b>m31</b>" in shown.xpath("string(//tbody/tr[1])")
        assert not shown.xpath("//b")
        for href in shown.xpath("//main//a/@href"):
            assert (await site.get(f"/{href}", headers=AUD)).status == 200, href


async def test_a_job_is_shown_as_its_owner_saw_it_after_each_event(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        job = (await site.post("/echo/async", {"x": "1"}, headers=ANN)).location
        url, seen = f"/audit/jobs/{job_id(job)}", []
        for change in ({"x": "2"}, {"RUNID": "m31"}, {"PHASE": "ABORT"}):
            seen.append((await site.get(job, headers={**ANN, "Accept": "application/json"})).body)
            await site.post(f"{job}/phase" if "PHASE" in change else job, change, headers=ANN)
        seen.append((await site.get(job, headers={**ANN, "Accept": "application/json"})).body)
        for version, document in enumerate(seen, start=1):
            told = await asked(site, url, VERSION=str(version))
            assert (told["version"], told["versions"], len(told["events"])) == (version, 4, 4)
            assert told["document"] == msgspec.json.decode(document)
        assert (await asked(site, url))["version"] == 4
        shown = await page(site, f"{url}?VERSION=3")
        assert [line.strip() for line in shown.xpath("//pre/ins/text()")] == ["<uws:runId>m31</uws:runId>"]
        assert shown.xpath("//a[@rel]/@href") == [f"{job_id(job)}?VERSION=2", f"{job_id(job)}?VERSION=4"]
        assert shown.xpath("count(//ol[@class='timeline']/li)") == 4
        assert not (await page(site, f"{url}?VERSION=1")).xpath("//ins | //del")


async def test_of_a_destroyed_job_it_is_said_that_there_was_no_document(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", {"x": "1"}, headers=ANN)).location
        await site.request("DELETE", job, headers=ANN)
        told = await asked(site, f"/audit/jobs/{job_id(job)}")
        assert told["document"] is None
        assert "was destroyed at" in told["missing"]
        assert "was destroyed at" in (await page(site, f"/audit/jobs/{job_id(job)}")).text_content()
        assert (await asked(site, f"/audit/jobs/{job_id(job)}", VERSION="1"))["document"][
            "phase"
        ] == "PENDING"


async def test_the_queue_is_shown_as_it_was(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        began = clock.now()
        await some_jobs(site, clock)
        for seconds, jobs in ((-30, 0), (30, 1), (90, 2)):
            then = await asked(site, "/audit/state", AT=format_time(began + timedelta(seconds=seconds)))
            assert [(one["phase"], one["jobs"]) for one in then["counts"]] == [("PENDING", jobs)] * (jobs > 0)
        now = await asked(site, "/audit/state")
        assert now["counts"] == [
            {"service": "echo", "phase": "ABORTED", "jobs": 1},
            {"service": "echo", "phase": "PENDING", "jobs": 1},
        ]
        shown = await page(site, "/audit/state")
        assert shown.xpath("//section/h2/text()") == ["2 jobs"]


async def test_the_queue_at_a_time_that_was_told_has_what_happened_then(tmp_path: Path) -> None:
    clock = ManualClock()
    clock.advance(microseconds=700)  # times are told to the millisecond
    async with guarded(tmp_path, clock=clock) as (site, _):
        await site.post("/echo/async", {"x": "1"}, headers=ANN)
        (created,) = (await asked(site, "/audit", TYPE="JobCreated"))["events"]
        then = await asked(site, "/audit/state", AT=created["time"])
        assert then["time"] == created["time"]
        assert then["counts"] == [{"service": "echo", "phase": "PENDING", "jobs": 1}]


async def test_the_chain_is_shown_with_its_last_checkpoint(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        assert (await asked(site, "/audit/chain"))["missing"] == "there is none yet"
        await some_jobs(site, clock)
        key = SigningKey.load_or_create(tmp_path / "audit.key", "jobs.example.org")
        (tmp_path / "checkpoints").mkdir()
        head = await site.node.backend.store.head()
        note = sign_head(key, head, clock.now())
        written = write_checkpoint(tmp_path / "checkpoints", note, head.position)
        told = await asked(site, "/audit/chain")
        assert (told["checkpoint"]["note"], told["checkpoint"]["found"]) == (note, "as signed")
        assert told["position"] >= told["checkpoint"]["position"] == head.position
        shown = await page(site, "/audit/chain")
        assert note in shown.xpath("string(//pre)")
        forged = sign_head(key, type(head)(head.position, b"\1" * 32), clock.now())
        written.write_text(forged)
        told = await asked(site, "/audit/chain")
        assert told["checkpoint"]["found"] == "another hash than the one that was signed"
        written.write_text(note.replace("time 2", "time 3"))
        told = await asked(site, "/audit/chain")
        assert told["checkpoint"] is None
        assert told["missing"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/audit?TYPE=JobAbortd", "no event is of the type JobAbortd (did you mean JobAborted?)"),
        ("/audit?SERVICE=ecko", "there never was a service ecko (did you mean echo?); on record are: echo"),
        ("/audit?SINCE=yesterday", "SINCE: "),
        ("/audit?ONWERID=ann", "ONWERID: not known here (did you mean OWNERID?)"),
        ("/audit?LIMIT=0", "LIMIT: expected a whole number, at least 1, got '0'"),
        ("/audit/state?AT=then", "AT: "),
        ("/audit/jobs/{job}?VERSION=3", "VERSION: job {job} has versions 1 to 2, not 3"),
    ],
)
async def test_what_cannot_be_meant_is_told(tmp_path: Path, path: str, reason: str) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        job, _ = await some_jobs(site, clock)
        answer = await site.get(path.format(job=job), headers=AUD)
        assert answer.status == 400
        assert answer.text.startswith(f"UsageFault: {reason.format(job=job)}")


async def test_there_is_no_job_that_never_was(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        assert (await site.get(f"/audit/jobs/{'0' * 32}", headers=AUD)).status == 404
