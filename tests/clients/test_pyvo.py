"""pyvo, the client that most astronomers have, in processes of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import run
from tests.harness import Site, job_id, running
from uws import FileParameter, ResultDeclaration, Service, StrParameter
from uws.model.service import Lifetime

HERE = Path(__file__).parent
TAP = Service(
    name="tap",
    title="Like TAP",
    command=["python", "-X", "utf8", str(HERE / "query.py"), "{QUERY}", ["{mine}"]],
    max_running=2,
    lifetime=Lifetime(default="7d", max="30d"),
    parameters={
        "REQUEST": StrParameter(values=["doQuery"]),
        "LANG": StrParameter(values=["ADQL"], required=True),
        "QUERY": StrParameter(required=True),
        "mine": FileParameter(),
    },
    results=[ResultDeclaration(id="result", path="-", mime="application/x-votable+xml")],
)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path / "var", TAP) as site:
        yield site


async def tell(story: str, site: Site) -> Any:
    """Have a process tell one of the stories; warnings are errors there, too."""
    told = await run(sys.executable, "-W", "error", HERE / "pyvo_stories.py", story, f"{site.url}/tap")
    assert told.status == 0, told.err
    return json.loads(told.out)


async def test_pyvo_creates_runs_waits_fetches_and_deletes(site: Site) -> None:
    told = await tell("run_and_fetch", site)
    assert told["url"] == f"{site.list_url('tap')}/{told['id']}"
    assert told == {
        "url": told["url"],
        "id": job_id(told["url"]),
        "version": "1.1",
        "created": "PENDING",
        "query": "SELECT 'ä' < \"b\" & 1",
        "phase": "COMPLETED",
        "result": f"{told['url']}/results/result",
        "columns": ["n", "query"],
        "rows": [[1, "SELECT 'ä' < \"b\" & 1"]],
        "after delete": 410,
    }


async def test_pyvo_does_it_all_in_one_call_and_leaves_no_job(site: Site) -> None:
    assert await tell("run_async_in_one_call", site) == ["SELECT 1"]
    assert len(await site.document(site.list_url("tap"))) == 0


async def test_pyvo_sets_duration_destruction_and_query_of_a_pending_job_only(site: Site) -> None:
    told = await tell("change_before_running", site)
    assert told.pop("seconds off") < 0.001
    assert "COMPLETED: " in told.pop("too late")
    assert told == {
        "before": 3600,
        "duration": 30,
        "query": "SELECT 2",
        "rows": ["SELECT 2"],
    }


async def test_pyvo_uploads_files_with_the_job_and_after_it(site: Site) -> None:
    assert await tell("upload", site) == {"at once": ["SELECT upload 11"], "later": ["SELECT upload 7"]}


async def test_pyvo_raises_the_last_line_of_what_the_program_said(site: Site) -> None:
    told = await tell("fail", site)
    assert told["phase"] == "ERROR"
    assert "there is no column wrong <here>" in told["error"]
    assert "line 1" not in told["error"]


async def test_pyvo_aborts(site: Site) -> None:
    told = await tell("abort", site)
    assert told["running"]
    assert told["phase"] == "ABORTED"
    assert "Query Error" in told["error"]


async def test_pyvo_is_told_what_is_wrong_with_a_parameter(site: Site) -> None:
    assert "UsageFault: LANG: 'SQL' is none of ADQL" in await tell("be_refused", site)


async def test_pyvo_lists_jobs_by_phase_time_and_number(site: Site) -> None:
    assert await tell("list_jobs", site) == {
        "all": [3, 2, 1, 0],
        "completed": [1],
        "pending or aborted": [3, 2, 0],
        "archived": [],
        "last two": [3, 2],
        "after the second": [3, 2],
        "after the last": [],
        "pending after the first, last one": [3],
        "phases": {"0": "PENDING", "1": "COMPLETED", "2": "ABORTED", "3": "PENDING"},
        "in full": ["COMPLETED", "doQuery", "ADQL", "SELECT 1"],
        "owner": None,
    }
