"""The JSON form: the same facts as in XML; lists of whole jobs, filtered, and page by page."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import HREF, NAMESPACES, Answer, BasicUsers, ManualClock, Site, job_id, running, text
from tests.web.support import ECHO, FAIL, FILES, PHASES, TYPES, record
from uws import Caller, Changes
from uws.jobs.questions import PAGE
from uws.model import events as e

JSON = {"Accept": "application/json"}
KEYS = [
    "jobId", "href", "runId", "ownerId", "phase", "quote", "creationTime", "startTime", "endTime",
    "executionDuration", "destruction", "duration", "parameters", "results", "error", "jobInfo",
]  # fmt: skip


def read(answer: Answer) -> Any:
    assert answer.status == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    return json.loads(answer.body)


async def document(site: Site, job: str, **options: Any) -> Any:
    return read(await site.get(job, headers=JSON, **options))


async def page(site: Site, query: str = "", service: str = "echo") -> Any:
    """Return a page of a list: `jobs` and `next`."""
    found = read(await site.get(f"/{service}/async?{query}", headers=JSON))
    assert list(found) == ["jobs", "next"]
    return found


async def listed(site: Site, query: str = "", service: str = "echo") -> list[str]:
    """Return the ids of a list, all pages, in its order."""
    found = await page(site, query, service)
    ids = [job["jobId"] for job in found["jobs"]]
    while found["next"]:
        found = read(await site.get(found["next"], headers=JSON))
        ids += [job["jobId"] for job in found["jobs"]]
    return ids


# Documents


@pytest.mark.parametrize("phase", PHASES)
async def test_a_job_says_the_same_as_in_xml(tmp_path: Path, clock: ManualClock, phase: str) -> None:
    async with running(tmp_path, ECHO, clock=clock, authenticator=BasicUsers(), executes=False) as site:
        job = await site.create("echo", x='a & "b" ü', RUNID="mine", user="ann")
        clock.advance(seconds=1.5)
        await record(site, job, *PHASES[phase])
        xml, found = await site.document(job, user="ann"), await document(site, job, user="ann")
        assert list(found) == KEYS
        assert found["href"] == job
        for name in KEYS:
            if name not in ("href", "duration", "parameters", "results", "error", "jobInfo"):
                told = None if found[name] is None else str(found[name])
                assert told == text(xml, name), name
        assert found["parameters"] == [{"id": "x", "value": 'a & "b" ü'}]
        assert (found["error"] and found["error"]["message"]) == text(xml, "message")
        info = {
            str(fact.tag).rpartition("}")[2]: fact.text for fact in xml.iterfind("uws:jobInfo/*", NAMESPACES)
        }
        assert {name: str(fact) for name, fact in found["jobInfo"].items()} == info


async def test_a_job_tells_how_long_it_ran(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock, executes=False) as site:
        job = await site.create("echo")
        assert (await document(site, job))["duration"] is None
        await record(site, job, e.JobQueued(), e.JobStarted(declaration=""))
        assert (await document(site, job))["duration"] is None
        clock.advance(seconds=12.25)
        await record(site, job, e.JobCompleted())
        assert (await document(site, job))["duration"] == 12.25


async def test_files_and_results_are_told_by_reference_with_what_they_are(tmp_path: Path) -> None:
    async with running(tmp_path, FILES) as site:
        job = await site.run("files", image=b"data", more=[b"1", b"22"], n=3)
        await site.ended(job)
        found = await document(site, job)
        digests = {content: sha256(content).hexdigest() for content in (b"data", b"1", b"22")}
        file = {"byReference": True, "mimeType": "application/octet-stream"}
        assert found["parameters"] == [
            {"id": "n", "value": "3"},
            {"id": "image", "href": f"{job}/parameters/image", "filename": "image", "size": 4,
             "sha256": digests[b"data"], **file},
            {"id": "more", "href": f"{job}/parameters/more/1", "filename": "more", "size": 1,
             "sha256": digests[b"1"], **file},
            {"id": "more", "href": f"{job}/parameters/more/2", "filename": "more", "size": 2,
             "sha256": digests[b"22"], **file},
        ]  # fmt: skip
        (result,) = found["results"]
        assert result == {
            "id": "out",
            "href": f"{job}/results/out",
            "size": 4,
            "mimeType": result["mimeType"],
            "sha256": digests[b"data"],
        }
        xml = (await site.document(job)).find("uws:results/uws:result", NAMESPACES)
        assert xml is not None
        assert (xml.get(HREF), xml.get("mime-type")) == (result["href"], result["mimeType"])
        for parameter in found["parameters"][1:]:
            assert sha256((await site.get(parameter["href"])).body).hexdigest() == parameter["sha256"]
        assert read(await site.get(f"{job}/parameters", headers=JSON)) == {"parameters": found["parameters"]}
        assert read(await site.get(f"{job}/results", headers=JSON)) == {"results": found["results"]}


async def test_the_order_of_parameters_and_of_their_values_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        job = await site.create("types", word="a", band=["K", "J", "H"], whole=1)
        told = [(item["id"], item["value"]) for item in (await document(site, job))["parameters"]]
        assert told == [("word", "a"), ("band", "K"), ("band", "J"), ("band", "H"), ("whole", "1")]


async def test_an_error_has_its_type_message_and_detail(tmp_path: Path) -> None:
    async with running(tmp_path, FAIL) as site:
        job = await site.run("fail")
        await site.ended(job)
        found = await document(site, job)
        assert found["error"] == {"type": "fatal", "message": "last words", "detail": "first\nlast words\n"}
        assert found["jobInfo"].pop("cpuSeconds", 0) < 1
        assert found["jobInfo"].pop("memoryBytes") > 0
        assert found["jobInfo"] == {"exitCode": 3}


async def test_wait_works_for_json_too(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo")
        found = await document(site, f"{job}?WAIT=30&PHASE=QUEUED")
        while found["phase"] in ("QUEUED", "EXECUTING"):
            found = await document(site, f"{job}?WAIT=30")
        assert found["phase"] == "COMPLETED"


# Lists


async def test_a_list_has_whole_jobs_newest_first(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        jobs = []
        for number in range(3):
            jobs.append(await site.create("echo", x=str(number)))
            clock.advance(minutes=1)
        found = await page(site)
        assert found["next"] is None
        assert found["jobs"] == [await document(site, job) for job in reversed(jobs)]


async def test_an_empty_list_is_one(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        assert await page(site) == {"jobs": [], "next": None}


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 1000])
async def test_following_next_gives_every_job_once(tmp_path: Path, limit: int) -> None:
    async with running(tmp_path, ECHO) as site:
        made = [job_id(await site.create("echo")) for _ in range(7)]
        assert await listed(site, f"LIMIT={limit}") == made[::-1]
        assert len((await page(site, f"LIMIT={limit}"))["jobs"]) == min(limit, 7)


async def test_jobs_that_come_and_go_meanwhile_are_given_once_at_most(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        made = [await site.create("echo") for _ in range(6)]
        first = await page(site, "LIMIT=2")
        await site.create("echo")
        await site.request("DELETE", made[2])
        second = read(await site.get(first["next"], headers=JSON))
        rest = read(await site.get(second["next"], headers=JSON))
        told = [job["href"] for found in (first, second, rest) for job in found["jobs"]]
        assert told == [made[5], made[4], made[3], made[1], made[0]]


async def test_last_bounds_all_pages_together(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        made = [job_id(await site.create("echo")) for _ in range(7)]
        for last in range(1, 10):
            assert await listed(site, f"LAST={last}&LIMIT=3") == made[::-1][:last]
        assert (await page(site, "LAST=3&LIMIT=3"))["next"] is None


async def test_a_hundred_jobs_are_a_page_by_default(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for _ in range(101):
            await site.node.services[0].create_job(Changes(), Caller())
        found = await page(site)
        assert len(found["jobs"]) == 100
        assert len(read(await site.get(found["next"], headers=JSON))["jobs"]) == 1


async def test_a_page_may_be_short_and_still_not_be_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, ECHO) as site:
        wanted = job_id(await site.create("echo", x="rare"))
        for _ in range(8):
            await site.create("echo", x="common")
        entries = site.node.backend.jobs.entries

        async def few(*arguments: Any, **named: Any) -> Any:
            return await entries(*arguments, **named, examine=3)

        monkeypatch.setattr(site.node.backend.jobs, "entries", few)
        first = await page(site, "TEXT=rare")
        assert first["jobs"] == []
        assert first["next"]
        assert await listed(site, "TEXT=rare") == [wanted]
        assert await listed(site, "x=common&LAST=5&LIMIT=2") == (await listed(site, "x=common"))[:5]


async def test_large_jobs_make_short_pages(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        made = [job_id(await site.create("echo", x="x" * 900_000)) for _ in range(10)]
        for query in ("", "LIMIT=1000", "TEXT=XXX"):
            assert 1 <= len((await page(site, query))["jobs"]) <= 4
            assert await listed(site, query) == made[::-1]
        assert await listed(site, "TEXT=y&x=z") == []


async def test_many_jobs_that_are_not_small_make_short_pages(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        uws, given = site.node.services[0], Changes(parameters={"x": ["x" * 15_000]})
        made = [(await uws.create_job(given, Caller())).id for _ in range(2 * PAGE + 1)]
        assert len((await page(site, "LIMIT=1000"))["jobs"]) == 2 * PAGE
        assert await listed(site, "LIMIT=1000") == made[::-1]


async def test_next_keeps_the_filters_and_the_form(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, base_url="https://jobs.example/vo") as site:
        made = [job_id(await site.create("echo", x=x, RUNID="a b")) for x in ("ü & 1", "2", "ü & 1", "ü & 1")]
        query = urlencode(
            {"x": "ü & 1", "RUNID": "a b", "LIMIT": 1, "RESPONSEFORMAT": "json", "PHASE": "PENDING"}
        )
        told, url = [], f"/echo/async?{query}"
        while url:
            found = read(await site.get(url))
            told += [job["jobId"] for job in found["jobs"]]
            assert not found["next"] or found["next"].startswith("https://jobs.example/vo/echo/async?")
            url = (found["next"] or "").removeprefix("https://jobs.example/vo")
        assert told == [made[3], made[2], made[0]]


async def test_a_list_holds_the_jobs_of_whoever_asks(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ann")
        for user, expected in (("ann", [job]), ("bob", []), (None, [])):
            found = read(await site.get("/echo/async", headers=JSON, user=user))
            assert [entry["href"] for entry in found["jobs"]] == expected


# Filters


async def test_runid_is_exact(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        one, two = [job_id(await site.create("echo", RUNID=run)) for run in ("run", "run 1")]
        await site.create("echo")
        assert await listed(site, "RUNID=run") == [one]
        assert await listed(site, "runid=run+1") == [two]
        assert await listed(site, "RUNID=Run") == []


async def test_text_is_found_in_ids_run_ids_values_and_messages(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, FAIL) as site:
        job = job_id(await site.create("files", image=b"x", n=12345, RUNID="Märchen"))
        await site.create("files", image=b"x")
        assert await listed(site, f"TEXT={job.upper()}", "files") == [job]
        assert await listed(site, "TEXT=m%C3%84RCH", "files") == [job]
        assert await listed(site, "text=234", "files") == [job]
        assert len(await listed(site, "TEXT=IMAGE", "files")) == 2
        assert await listed(site, "TEXT=nothing", "files") == []
        failed = await site.run("fail")
        await site.ended(failed)
        assert await listed(site, "TEXT=LAST%20WORDS", "fail") == [job_id(failed)]


async def test_a_parameter_is_compared_as_text_whatever_the_case_of_its_name(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES, FILES) as site:
        job = job_id(await site.create("types", ra="10.0", band=["J", "K"]))
        await site.create("types", ra="10", band=["H"])
        assert await listed(site, "ra=10.0", "types") == [job]
        assert await listed(site, "RA=10.0&BAND=K", "types") == [job]
        assert await listed(site, "ra=10.0&band=H", "types") == []
        file = job_id(await site.create("files", image=b"x"))
        assert await listed(site, "image=image", "files") == [file]
        assert await listed(site, "image=other", "files") == []


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("LIMIT=0", "LIMIT: expected a whole number, at least 1, got '0'"),
        ("LIMIT=1001", "LIMIT: expected a whole number, at most 1000, got 1001"),
        ("LIMIT=ten", "LIMIT: expected a whole number, at least 1, got 'ten'"),
        ("LIMIT=1&limit=2", "LIMIT takes one value, got 2"),
        ("CURSOR=", "CURSOR: '' is none that this list gave"),
        ("CURSOR=abc", "CURSOR: 'abc' is none that this list gave"),
        ("CURSOR=WzEsMiwwXQ", "CURSOR: 'WzEsMiwwXQ' is none that this list gave"),  # [1,2,0]
        ("CURSOR=WzEsMl0", "CURSOR: 'WzEsMl0' is none that this list gave"),  # [1,2]
        ("CURSOR=WzEsLTIsbnVsbF0", "CURSOR: 'WzEsLTIsbnVsbF0' is none that this list gave"),  # [1,-2,null]
        ("CURSOR=WzEsMixudWxsXQ==", "CURSOR: 'WzEsMixudWxsXQ==' is none that this list gave"),
        ("CURSOR=%C3%BC", "CURSOR: 'ü' is none that this list gave"),
        ("PHASE=PENDNG", "PHASE: there is no phase 'PENDNG' (did you mean PENDING?)"),
        ("LAST=0", "LAST: expected a whole number, at least 1, got '0'"),
        ("AFTER=yesterday", "AFTER: 'yesterday' is not a UTC time"),
        ("TEXT=a&TEXT=b", "TEXT takes one value, got 2"),
        ("RUNID=a&runid=b", "RUNID takes one value, got 2"),
        ("x=1&X=2", "X takes one value, got 2"),
        ("PHSE=ERROR", "PHSE: unknown filter (did you mean PHASE?); the list takes: PHASE, AFTER, LAST, "),
        ("y=1", "y: unknown filter"),
    ],
)  # fmt: skip
async def test_a_query_that_makes_no_sense_is_400(tmp_path: Path, query: str, complaint: str) -> None:
    async with running(tmp_path, ECHO) as site:
        await site.create("echo")
        answer = await site.get(f"/echo/async?{query}", headers=JSON)
        assert answer.status == 400
        assert answer.text.startswith(f"UsageFault: {complaint}")


@given(st.text(max_size=40))
@settings(max_examples=25, deadline=None)
async def test_any_cursor_is_a_page_or_400(tmp_path_factory: pytest.TempPathFactory, cursor: str) -> None:
    async with running(tmp_path_factory.mktemp("data"), ECHO) as site:
        answer = await site.get(f"/echo/async?{urlencode({'CURSOR': cursor})}", headers=JSON)
        assert answer.status in (200, 400)


class Made(NamedTuple):
    """A job as it was made."""

    x: str
    run_id: str | None
    phase: str


class Query(NamedTuple):
    """Filters, and which of some jobs they let through."""

    x: str | None
    run_id: str | None
    text: str | None
    phases: list[str]
    after: int | None
    last: int | None

    def encoded(self) -> str:
        pairs: list[tuple[str, object]] = [("PHASE", phase) for phase in self.phases]
        given = {"x": self.x, "RUNID": self.run_id, "TEXT": self.text, "LAST": self.last}
        pairs += [(name, value) for name, value in given.items() if value is not None]
        if self.after is not None:
            pairs.append(("AFTER", f"2026-01-01T00:{self.after:02}:00"))
        return urlencode(pairs)

    def of(self, jobs: list[tuple[str, Made]]) -> list[str]:
        found = [
            name
            for minute, (name, job) in reversed(list(enumerate(jobs)))
            if (self.x is None or job.x == self.x)
            and (self.run_id is None or job.run_id == self.run_id)
            and (self.text is None or self._is_in(name, job))
            and (job.phase in self.phases if self.phases else job.phase != "ARCHIVED")
            and (self.after is None or minute > self.after)
        ]
        return found[: self.last]

    def _is_in(self, name: str, job: Made) -> bool:
        places = [name, job.x, job.run_id or "", "wrong" if job.phase == "ERROR" else ""]
        return any((self.text or "").lower() in place.lower() for place in places)


WORD = st.sampled_from(["a", "A", "ab", "b b", "%", "wrong"])
PHASE = st.sampled_from(sorted(PHASES))
MADE = st.builds(Made, x=WORD, run_id=st.none() | WORD, phase=PHASE)
QUERY = st.builds(
    Query,
    x=st.none() | WORD,
    run_id=st.none() | WORD,
    text=st.none() | WORD,
    phases=st.lists(PHASE, max_size=3),
    after=st.none() | st.integers(0, 9),
    last=st.none() | st.integers(1, 9),
)


@given(
    made=st.lists(MADE, min_size=6, max_size=10),
    queries=st.lists(st.tuples(QUERY, st.integers(1, 4)), min_size=20, max_size=20),
)
@settings(max_examples=4, deadline=None)
async def test_any_filters_give_what_a_plain_list_would_in_json_and_in_xml(
    tmp_path_factory: pytest.TempPathFactory, made: list[Made], queries: list[tuple[Query, int]]
) -> None:
    clock = ManualClock()
    async with running(tmp_path_factory.mktemp("data"), ECHO, clock=clock, executes=False) as site:
        jobs = []
        for job in made:
            given = {"RUNID": job.run_id} if job.run_id is not None else {}
            url = await site.create("echo", x=job.x, **given)
            await record(site, url, *PHASES[job.phase])
            jobs.append((job_id(url), job))
            clock.advance(minutes=1)
        for query, limit in queries:
            expected = query.of(jobs)
            assert await listed(site, f"{query.encoded()}&LIMIT={limit}") == expected
            xml = (await site.get(f"/echo/async?{query.encoded()}")).xml
            assert [entry.get("id") for entry in xml] == expected
