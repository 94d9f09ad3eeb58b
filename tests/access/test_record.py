"""The record over HTTP: auditors search it, look at jobs and at the queue as they were, and at the chain."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Event, Semaphore
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from lxml import etree, html

from eventstore import Metadata
from eventstore.checkpoint import SigningKey, write_checkpoint
from projections import looking_back
from tests.access.support import basic, guarded
from tests.harness import ManualClock, Site, job_id
from tests.web.support import PATIENCE
from uws.audit import archive, prune, sign_head
from uws.model.units import format_time, parse_time

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


@pytest.mark.parametrize(
    "time", ["2026", "20260101", "2026-01-01T00:00:30.5Z", "2026-01-01T00:01", "2026-01-01 00:01:00.000001"]
)
@pytest.mark.parametrize(("path", "name"), [("/audit", "SINCE"), ("/audit", "UNTIL"), ("/audit/state", "AT")])
async def test_a_form_that_is_sent_again_asks_for_the_same_time(
    tmp_path: Path, path: str, name: str, time: str
) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        await some_jobs(site, clock)
        clock.advance(days=1)
        shown = await page(site, f"{path}?{urlencode({name: time})}")
        (form,) = (form for form in shown.forms if name in form.fields)
        assert parse_time(form.fields[name]) == parse_time(time)
        if form.inputs[name].get("type") == "datetime-local":  # all else browsers would leave out
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}", form.fields[name])
        again = await page(site, f"{path}?{urlencode(form.form_values())}")
        rows = shown.xpath("//tbody//text()")
        assert again.xpath("//tbody//text()")[: len(rows)] == rows  # to be asked is on record, too


async def test_from_the_beginning_leads_to_what_the_filters_let_through(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        first, second = await some_jobs(site, clock)
        for query in ("", "&AFTER=1"):
            shown = await page(site, f"/audit?TYPE=JobCreated&OWNERID=ann&LIMIT=1{query}")
            assert bool(shown.xpath("//a[.='From the beginning']")) is bool(query)
        (href,) = shown.xpath("//a[.='From the beginning']/@href")
        back = await page(site, href)
        assert back.xpath("//tbody/tr/td[4]/a/text()") == [first]
        assert second not in back.text_content()


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


async def test_of_a_job_that_was_taken_out_of_the_log_it_is_told_where_it_is(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        unknown = f"there is no job {'0' * 32}"
        assert (await asked(site, "/audit", JOB="0" * 32))["missing"] == unknown
        job = (await site.post("/echo/async", {"x": "1"}, headers=ANN)).location
        assert (await asked(site, "/audit", JOB=job_id(job)))["missing"] is None
        await site.request("DELETE", job, headers=ANN)
        store, key = site.node.backend.store, SigningKey.load_or_create(tmp_path / "key", "jobs.example.org")
        await archive(store, tmp_path / "2026.gz", key, clock.now(), until=None)
        await prune(store, tmp_path / "2026.gz", key.verifier, metadata=Metadata(actor="root"))
        told = await asked(site, "/audit", JOB=job_id(job), TYPE="JobCreated")
        assert (told["events"], told["next"]) == ([], None)
        assert told["missing"].startswith(
            f"there is no job {job_id(job)} in the log; part of the log was taken"
        )
        assert "2026.gz" in told["missing"]
        shown = await page(site, f"/audit?JOB={job_id(job)}")
        assert told["missing"] in [text.text for text in shown.iter("p")]
        assert shown.xpath("//input[@id='JOB']/@value") == [job_id(job)]


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
        assert shown.xpath("//a[@rel]/@href") == [f"./{job_id(job)}?VERSION={number}" for number in (2, 4)]
        assert shown.xpath("count(//ol[@class='timeline']/li)") == 4
        assert not (await page(site, f"{url}?VERSION=1")).xpath("//ins | //del")


async def test_a_job_is_shown_as_its_owner_saw_it_at_any_time(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        clock.advance(microseconds=123_456)
        began, seen = clock.now(), []
        await site.post("/queue", {"ACTION": "PAUSE"}, headers=OPS)
        job = (await site.post("/echo/async", {"x": "1"}, headers=ANN)).location
        url = f"/audit/jobs/{job_id(job)}"
        for change in ({"x": "2"}, {"PHASE": "RUN"}, {"PHASE": "ABORT"}, {}):
            clock.advance(seconds=30)
            answer = await site.get(job, headers={**ANN, "Accept": "application/json"})
            seen.append((clock.now(), msgspec.json.decode(answer.body)))
            clock.advance(seconds=30)
            await site.post(f"{job}/phase" if "PHASE" in change else job, change, headers=ANN)
        assert [document["phase"] for _, document in seen] == ["PENDING", "PENDING", "QUEUED", "ABORTED"]
        assert seen[2][1]["jobInfo"], "why it waits"
        for version, (time, document) in enumerate(seen, start=1):
            for query in (
                {"AT": time.replace(tzinfo=None).isoformat()},
                {"ELAPSED": str((time - began).total_seconds())},
            ):
                told = await asked(site, url, **query)
                assert (told["version"], told["time"]) == (version, format_time(time)), query
                assert told["document"] == document
        early = await asked(site, url, AT=format_time(began - timedelta(seconds=1)))
        assert (early["version"], early["document"]) == (0, None)
        assert "was created at" in early["missing"]
        assert (await asked(site, url))["time"] is None


async def test_a_range_over_time_is_a_form_that_needs_no_script(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        clock.advance(microseconds=123_456)
        first, _ = await some_jobs(site, clock)
        clock.advance(days=1)
        url = f"/audit/jobs/{first}"
        shown = await page(site, url)
        (slider,) = (form for form in shown.forms if "ELAPSED" in form.fields)
        ranged = slider.inputs["ELAPSED"]
        assert (ranged.get("type"), ranged.get("min"), ranged.get("max")) == ("range", "0", "120.000000")
        assert shown.xpath("//datalist[@id='moments']/option/@value") == ["0.000000", "120.000000"]
        current = "//ol[@class='timeline']/li[@aria-current]/a/@href"
        assert shown.xpath(current) == [f"./{first}?VERSION=2"]
        for seconds, version in (("0", 1), ("119.9995", 1), ("1e-7", 1), (ranged.get("max"), 2)):
            slider.fields["ELAPSED"] = seconds
            moved = await page(site, f"{url}?{urlencode(slider.form_values())}")
            assert moved.xpath(current) == [f"./{first}?VERSION={version}"]
            (again,) = (form for form in moved.forms if "ELAPSED" in form.fields)
            assert float(again.fields["ELAPSED"]) == pytest.approx(float(seconds), abs=1e-6)
            (exactly,) = (form for form in moved.forms if "AT" in form.fields)
            there = await page(site, f"{url}?{urlencode(exactly.form_values())}")
            assert there.xpath("//pre//text()") == moved.xpath("//pre//text()")
        early = await page(site, f"{url}?AT=2025")
        assert "was created at" in early.text_content()
        assert not early.xpath("//li[@aria-current='step']")


async def test_of_an_erased_job_it_is_said_at_any_time(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        first, _ = await some_jobs(site, clock)
        clock.advance(days=1)
        await site.node.backend.store.erase(f"job/{first}", reason="asked for")
        for query in ({}, {"VERSION": "1"}, {"AT": format_time(clock.now())}, {"ELAPSED": "60"}):
            told = await asked(site, f"/audit/jobs/{first}", **query)
            assert "was erased at" in told["missing"], query
            shown = await page(site, f"/audit/jobs/{first}?{urlencode(query)}")
            assert told["missing"] in [text.text for text in shown.iter("p")]


@pytest.mark.parametrize("form", ["html", "xml"])
async def test_a_value_of_hundreds_of_thousands_of_lines_keeps_no_auditor_waiting(
    tmp_path: Path, form: str
) -> None:
    lines = "\n" * 300_000  # a form of 900 kB, nearly the most that is taken
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", {"x": f"first{lines}"}, headers=ANN)).location
        await site.post(
            job, {"x": f"{lines[: len(lines) // 2]}middle{lines[: len(lines) // 2]}"}, headers=ANN
        )
        async with asyncio.timeout(PATIENCE):  # to compare each with each takes hours
            answer = await site.get(f"/audit/jobs/{job_id(job)}?RESPONSEFORMAT={form}", headers=AUD)
        assert answer.status == 200
        shown = (html.fromstring if form == "html" else etree.fromstring)(answer.body)
        removed, added = ("del", "ins") if form == "html" else ("*[@change='removed']", "*[@change='added']")
        assert "first\n" in shown.xpath(f"string(//{removed})")
        assert "\nmiddle" in shown.xpath(f"string(//{added})")


async def test_what_many_lines_have_in_common_at_either_end_is_not_marked(tmp_path: Path) -> None:
    lines = "\n".join(map(str, range(1000)))
    async with guarded(tmp_path) as (site, _):
        job = (await site.post("/echo/async", {"x": f"{lines}\nfirst\n{lines}"}, headers=ANN)).location
        await site.post(job, {"x": f"{lines}\nsecond\n{lines}"}, headers=ANN)
        shown = await page(site, f"/audit/jobs/{job_id(job)}")
        assert (shown.xpath("//del/text()"), shown.xpath("//ins/text()")) == (["first"], ["second"])


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


async def test_of_one_job_auditors_are_told_while_the_read_model_is_missing(tmp_path: Path) -> None:
    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _):
        job, _ = await some_jobs(site, clock)
        await site.node.backend.projector.caught_up()
        (file,) = (tmp_path / "projections").glob("trail-*.db")
        with closing(sqlite3.connect(file)) as tables:
            tables.execute(
                "CREATE TRIGGER refused BEFORE INSERT ON occurrence BEGIN SELECT raise(ABORT, 'no'); END"
            )
        await some_jobs(site, clock)
        for path in ("/audit/state", "/audit?OWNERID=ann", "/audit?SERVICE=imported"):
            assert (await site.get(path, headers=AUD)).status == 503, path
        for query in ({}, {"TYPE": "JobAborted"}, {"SERVICE": "echo", "OWNERID": "ann"}):
            assert (await asked(site, "/audit", JOB=job, **query))["events"][-1]["type"] == "JobAborted"
        assert (await asked(site, f"/audit/jobs/{job}"))["document"]["phase"] == "ABORTED"


async def test_while_an_auditor_asks_at_length_all_others_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end, at_once = Event(), Event(), Semaphore()
    counted = looking_back.counted

    def counted_at_length(*asked: Any) -> Any:
        assert at_once.acquire(blocking=False), "one of them at a time"
        begun.set()
        may_end.wait(PATIENCE)
        try:
            return counted(*asked)
        finally:
            at_once.release()

    clock = ManualClock()
    async with guarded(tmp_path, clock=clock) as (site, _), asyncio.timeout(PATIENCE):
        job, _ = await some_jobs(site, clock)
        monkeypatch.setattr(looking_back, "counted", counted_at_length)
        asking = [asyncio.create_task(site.get("/audit/state", headers=AUD)) for _ in range(2)]
        try:
            await asyncio.to_thread(begun.wait, PATIENCE)
            assert (await site.get(f"/echo/async/{job}", headers=ANN)).status == 200
            assert (await site.get("/echo/async", headers=ANN)).status == 200
            assert not any(task.done() for task in asking)
        finally:
            may_end.set()
        assert [(await answer).status for answer in asking] == [200, 200]


async def test_the_queue_at_a_time_that_was_told_has_what_happened_then(tmp_path: Path) -> None:
    clock = ManualClock()
    clock.advance(microseconds=700)  # times are told to the millisecond
    async with guarded(tmp_path, clock=clock) as (site, _):
        await site.post("/echo/async", {"x": "1"}, headers=ANN)
        (created,) = (await asked(site, "/audit", TYPE="JobCreated"))["events"]
        then = await asked(site, "/audit/state", AT=created["time"])
        assert then["time"] == created["time"]
        assert then["counts"] == [{"service": "echo", "phase": "PENDING", "jobs": 1}]


async def test_a_time_that_is_to_come_is_refused_in_words(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        refused = await site.get("/audit/state?AT=2999", headers=AUD)
        assert (refused.status, refused.text) == (
            400, "UsageFault: AT: 2999-01-01T00:00:00.000Z is to come: nobody knows what will be then\n",
        )  # fmt: skip


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
        ("/audit/jobs/{job}?AT=soon", "AT: "),
        ("/audit/jobs/{job}?AT=2999", "AT: 2999-01-01T00:00:00.000Z is to come"),
        ("/audit/jobs/{job}?ELAPSED=9999999999", "ELAPSED: "),
        ("/audit/jobs/{job}?ELAPSED=-1", "ELAPSED: expected seconds since the first event of the job, got"),
        ("/audit/jobs/{job}?ELAPSED=nan", "ELAPSED: expected seconds since the first event of the job, got"),
        ("/audit/jobs/{job}?AT=2026&VERSION=1", "VERSION and AT: expected only one of them"),
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
