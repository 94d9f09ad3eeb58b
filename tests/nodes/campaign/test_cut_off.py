"""A node whose network is cut: its jobs go on when it is back in time, and are others' when it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from eventstore import RecordedEvent
from eventstore.postgres import PostgresEventLog
from tests.daemon import PATIENCE, Client
from tests.databases import needs_postgres, postgres
from tests.harness import job_id, text
from tests.nodes.campaign.cluster import Node, running, session
from tests.nodes.campaign.conftest import Campaign
from tests.nodes.campaign.machine import Machine, machine, needs_machine
from uws.model import events as e

pytestmark = [needs_postgres, needs_machine]
SLOTS = 4
_SERVICE = """
[services.{name}]
title = "Held"
command = ["sh", "-c", '''
    exec 9>> "$DESK/$UWS_JOB_ID.desk"
    flock --nonblock 9 || echo twice >> "$DESK/$UWS_JOB_ID"
    while ! test -e "$DESK/$1"; do
        echo "$$ $(date +%s.%N)" >> "$DESK/$UWS_JOB_ID"
        sleep 0.05
    done
    ''', "sh", "{{until}}"]
max_running = {slots}
on_lost = "{on_lost}"
environment = {{ DESK = "{desk}" }}

[services.{name}.parameters]
until = {{ type = "str", required = true }}
"""


@dataclass
class Pair:
    """A node on a machine of its own, and one here, with what clients and tests have of them."""

    far: Node
    near: Node
    cable: Machine
    desk: Path
    there: Client
    here: Client
    log: PostgresEventLog

    def open(self, gate: str) -> None:
        """Let programs end that wait for this."""
        (self.desk / gate).touch()

    async def started(self, service: str, until: str) -> str:
        """Have a job run on the machine whose network is cut, and return its id."""
        job = await self.there.run(service, until=until)
        assert text(await self.there.executing(job), "phase") == "EXECUTING"
        return job_id(job)

    async def phase(self, service: str, job: str) -> str:
        return await self.here.phase(f"{self.here.url}/{service}/async/{job}")

    async def history(self, stream: str) -> tuple[RecordedEvent, ...]:
        return await self.log.read_stream(stream)

    async def kinds(self, stream: str) -> list[str]:
        return [event.type for event in await self.history(stream)]

    async def nodes(self, job: str) -> list[str | None]:
        """On which nodes a job was started, one after the other."""
        decoded = [e.decode(event) for event in await self.history(e.job_stream(job))]
        return [event.node for event in decoded if isinstance(event, e.JobStarted)]

    def beats(self, job: str) -> list[tuple[str, float]]:
        """Which program of a job ran when."""
        lines = (self.desk / job).read_text().splitlines()
        assert "twice" not in lines, "two programs at one time"
        return [(pid, float(when)) for pid, when in map(str.split, lines)]


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await true():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def pair(directory: Path, gone_after: int) -> AsyncIterator[Pair]:
    desk, jobs = directory / "desk", directory / "jobs"
    desk.mkdir()
    jobs.mkdir()
    services = "".join(
        _SERVICE.format(name=name, on_lost=on_lost, desk=desk, slots=SLOTS)
        for name, on_lost in (("firm", "error"), ("again", "requeue"))
    )
    with ExitStack() as stack:
        cable = stack.enter_context(machine(directory / "machine", jobs))
        database = stack.enter_context(postgres(address=cable.here))
        store = f"postgresql://postgres@{cable.here}:{database.port}/postgres"
        far = Node(
            directory, "far", services, store=store, jobs=cable.jobs, gone_after=gone_after,
            host=cable.there, command=cable.command,
        )  # fmt: skip
        near = Node(directory, "near", services, store=database.url(), jobs=jobs, gone_after=gone_after)
        async with running(far, near), session() as http:
            await near.end()  # it takes nothing until it is there again
            log = await PostgresEventLog.read(database.url())
            try:
                yield Pair(far, near, cable, desk, Client(far.url, http), Client(near.url, http), log)
            finally:
                cable.mend()
                for gate in ("soon", "late", "later"):
                    (desk / gate).touch()
                await log.close()


async def test_a_job_goes_on_when_its_node_loses_the_database_for_less_than_makes_it_gone(
    tmp_path: Path, campaign: Campaign
) -> None:
    cut = 30 if campaign.is_long else 4
    async with pair(tmp_path, gone_after=2 * cut) as nodes:
        jobs = [
            (service, await nodes.started(service, gate))
            for service in ("firm", "again")
            for gate in ("soon", "late")
        ]
        await nodes.near.start()
        nodes.cable.cut()
        began = time.monotonic()
        await asyncio.sleep(cut / 2)
        nodes.open("soon")  # these end while nobody can be told
        while time.monotonic() < began + cut:
            assert {await nodes.phase(*job) for job in jobs} == {"EXECUTING"}
            await asyncio.sleep(0.1)
        nodes.cable.mend()
        nodes.open("late")
        for service, job in jobs:
            document = await nodes.here.ended(f"{nodes.here.url}/{service}/async/{job}")
            assert text(document, "phase") == "COMPLETED"
            assert await nodes.nodes(job) == ["far"]
            assert len({pid for pid, _ in nodes.beats(job)}) == 1
        assert await nodes.kinds(e.node_stream("far")) == ["NodeJoined"]
        campaign.counts["seconds cut off"] = cut
        campaign.counts["jobs that went on"] = len(jobs)


async def test_the_jobs_of_a_node_that_is_cut_off_for_longer_are_others_and_it_records_nothing_of_them(
    tmp_path: Path, campaign: Campaign
) -> None:
    cut = 30 if campaign.is_long else 7
    async with pair(tmp_path, gone_after=3) as nodes:
        jobs = {service: await nodes.started(service, "late") for service in ("firm", "again")}
        await nodes.near.start()
        nodes.cable.cut()
        began = time.monotonic()
        await until(lambda: _is(nodes.kinds(e.node_stream("far")), ["NodeJoined", "NodeLeft"]))
        campaign.counts["ms until it was gone"] = round(1000 * (time.monotonic() - began))
        document = await nodes.here.ended(f"{nodes.here.url}/firm/async/{jobs['firm']}")
        assert text(document, "phase") == "ERROR"
        await until(lambda: _is(nodes.nodes(jobs["again"]), ["far", "near"]))
        campaign.counts["ms until its job ran elsewhere"] = round(1000 * (time.monotonic() - began))
        settled = {service: await nodes.history(e.job_stream(job)) for service, job in jobs.items()}
        await asyncio.sleep(max(0.0, began + cut - time.monotonic()))
        nodes.cable.mend()
        await until(lambda: _is(nodes.kinds(e.node_stream("far")), ["NodeJoined", "NodeLeft", "NodeJoined"]))
        campaign.counts["ms until it was back"] = round(1000 * (time.monotonic() - began - cut))
        # It hears of that, and stops what nobody wants any more.
        await until(lambda: _stands_still(nodes.desk / jobs["firm"]))
        assert await nodes.there.phase(f"{nodes.far.url}/again/async/{jobs['again']}") == "EXECUTING"
        assert await nodes.history(e.job_stream(jobs["firm"])) == settled["firm"]
        assert await nodes.history(e.job_stream(jobs["again"])) == settled["again"]
        nodes.open("late")
        document = await nodes.there.ended(f"{nodes.far.url}/again/async/{jobs['again']}")
        assert text(document, "phase") == "COMPLETED"
        kinds = await nodes.kinds(e.job_stream(jobs["again"]))
        assert kinds.count("JobStarted") == 2
        assert kinds.count("JobRequeued") == kinds.count("JobCompleted") == 1
        beats = nodes.beats(jobs["again"])
        first = [when for pid, when in beats if pid == beats[0][0]]
        second = [when for pid, when in beats if pid == beats[-1][0]]
        assert len(first) + len(second) == len(beats)
        assert max(first) < min(second), "the second program began before the first had ended"
        campaign.counts["ms between its programs"] = round(1000 * (min(second) - max(first)))
        # It takes jobs again: there are more than the other has room for.
        more = [await nodes.started("firm", "later") for _ in range(SLOTS + 1)]
        assert {name for job in more for name in await nodes.nodes(job)} == {"far", "near"}
        nodes.open("later")
        for job in more:
            assert text(await nodes.here.ended(f"{nodes.here.url}/firm/async/{job}"), "phase") == "COMPLETED"
        campaign.counts["seconds cut off"] = cut


async def _is(told: Awaitable[object], wanted: object) -> bool:
    return await told == wanted


async def _stands_still(path: Path) -> bool:
    before = path.stat().st_size
    await asyncio.sleep(0.5)
    return path.stat().st_size == before
