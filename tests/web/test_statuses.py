"""Which status a client gets when something is not as it expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import ManualClock, Site, job_id, running
from tests.web.support import ACTIONS, BELOW, ECHO, FAIL, NEEDY, PHASES, SLEEP, record

# 404


@pytest.mark.parametrize("path", BELOW)
async def test_a_job_that_never_was_is_404(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.get(f"/echo/async/nosuchjob{path}")
        assert (answer.status, answer.text) == (404, "UsageFault: there is no job nosuchjob\n")


@pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
async def test_asking_something_of_a_job_that_never_was_is_404(
    tmp_path: Path, method: str, path: str, body: object
) -> None:
    async with running(tmp_path, ECHO) as site:
        assert (await site.request(method, f"/echo/async/nosuchjob{path}", data=body)).status == 404


@pytest.mark.parametrize(
    "path", ["/nonsense", "/phase/more", "/parameters/nonsense", "/parameters/x/2", "/parameters/x/0",
             "/parameters/x/more", "/results/nonsense", "/results/out/more", "/"],
)  # fmt: skip
async def test_a_sub_resource_that_does_not_exist_is_404(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo", x="1")
        await site.ended(job)
        answer = await site.get(job + path)
        assert answer.status == 404
        assert answer.text.startswith("UsageFault: ")


async def test_a_result_that_is_almost_named_gets_a_hint(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo")
        await site.ended(job)
        answer = await site.get(f"{job}/results/uot")
        assert answer.text == f"UsageFault: job {job_id(job)} has no result uot (did you mean out?)\n"


@pytest.mark.parametrize("path", ["/ehco/async", "/ehco", "/ehco/async/x", "/ehco/parameters.json"])
async def test_a_service_that_does_not_exist_is_404_with_a_hint(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.get(path)
        assert (answer.status, answer.text) == (
            404,
            "UsageFault: there is no service ehco (did you mean echo?)\n",
        )


@pytest.mark.parametrize("path", ["/echo/nonsense", "/echo/async/a/b/c/d", "/echo/sync.xml"])
async def test_a_path_that_leads_nowhere_is_404(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.get(path)
        assert (answer.status, answer.text) == (404, f"UsageFault: there is nothing at {path}\n")


# 410


@pytest.mark.parametrize("path", BELOW)
async def test_a_destroyed_job_is_410(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo", x="1")
        await site.ended(job)
        await site.request("DELETE", job)
        answer = await site.get(job + path)
        assert (answer.status, answer.text) == (410, f"UsageFault: job {job_id(job)} was destroyed\n")


@pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
async def test_asking_something_of_a_destroyed_job_is_410(
    tmp_path: Path, method: str, path: str, body: object
) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        await site.request("DELETE", job)
        assert (await site.request(method, job + path, data=body)).status == 410


async def test_a_job_whose_destruction_time_has_come_is_410(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        job = await site.create("echo", DESTRUCTION="2026-01-02")
        await clock.until_sleeping_for(clock.now().replace(day=2))
        clock.advance(days=1)
        assert (await site.get(f"{job}?WAIT=-1")).status == 410
        assert (await site.get(job)).status == 410


async def test_a_destroyed_job_is_still_410_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        await site.request("DELETE", job)
    async with running(tmp_path, ECHO) as site:
        assert (await site.get(f"/echo/async/{job_id(job)}")).status == 410


# 403


async def refused(site: Site, phase: str, method: str, path: str, body: object) -> bool:
    """Whether the phase forbids it; a refused request must leave the job as it was."""
    job = await site.create("echo")
    await record(site, job, *PHASES[phase])
    before = (await site.get(job)).body
    answer = await site.request(method, job + path, data=body)
    if answer.status == 403:
        assert answer.text.startswith(f"UsageFault: job {job_id(job)} is {phase}: ")
        assert (await site.get(job)).body == before
        return True
    assert answer.status in (204, 303), answer.text
    return False


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("method", "path", "body", "allowed"),
    [
        ("POST", "", {"x": "1"}, {"PENDING", "HELD"}),
        ("POST", "/parameters", {"x": "1"}, {"PENDING", "HELD"}),
        ("PUT", "/parameters/x", "1", {"PENDING", "HELD"}),
        ("POST", "/phase", {"PHASE": "RUN"}, {"PENDING", "HELD"}),
        ("POST", "/phase", {"PHASE": "ABORT"}, {"PENDING", "HELD", "EXECUTING", "SUSPENDED", "UNKNOWN"}),
        ("POST", "/executionduration", {"EXECUTIONDURATION": "1"}, {"PENDING", "HELD"}),
        ("POST", "/destruction", {"DESTRUCTION": "2030"}, set(PHASES) - {"ARCHIVED"}),
    ],
)
async def test_what_the_phase_forbids_is_403_and_changes_nothing(
    tmp_path: Path, method: str, path: str, body: object, allowed: set[str], phase: str
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        assert await refused(site, phase, method, path, body) == (phase not in allowed)


async def test_a_queued_job_takes_no_parameters(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP, ECHO) as site:
        for _ in range(SLEEP.max_running):
            await site.executing(await site.run("sleep"))
        job = await site.run("sleep")
        assert await site.phase(job) == "QUEUED"
        assert (await site.post(f"{job}/phase", {"PHASE": "RUN"})).status == 403
        assert (await site.post(f"{job}/parameters", {"LANG": "x"})).status == 403
        assert (await site.post(f"{job}/phase", {"PHASE": "ABORT"})).status == 303
        assert await site.phase(job) == "ABORTED"


async def test_a_held_job_can_be_run_when_the_client_asks_again(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES["HELD"])
        assert (await site.post(f"{job}/phase", {"PHASE": "RUN"})).status == 303
        assert await site.phase(job) == "QUEUED"


# 400


async def test_a_malformed_value_is_400(tmp_path: Path) -> None:
    async with running(tmp_path, NEEDY) as site:
        answer = await site.post("/needy/async", {"a": "one"})
        assert (answer.status, answer.text) == (400, "UsageFault: a: expected a whole number, got 'one'\n")


# 405 is in test_resources, 401 in test_ownership


# 303


async def test_a_job_of_another_service_is_a_303_to_its_own_url(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FAIL) as site:
        job = await site.run("echo", x="1")
        await site.ended(job)
        for path in BELOW:
            answer = await site.get(job.replace("/echo/", "/fail/") + path)
            assert (answer.status, answer.location) == (303, job + path)


async def test_the_303_to_a_jobs_own_url_keeps_the_query(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FAIL) as site:
        job = await site.create("echo")
        elsewhere = job.replace("/echo/", "/fail/")
        assert (await site.get(f"{elsewhere}?WAIT=3&PHASE=QUEUED")).location == f"{job}?WAIT=3&PHASE=QUEUED"
        assert (await site.get(f"{elsewhere}/parameters/a%2Fb")).location == f"{job}/parameters/a/b"


@pytest.mark.parametrize("address", ["async", "uws.xml"])
@pytest.mark.parametrize(("method", "path", "body"), ACTIONS)
async def test_nothing_is_done_to_a_job_through_another_services_list(
    tmp_path: Path, method: str, path: str, body: object, address: str
) -> None:
    async with running(tmp_path, ECHO, FAIL) as site:
        job = await site.create("echo")
        before = (await site.get(job)).body
        elsewhere = job.replace("/echo/async/", f"/fail/{address}/")
        answer = await site.request(method, f"{elsewhere}{path}?PHASE=RUN", data=body)
        assert (answer.status, answer.location) == (303, job + path)
        assert (await site.get(job)).body == before


async def test_a_job_of_a_service_that_is_no_longer_offered_is_404(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FAIL) as site:
        job = await site.create("echo")
    async with running(tmp_path, FAIL) as site:
        answer = await site.get(f"/fail/async/{job_id(job)}")
        assert answer.status == 404
        assert "belongs to echo, which is no longer offered" in answer.text


# 200


async def test_a_job_that_failed_is_still_200(tmp_path: Path) -> None:
    async with running(tmp_path, FAIL) as site:
        job = await site.run("fail")
        await site.ended(job)
        for path in ("", "/phase", "/error", "/results", "/parameters"):
            assert (await site.get(job + path)).status == 200
        assert await site.phase(job) == "ERROR"


async def test_a_change_is_seen_by_the_next_request(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        for value in map(str, range(20)):
            assert (await site.post(f"{job}/parameters", {"x": value})).status == 303
            assert (await site.get(f"{job}/parameters/x")).text == value
