"""The XML documents: valid, in the schema's order, nil where there is nothing, times in UTC."""

from __future__ import annotations

import re
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.harness import (
    HREF,
    NAMESPACES,
    NIL,
    SHARED,
    Answer,
    BasicUsers,
    ManualClock,
    job_id,
    running,
    text,
)
from tests.web.support import ECHO, FAIL, FILES, PHASES, TYPES, child, raw, record
from uws import Failure
from uws.model import events as e

UWS = f"{{{NAMESPACES['uws']}}}"
JOB = (
    "jobId", "runId", "ownerId", "phase", "quote", "creationTime", "startTime", "endTime",
    "executionDuration", "destruction", "parameters", "results", "errorSummary", "jobInfo",
)  # fmt: skip
"""The elements of a job, as the schema orders them."""
JOBREF = ("phase", "runId", "ownerId", "creationTime")
NILLABLE = ("ownerId", "quote", "startTime", "endTime", "destruction")
TIMES = ("quote", "creationTime", "startTime", "endTime", "destruction")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


@cache
def schemas() -> Any:
    """Return the schemas of the IVOA where they are at hand, else None."""
    script = SHARED / "bin" / "validate-xml"
    if not script.exists():
        return None
    spec = spec_from_loader("validate_xml", SourceFileLoader("validate_xml", str(script)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.all_schemas()


def names(element: etree._Element) -> list[str]:
    return [str(child.tag).removeprefix(UWS) for child in element]


def checked(answer: Answer) -> etree._Element:
    """Hold a document against the schema where it is at hand, and always against what matters most of it."""
    assert answer.status == 200, answer.text
    document = answer.xml
    if schemas():
        schemas().assertValid(document)
    match str(document.tag).removeprefix(UWS):
        case "job":
            found = names(document)
            assert found == [name for name in JOB if name in found], "the order is not the schema's"
            assert set(JOB) - set(found) <= {"runId", "errorSummary", "jobInfo"}
            assert document.get("version") == "1.1"
            for name in NILLABLE:
                element = child(document, f"uws:{name}")
                assert (element.get(NIL) == "true") == (not element.text), name
            for name in TIMES:
                assert text(document, name) is None or TIME.fullmatch(text(document, name) or ""), name
        case "jobs":
            assert document.get("version") == "1.1"
            for entry in document:
                assert names(entry) == [name for name in JOBREF if name in names(entry)]
                assert {"phase", "ownerId", "creationTime"} <= set(names(entry))
                assert entry.get("id")
                assert entry.get(HREF)
                assert TIME.fullmatch(text(entry, "creationTime") or "")
        case "parameters" | "results" as kind:
            assert {child.tag for child in document} <= {f"{UWS}{kind.removesuffix('s')}"}
        case other:
            raise AssertionError(f"unknown document {other}")
    return document


@pytest.mark.skipif(schemas() is None, reason="the schemas are not at hand")
async def test_the_schema_would_find_a_mistake(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        document = await site.document(await site.create("echo"))
        child(document, "uws:phase").text = "RESTING"
        assert not schemas().validate(document)


@pytest.mark.parametrize("phase", PHASES)
async def test_documents_are_valid_in_every_phase(tmp_path: Path, phase: str) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo", x="a & b", RUNID="r")
        await record(site, job, *PHASES[phase])
        assert text(checked(await site.get(job)), "phase") == phase
        (entry,) = checked(await site.get(f"/echo/async?PHASE={phase}"))
        assert text(entry, "phase") == phase
        for part in ("parameters", "results"):
            checked(await site.get(f"{job}/{part}"))


async def test_documents_are_valid_with_everything_in_them(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, authenticator=BasicUsers()) as site:
        first = await site.run("files", image=b"x", user="ann")
        await site.ended(first, user="ann")
        job = await site.run("files", image=b"data", more=[b"1", b"2"], n=3, RUNID="run <1>", user="ann")
        await site.ended(job, user="ann")
        document = checked(await site.get(job, user="ann"))
        assert "errorSummary" not in names(document)
        for name in (*NILLABLE, "runId", "creationTime"):
            assert text(document, name), name
        checked(await site.get("/files/async", user="ann"))


async def test_documents_of_failed_jobs_are_valid(tmp_path: Path) -> None:
    async with running(tmp_path, FAIL) as site:
        job = await site.run("fail")
        await site.ended(job)
        assert "errorSummary" in names(checked(await site.get(job)))


async def test_version_is_on_the_root_of_list_and_job(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        for url in ("/echo/async", "/echo/uws.xml", job):
            assert (await site.get(url)).xml.get("version") == "1.1"


async def test_elements_are_in_the_schemas_order(tmp_path: Path) -> None:
    async with running(tmp_path, FAIL) as site:
        job = await site.run("fail", RUNID="mine")
        await site.ended(job)
        assert names(await site.document(job)) == list(JOB)


async def test_what_has_no_value_is_nil(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        document = await site.document(await site.create("echo"))
        for name in ("ownerId", "quote", "startTime", "endTime"):
            element = child(document, f"uws:{name}")
            assert element.get(NIL) == "true", name
            assert element.text is None
        (entry,) = (await site.get("/echo/async")).xml
        assert child(entry, "uws:ownerId").get(NIL) == "true"


async def test_destruction_is_nil_when_jobs_are_kept_for_ever(tmp_path: Path) -> None:
    from uws import Lifetime, Service

    kept = Service(name="kept", title="Kept", command=["true"], lifetime=Lifetime(default=0, max=0))
    async with running(tmp_path, kept) as site:
        job = await site.create("kept")
        element = child(checked(await site.get(job)), "uws:destruction")
        assert element.get(NIL) == "true"
        assert (await site.get(f"{job}/destruction")).text == ""


async def test_times_are_utc_with_t_and_z(tmp_path: Path, clock: ManualClock) -> None:
    clock.advance(seconds=3723.456789)
    async with running(tmp_path, ECHO, clock=clock) as site:
        await site.ended(await site.run("echo"))
        job = await site.run("echo")
        await site.ended(job)
        document = checked(await site.get(job))
        assert text(document, "creationTime") == "2026-01-01T01:02:03.456Z"
        assert all(text(document, name) for name in TIMES)


async def test_a_jobref_carries_phase_run_id_owner_and_creation_time(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, ECHO, clock=clock, authenticator=BasicUsers()) as site:
        job = await site.create("echo", RUNID="mine", user="ann")
        (entry,) = (await site.get("/echo/async", user="ann")).xml
        assert (entry.get("id"), entry.get(HREF)) == (job_id(job), job)
        assert [(name, text(entry, name)) for name in names(entry)] == [
            ("phase", "PENDING"),
            ("runId", "mine"),
            ("ownerId", "ann"),
            ("creationTime", "2026-01-01T00:00:00.000Z"),
        ]


async def test_a_run_id_is_stored_and_echoed(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo", runid="<my> & run")
        assert text(await site.document(job), "runId") == "<my> & run"
        await site.post(job, {"RUNID": "another"})
        assert text(await site.document(job), "runId") == "another"
        assert text((await site.get("/echo/async")).xml, "runId") == "another"


async def test_an_error_summary_is_only_on_jobs_in_error(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for phase, events in PHASES.items():
            job = await site.create("echo")
            await record(site, job, *events)
            assert ("errorSummary" in names(await site.document(job))) == (phase == "ERROR"), phase


async def test_an_error_summary_is_one_line_and_the_full_text_is_at_error(tmp_path: Path) -> None:
    async with running(tmp_path, FAIL) as site:
        job = await site.run("fail")
        document = await site.ended(job)
        summary = child(document, "uws:errorSummary")
        assert (summary.get("type"), summary.get("hasDetail")) == ("fatal", "true")
        assert text(summary, "message") == "last words"
        assert (await site.get(f"{job}/error")).text == "first\nlast words\n"


async def test_an_error_summary_says_transient_and_that_there_is_no_detail(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        failure = Failure(message="out of memory", type="transient")
        await record(site, job, e.JobQueued(), e.JobStarted(declaration=""), e.JobFailed(failure=failure))
        summary = child(checked(await site.get(job)), "uws:errorSummary")
        assert (summary.get("type"), summary.get("hasDetail")) == ("transient", "false")
        assert (await site.get(f"{job}/error")).text == "out of memory"


@pytest.mark.parametrize("phase", ["ABORTED", "HELD", "UNKNOWN", "SUSPENDED"])
async def test_why_a_job_is_where_it_is_stands_in_job_info(tmp_path: Path, phase: str) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES[phase])
        (reason,) = child(await site.document(job), "uws:jobInfo")
        assert etree.QName(reason).localname == "reason"
        assert reason.text == getattr(PHASES[phase][-1], "reason")  # noqa: B009 - not all events have one


async def test_results_carry_size_media_type_and_link(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo", x="12345")
        (result,) = child(await site.ended(job), "uws:results")
        assert {str(name): value for name, value in result.attrib.items()} == {
            "id": "out",
            "size": "5",
            "mime-type": "text/plain",
            HREF: f"{job}/results/out",
            HREF.replace("href", "type"): "simple",
        }


async def test_uploads_are_shown_by_reference_and_values_are_not(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        job = await site.create("files", image=b"x", more=[b"1", b"2"], n=3)
        shown = child(await site.document(job), "uws:parameters")
        assert [(p.get("id"), p.get("byReference"), p.text) for p in shown] == [
            ("n", None, "3"),
            ("image", "true", f"{job}/parameters/image"),
            ("more", "true", f"{job}/parameters/more/1"),
            ("more", "true", f"{job}/parameters/more/2"),
        ]


async def test_documents_name_their_stylesheets(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        for url, name in (("/echo/async", "useruws-joblist-to-html.xsl"), (job, "useruws-job-to-html.xsl")):
            document: Any = (await site.get(url)).xml
            (instruction,) = document.xpath("preceding-sibling::processing-instruction('xml-stylesheet')")
            assert instruction.target == "xml-stylesheet"
            assert instruction.get("type") == "text/xsl"
            assert instruction.get("href") == f"{site.url}/static/xsl/{name}"
            assert (await site.get(instruction.get("href"))).status == 200


async def test_a_document_does_not_grow_by_being_served(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        for url in ("/echo/async", job):
            assert len({(await site.get(url)).body for _ in range(5)}) == 1


@given(
    values=st.lists(
        st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\t\n\r\"'<&]>")), max_size=8
    )
)
@settings(max_examples=10, deadline=None)
async def test_any_text_comes_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, values: list[str]
) -> None:
    async with running(tmp_path_factory.mktemp("data"), TYPES) as site:
        for value in values:
            if "\ufffe" in value or "\uffff" in value:
                continue
            job = await site.create("types")
            body = value.encode()
            assert (await site.request("PUT", f"{job}/parameters/text", data=body)).status == 204
            assert (await site.get(f"{job}/parameters/text")).body == body
            (parameter,) = child(checked(await site.get(job)), "uws:parameters")
            assert (parameter.text or "") == value


@pytest.mark.parametrize("host", ['a"?>b', "a b", "[", "a:b", "", "a/b", "a@b", "<a>"])
async def test_a_host_header_that_names_no_host_is_refused(tmp_path: Path, host: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await raw(site, "GET", "/echo/async", Host=host)
        assert (answer.status, answer.text) == (400, "UsageFault: the Host header names no host\n")
