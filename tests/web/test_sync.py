"""Synchronous execution (DALI 1.1 section 2.2): a job whose result is waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from tests.daemon import serving
from tests.harness import Answer, BasicUsers, Site, running, text
from tests.web.support import (
    ECHO,
    FAIL,
    FILES,
    NEEDY,
    PATIENCE,
    PHASES,
    SLEEP,
    child,
    gate,
    no_directory,
    record,
    until_waiting,
)
from uws import ResultDeclaration, Service, StrParameter

HTML = {"Accept": "text/html"}
WORDS = Service(
    name="words",
    title="Words",
    command=["printf", "%s,", ["{word}"]],
    parameters={"word": StrParameter(multiple=True)},
    results=[ResultDeclaration(id="out", path="-")],
)
SAYS = Service(
    name="says",
    title="Says done when it is let through",
    command=["sh", "-c", 'read line < "$1"; printf done', "says", "{gate}"],
    parameters={"gate": StrParameter(required=True)},
    results=[ResultDeclaration(id="out", path="-")],
)


async def followed(site: Site, answer: Answer, **options: Any) -> tuple[list[str], Answer]:
    """Go where an answer leads; return where that was, as paths, and the answer at the end."""
    way = []
    async with asyncio.timeout(PATIENCE):
        while answer.status == 303:
            way.append(answer.location.removeprefix(site.url))
            answer = await site.get(answer.location, **options)
    return way, answer


async def jobs(site: Site, service: str) -> list[str]:
    """Return the ids of the jobs of a service."""
    return [entry.get("id", "") for entry in await site.document(site.list_url(service))]


def program(script: str, *results: ResultDeclaration, **fields: Any) -> Service:
    return Service(name="run", title="Run", command=["sh", "-c", script], results=[*results], **fields)


# The result


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_leads_to_the_result_by_way_of_its_job(tmp_path: Path, method: str) -> None:
    async with running(tmp_path, ECHO) as site:
        sent = {"params" if method == "GET" else "data": {"X": "a b&c"}}
        way, end = await followed(site, await site.request(method, "/echo/sync", **sent))
        (job,) = await jobs(site, "echo")
        assert way == [f"/echo/sync/{job}", f"/echo/async/{job}/results/out"]
        assert (end.status, end.text) == (200, "a b&c")


async def test_parameters_are_those_of_a_jobs_creation(tmp_path: Path) -> None:
    async with running(tmp_path, WORDS) as site:
        query = "word=a&WORD=b&Word=c&RUNID=night%207&EXECUTIONDURATION=77&PHASE=RUN"
        _, end = await followed(site, await site.get(f"/words/sync?{query}"))
        assert end.text == "a,b,c,"
        (job,) = await jobs(site, "words")
        document = await site.document(f"/words/async/{job}")
        assert (text(document, "runId"), text(document, "executionDuration")) == ("night 7", "77")


async def test_files_come_as_parts_and_by_upload(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        for name, more in (("image", {}), ("some", {"UPLOAD": "image,param:some"})):
            form = aiohttp.FormData(more)
            form.add_field(name, b"the file", filename="x.fits")
            way, end = await followed(site, await site.post("/files/sync", form))
            assert end.text == "the file"
        # What a job of this server has can be named by its URL, and so in a query.
        job = way[0].removeprefix("/files/sync/")
        url = f"{site.url}/files/async/{job}/parameters/image"
        _, end = await followed(site, await site.get(f"/files/sync?UPLOAD=image,{quote(url, safe='')}"))
        assert end.text == "the file"


async def test_the_first_declared_result_that_is_there_is_the_answer(tmp_path: Path) -> None:
    service = program(
        "echo 2 > second; echo 1 > a-first",
        ResultDeclaration(id="none", path="none", optional=True),
        ResultDeclaration(id="second", path="second", mime="text/x-second"),
        ResultDeclaration(id="first", path="a-first"),
    )
    async with running(tmp_path, service) as site:
        _, end = await followed(site, await site.get("/run/sync"))
        assert (end.text, end.headers["Content-Type"]) == ("2\n", "text/x-second")


async def test_a_success_without_any_result_is_204_and_in_a_browser_the_job(tmp_path: Path) -> None:
    async with running(tmp_path, program("true")) as site:
        _, end = await followed(site, await site.get("/run/sync"))
        assert (end.status, end.body) == (204, b"")
        way, end = await followed(site, await site.get("/run/sync"), headers=HTML)
        assert way[1] == way[0].replace("/sync/", "/async/")
        assert "COMPLETED" in end.text


async def test_it_is_a_job_as_any_other_and_marked(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        other = await site.run("echo")
        way, _ = await followed(site, await site.get("/echo/sync"))
        job = site.url + way[0].replace("/sync/", "/async/")
        assert child(await site.document(job), "uws:jobInfo/{urn:uwsd:jobinfo}execution").text == "sync"
        assert (await site.get(f"{job}?RESPONSEFORMAT=json")).text.count('"execution":"sync"') == 1
        assert (await site.get("/echo/async?RESPONSEFORMAT=json")).text.count('"execution":"sync"') == 1
        assert (
            "execution" not in (await site.get(f"{other}?RESPONSEFORMAT=json")).text.partition("jobInfo")[2]
        )
        assert "waits for its result" in (await site.get(f"{job}/history")).text
        assert (await site.request("DELETE", job)).status == 303


async def test_whoever_waits_is_woken_by_the_end_and_not_before(tmp_path: Path) -> None:
    with gate(tmp_path / "gate") as fifo:
        async with running(tmp_path / "data", SAYS, sync_seconds=3600) as site:
            led = await site.get("/says/sync", params={"gate": str(fifo.path)})
            waiting = asyncio.create_task(followed(site, led))
            await site.executing(led.location.replace("/sync/", "/async/"))
            await until_waiting(site)
            assert not waiting.done()
            fifo.let_through()
            assert (await waiting)[1].text == "done"


async def test_the_result_can_be_waited_for_again_from_the_next_server(tmp_path: Path) -> None:
    with gate(tmp_path / "gate") as fifo:
        options = {"sync_seconds": 3600, "jobs_end_with_server": False}
        async with running(tmp_path / "data", SAYS, ECHO, **options) as site:
            led = await site.get("/says/sync", params={"gate": str(fifo.path)})
            unfinished = led.location.removeprefix(site.url)
            (finished, _), _ = await followed(site, await site.get("/echo/sync?x=before"))
            await site.executing(led.location.replace("/sync/", "/async/"))
        async with running(tmp_path / "data", SAYS, ECHO, **options) as site:
            assert (await followed(site, await site.get(finished)))[1].text == "before"
            waiting = asyncio.create_task(site.get(unfinished))
            await until_waiting(site)
            fifo.let_through()
            assert (await followed(site, await waiting))[1].text == "done"


async def test_after_so_many_seconds_the_client_is_sent_to_the_job(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP, sync_seconds=0.05) as site:
        led = await site.get("/sleep/sync")
        begun = asyncio.get_running_loop().time()
        answer = await site.get(led.location)
        assert asyncio.get_running_loop().time() - begun >= 0.05
        assert (answer.status, answer.location) == (303, led.location.replace("/sync/", "/async/"))
        assert await site.phase(answer.location) in ("QUEUED", "EXECUTING")


async def test_the_operator_says_after_how_many_seconds(tmp_path: Path) -> None:
    file = tmp_path / "uwsd.toml"
    file.write_text(
        "[server]\nsync_seconds = 0.05\njobs_end_with_server = true\n"
        '[services.sleep]\ntitle = "Sleep"\ncommand = ["sleep", "1000"]\n'
    )
    async with serving(file) as server:
        way, end = await followed(server, await server.get("/sleep/sync"))
        assert way[1] == way[0].replace("/sync/", "/async/")
        assert text(end.xml, "phase") in ("QUEUED", "EXECUTING")


@pytest.mark.parametrize("phase", ["SUSPENDED", "UNKNOWN"])
async def test_a_job_that_may_go_on_is_waited_for(tmp_path: Path, phase: str) -> None:
    async with running(tmp_path, ECHO, sync_seconds=0.05, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES[phase])
        answer = await site.get(job.replace("/async/", "/sync/"))
        assert (answer.status, answer.location) == (303, job)


async def test_a_server_that_stops_lets_go_of_those_who_wait(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with running(tmp_path, SLEEP, sync_seconds=3600) as site:
            led = await site.get("/sleep/sync")
            outlasting = Site(site.node, site.url, session, site.app)
            waiting = asyncio.create_task(outlasting.get(led.location))
            await until_waiting(site)
        async with asyncio.timeout(PATIENCE):
            answer = await waiting
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)
        assert answer.text.startswith("ServiceUnavailable: the server is being stopped; the job goes on")


# Jobs that come to nothing


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        ("echo no star >&2; exit 3", 422, "DefaultFault: no star; in full at {job}/error"),
        ("exit 3", 422, "DefaultFault: the program ended with exit status 3"),
        ("exit 75", 503, "ServiceUnavailable: the program ended with exit status 75"),
        ("kill -SEGV $$", 500, "DefaultFault: the program was ended by signal SIGSEGV"),
        ("true", 500, "DefaultFault: declared result out (out) is missing"),
    ],
)  # fmt: skip
async def test_a_job_that_fails_is_an_error_with_its_message(
    tmp_path: Path, script: str, status: int, said: str
) -> None:
    async with running(tmp_path, program(script, ResultDeclaration(id="out", path="out"))) as site:
        way, end = await followed(site, await site.get("/run/sync"))
        assert (end.status, end.headers["Content-Type"]) == (status, "text/plain; charset=utf-8")
        assert end.text == said.format(job=site.url + way[0].replace("/sync/", "/async/")) + "\n"
        assert ("Retry-After" in end.headers) is (status == 503)


async def test_a_program_that_cannot_be_started_is_a_fault_of_ours(tmp_path: Path) -> None:
    async with running(tmp_path, Service(name="run", title="Run", command=["/no/such/program"])) as site:
        _, end = await followed(site, await site.get("/run/sync"))
        assert end.status == 500
        assert end.text.startswith("DefaultFault: the program /no/such/program could not be started")


async def test_a_browser_is_told_of_a_failure_on_a_page(tmp_path: Path) -> None:
    async with running(tmp_path, FAIL) as site:
        _, end = await followed(site, await site.get("/fail/sync", headers=HTML), headers=HTML)
        assert (end.status, end.headers["Content-Type"]) == (422, "text/html; charset=utf-8")
        assert "last words" in end.text


async def test_a_job_that_is_aborted_while_it_is_waited_for_is_told_so(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP, sync_seconds=3600) as site:
        led = await site.get("/sleep/sync")
        await site.executing(job := led.location.replace("/sync/", "/async/"))
        waiting = asyncio.create_task(site.get(led.location))
        await until_waiting(site)
        await site.post(job, {"PHASE": "ABORT"})
        answer = await waiting
        assert answer.status == 422
        assert answer.text.endswith("is ABORTED: aborted on request\n")


async def test_a_job_that_runs_for_too_long_is_told_so(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP) as site:
        _, end = await followed(site, await site.get("/sleep/sync?EXECUTIONDURATION=1"))
        assert end.status == 422
        assert "the execution duration of 1 s (1s) was exceeded" in end.text


@pytest.mark.parametrize(
    ("phase", "status", "said"),
    [
        ("PENDING", 403, "UsageFault: job {id} is PENDING: waiting for its result is only possible in "),
        ("ARCHIVED", 404, "UsageFault: job {id} is ARCHIVED: its results are gone"),
        ("ERROR", 500, "DefaultFault: wrong"),
    ],
)
async def test_a_job_without_a_result_says_why(tmp_path: Path, phase: str, status: int, said: str) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES[phase])
        answer = await site.get(job.replace("/async/", "/sync/"))
        assert answer.status == status
        assert answer.text.startswith(said.format(id=job.rpartition("/")[2]))


async def test_a_job_that_is_not_there_any_more_or_never_was(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        way, _ = await followed(site, await site.get("/echo/sync"))
        await site.request("DELETE", way[0].replace("/sync/", "/async/"))
        assert (await site.get(way[0])).status == 410
        assert (await site.get("/echo/sync/nosuchjob")).status == 404
        assert (await site.get("/nosuch/sync")).status == 404


async def test_a_job_of_another_service_has_its_own_address(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FAIL) as site:
        job = await site.run("echo")
        answer = await site.get(job.replace("/echo/async/", "/fail/sync/"))
        assert (answer.status, answer.location) == (303, job)


# Requests that make no job


@pytest.mark.parametrize(
    ("service", "query", "status", "said"),
    [
        ("echo", "y=1", 400, "UsageFault: y: unknown parameter; echo takes: x"),
        ("echo", "x=1&x=2", 400, "MultiValuedParamNotSupported: x: takes one value, got 2"),
        ("echo", "PHASE=ABORT", 400, "UsageFault: a job that is only being created can neither be aborted"),
        ("echo", "ACTION=DELETE", 400, "UsageFault: a job that is only being created can neither be"),
        ("needy", "a=1", 400, "UsageFault: required, but not given: b"),
        ("needy", "a=one&b=1", 400, "UsageFault: a: expected a whole number, got 'one'"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_a_job_could_not_be_created_with_is_refused(
    tmp_path: Path, service: str, query: str, status: int, said: str, method: str
) -> None:
    async with running(tmp_path, ECHO, NEEDY) as site:
        answer = await site.request(method, f"/{service}/sync?{query}")
        assert answer.status == status
        assert answer.text.startswith(said)
        assert await jobs(site, service) == []


FULL = {"max_running": 1, "max_queued_per_owner": 1}


async def test_where_no_more_may_be_queued_it_is_403_and_no_job(tmp_path: Path) -> None:
    async with running(tmp_path, Service(name="s", title="S", command=["sleep", "1000"], **FULL)) as site:
        await site.executing(await site.run("s"))
        await site.run("s")
        before = await jobs(site, "s")
        for method in ("GET", "POST"):
            answer = await site.request(method, "/s/sync")
            assert answer.status == 403
            assert answer.text.startswith("UsageFault: ")
            assert "queued" in answer.text
        assert await jobs(site, "s") == before


async def test_a_job_that_is_held_says_so_and_can_be_waited_for_once_there_is_room(tmp_path: Path) -> None:
    service = program("sleep 1000", when_full="hold", **FULL)
    async with running(tmp_path, service, sync_seconds=3600) as site:
        await site.executing(first := await site.run("run"))
        second = await site.run("run")
        led = await site.get("/run/sync")
        answer = await site.get(led.location)
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)
        assert "is HELD, waiting for room in the queue: " in answer.text
        await site.request("DELETE", second)
        await site.request("DELETE", first)
        job = led.location.replace("/sync/", "/async/")
        while await site.phase(job) == "HELD":
            pass
        waiting = asyncio.create_task(site.get(led.location))
        await until_waiting(site)
        await site.post(job, {"PHASE": "ABORT"})
        assert (await waiting).status == 422


@pytest.mark.parametrize("said", ["cross-site", "same-site"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_a_page_of_another_site_embeds_makes_no_job(
    tmp_path: Path, said: str, method: str
) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.request(method, "/echo/sync", headers={"Sec-Fetch-Site": said})
        assert answer.status == 403
        assert answer.text.startswith("AuthorizationError: this was sent by a page of another site")
        assert await jobs(site, "echo") == []


@pytest.mark.parametrize("said", ["same-origin", "none"])
async def test_own_pages_and_what_a_user_types_may_make_jobs(tmp_path: Path, said: str) -> None:
    async with running(tmp_path, ECHO) as site:
        assert (await site.get("/echo/sync", headers={"Sec-Fetch-Site": said})).status == 303
        # A way that began elsewhere may be gone to its end: looking changes nothing.
        (job,) = await jobs(site, "echo")
        await site.ended(f"/echo/async/{job}")
        answer = await site.get(f"/echo/sync/{job}", headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.status == 303


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE"])
async def test_other_methods_make_no_job(tmp_path: Path, method: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.request(method, "/echo/sync")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,POST")
        assert await jobs(site, "echo") == []


async def test_a_job_that_cannot_be_stored_is_503(tmp_path: Path) -> None:
    async with running(tmp_path / "data", ECHO) as site:
        with no_directory(site):
            assert (await site.get("/echo/sync")).status == 503
        assert await jobs(site, "echo") == []


# Who asks, and how often


async def test_a_post_that_comes_again_under_its_key_is_led_to_the_same_job(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        key = {"Idempotency-Key": "k"}
        first = await site.post("/echo/sync", {"x": "1"}, headers=key)
        again = await site.post("/echo/sync", {"x": "1"}, headers=key)
        assert first.location == again.location
        # A job that nobody waits for is another wish.
        other = await site.post("/echo/async", {"x": "1", "PHASE": "RUN"}, headers=key)
        assert other.status == 422
        assert len(await jobs(site, "echo")) == 1


async def test_a_result_is_its_owners_alone(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        led = await site.get("/echo/sync", user="ann")
        assert (await site.get(led.location, user="bob")).status == 403
        assert (await site.get(led.location)).status == 401
        way, end = await followed(site, led, user="ann")
        assert (len(way), end.text) == (2, "hello")
        assert await jobs(site, "echo") == []
