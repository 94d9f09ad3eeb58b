"""Metrics: what Prometheus reads of them is what happened, however clients put it and whoever they are."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from eventstore import Metadata
from projections import Usage
from tests.harness import BasicUsers, ManualClock, Site, running
from tests.web.support import ECHO, GATE, PATIENCE, gate, record
from tests.web.test_availability import Held, broken, serving
from uws import make_application, make_uws_application
from uws.config import Settings
from uws.model import Phase
from uws.model import events as e


class Scrape:
    """What a scrape has found, as Prometheus reads it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """Return the value of the only series of a name that has these labels, among others."""
        (found,) = self.all(name, **labels).values()
        return found

    def all(self, name: str, **labels: str) -> dict[tuple[str, ...], float]:
        """Return the values of all series of a name that have these labels, by their other labels."""
        return {
            tuple(value for key, value in sorted(sample.labels.items()) if key not in labels): sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }


async def scraped(site: Site, path: str = "/metrics") -> Scrape:
    answer = await site.get(path)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    return Scrape(answer.text)


async def until(site: Site, holds: Callable[[Scrape], bool]) -> Scrape:
    """Scrape until what follows the log has come so far."""
    async with asyncio.timeout(PATIENCE):
        while not holds(scrape := await scraped(site)):
            await asyncio.sleep(0)
    return scrape


# Jobs


async def test_jobs_are_counted_by_service_and_phase_and_where_there_are_none_that_is_told(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, ECHO, GATE, executes=False) as site:
        await site.create("echo")
        for _ in range(2):
            await site.run("echo")
        aborted = await site.create("echo")
        await site.post(f"{aborted}/phase", {"PHASE": "ABORT"})
        gone = await site.create("echo")
        assert (await site.request("DELETE", gone)).status == 303
        await site.node.backend.projector.caught_up()
        scrape = await scraped(site)
        counted = {"PENDING": 1, "QUEUED": 2, "ABORTED": 1}
        phases = {(phase.value,): 0 for phase in Phase}
        assert scrape.all("uwsd_jobs", service="echo") == {**phases, **{(k,): v for k, v in counted.items()}}
        assert scrape.all("uwsd_jobs", service="gate") == phases


async def test_how_long_jobs_wait_and_run_is_measured_by_service_and_by_how_they_end(
    tmp_path: Path, clock: ManualClock
) -> None:
    with gate(tmp_path / "gate") as door:
        async with running(tmp_path / "data", GATE, ECHO, clock=clock) as site:
            first, second, third = [await site.run("gate", gate=str(door.path)) for _ in range(3)]
            await site.executing(first)
            clock.advance(seconds=70)
            door.let_through(0)
            await site.ended(first)
            await site.executing(second)
            await site.post(f"{third}/phase", {"PHASE": "ABORT"})
            clock.advance(seconds=5)
            door.let_through(1)
            await site.ended(second)
            scrape = await until(
                site,
                lambda found: found.value("uwsd_job_run_seconds_count", service="gate", phase="ERROR") == 1,
            )
            assert scrape.value("uwsd_job_queue_wait_seconds_count", service="gate") == 2
            assert scrape.value("uwsd_job_queue_wait_seconds_sum", service="gate") == 70
            runs = scrape.all("uwsd_job_run_seconds_count", service="gate")
            assert runs == {("COMPLETED",): 1, ("ERROR",): 1, ("ABORTED",): 0}, "the third has never run"
            seconds = scrape.all("uwsd_job_run_seconds_sum", service="gate")
            assert seconds == {("COMPLETED",): 70, ("ERROR",): 5, ("ABORTED",): 0}
            assert set(scrape.all("uwsd_job_run_seconds_count", service="echo").values()) == {0}


