"""Servers that share a log: what clients of any of them, and their jobs, can rely on."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from eventstore import EventStore
from eventstore.membership import Membership, NameTaken
from tests.daemon import has_ended
from tests.databases import needs_postgres
from tests.execution.programs import Pipe, directory_of, shell
from tests.harness import Site, job_id, text
from tests.nodes.conftest import GONE_AFTER, Start
from tests.nodes.link import Link
from uws import Service
from uws.model import events as e

pytestmark = needs_postgres
SOON = 20.0
QUICK = shell("true", name="quick")


@pytest.fixture
async def pair(start: Start) -> AsyncIterator[tuple[Site, Site]]:
    async with start("a", QUICK) as a, start("b", QUICK) as b:
        yield a, b


def at(site: Site, job: str) -> str:
    """The URL of a job at another node."""
    return f"{site.url}/{job.split('/', 3)[3]}"


async def types_of(site: Site, stream: str) -> list[str]:
    return [event.type for event in await site.node.backend.store.read_stream(stream)]


async def until(site: Site, stream: str, *types: str) -> None:
    """Return when these events are in a stream, and no others."""
    async for _ in site.node.backend.follow(0):
        if await types_of(site, stream) == [*types]:
            return


async def nodes_of(site: Site, jobs: list[str]) -> Counter[str | None]:
    """On which nodes jobs were started, by the log."""
    started: Counter[str | None] = Counter()
    for job in jobs:
        for event in await site.node.backend.store.read_stream(e.job_stream(job_id(job))):
            if event.type == "JobStarted":
                decoded = e.decode(event)
                assert isinstance(decoded, e.JobStarted)
                started[decoded.node] += 1
    return started


async def test_what_one_node_was_told_every_other_shows_at_once(pair: tuple[Site, Site]) -> None:
    for number in range(100):
        here, there = pair[number % 2], pair[(number + 1) % 2]
        job = await here.create("quick")
        assert await there.phase(at(there, job)) == "PENDING"
        await there.post(f"{at(there, job)}/phase", {"PHASE": "ABORT"})
        assert await here.phase(job) == "ABORTED"


async def test_who_waits_at_one_node_hears_of_what_another_did(pair: tuple[Site, Site]) -> None:
    here, there = pair
    job = await here.create("quick")
    waiting = asyncio.create_task(there.document(f"{at(there, job)}?WAIT=30&PHASE=PENDING"))
    await asyncio.sleep(0)
    await here.post(f"{job}/phase", {"PHASE": "ABORT"})
    async with asyncio.timeout(5):
        assert text(await waiting, "phase") == "ABORTED"


async def test_each_job_is_run_once_by_whichever_node_is_first(start: Start, tmp_path: Path) -> None:
    told = tmp_path / "told"
    service = shell('echo "$UWS_JOB_ID" >> "$1"', str(told), name="tell", max_running=2)
    async with start("a", service) as a, start("b", service) as b, start("c", service) as c:
        sites = a, b, c
        jobs = [await sites[number % 3].run("tell") for number in range(30)]
        for job in jobs:
            assert text(await a.ended(at(a, job)), "phase") == "COMPLETED"
        assert Counter(told.read_text().split()) == {job_id(job): 1 for job in jobs}
        started = await nodes_of(a, jobs)
        assert started.total() == 30
        assert set(started) <= {"a", "b", "c"}


async def test_each_node_has_slots_of_its_own(start: Start, ready: Pipe, gate: Pipe) -> None:
    service = shell('echo $$ > "$1"; read x < "$2"', ready.path, gate.path, name="held", max_running=1)
    async with start("a", service) as a, start("b", service) as b:
        jobs = [await a.run("held") for _ in range(3)]
        await ready.numbers(2)
        assert await nodes_of(a, jobs) == {"a": 1, "b": 1}
        waiting = [job for job in jobs if await a.phase(job) == "QUEUED"]
        assert len(waiting) == 1
        document = await b.document(at(b, waiting[0]))
        assert "2 jobs of held running, at most 1 allowed on each of 2 nodes" in text_of(document)
        for _ in jobs:
            gate.send()
        for job in jobs:
            assert text(await b.ended(at(b, job)), "phase") == "COMPLETED"


def text_of(document: object) -> str:
    return "".join(document.itertext())  # type: ignore[attr-defined]


async def test_who_asks_for_a_result_gets_it_from_any_node(start: Start) -> None:
    service = shell('echo hello > "$UWS_RESULTS/greeting.txt"', name="greet")
    async with start("a", service) as a, start("b", service) as b:
        job = await a.run("greet")
        await b.ended(at(b, job))
        for site in (a, b):
            answer = await site.get(f"{at(site, job)}/results/greeting.txt")
            assert answer.body == b"hello\n"


async def test_nodes_say_in_the_log_that_they_come_and_go(start: Start) -> None:
    async with start("a", QUICK) as a:
        async with start("b", QUICK) as b:
            assert await b.node.backend.jobs.nodes() == ["a", "b"]
        assert await types_of(a, "node/b") == ["NodeJoined", "NodeLeft"]
        await a.node.backend.projector.caught_up("queue")
        assert await a.node.backend.jobs.nodes() == ["a"]


async def test_two_servers_cannot_have_one_name(start: Start, tmp_path: Path) -> None:
    async with start("a", QUICK) as a:
        with pytest.raises(NameTaken, match="another server is node a of this log"):
            async with start("a", QUICK, data=tmp_path / "elsewhere"):
                pass
        assert await a.run("quick")


LONG = 3600
"""Longer than a test takes."""


async def test_the_name_of_a_server_that_has_stopped_is_free_at_once(start: Start, tmp_path: Path) -> None:
    async with start("a", QUICK, gone_after=LONG) as before:
        await before.ended(await before.run("quick"))
    async with start("a", QUICK, data=tmp_path / "elsewhere", gone_after=LONG) as after:
        assert text(await after.ended(await after.run("quick")), "phase") == "COMPLETED"
        with pytest.raises(NameTaken):
            async with start("a", QUICK, gone_after=LONG):
                pass


async def left_by_a_server_that_has_stopped(start: Start, service: Service, ready: Pipe) -> str:
    """A job that goes on without its server, which was node a."""
    async with start("a", service, gone_after=LONG, jobs_end_with_server=False) as site:
        job = await site.run("held")
        await ready.numbers(1)
        return job


@pytest.mark.parametrize("on_lost", ["error", "requeue"])
async def test_a_server_that_was_stopped_and_started_again_has_its_jobs_back(
    start: Start, ready: Pipe, gate: Pipe, on_lost: str
) -> None:
    service = shell('echo $$ > "$1"; read x < "$2"', ready.path, gate.path, name="held", on_lost=on_lost)
    job = await left_by_a_server_that_has_stopped(start, service, ready)
    async with start("a", service, gone_after=LONG) as site:
        gate.send()
        assert text(await site.ended(at(site, job)), "phase") == "COMPLETED"
        assert (await nodes_of(site, [job])).total() == 1


async def test_a_name_is_kept_for_programs_that_others_may_start_again_when_its_server_has_stopped(
    start: Start, tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    service = shell('echo $$ > "$1"; read x < "$2"', ready.path, gate.path, name="held", on_lost="requeue")
    job = await left_by_a_server_that_has_stopped(start, service, ready)
    with pytest.raises(NameTaken):
        async with start("a", service, data=tmp_path / "elsewhere", gone_after=LONG):
            pass
    async with start("a", service, gone_after=LONG) as site:
        gate.send()
        assert text(await site.ended(at(site, job)), "phase") == "COMPLETED"


async def test_other_programs_of_a_server_that_has_stopped_are_seen_through_by_the_next_of_its_name(
    start: Start, tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    """They are on this machine, and where they write all have in common."""
    service = shell('echo $$ > "$1"; read x < "$2"', ready.path, gate.path, name="held")
    job = await left_by_a_server_that_has_stopped(start, service, ready)
    async with start("a", service, data=tmp_path / "elsewhere", gone_after=LONG) as site:
        gate.send()
        assert text(await site.ended(at(site, job)), "phase") == "COMPLETED"


async def leads(member: Membership) -> None:
    """Return when it does."""
    begun = asyncio.Event()

    @asynccontextmanager
    async def duty(_: EventStore) -> AsyncIterator[None]:
        begun.set()
        yield

    async with member.leading(duty):
        await begun.wait()


@asynccontextmanager
async def in_its_place(start: Start, name: str, *services: Service, **options: Any) -> AsyncIterator[Site]:
    """Start a node under a name that another has, as soon as that is gone."""
    async with AsyncExitStack() as stack:
        site = None
        while site is None:
            with suppress(NameTaken):
                site = await stack.enter_async_context(start(name, *services, **options))
        yield site


async def test_a_copy_of_a_data_directory_is_not_the_node_that_it_was_copied_from(
    start: Start, tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    service = shell('echo $$ > "$1"; read x < "$2"', ready.path, gate.path, name="held")
    async with start("a", service, jobs=None) as site:
        job = await site.run("held")
        await ready.numbers(1)
        await asyncio.to_thread(
            shutil.copytree, tmp_path / "a", tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock")
        )
        with pytest.raises(NameTaken, match="another server is node a of this log"):
            async with start("a", service, data=tmp_path / "copy", jobs=None):
                pass
        gate.send()
        assert text(await site.ended(job), "phase") == "COMPLETED"


async def test_what_runs_under_a_name_that_was_taken_is_left_to_whom_it_is_now(
    start: Start, link: Link, tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    """The one that had it before was cut off, and comes back."""
    service = shell('echo $$ > "$1"; read x < "$2"', ready.path, gate.path, name="held", max_running=2)
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(start("a", service, QUICK, through=link.url(), jobs=None))
        link.cut()
        async with in_its_place(start, "a", service, QUICK, data=tmp_path / "new", jobs=None) as new:
            job = await new.run("held")
            await ready.numbers(1)
            link.mend()
            member = old.node.backend.membership
            assert member
            assert isinstance(await member.displaced(), NameTaken)
            quick = []
            for _ in range(5):  # the old one hears of them, too, and of what it finds on its way
                quick.append(await new.run("quick"))
                await new.ended(quick[-1])
            await old.node.backend.projector.caught_up()
            gate.send()
            for each in (job, *quick):
                assert text(await new.ended(each), "phase") == "COMPLETED"
                kinds = await types_of(new, e.job_stream(job_id(each)))
                assert kinds.count("JobStarted") == kinds.count("JobCompleted") == 1, kinds
            await stack.aclose()
            assert await types_of(new, "node/a") == ["NodeJoined"]


async def test_one_node_leads_and_another_does_when_it_is_gone(start: Start) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(start("a", QUICK))
        async with start("b", QUICK) as second:
            ahead, behind = (site.node.backend.membership for site in (first, second))
            assert ahead
            assert behind
            async with asyncio.timeout(SOON):
                await leads(ahead)
                assert not behind.leads
                await stack.aclose()
                await leads(behind)


async def test_a_job_of_a_node_that_is_gone_is_settled_by_another(
    start: Start, link: Link, ready: Pipe, gate: Pipe
) -> None:
    """The one that was cut off stops the program, and records nothing, when it hears of that."""
    service = shell('echo $$ > "$1"; read x < "$2"', ready.path, gate.path, name="held", max_running=1)
    async with start("a", service, through=link.url()) as a:
        job = await a.run("held")
        (pid,) = await ready.numbers(1)
        async with start("b", service, jobs=None) as b:
            link.cut()
            async with asyncio.timeout(5 * GONE_AFTER):
                await until(b, "node/a", "NodeJoined", "NodeLeft")
            document = await b.ended(f"{b.url}/held/async/{job_id(job)}")
            assert text(document, "phase") == "ERROR"
            link.mend()
            await has_ended(pid)
            await until(b, "node/a", "NodeJoined", "NodeLeft", "NodeJoined")
        kinds = await types_of(a, e.job_stream(job_id(job)))
        assert kinds.count("JobStarted") == kinds.count("JobFailed") == 1
        assert directory_of(a, job).exists()
