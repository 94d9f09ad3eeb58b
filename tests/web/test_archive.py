"""What stays of a job on a service that keeps a record."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import NAMESPACES, ManualClock, Site, job_id, running, text
from tests.web.support import ECHO
from uws import FileParameter, ResultDeclaration, Service, StrParameter

KEPT = Service(
    name="kept",
    title="Kept",
    command=["echo", "{x}"],
    parameters={"x": StrParameter(default="hello"), "file": FileParameter()},
    results=[ResultDeclaration(id="out", path="-")],
    archive=True,
)


async def ids(site: Site, query: str = "") -> list[str | None]:
    entries = (await site.get(f"/kept/async{query}")).xml.findall("uws:jobref", NAMESPACES)
    return [entry.get("id") for entry in entries]


async def archived(site: Site) -> str:
    job = await site.run("kept", x="1", file=b"content", RUNID="mine")
    await site.ended(job)
    answer = await site.request("DELETE", job)
    assert (answer.status, answer.location) == (303, f"{site.list_url('kept')}?LAST=100")
    return job


async def test_a_destroyed_job_becomes_an_archived_document(tmp_path: Path) -> None:
    async with running(tmp_path, KEPT) as site:
        job = await archived(site)
        document = await site.document(job)
        assert text(document, "phase") == "ARCHIVED"
        assert text(document, "runId") == "mine"
        assert text(document, "startTime")
        assert document.findall(".//uws:result", NAMESPACES) == []
        assert (await site.get(f"{job}/parameters/x")).text == "1"


async def test_the_files_of_an_archived_job_are_gone(tmp_path: Path) -> None:
    async with running(tmp_path, KEPT) as site:
        job = await archived(site)
        assert not (site.data / job_id(job)).exists()
        assert (await site.get(f"{job}/results/out")).status == 404
        assert (await site.get(f"{job}/parameters/file")).status == 404


async def test_archived_jobs_are_listed_only_when_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, KEPT) as site:
        job = await archived(site)
        other = await site.create("kept")
        assert await ids(site) == [job_id(other)]
        assert await ids(site, "?LAST=10") == [job_id(other)]
        assert await ids(site, "?PHASE=PENDING") == [job_id(other)]
        assert await ids(site, "?PHASE=ARCHIVED") == [job_id(job)]
        assert await ids(site, "?PHASE=ARCHIVED&PHASE=PENDING") == [job_id(other), job_id(job)]


async def test_a_job_is_archived_when_its_destruction_time_comes(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, KEPT, clock=clock) as site:
        job = await site.create("kept", DESTRUCTION="2026-01-02")
        await clock.until_sleeping_for(clock.now().replace(day=2))
        clock.advance(days=1)
        assert text(await site.document(f"{job}?WAIT=-1"), "phase") == "ARCHIVED"
        clock.advance(days=1000)
        assert await ids(site, "?PHASE=ARCHIVED") == [job_id(job)]


async def test_an_archived_job_that_is_deleted_again_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path, KEPT) as site:
        job = await archived(site)
        assert (await site.request("DELETE", job)).status == 303
        assert (await site.get(job)).status == 410
        assert await ids(site, "?PHASE=ARCHIVED") == []


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/phase", {"PHASE": "RUN"}),
        ("/phase", {"PHASE": "ABORT"}),
        ("/parameters", {"x": "2"}),
        ("/destruction", {"DESTRUCTION": "2030"}),
        ("/executionduration", {"EXECUTIONDURATION": "1"}),
    ],
)
async def test_an_archived_job_cannot_be_changed(tmp_path: Path, path: str, form: dict[str, str]) -> None:
    async with running(tmp_path, KEPT) as site:
        job = await archived(site)
        before = (await site.get(job)).body
        assert (await site.post(job + path, form)).status == 403
        assert (await site.get(job)).body == before


async def test_a_service_that_keeps_no_record_keeps_none(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        await site.request("DELETE", job)
        assert (await site.get(job)).status == 410
        assert len((await site.get("/echo/async?PHASE=ARCHIVED")).xml) == 0
