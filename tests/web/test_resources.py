"""Every resource of UWS 1.1 section 2.2, with every method it has and none that it has not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import NAMESPACES, ManualClock, job_id, running, text
from tests.web.support import ECHO, FAIL, SLEEP
from uws.web.pages import STATIC

READ = {"GET", "HEAD"}
OF_A_JOB = {
    "": READ | {"POST", "DELETE"},
    "/phase": READ | {"POST"},
    "/executionduration": READ | {"POST"},
    "/destruction": READ | {"POST"},
    "/quote": READ,
    "/error": READ,
    "/owner": READ,
    "/parameters": READ | {"POST"},
    "/parameters/x": READ | {"PUT"},
    "/results": READ,
    "/results/out": READ,
    "/results/out/preview": READ,
    "/history": READ,
    "/logs/stdout": READ,
    "/logs/stdout/preview": READ,
}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")


@pytest.mark.parametrize("path", OF_A_JOB)
async def test_a_job_resource_has_its_methods_and_refuses_others_with_allow(
    tmp_path: Path, path: str
) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo", x="1")
        await site.ended(job)
        for method in METHODS:
            if method not in OF_A_JOB[path]:
                answer = await site.request(method, job + path)
                assert answer.status == 405, method
                assert set(answer.headers["Allow"].split(",")) == OF_A_JOB[path]
                assert answer.text.startswith(f"UsageFault: {method} is not possible here")
        for method in ("GET", "HEAD"):
            assert (await site.request(method, job + path)).status == 200


@pytest.mark.parametrize("address", ["async", "uws.xml"])
async def test_a_job_list_has_its_methods_and_refuses_others_with_allow(tmp_path: Path, address: str) -> None:
    async with running(tmp_path, ECHO) as site:
        url = f"{site.url}/echo/{address}"
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            answer = await site.request(method, url)
            assert answer.status == 405
            assert set(answer.headers["Allow"].split(",")) == {"GET", "HEAD", "POST"}
        assert (await site.get(url)).status == 200
        assert (await site.post(url)).status == 303


@pytest.mark.parametrize("path", ["/echo/async", "/echo/uws.xml"])
async def test_containers_are_xml(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        for url in (site.url + path, job, f"{job}/parameters", f"{job}/results"):
            answer = await site.get(url)
            assert answer.headers["Content-Type"] == "text/xml; charset=utf-8"
            assert answer.xml is not None


@pytest.mark.parametrize("name", ["phase", "executionduration", "destruction", "quote", "error", "owner"])
async def test_simple_values_are_plain_text(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.get(f"{await site.create('echo')}/{name}")
        assert answer.headers["Content-Type"].partition(";")[0] == "text/plain"


async def test_head_says_what_get_says_without_the_body(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        job = await site.run("echo")
        await site.ended(job)
        for path in ("", "/phase", "/results/out"):
            get, head = await site.get(job + path), await site.request("HEAD", job + path)
            assert head.body == b""
            for header in ("Content-Type", "Content-Length"):
                assert head.headers[header] == get.headers[header]


# The job list


@pytest.mark.parametrize("address", ["async", "uws.xml"])
async def test_both_addresses_of_the_list_show_the_same_jobs(tmp_path: Path, address: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.post(f"/echo/{address}", {"x": "1"})
        assert answer.status == 303
        job = answer.location
        assert job.startswith(f"{site.url}/echo/async/")
        for other in ("async", "uws.xml"):
            listed = (await site.get(f"/echo/{other}")).xml.findall("uws:jobref", NAMESPACES)
            assert [entry.get("id") for entry in listed] == [job_id(job)]


@pytest.mark.parametrize("path", ["", "/phase", "/parameters/x", "/results"])
async def test_a_job_is_found_below_both_addresses_of_the_list(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        older = job.replace("/async/", "/uws.xml/")
        assert (await site.get(older + path)).body == (await site.get(job + path)).body


async def test_creating_answers_303_to_the_job(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.post("/echo/async", {"x": "1"})
        assert answer.status == 303
        assert (await site.phase(answer.location)) == "PENDING"


async def test_a_job_can_be_created_with_nothing_at_all(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.post("/echo/async")
        assert answer.status == 303
        assert await site.phase(answer.location) == "PENDING"


@pytest.mark.parametrize(
    ("query", "body"), [("", {"PHASE": "RUN"}), ("?PHASE=RUN", None), ("?phase=RUN", {"x": "1"})]
)
async def test_phase_run_with_the_creation_starts_at_once(
    tmp_path: Path, query: str, body: dict[str, str] | None
) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.post(f"/echo/async{query}", body)
        assert text(await site.ended(answer.location), "phase") == "COMPLETED"


@pytest.mark.parametrize("form", [{"PHASE": "ABORT"}, {"PHASE": "run"}, {"PHASE": ""}, {"ACTION": "DELETE"}])
async def test_other_phases_and_actions_with_the_creation_are_refused(
    tmp_path: Path, form: dict[str, str]
) -> None:
    async with running(tmp_path, ECHO) as site:
        assert (await site.post("/echo/async", form)).status == 400
        assert len((await site.get("/echo/async")).xml) == 0


async def test_the_list_answers_with_a_slash_behind_it_too(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        await site.create("echo")
        for path in ("/echo/async", "/echo/uws.xml"):
            assert (await site.get(f"{path}/?LAST=100")).body == (await site.get(path)).body


# The job


async def test_delete_destroys_and_answers_303_to_the_list(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        answer = await site.request("DELETE", job)
        assert (answer.status, answer.location) == (303, f"{site.list_url('echo')}?LAST=100")
        assert (await site.get(job)).status == 410
        assert len((await site.get("/echo/async")).xml) == 0


@pytest.mark.parametrize("name", ["ACTION", "action"])
async def test_action_delete_destroys_and_answers_303_to_the_list(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        answer = await site.post(job, {name: "DELETE"})
        assert (answer.status, answer.location) == (303, f"{site.list_url('echo')}?LAST=100")
        assert (await site.get(job)).status == 410


@pytest.mark.parametrize("value", ["delete", "RUN", ""])
async def test_any_other_action_is_refused(tmp_path: Path, value: str) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        answer = await site.post(job, {"ACTION": value})
        assert (answer.status, answer.text) == (
            400,
            f"UsageFault: ACTION: expected DELETE or REPLACE, got {value!r}\n",
        )
        assert (await site.get(job)).status == 200


async def test_destroying_a_running_job_stops_its_program_first(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP) as site:
        job = await site.run("sleep")
        await site.executing(job)
        assert (await site.request("DELETE", job)).status == 303
        assert (await site.get(job)).status == 410
        assert not (site.data / job_id(job)).exists()


async def test_parameters_and_job_control_can_be_posted_to_a_pending_job(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        job = await site.create("echo", x="old")
        form = {"X": "new", "executionduration": "7", "DESTRUCTION": "2026-01-02", "RunId": "mine"}
        answer = await site.post(job, form)
        assert (answer.status, answer.location) == (303, job)
        document = await site.document(job)
        assert (await site.get(f"{job}/parameters/x")).text == "new"
        assert text(document, "executionDuration") == "7"
        assert text(document, "destruction") == "2026-01-02T00:00:00.000Z"
        assert text(document, "runId") == "mine"


async def test_a_change_that_is_refused_in_part_is_refused_whole(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo", x="old")
        assert (await site.post(job, {"x": "new", "EXECUTIONDURATION": "soon"})).status == 400
        assert (await site.get(f"{job}/parameters/x")).text == "old"


# Phase


async def test_phase_can_be_read(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        assert (await site.get(f"{await site.create('echo')}/phase")).text == "PENDING"


async def test_phase_run_queues_and_answers_303_to_the_job(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        answer = await site.post(f"{job}/phase", {"PHASE": "RUN"})
        assert (answer.status, answer.location) == (303, job)
        assert text(await site.ended(job), "phase") == "COMPLETED"


async def test_phase_abort_ends_a_pending_job(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        answer = await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert (answer.status, answer.location) == (303, job)
        assert await site.phase(job) == "ABORTED"


async def test_phase_abort_ends_a_running_job(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP) as site:
        job = await site.run("sleep")
        await site.executing(job)
        assert (await site.post(f"{job}/phase", {"PHASE": "ABORT"})).status == 303
        assert text(await site.ended(job), "phase") == "ABORTED"


@pytest.mark.parametrize("value", ["", "run", "PENDING", "COMPLETED", "NONSENSE"])
async def test_only_run_and_abort_can_be_posted_to_phase(tmp_path: Path, value: str) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        answer = await site.post(f"{job}/phase", {"PHASE": value})
        assert (answer.status, answer.text) == (
            400,
            f"UsageFault: PHASE: expected RUN or ABORT, got {value!r}\n",
        )
        assert await site.phase(job) == "PENDING"


@pytest.mark.parametrize("name", ["phase", "executionduration", "destruction"])
async def test_a_post_without_its_value_is_refused(tmp_path: Path, name: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.post(f"{await site.create('echo')}/{name}", {})
        assert (answer.status, answer.text) == (400, f"UsageFault: {name.upper()} is missing\n")


# Execution duration, destruction, quote, error, owner


async def test_execution_duration_is_whole_seconds(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        assert (await site.get(f"{job}/executionduration")).text == "3600"
        answer = await site.post(f"{job}/executionduration", {"EXECUTIONDURATION": "60"})
        assert (answer.status, answer.location) == (303, job)
        assert (await site.get(f"{job}/executionduration")).text == "60"
        assert text(await site.document(job), "executionDuration") == "60"


@pytest.mark.parametrize("value", ["-1", "1.5", "", "forever", "1e3", "٣"])
async def test_an_execution_duration_that_is_no_whole_number_is_refused(tmp_path: Path, value: str) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        answer = await site.post(f"{job}/executionduration", {"EXECUTIONDURATION": value})
        assert answer.status == 400
        assert answer.text.startswith("UsageFault: EXECUTIONDURATION: expected a whole number, at least 0")
        assert (await site.get(f"{job}/executionduration")).text == "3600"


async def test_destruction_is_a_utc_time(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        job = await site.create("echo")
        assert (await site.get(f"{job}/destruction")).text == "2026-01-08T00:00:00.000Z"
        answer = await site.post(f"{job}/destruction", {"DESTRUCTION": "2026-01-03T04:05:06.789Z"})
        assert (answer.status, answer.location) == (303, job)
        assert (await site.get(f"{job}/destruction")).text == "2026-01-03T04:05:06.789Z"
        assert text(await site.document(job), "destruction") == "2026-01-03T04:05:06.789Z"


@pytest.mark.parametrize("value", ["", "tomorrow", "2026-13-01", "2026-01-03T04:05:06+01:00", "1767398706"])
async def test_a_destruction_that_is_no_utc_time_is_refused(
    tmp_path: Path, clock: ManualClock, value: str
) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        job = await site.create("echo")
        answer = await site.post(f"{job}/destruction", {"DESTRUCTION": value})
        assert answer.status == 400
        assert answer.text.startswith("UsageFault: DESTRUCTION: ")
        assert (await site.get(f"{job}/destruction")).text == "2026-01-08T00:00:00.000Z"


async def test_quote_is_empty_without_experience_and_then_an_instant(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        job = await site.run("echo")
        assert (await site.get(f"{job}/quote")).text == ""
        await site.ended(job)
        later = await site.create("echo")
        assert (await site.get(f"{later}/quote")).text == "2026-01-01T00:00:00.000Z"


async def test_error_is_the_full_text(tmp_path: Path) -> None:
    async with running(tmp_path, FAIL) as site:
        job = await site.run("fail")
        await site.ended(job)
        assert (await site.get(f"{job}/error")).text == "first\nlast words\n"


async def test_error_is_empty_when_there_is_none(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo")
        assert (await site.get(f"{job}/error")).text == ""
        await site.ended(job)
        assert (await site.get(f"{job}/error")).text == ""


async def test_owner_is_empty_when_there_is_none(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.get(f"{await site.create('echo')}/owner")
        assert (answer.status, answer.text) == (200, "")


# Parameters and results


async def test_parameters_are_listed(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.get(f"{await site.create('echo', x='1 & 2')}/parameters")
        assert answer.xml.tag == f"{{{NAMESPACES['uws']}}}parameters"
        assert [(p.get("id"), p.text) for p in answer.xml] == [("x", "1 & 2")]


async def test_parameters_can_be_posted_while_pending(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        answer = await site.post(f"{job}/parameters", {"X": "new"})
        assert (answer.status, answer.location) == (303, job)
        assert (await site.get(f"{job}/parameters/x")).text == "new"


async def test_results_are_listed(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo")

        await site.ended(job)
        answer = await site.get(f"{job}/results")
        assert answer.xml.tag == f"{{{NAMESPACES['uws']}}}results"
        assert [result.get("id") for result in answer.xml] == ["out"]


# What lies around the jobs


async def test_the_services_are_listed_in_every_form(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FAIL) as site:
        for accept in ("*/*", "text/html", "application/json"):
            answer = await site.get("/", headers={"Accept": accept})
            assert answer.status == 200
            for service in (ECHO, FAIL):
                assert service.title in answer.text
                assert f"{service.name}/async" in answer.text
        assert f'"jobs":"{site.list_url("fail")}"' in answer.text


async def test_a_service_is_described_in_every_form_and_with_a_slash_led_to(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for accept in ("*/*", "text/html", "application/json"):
            answer = await site.get("/echo", headers={"Accept": accept})
            assert answer.status == 200
            assert ECHO.title in answer.text
        answer = await site.get("/echo/?from-job=x")
        assert (answer.status, answer.location) == (303, f"{site.url}/echo?from-job=x")
        assert (await site.get("/nowhere")).status == 404


async def test_all_that_pages_are_made_of_is_served(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        files = [path for path in STATIC.rglob("*") if path.is_file()]
        assert {"page.xsl", "uws.css", "uws.js"} < {path.name for path in files}
        for path in files:
            answer = await site.get(f"/static/{path.relative_to(STATIC)}")
            assert (answer.status, answer.body) == (200, path.read_bytes())
