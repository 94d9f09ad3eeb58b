"""A node that was taken for gone, and comes back: what it starts from then on is its own."""

from __future__ import annotations

import asyncio

from tests.databases import needs_postgres
from tests.execution.programs import Pipe, is_running, shell
from tests.harness import job_id, text
from tests.nodes.conftest import GONE_AFTER, Start
from tests.nodes.link import Link
from uws.model import events as e

pytestmark = needs_postgres


async def test_what_a_node_starts_as_soon_as_it_is_back_is_not_taken_for_lost(
    start: Start, link: Link, ready: Pipe, gate: Pipe
) -> None:
    """It hears that its job was settled and has a slot again, before the others have heard of it."""
    service = shell('echo $$ > "$1"; read x < "$2"', ready.path, gate.path, name="held", max_running=1)
    async with start("a", service, through=link.url(), jobs_end_with_server=False) as a:
        held = await a.run("held")
        (first,) = await ready.numbers(1)
        async with start("b", service, jobs=None, jobs_end_with_server=False) as b:
            busy = await b.run("held")
            await ready.numbers(1)
            waits = await b.run("held")
            store, stream = b.node.backend.store, e.job_stream(job_id(waits))
            link.cut()
            async with asyncio.timeout(5 * GONE_AFTER):
                while (await store.read_stream(e.job_stream(job_id(held))))[-1].type != "JobFailed":
                    await asyncio.sleep(0.01)
            link.mend()
            await ready.numbers(1)
            later = await b.run("held")  # the other one looks at what there is to be done
            member = b.node.backend.membership
            assert member
            while is_running(first) or member.is_gone("a"):
                await asyncio.sleep(0.01)
            for _ in range(3):
                gate.send()
            for job in (busy, waits, later):
                assert text(await b.ended(f"{b.url}/held/async/{job_id(job)}"), "phase") == "COMPLETED"
            kinds = [event.type for event in await store.read_stream(stream)]
            assert kinds.count("JobStarted") == 1, kinds
