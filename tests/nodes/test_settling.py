"""Jobs of nodes that are gone: who settles them, and that nobody does who comes too late."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from eventstore import NewEvent, RecordedEvent
from eventstore._database import SCHEMA
from tests.databases import needs_postgres
from tests.disks import mounted
from tests.execution.programs import Pipe, is_running, shell
from tests.harness import Site, job_id, text
from tests.nodes.conftest import GONE_AFTER, Start
from tests.nodes.link import Link
from tests.nodes.test_nodes import types_of, until
from uws import Service
from uws.files import RESERVE
from uws.model import events as e

pytestmark = needs_postgres
SOON = 10 * GONE_AFTER
_END_THOSE_THAT_WAIT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'advisory'"


def held(ready: Pipe, gate: Pipe, **fields: object) -> Service:
    return shell('echo $$ > "$1"; read x < "$2"', ready.path, gate.path, name="held", max_running=1, **fields)


@pytest.fixture
async def another(postgres_server: object, link: Link) -> AsyncIterator[Link]:
    """Another way to the database that can be cut."""
    async with Link.to(link._to) as another:
        yield another


async def soon(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not true():
            await asyncio.sleep(0.01)


def leads(site: Site) -> bool:
    return bool(site.node.backend.membership and site.node.backend.membership.leads)


def is_gone(site: Site, name: str) -> bool:
    return bool(site.node.backend.membership and site.node.backend.membership.is_gone(name))


async def happens(site: Site, stream: str, kind: str) -> RecordedEvent:
    """Return the first event of a kind in a stream, when there is one."""
    async with asyncio.timeout(SOON):
        async for batch in site.node.backend.follow(0):
            for event in batch:
                if (event.stream, event.type) == (stream, kind):
                    return event
    raise AssertionError("not reached")


async def test_what_an_old_leader_has_decided_of_a_node_that_came_back_is_refused(
    start: Start, link: Link, another: Link, ready: Pipe, gate: Pipe
) -> None:
    """It is cut off when it says that the node is gone, which arrives when another leads."""
    service = held(ready, gate)
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(start("old", through=another.url()))
        await soon(lambda: leads(old))
        far = await stack.enter_async_context(start("far", service, through=link.url()))
        job = await far.run("held")
        (pid,) = await ready.numbers(1)
        new = await stack.enter_async_context(start("new"))
        link.cut()
        async with asyncio.timeout(SOON):
            await another.cut_before(b"NodeLeft")
        link.mend()
        await soon(lambda: leads(new) or leads(far))
        another.mend()
        await soon(lambda: not leads(old))
        await old.node.backend.store.append(
            "after", [NewEvent(type="Said", data=b"")]
        )  # what it has sent was answered
        assert await types_of(new, "node/far") == ["NodeJoined"]
        assert is_running(pid)
        gate.send()
        assert text(await far.ended(job), "phase") == "COMPLETED"


async def test_the_jobs_of_a_node_that_came_back_in_time_are_its_own_again(
    start: Start, link: Link, another: Link, ready: Pipe, gate: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    """The leader is held up, for less than costs it its term, when it has begun to settle them."""
    async with (
        start("leader", jobs=None, through=another.url()) as leader,
        start("far", held(ready, gate), through=link.url(), jobs=None) as far,
        start("third", jobs=None) as third,
    ):
        await soon(lambda: leads(leader))
        job = await far.run("held")
        (pid,) = await ready.numbers(1)
        link.cut()
        async with asyncio.timeout(SOON):
            await another.cut_before(b"ProgramFound")
        link.mend()
        await until(third, "node/far", "NodeJoined", "NodeLeft", "NodeJoined")
        another.mend()
        await soon(lambda: f"job {job_id(job)} is not settled: node far is there again" in caplog.text)
        assert leads(leader)
        assert is_running(pid)
        gate.send()
        assert text(await far.ended(job), "phase") == "COMPLETED"


async def test_a_node_that_is_back_says_so_though_the_log_takes_nothing_at_first(
    start: Start, link: Link, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventstore.postgres.PATIENCE", 0.5)
    async with start("here") as here, start("far", through=link.url()) as far:
        link.cut()
        await happens(here, "node/far", "NodeLeft")
        connection = await asyncpg.connect(url)
        try:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"SELECT {SCHEMA}.take_turn()")
            link.mend()
            await soon(lambda: "the log cannot be written" in caplog.text)
            await connection.execute(_END_THOSE_THAT_WAIT)  # whoever has sent them waits no more
            await transaction.rollback()
        finally:
            await connection.close()
        async with asyncio.timeout(SOON):
            await until(here, "node/far", "NodeJoined", "NodeLeft", "NodeJoined")
        assert far.node.backend.node == "far"


async def test_a_full_disk_costs_neither_a_leader_its_term_nor_programs_their_lease(
    start: Start, tmp_path: Path, ready: Pipe, gate: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="eventstore")
    with mounted(tmp_path / "disk", RESERVE + 8_000_000) as disk:
        service = held(ready, gate, on_lost="requeue")
        async with start("a", service, data=disk.path / "data") as site:
            await soon(lambda: leads(site))
            job = await site.run("held")
            (pid,) = await ready.numbers(1)
            disk.fill()
            full = time.monotonic() + 2 * GONE_AFTER
            while time.monotonic() < full:
                await asyncio.sleep(0.01)
                assert leads(site)
                assert is_running(pid)
            assert "cut off" not in caplog.text
            disk.empty()
            gate.send()
            assert text(await site.ended(job), "phase") == "COMPLETED"


async def test_a_lease_that_cannot_be_kept_is_told_and_costs_no_term(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with start("a") as site:
        await soon(lambda: leads(site))
        lease = tmp_path / "a/lease"
        lease.unlink()
        lease.mkdir()
        await soon(lambda: "programs that others may start again are killed soon" in caplog.text)
        await soon(lambda: caplog.text.count("are killed soon") > 2)
        assert leads(site)
        assert "cut off" not in caplog.text


async def test_a_lease_is_looked_at_each_second_as_a_machine_that_was_suspended_has_slept_through_it(
    start: Start, ready: Pipe, gate: Pipe
) -> None:
    async with start("a", held(ready, gate, on_lost="requeue"), gone_after=3600) as site:
        job = await site.run("held")
        (pid,) = await ready.numbers(1)
        supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

        def woken() -> int:
            status = Path(f"/proc/{supervisor}/status").read_text()
            return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])

        begun, before = time.monotonic(), woken()
        await soon(lambda: woken() >= before + 3)
        assert time.monotonic() - begun < 5
        gate.send()
        assert text(await site.ended(job), "phase") == "COMPLETED"


@pytest.mark.parametrize(("at_first", "later", "again"), [("error", "requeue", 0), ("requeue", "requeue", 1)])
async def test_only_what_was_started_under_a_lease_is_started_again_elsewhere(
    start: Start, link: Link, ready: Pipe, gate: Pipe, at_first: str, later: str, again: int
) -> None:
    """What became of the declaration since changes nothing: a program without a lease may run on."""
    services = [held(ready, gate, on_lost=on_lost) for on_lost in (at_first, later)]
    async with start("far", services[0], through=link.url(), jobs=None) as far:
        job = await far.run("held")
        await ready.numbers(1)
        async with start("here", services[1], jobs=None) as here:
            stream = e.job_stream(job_id(job))
            link.cut()
            await happens(here, stream, "JobRequeued" if again else "JobFailed")
            if again:
                await ready.numbers(1)
                gate.send()
            document = await here.ended(f"{here.url}/held/async/{job_id(job)}")
            assert text(document, "phase") == ("COMPLETED" if again else "ERROR")
            assert (await types_of(here, stream)).count("JobStarted") == 1 + again
            link.mend()
            gate.send()
            await until(here, "node/far", "NodeJoined", "NodeLeft", "NodeJoined")


async def test_what_is_started_again_has_ended_before_where_its_node_says_that_it_is_gone_later(
    start: Start, link: Link, ready: Pipe, gate: Pipe
) -> None:
    service = held(ready, gate, on_lost="requeue")
    async with start("far", service, through=link.url(), jobs=None, gone_after=3 * GONE_AFTER) as far:
        job = await far.run("held")
        (pid,) = await ready.numbers(1)
        async with start("here", service, jobs=None) as here:
            link.cut()
            await ready.numbers(1)
            assert not is_running(pid)
            gate.send()
            document = await here.ended(f"{here.url}/held/async/{job_id(job)}")
            assert text(document, "phase") == "COMPLETED"
            link.mend()


def parents(pid: int) -> tuple[int, int]:
    """The supervisor of a program, and its launcher."""

    def of(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    return of(pid), of(of(pid))


async def test_a_stray_of_a_job_that_runs_elsewhere_is_ended_when_its_node_is_back(
    start: Start, link: Link, ready: Pipe, gate: Pipe
) -> None:
    """Its launcher, its supervisor and its server were killed, and nobody was there to end it."""
    service = held(ready, gate, on_lost="requeue")
    async with start("here", jobs=None) as here:
        await soon(lambda: leads(here))
        async with start("far", service, through=link.url(), jobs=None, jobs_end_with_server=False) as far:
            job = await far.run("held")
            (stray,) = await ready.numbers(1)
            link.cut()  # so that it cannot tell
            supervisor, launcher = parents(stray)
            os.kill(launcher, signal.SIGKILL)
            os.kill(supervisor, signal.SIGKILL)
        stream = e.job_stream(job_id(job))
        await happens(here, stream, "JobRequeued")
        assert is_running(stray)
        async with start("near", service, jobs=None) as near:
            (running,) = await ready.numbers(1)
            link.mend()
            async with start("far", service, jobs=None):
                assert not is_running(stray)
                assert is_running(running)
                gate.send()
                document = await near.ended(f"{near.url}/held/async/{job_id(job)}")
                assert text(document, "phase") == "COMPLETED"
        assert (await types_of(here, stream)).count("JobStarted") == 2


async def test_a_node_that_begins_lets_programs_alone_that_another_has_on_the_same_machine(
    start: Start, ready: Pipe, gate: Pipe
) -> None:
    service = held(ready, gate)
    async with start("a", service) as a:
        job = await a.run("held")
        (pid,) = await ready.numbers(1)
        async with start("b", service):
            assert is_running(pid)
            gate.send()
            assert text(await a.ended(job), "phase") == "COMPLETED"
