"""uws-client 1.1.11, AIP's command line client, in the environment that ``make`` builds for it."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.daemon import Ended, announcements, run
from tests.harness import BasicUsers, Site, job_id, running, text
from uws import ResultDeclaration, Service, StrParameter
from uws.jobs import new_job_id

ENVIRONMENT = Path(__file__).parents[2] / ".venv-uws-client"
pytestmark = pytest.mark.skipif(
    not (ENVIRONMENT / "ready").exists(), reason="uws-client is not installed; `make test` installs it"
)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    say = Service(
        name="say",
        title="Say a word",
        command=["sh", "-c", 'printf %s "$1"; printf two > second', "say", "{word}"],
        parameters={"word": StrParameter(required=True, max_length=10)},
        results=[ResultDeclaration(id="said", path="-"), ResultDeclaration(id="second", path="second")],
        archive=True,
    )
    sleep = Service(
        name="sleep",
        title="Sleep",
        command=["sh", "-c", 'echo up > "$FIFO"; exec sleep 600'],
        environment={"FIFO": str(tmp_path / "fifo")},
    )
    async with running(tmp_path / "var", say, sleep, authenticator=BasicUsers()) as site:
        yield site


async def uws(site: Site, *arguments: str, service: str = "say", cwd: Path | None = None) -> Ended:
    """Run the client's command; its tables are as wide as ``COLUMNS`` says."""
    # Its own `uws` is to be imported, whatever PYTHONPATH says.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env = {**inherited, "COLUMNS": "200", "LINES": "50"}
    ended = await run(ENVIRONMENT / "bin" / "uws", "-H", site.list_url(service), *arguments, cwd=cwd, env=env)
    assert (ended.status, ended.err) == (0, ""), ended.err
    return ended


def field(shown: Ended, name: str) -> str:
    """Return a row of the table that describes a job."""
    found = re.search(rf"^{name} {{2,}}(.*)$", shown.out, re.MULTILINE)
    assert found, shown.out
    return found[1].strip()


def listed(shown: Ended) -> list[str]:
    """Return the ids in the table of jobs; no jobs have no heading either."""
    rows = shown.out.splitlines()
    heading = next((n for n, row in enumerate(rows) if row.startswith("====")), len(rows))
    ids = [row.split()[0] for row in rows[heading + 1 : -1]]
    assert rows[-1] == f"{len(ids)} jobs listed."
    return ids


async def new(site: Site, *arguments: str, service: str = "say") -> str:
    return field(await uws(site, "job", "new", *arguments, service=service), "Job id")


async def test_what_was_made_of_the_client_passes_its_own_tests(tmp_path: Path) -> None:
    modules = [f"uws.UWS.tests.test_{name}" for name in ("base", "connection", "models")]
    passed = await run(ENVIRONMENT / "bin" / "python", "-I", "-m", "unittest", *modules, cwd=tmp_path)
    assert passed.status == 0, passed.err
    assert "Ran 27 tests" in passed.err


