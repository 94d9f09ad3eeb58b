"""vo-models, the typed models of the IVOA's documents, reads all that the server writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from vo_models.uws import ErrorSummary, Jobs, JobSummary, Parameter, Parameters, ResultReference, Results
from vo_models.uws.models import MultiValuedParameter
from vo_models.uws.types import ErrorType, ExecutionPhase, UWSVersion
from vo_models.voresource.types import UTCTimestamp
from vo_models.xlink import XlinkType

from tests.daemon import announcements
from tests.harness import BasicUsers, ManualClock, Site, job_id, running
from uws import FileParameter, FloatParameter, IntParameter, ResultDeclaration, Service, StrParameter

COPY = r"""cp "$1" copy.txt; printf 'first\nlast\n' >&2; exit $2"""


class CopyParameters(Parameters):
    image: Parameter | None = None
    ra: Parameter | None = None
    note: MultiValuedParameter | None = None
    status: Parameter | None = None


class NoParameters(Parameters):
    pass


Copy = JobSummary[CopyParameters]
Sleep = JobSummary[NoParameters]


@pytest.fixture
async def site(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Site]:
    copy = Service(
        name="copy",
        title="Copy",
        command=["sh", "-c", COPY, "copy", "{image}", "{status}"],
        parameters={
            "image": FileParameter(required=True),
            "ra": FloatParameter(unit="deg"),
            "note": StrParameter(multiple=True),
            "status": IntParameter(default=0),
        },
        results=[ResultDeclaration(id="copy", path="copy.txt", mime="text/plain")],
        archive=True,
    )
    sleep = Service(
        name="sleep",
        title="Sleep",
        command=["sh", "-c", 'echo up > "$FIFO"; exec sleep 600'],
        environment={"FIFO": str(tmp_path / "fifo")},
    )
    async with running(tmp_path / "var", copy, sleep, clock=clock, authenticator=BasicUsers()) as site:
        yield site


async def read(site: Site, model: Any, url: str, **options: Any) -> Any:
    answer = await site.get(url, **options)
    assert answer.status == 200, answer.text
    return model.from_xml(answer.body)


def fields(model: BaseModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields}


async def test_vo_models_reads_a_pending_job_with_nothing_in_it(site: Site, clock: ManualClock) -> None:
    url = await site.create("copy")
    job = await read(site, Copy, url)
    assert fields(job) == {
        "job_id": job_id(url),
        "run_id": None,
        "owner_id": None,
        "phase": ExecutionPhase.PENDING,
        "quote": None,
        "creation_time": clock.now(),
        "start_time": None,
        "end_time": None,
        "execution_duration": 3600,
        "destruction": clock.now() + timedelta(days=7),
        "parameters": CopyParameters(),
        "results": Results(),
        "error_summary": None,
        "job_info": [],
        "version": UWSVersion.V1_1,
    }


async def test_vo_models_reads_a_completed_job_with_all_that_a_job_can_have(
    site: Site, clock: ManualClock
) -> None:
    control = {"RUNID": "a <run> & more", "DESTRUCTION": "2026-01-03T04:05:06.789Z", "EXECUTIONDURATION": 60}
    notes = ["ä 𝄞", "two\nlines"]
    url = await site.run("copy", user="ada", image=b"eleven byte", ra="1e1", note=notes, **control)
    await site.ended(url, user="ada")
    job = await read(site, Copy, url, user="ada")
    assert (job.owner_id, job.run_id, job.phase) == ("ada", "a <run> & more", ExecutionPhase.COMPLETED)
    assert job.start_time == job.end_time == job.creation_time == clock.now()
    assert job.destruction == UTCTimestamp.fromisoformat("2026-01-03T04:05:06.789Z")
    assert job.execution_duration == 60
    assert job.parameters == CopyParameters(
        image=Parameter(id="image", value=f"{url}/parameters/image", by_reference=True),
        ra=Parameter(id="ra", value="1e1"),
        note=[Parameter(id="note", value="ä 𝄞"), Parameter(id="note", value="two\nlines")],
    )
    href = f"{url}/results/copy"
    made = ResultReference(id="copy", href=href, size=11, mime_type="text/plain", any_attrs={})
    assert job.results == Results(results=[made])
    assert job.error_summary is None
    assert await read(site, CopyParameters, f"{url}/parameters", user="ada") == job.parameters
    assert await read(site, Results, f"{url}/results", user="ada") == job.results


async def test_vo_models_reads_why_a_job_failed(site: Site) -> None:
    for status, kind in ((75, ErrorType.TRANSIENT), (1, ErrorType.FATAL)):
        url = await site.run("copy", image=b"x", status=status)
        await site.ended(url)
        job = await read(site, Copy, url)
        assert job.phase is ExecutionPhase.ERROR
        assert job.error_summary == ErrorSummary(message="last", type=kind, has_detail=True)


async def test_vo_models_reads_an_archived_job(site: Site) -> None:
    url = await site.run("copy", image=b"x")
    await site.ended(url)
    await site.request("DELETE", url)
    job = await read(site, Copy, url)
    assert job.phase is ExecutionPhase.ARCHIVED
    assert job.results == Results()


async def test_vo_models_reads_jobs_that_wait_run_and_were_aborted(
    site: Site, clock: ManualClock, tmp_path: Path
) -> None:
    async with announcements(tmp_path / "fifo") as heard:
        running, waiting = [await site.run("sleep") for _ in range(2)]
        await heard()
        clock.advance(seconds=5)
        job = await read(site, Sleep, running)
        assert (job.phase, job.end_time) == (ExecutionPhase.EXECUTING, None)
        assert job.start_time == clock.now() - timedelta(seconds=5)
        job = await read(site, Sleep, waiting)
        assert (job.phase, job.start_time, job.end_time) == (ExecutionPhase.QUEUED, None, None)
        for url in (waiting, running):
            await site.post(f"{url}/phase", {"PHASE": "ABORT"})
            await site.ended(url)
            job = await read(site, Sleep, url)
            assert (job.phase, job.end_time) == (ExecutionPhase.ABORTED, clock.now())


async def test_vo_models_reads_the_job_list(site: Site, clock: ManualClock) -> None:
    assert await read(site, Jobs, site.list_url("copy")) == Jobs(jobref=[])
    first = await site.create("copy", user="ada", RUNID="the first")
    clock.advance(minutes=1)
    second = await site.run("copy", user="ada", image=b"x")
    await site.ended(second, user="ada")
    jobs = await read(site, Jobs, site.list_url("copy"), user="ada")
    assert jobs.version is UWSVersion.V1_1
    assert [fields(job) for job in jobs.jobref] == [
        {
            "job_id": job_id(url),
            "href": url,
            "type": XlinkType.SIMPLE,
            "phase": phase,
            "run_id": run_id,
            "owner_id": "ada",
            "creation_time": created,
        }
        for url, phase, run_id, created in (
            (second, ExecutionPhase.COMPLETED, None, clock.now()),
            (first, ExecutionPhase.PENDING, "the first", clock.now() - timedelta(minutes=1)),
        )
    ]
    assert (await read(site, Jobs, f"{site.list_url('copy')}?PHASE=HELD", user="ada")).jobref == []
    nobodys = await site.create("copy")
    (job,) = (await read(site, Jobs, site.list_url("copy"))).jobref
    assert (job.href, job.owner_id) == (nobodys, None)
