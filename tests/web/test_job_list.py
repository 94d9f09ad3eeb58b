"""The job list and its filters (UWS 1.1 section 2.2.2.1)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import NAMESPACES, ManualClock, Site, job_id, running
from tests.web.support import ECHO, FAIL, PHASES, record
from uws import Phase, Service, StrParameter


async def listed(site: Site, query: str = "", service: str = "echo") -> list[str]:
    """Return the ids of a list, in its order."""
    answer = await site.get(f"/{service}/async?{query}")
    assert answer.status == 200, answer.text
    return [str(entry.get("id")) for entry in answer.xml.findall("uws:jobref", NAMESPACES)]


async def one_a_minute(site: Site, clock: ManualClock, count: int) -> list[str]:
    """Create jobs at 00:00, 00:01, …; return their ids, oldest first."""
    made = []
    for _ in range(count):
        made.append(job_id(await site.create("echo")))
        clock.advance(minutes=1)
    return made


async def one_in_each_phase(site: Site) -> dict[str, str]:
    made = {}
    for phase, events in PHASES.items():
        job = await site.create("echo")
        await record(site, job, *events)
        made[phase] = job_id(job)
    return made


async def test_the_newest_job_is_first(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        made = await one_a_minute(site, clock, 3)
        assert await listed(site) == made[::-1]


async def test_jobs_of_the_same_instant_are_listed_by_the_order_of_their_creation(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        made = [job_id(await site.create("echo")) for _ in range(5)]
        assert await listed(site) == made[::-1]
        assert await listed(site, "LAST=2") == [made[4], made[3]]


async def test_a_list_holds_its_own_services_jobs(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FAIL) as site:
        echo, fail = job_id(await site.create("echo")), job_id(await site.create("fail"))
        assert await listed(site) == [echo]
        assert await listed(site, service="fail") == [fail]


async def test_archived_jobs_are_hidden_unless_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        made = await one_in_each_phase(site)
        assert set(await listed(site)) == set(made.values()) - {made["ARCHIVED"]}
        assert await listed(site, "PHASE=ARCHIVED") == [made["ARCHIVED"]]
        assert set(await listed(site, "PHASE=ARCHIVED&PHASE=ERROR")) == {made["ARCHIVED"], made["ERROR"]}
        assert made["ARCHIVED"] not in await listed(site, "LAST=100")


@pytest.mark.parametrize("phase", PHASES)
async def test_phase_selects_one_phase(tmp_path: Path, phase: str) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        made = await one_in_each_phase(site)
        assert await listed(site, f"PHASE={phase}") == [made[phase]]
        assert await listed(site, f"phase={phase}") == [made[phase]]


async def test_repeated_phases_are_a_union(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        made = await one_in_each_phase(site)
        assert set(await listed(site, "PHASE=ERROR&phase=PENDING")) == {made["ERROR"], made["PENDING"]}
        assert await listed(site, "PHASE=ERROR&PHASE=ERROR") == [made["ERROR"]]


async def test_a_phase_in_which_no_job_is_gives_an_empty_list(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        await site.create("echo")
        assert await listed(site, "PHASE=QUEUED") == []


async def test_after_is_strictly_later(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        made = await one_a_minute(site, clock, 3)
        assert await listed(site, "AFTER=2025-12-31T23:59:59.999Z") == made[::-1]
        assert await listed(site, "AFTER=2026-01-01T00:01:00Z") == [made[2]]
        assert await listed(site, "AFTER=2026-01-01T00:00:59.999Z") == [made[2], made[1]]
        assert await listed(site, "after=2026-01-01T00:02:00Z") == []


async def test_after_the_creation_time_that_a_document_tells_leaves_that_job_out(
    tmp_path: Path, clock: ManualClock
) -> None:
    clock.advance(microseconds=123_999)
    async with running(tmp_path, ECHO, clock=clock) as site:
        job = await site.create("echo")
        told = (await site.document(job)).findtext("uws:creationTime", namespaces=NAMESPACES)
        assert await listed(site, f"AFTER={told}") == []


async def test_last_is_the_newest_first(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        made = await one_a_minute(site, clock, 4)
        assert await listed(site, "LAST=2") == [made[3], made[2]]
        assert await listed(site, "last=1") == [made[3]]
        assert await listed(site, "LAST=1000000") == made[::-1]


async def test_last_includes_jobs_that_never_started(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        started = await site.run("echo")
        await site.ended(started)
        clock.advance(minutes=1)
        pending = await site.create("echo")
        assert await listed(site, "LAST=1") == [job_id(pending)]
        assert await listed(site, "LAST=2") == [job_id(pending), job_id(started)]


async def test_several_filters_are_anded(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        made = await one_a_minute(site, clock, 6)
        for index in (0, 2, 4, 5):
            await site.post(f"/echo/async/{made[index]}/phase", {"PHASE": "ABORT"})
        assert await listed(site, "PHASE=ABORTED&AFTER=2026-01-01T00:00:00Z") == [made[5], made[4], made[2]]
        assert await listed(site, "PHASE=ABORTED&AFTER=2026-01-01T00:00:00Z&LAST=2") == [made[5], made[4]]
        assert await listed(site, "PHASE=PENDING&LAST=1") == [made[3]]


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("PHASE=NONSENSE", "PHASE: there is no phase 'NONSENSE'"),
        ("PHASE=PENDNG", "PHASE: there is no phase 'PENDNG' (did you mean PENDING?)"),
        ("PHASE=pending", "PHASE: there is no phase 'pending' (did you mean PENDING?)"),
        ("PHASE=", "PHASE: there is no phase ''"),
        ("PHASE=PENDING&PHASE=NONSENSE", "PHASE: there is no phase 'NONSENSE'"),
        ("PHASE=PENDING,ERROR", "PHASE: there is no phase 'PENDING,ERROR'"),
        ("LAST=0", "LAST: expected a whole number, at least 1, got '0'"),
        ("LAST=-1", "LAST: expected a whole number, at least 1, got '-1'"),
        ("LAST=", "LAST: expected a whole number, at least 1, got ''"),
        ("LAST=1.5", "LAST: expected a whole number, at least 1, got '1.5'"),
        ("LAST=ten", "LAST: expected a whole number, at least 1, got 'ten'"),
        ("LAST=%D9%A3", "LAST: expected a whole number, at least 1, got '٣'"),
        ("LAST=99999999999999999999999", "LAST: expected a whole number, at least 1, got '999"),
        ("LAST=1&LAST=2", "LAST takes one value, got 2"),
        ("AFTER=", "AFTER: '' is not a UTC time"),
        ("AFTER=yesterday", "AFTER: 'yesterday' is not a UTC time"),
        ("AFTER=2015-02-30", "AFTER: '2015-02-30' is no time"),
        ("AFTER=2015-10-26T25:00", "AFTER: '2015-10-26T25:00' is no time"),
        ("AFTER=0000-01-01", "AFTER: '0000-01-01' is no time"),
        ("AFTER=15-10-26", "AFTER: '15-10-26' is not a UTC time"),
        ("AFTER=2015&after=2016", "AFTER takes one value, got 2"),
    ],
)  # fmt: skip
async def test_a_filter_that_makes_no_sense_is_400_and_never_a_full_list(
    tmp_path: Path, query: str, complaint: str
) -> None:
    async with running(tmp_path, ECHO) as site:
        await site.create("echo")
        answer = await site.get(f"/echo/async?{query}")
        assert answer.status == 400
        assert answer.text.startswith(f"UsageFault: {complaint}")


@pytest.mark.parametrize("query", ["y=1", "MAXREC=1", "WAIT=1"])
async def test_what_is_no_filter_of_the_xml_list_is_ignored(tmp_path: Path, query: str) -> None:
    async with running(tmp_path, ECHO) as site:
        made = [job_id(await site.create("echo")) for _ in range(2)]
        assert await listed(site, query) == made[::-1]


async def test_the_xml_list_is_whole_unless_a_page_of_it_is_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        made = [job_id(await site.create("echo")) for _ in range(5)][::-1]
        assert await listed(site, "") == made
        first = await site.get("/echo/async?LIMIT=2")
        assert first.xml.xpath("//@id") == made[:2]
        second = await site.get(first.xml.xpath("string(/processing-instruction('uwsd-next'))"))
        assert second.xml.xpath("//@id") == made[2:4]
        last = await site.get(second.xml.xpath("string(/processing-instruction('uwsd-next'))"))
        assert last.xml.xpath("//@id") == made[4:]
        assert not last.xml.xpath("/processing-instruction('uwsd-next')")
        for nonsense in ("LIMIT=none", "LIMIT=0", "CURSOR=none"):
            assert (await site.get(f"/echo/async?{nonsense}")).status == 400


async def test_run_id_text_and_parameters_select_as_in_json(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        one = job_id(await site.create("echo", x="one", RUNID="mine"))
        two = job_id(await site.create("echo", x="two", RUNID="mine"))
        three = job_id(await site.create("echo", x="one"))
        assert await listed(site, "RUNID=mine") == [two, one]
        assert await listed(site, "X=one") == [three, one]
        assert await listed(site, "TEXT=TW") == [two]
        assert await listed(site, "RUNID=mine&x=one") == [one]
        assert await listed(site, "RUNID=mine&LAST=1") == [two]
        assert await listed(site, "RUNID=mine&AFTER=2100") == []
        answer = await site.get("/echo/async?x=1&x=2")
        assert (answer.status, answer.text) == (400, "UsageFault: X takes one value, got 2\n")


async def test_a_parameter_that_is_named_like_a_filter_is_no_filter(tmp_path: Path) -> None:
    service = Service(name="s", title="S", command=["true"], parameters={"text": StrParameter()})
    async with running(tmp_path, service) as site:
        job = job_id(await site.create("s", text="needle in hay"))
        assert await listed(site, "text=NEEDLE", "s") == [job]


SHORT_FORMS = {
    "2015": "2015-01-01T00:00:00",
    "2015-10": "2015-10-01T00:00:00",
    "2015-10-26": "2015-10-26T00:00:00",
    "20151026": "2015-10-26T00:00:00",
    "2015-10-26 09:00": "2015-10-26T09:00:00",
    "2015-10-26T09:00": "2015-10-26T09:00:00",
    "2015-10-26T09:00Z": "2015-10-26T09:00:00",
    "20151026T0900": "2015-10-26T09:00:00",
    "20151026T090001Z": "2015-10-26T09:00:01",
    "2015-10-26T09:00:01": "2015-10-26T09:00:01",
    "2015-10-26T09:00:01Z": "2015-10-26T09:00:01",
    "2015-10-26T09:00:01.5": "2015-10-26T09:00:01.500",
    "2015-10-26 09:00:01.250Z": "2015-10-26T09:00:01.250",
}


@pytest.mark.parametrize("short", SHORT_FORMS)
async def test_after_takes_short_iso_forms(tmp_path: Path, short: str) -> None:
    moment = datetime.fromisoformat(SHORT_FORMS[short] + "+00:00")
    clock = ManualClock(moment - timedelta(milliseconds=1))
    async with running(tmp_path, ECHO, clock=clock) as site:
        for _ in range(3):  # just before, at, and just after the moment
            last = await site.create("echo")
            clock.advance(milliseconds=1)
        assert await listed(site, f"AFTER={quote(short)}") == [job_id(last)]
        if " " in short:
            assert await listed(site, f"AFTER={short.replace(' ', '+')}") == [job_id(last)]


@pytest.mark.parametrize(
    "offset", ["+00:00", "+01:00", "-05:00", "+0000", "+01", "-00:00", " UTC", "z0", "ZZ"]
)
async def test_after_refuses_any_offset_but_z(tmp_path: Path, offset: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.get(f"/echo/async?AFTER=2015-10-26T09:00:00{quote(offset)}")
        assert answer.status == 400
        assert "is not a UTC time such as 2015-10-26T09:00:00Z" in answer.text


@given(
    time=st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2100, 1, 1)),
    z=st.sampled_from(["", "Z"]),
)
@settings(max_examples=10, deadline=None)
async def test_every_time_to_the_microsecond_is_understood(
    tmp_path_factory: pytest.TempPathFactory, time: datetime, z: str
) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with running(tmp_path_factory.mktemp("data"), ECHO, clock=clock) as site:
        job = await site.create("echo")
        expected = [job_id(job)] if time < clock.now().replace(tzinfo=None) else []
        for separator in "T ":
            assert await listed(site, f"AFTER={quote(time.isoformat(separator) + z)}") == expected


class Query(NamedTuple):
    """Filters, and what a plain list of (minute of creation, phase, id), oldest first, gives for them."""

    phases: list[str] | None
    after: int | None
    last: int | None

    def text(self, start: datetime) -> str:
        pairs = [f"PHASE={phase}" for phase in self.phases or ()]
        if self.after is not None:
            pairs.append(f"AFTER={start + timedelta(minutes=self.after):%Y-%m-%dT%H:%M:%SZ}")
        if self.last is not None:
            pairs.append(f"LAST={self.last}")
        return "&".join(pairs)

    def of(self, jobs: list[tuple[int, str, str]]) -> list[str]:
        wanted = self.phases or sorted(set(Phase) - {"ARCHIVED"})
        later = [job for job in jobs[::-1] if self.after is None or job[0] > self.after]
        return [name for _, phase, name in later if phase in wanted][: self.last]


PHASE = st.sampled_from(sorted(PHASES))
QUERY = st.builds(
    Query,
    phases=st.none() | st.lists(PHASE, min_size=1, max_size=4),
    after=st.none() | st.integers(-1, 12),
    last=st.none() | st.integers(1, 12),
)


@given(phases=st.lists(PHASE, min_size=6, max_size=10), queries=st.lists(QUERY, min_size=20, max_size=20))
@settings(max_examples=4, deadline=None)
async def test_any_filters_give_what_a_plain_list_would(
    tmp_path_factory: pytest.TempPathFactory, phases: list[str], queries: list[Query]
) -> None:
    clock = ManualClock()
    start = clock.now()
    async with running(tmp_path_factory.mktemp("data"), ECHO, clock=clock, executes=False) as site:
        jobs = []
        for minute, phase in enumerate(phases):
            job = await site.create("echo")
            await record(site, job, *PHASES[phase])
            jobs.append((minute, phase, job_id(job)))
            clock.advance(minutes=1)
        for query in queries:
            assert await listed(site, query.text(start)) == query.of(jobs)