async def test_a_lost_job_waits_from_when_it_was_queued_again(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock, executes=False) as site:
        job = await site.run("echo")
        for seconds, event in (
            (1, e.JobStarted(declaration="")),
            (10, e.JobRequeued(reason="lost")),
            (100, e.JobStarted(declaration="")),
            (1000, e.JobAborted(reason="no more")),
        ):
            clock.advance(seconds=seconds)
            await record(site, job, event)
        scrape = await until(
            site,
            lambda found: found.value("uwsd_job_run_seconds_count", service="echo", phase="ABORTED") == 1,
        )
        assert scrape.value("uwsd_job_queue_wait_seconds_sum", service="echo") == 1 + 100
        assert scrape.value("uwsd_job_run_seconds_sum", service="echo", phase="ABORTED") == 1000


async def test_jobs_that_ran_elsewhere_and_were_imported_are_counted_and_not_measured(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, ECHO, clock=clock, executes=False) as site:
        store = site.node.backend.store
        events = (
            e.JobCreated(service="echo", declaration="", execution_duration=0, destruction=None),
            e.JobQueued(),
            e.JobStarted(declaration=""),
            e.JobCompleted(),
        )
        imported = Metadata(source="trace", occurred=0)
        await store.append(e.job_stream("imported"), [e.encode(event, imported) for event in events])
        job = await site.run("echo")
        await record(site, job, e.JobStarted(declaration=""), e.JobCompleted())
        await site.node.backend.projector.caught_up()
        scrape = await until(
            site, lambda found: sum(found.all("uwsd_job_run_seconds_count", service="echo").values()) > 0
        )
        assert scrape.value("uwsd_jobs", service="echo", phase="COMPLETED") == 2
        assert scrape.value("uwsd_job_run_seconds_count", service="echo", phase="COMPLETED") == 1
        assert scrape.value("uwsd_job_queue_wait_seconds_count", service="echo") == 1


async def test_no_owner_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        for user in ("adalovelace", "charlesbabbage"):
            job = await site.run("echo", user=user)
            await site.ended(job, user=user)
        await site.node.backend.projector.caught_up()
        scrape = await scraped(site)
        assert scrape.value("uwsd_jobs", service="echo", phase="COMPLETED") == 2
        assert "ada" not in scrape.text
        assert "charles" not in scrape.text
        assert job not in scrape.text


# The log and the read models


async def test_what_comes_to_the_log_is_counted_and_timed(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        before = (await site.node.backend.store.head()).position
        assert (await scraped(site)).value("uwsd_log_head_position") == before
        for _ in range(3):
            await site.run("echo")
        scrape = await scraped(site)
        assert scrape.value("uwsd_log_head_position") == before + 6
        assert scrape.value("uwsd_log_events_total") == 6
        assert scrape.value("uwsd_log_commit_duration_seconds_count") == 3
        assert 0 < scrape.value("uwsd_log_commit_duration_seconds_sum") < PATIENCE


async def test_a_read_model_that_lags_behind_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        await site.node.backend.projector.caught_up()
        lags = (await scraped(site)).all("uwsd_projection_lag_events")
        assert lags == {
            (name,): 0 for name in ("documents", "job_list", "queue", "services", "trail", "usage")
        }
        held = Held(monkeypatch)
        await site.run("echo")
        try:
            await held.entered.wait()
            assert (await scraped(site)).value("uwsd_projection_lag_events", model="job_list") == 2
        finally:
            held.let_go()


async def test_a_read_model_that_has_stopped_keeps_nothing_from_being_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO, executes=False) as site:
        await site.create("echo")
        await site.node.backend.projector.caught_up()
        monkeypatch.setattr(Usage, "apply", broken)
        await site.create("echo")
        await site.node.backend.projector.caught_up("documents", "job_list", "queue")
        scrape = await scraped(site)
        assert scrape.value("uwsd_projection_lag_events", model="usage") == 1
        assert scrape.value("uwsd_jobs", service="echo", phase="PENDING") == 1, "as far as it came"
        (file,) = (tmp_path / "projections").glob("usage-*.db")
        with closing(sqlite3.connect(file)) as spoilt:
            spoilt.execute("DROP TABLE usage")
        scrape = await scraped(site)
        assert not scrape.all("uwsd_jobs")
        assert scrape.value("uwsd_projection_lag_events", model="usage") == 1


# Requests