async def test_uws_client_makes_a_job_sets_it_runs_it_and_waits_for_it(site: Site) -> None:
    soon = (datetime.now(UTC) + timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    made = await uws(site, "job", "new", "word=one", "executionDuration=50", f"destruction={soon}")
    job = field(made, "Job id")
    assert f"{site.list_url('say')} " in made.out
    assert (field(made, "Phase"), field(made, "Parameter word")) == ("PENDING", "one")
    assert (field(made, "Execution duration"), field(made, "Destruction time")) == ("50", soon)
    changed = await uws(site, "job", "set", job, "word=another", "executionduration=40")
    assert (field(changed, "Parameter word"), field(changed, "Execution duration")) == ("another", "40")
    await uws(site, "job", "run", job)
    while field(shown := await uws(site, "job", "show", job, "--wait"), "Phase") in ("QUEUED", "EXECUTING"):
        pass
    assert field(shown, "Phase") == "COMPLETED"
    assert field(shown, "Result said") == f"{site.list_url('say')}/{job}/results/said"
    assert (await uws(site, "job", "phase", job)).out == "COMPLETED\n"


async def test_uws_client_runs_a_new_job_at_once_and_downloads_its_results(
    site: Site, tmp_path: Path
) -> None:
    job = await new(site, "--run", "word=héllo")
    assert text(await site.ended(f"{site.list_url('say')}/{job}"), "phase") == "COMPLETED"
    await uws(site, "job", "results", job, "--file_base", "all", cwd=tmp_path)
    assert (tmp_path / "all.said").read_text() == "héllo"
    assert (tmp_path / "all.second").read_text() == "two"
    await uws(site, "job", "results", job, "second", cwd=tmp_path)
    assert (tmp_path / f"{job}.second").read_text() == "two"
    assert not (tmp_path / f"{job}.said").exists()


async def test_uws_client_shows_that_a_job_took_too_long(site: Site, tmp_path: Path) -> None:
    async with announcements(tmp_path / "fifo") as heard:
        job = await new(site, "--run", "executionDuration=1", service="sleep")
        await heard()
        stopped = await site.ended(f"{site.list_url('sleep')}/{job}")
    assert text(stopped, "phase") == "ABORTED"
    shown = await uws(site, "job", "show", job, service="sleep")
    assert field(shown, "Phase") == "ABORTED"
    assert "jobinfo" in shown.out


async def test_uws_client_waits_in_a_phase_and_aborts(site: Site, tmp_path: Path) -> None:
    async with announcements(tmp_path / "fifo") as heard:
        job = await new(site, "--run", service="sleep")
        await heard()
        shown = await uws(site, "job", "show", job, "--wait", "1", "--phase", "EXECUTING", service="sleep")
        assert field(shown, "Phase") == "EXECUTING"
        await uws(site, "job", "abort", job, service="sleep")
        url = f"{site.list_url('sleep')}/{job}"
        assert text(await site.ended(url), "phase") == "ABORTED"
    shown = await uws(site, "job", "show", job, "--wait", "30", "--phase", "EXECUTING", service="sleep")
    assert field(shown, "Phase") == "ABORTED"


async def test_uws_client_deletes_a_job(site: Site) -> None:
    job = await new(site, service="sleep")
    deleted = await uws(site, "job", "delete", job, service="sleep")
    assert deleted.out == f"Job {job} successfully deleted!\n"
    assert "410 Gone" in (await uws(site, "job", "show", job, service="sleep")).out


async def test_uws_client_lists_jobs_by_phase_time_and_number(site: Site) -> None:
    jobs = [job_id(await site.create("say", word=str(number))) for number in range(3)]
    for number in (0, 1):
        await site.post(f"{site.list_url('say')}/{jobs[number]}/phase", {"PHASE": "RUN"})
        await site.ended(f"{site.list_url('say')}/{jobs[number]}")
    await site.request("DELETE", f"{site.list_url('say')}/{jobs[0]}")
    second = text(await site.document(f"{site.list_url('say')}/{jobs[1]}"), "creationTime")
    assert second is not None

    assert listed(await uws(site, "list")) == [jobs[2], jobs[1]]
    assert listed(await uws(site, "list", "--completed")) == [jobs[1]]
    assert listed(await uws(site, "list", "--pending", "--completed")) == [jobs[2], jobs[1]]
    assert listed(await uws(site, "list", "--archived")) == [jobs[0]]
    assert listed(await uws(site, "list", "--archived", "--pending")) == [jobs[2], jobs[0]]
    assert listed(await uws(site, "list", "--last", "1")) == [jobs[2]]
    assert listed(await uws(site, "list", "--after", second)) == [jobs[2]]
    assert listed(await uws(site, "list", "--after", "2000-01-01T00:00+02:00")) == [jobs[2], jobs[1]]
    assert listed(await uws(site, "list", "--after", second, "--completed")) == []


async def test_uws_client_sees_its_users_jobs_and_no_others(site: Site) -> None:
    mine = job_id(await site.create("say", user="ada", RUNID="my run"))
    theirs = job_id(await site.create("say", user="bob"))
    ada = ("--user", "ada", "--password", "secret")
    shown = await uws(site, *ada, "list")
    assert listed(shown) == [mine]
    assert "ada" in shown.out
    assert field(await uws(site, *ada, "job", "show", mine), "Owner id") == "ada"
    assert "No permission" in (await uws(site, *ada, "job", "show", theirs)).out
    assert "not authorized" in (await uws(site, "job", "show", mine)).out


async def test_uws_client_says_when_a_value_was_refused(site: Site) -> None:
    assert "bad request" in (await uws(site, "job", "new", "word=much too long")).out
    assert "bad request" in (await uws(site, "job", "new", "wrod=x")).out
    assert listed(await uws(site, "list")) == []


async def test_no_job_id_begins_with_a_letter_that_uws_client_takes_for_one_of_https() -> None:
    assert not [found for _ in range(500) if (found := new_job_id())[0] in "htps:/"]
