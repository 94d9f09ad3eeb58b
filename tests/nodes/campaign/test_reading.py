"""What clients read at one node of what they have just told another, while there is much to do."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

from tests.daemon import Client
from tests.databases import Server, emptied, needs_postgres
from tests.harness import NAMESPACES, job_id, text
from tests.nodes.campaign.cluster import Node, running, session
from tests.nodes.campaign.conftest import Campaign

pytestmark = needs_postgres
READERS = 16
WORKERS = 2
SOON = 15.0
_SERVICES = """
[services.quick]
title = "Quick"
command = ["true"]
max_running = 2
"""


class Reader:
    """A client who tells one node something and asks another at once, as often as there are tries left."""

    def __init__(self, clients: Sequence[Client], tries: itertools.count[int], campaign: Campaign) -> None:
        self._clients, self._tries, self._campaign = clients, tries, campaign
        self._chance = random.Random(campaign.random.random())

    async def read(self, tries: int) -> None:
        while True:
            job = run_id = ""
            for wish in ("create", "name", "abort"):
                if next(self._tries) >= tries:
                    return
                here, there = self._chance.sample(self._clients, 2)
                match wish:
                    case "create":
                        job = f"/quick/async/{job_id(await here.create('quick'))}"
                    case "name":
                        run_id = f"run {self._chance.random()}"
                        await self._tell(here, job, {"RUNID": run_id})
                    case "abort":
                        await self._tell(here, f"{job}/phase", {"PHASE": "ABORT"})
                await self._look(there, job, "ABORTED" if wish == "abort" else "PENDING", run_id)

    async def _tell(self, here: Client, path: str, form: dict[str, str]) -> None:
        answer = await here.post(path, form)
        assert answer.status == 303, answer.text

    async def _look(self, there: Client, job: str, phase: str, run_id: str) -> None:
        """Ask for a job in one of three ways."""
        way = self._chance.choice(("document", "list", "WAIT"))
        if way == "list":
            jobs = (await there.document("/quick/async?LAST=200")).iterfind("uws:jobref", NAMESPACES)
            (found,) = [each for each in jobs if each.get("id") == job_id(job)]
        else:
            # Who sees the past, where the job is in the phase before, waits, and for too long.
            before = {"ABORTED": "PENDING", "PENDING": "QUEUED"}[phase]
            async with asyncio.timeout(SOON):
                found = await there.document(f"{job}?WAIT=20&PHASE={before}" if way == "WAIT" else job)
        assert (text(found, "phase"), text(found, "runId") or "") == (phase, run_id), (way, job, there.url)
        self._campaign.counts[way] += 1


async def _work(clients: Sequence[Client]) -> None:
    """Have jobs run, one after the other."""
    for client in itertools.cycle(clients):
        assert text(await client.ended(await client.run("quick")), "phase") == "COMPLETED"


async def test_who_tells_one_node_and_asks_another_never_sees_the_past(
    tmp_path: Path, postgres_server: Server, campaign: Campaign
) -> None:
    tries = 10_000 if campaign.is_long else 300
    url = await emptied(postgres_server)
    nodes = [
        Node(tmp_path, name, _SERVICES, store=url, jobs=tmp_path / "jobs", gone_after=30) for name in "abc"
    ]
    async with running(*nodes), session() as http:
        clients = [Client(node.url, http) for node in nodes]
        working = [asyncio.create_task(_work(clients)) for _ in range(WORKERS)]
        count = itertools.count()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(READERS):
                    group.create_task(Reader(clients, count, campaign).read(tries))
            assert not [task for task in working if task.done()], "the load is gone"
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