async def test_requests_are_measured_by_route_method_and_class_of_status_whatever_clients_send(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        for path in ("/phase", "/phase", "/results/a", "/results/b", "/results/c?x=y"):
            await site.get(job + path)
        await site.post(f"{job}/phase", {"PHASE": "WALK"})
        await site.get(f"{job}?wait=0")
        await site.get(job)
        for number, method in enumerate(("PATCH", "PROPFIND", "MKCOL")):
            await site.get(f"/no/such/thing/{number}")
            await site.request(method, "/echo/async")
        await site.request("HEAD", "/echo/async")
        scrape = await scraped(site)
        one = "/{service}/async/{job_id}"
        assert scrape.all("uwsd_http_request_duration_seconds_count") == {
            ("POST", "/{service}/async", "3xx"): 1,
            ("GET", f"{one}/phase", "2xx"): 2,
            ("GET", f"{one}/results/{{result_id}}", "4xx"): 3,
            ("POST", f"{one}/phase", "4xx"): 1,
            ("GET", f"{one}?WAIT", "2xx"): 1,
            ("GET", one, "2xx"): 1,
            ("GET", "none", "4xx"): 3,
            ("other", "none", "4xx"): 3,
            ("HEAD", "/{service}/async", "2xx"): 1,
        }
        seconds = scrape.all("uwsd_http_request_duration_seconds_sum")
        assert all(0 < each < PATIENCE for each in seconds.values())


async def test_what_fails_is_measured_as_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO, executes=False) as site:
        monkeypatch.setattr("uws.jobs.UserUWS.list_state", broken)
        assert (await site.get("/echo/async")).status == 500
        requests = (await scraped(site)).all("uwsd_http_request_duration_seconds_count")
        assert requests == {("GET", "/{service}/async", "5xx"): 1}


# Who reads it, and how


async def test_it_is_told_without_asking_who_asks(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        for path in ("/metrics", "/healthz", "/readyz"):
            answer = await site.get(path, headers={"Authorization": "Basic nonsense"})
            assert answer.status == 200


async def test_openmetrics_is_what_is_sent_to_whoever_asks_for_it(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        await site.create("echo")
        await site.node.backend.projector.caught_up()
        asked = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        answer = await site.get("/metrics", headers={"Accept": asked})
        media_type = answer.headers["Content-Type"]
        assert media_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
        found = {family.name: family for family in open_metrics(answer.text)}
        assert {"PENDING": 1.0}.items() <= {
            sample.labels["phase"]: sample.value for sample in found["uwsd_jobs"].samples
        }.items()
        assert found["uwsd_log_events"].type == "counter"
        assert found["uwsd_job_run_seconds"].type == "histogram"


async def test_applications_beside_each_other_count_apart(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        await site.get("/echo/async")
        async with serving(make_application(site.node.services)) as other:
            await other.get("/availability")
            name = "uwsd_http_request_duration_seconds_count"
            assert (await scraped(other)).all(name) == {("GET", "/availability", "2xx"): 1}
        assert ("GET", "/availability", "2xx") not in (await scraped(site)).all(name)
    assert not [family for family in REGISTRY.collect() if family.name.startswith("uwsd")]


async def test_a_whole_server_measures_its_jobs_where_it_is_mounted(tmp_path: Path) -> None:
    outer = web.Application()
    outer.add_subapp("/vo/", make_uws_application(Settings(data=tmp_path, services=(ECHO,))))
    async with serving(outer) as site:
        job = (await site.post("/vo/echo/async", {"PHASE": "RUN"})).location
        await site.ended(job)
        async with asyncio.timeout(PATIENCE):
            while not sum((await scraped(site, "/vo/metrics")).all("uwsd_job_run_seconds_count").values()):
                await asyncio.sleep(0)


async def test_an_application_without_services_has_metrics_of_its_requests() -> None:
    async with serving(make_application(())) as site:
        await site.get("/")
        scrape = await scraped(site)
        assert scrape.value("uwsd_http_request_duration_seconds_count", route="/") == 1
        assert not scrape.all("uwsd_jobs")
