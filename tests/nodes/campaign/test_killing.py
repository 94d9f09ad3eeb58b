"""Three nodes of one log that are killed, and their database too, while many clients ask for much."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from eventstore import RecordedEvent
from eventstore._chain import EMPTY
from eventstore.postgres import PostgresEventLog
from tests.crash.traces import folded, traces
from tests.daemon import PATIENCE, Client
from tests.databases import Server, free_port, needs_postgres, postgres
from tests.harness import Answer, job_id, text
from tests.nodes.campaign.cluster import NGINX, Node, needs_nginx, nginx, running, session, url_behind
from tests.nodes.campaign.conftest import Campaign
from tests.nodes.campaign.machine import Apart
from uws.execution.nodes import GONE
from uws.model import events as e

pytestmark = needs_postgres
BEHIND = ["nginx"] if NGINX else [pytest.param("nginx", marks=needs_nginx), "nothing"]
NAMES = "abc"
GONE_AFTER = 3
AWAY = GONE_AFTER, 3.0 * GONE_AFTER
STARTING = 0.1, 2.0
"""Seconds that a node which is killed is away, if it is not back at once, and that it has until the next."""
NODES_KILLED, DATABASES_RESTARTED, DATABASES_KILLED = (
    "nodes killed",
    "databases restarted",
    "databases killed",
)
_AGAIN = 0.1
_SERVICE = """
[services.{name}]
title = "Toil"
command = ["sh", "-c", '''
    exec 9>> "$DESK/$UWS_JOB_ID"
    flock --nonblock 9 || echo "$UWS_JOB_ID twice" >> "$DESK/ledger"
    echo "$UWS_JOB_ID begins" >> "$DESK/ledger"
    sleep "$1"
    echo "$UWS_JOB_ID ends" >> "$DESK/ledger"
    exit "$2"
    ''', "sh", "{{seconds}}", "{{status}}"]
max_running = 4
on_lost = "{on_lost}"
requeues = 20
environment = {{ DESK = "{desk}" }}

[services.{name}.parameters]
seconds = {{ type = "float", required = true }}
status = {{ type = "int", required = true }}
"""
"""Whoever has the desk of a job at which another program sits still says so."""
NEVER = "1000"
FATES = ("succeeds", "fails", "is dropped", "is withdrawn", "is stopped", "is deleted", "takes too long")
EARNED = {
    "succeeds": "JobCompleted",
    "fails": "JobFailed",
    "is dropped": "JobAborted",
    "is withdrawn": "JobAborted",
    "is stopped": "JobAborted",
    "takes too long": "JobAborted",
    "is deleted": "JobDestroyed",
}
LETTERS = {
    "JobCreated": "C", "JobQueued": "Q", "JobStarted": "S", "JobRequeued": "R", "JobCompleted": "E",
    "JobFailed": "E", "JobAborted": "A", "JobDestroyed": "D",
}  # fmt: skip
HISTORY = re.compile("C(Q(SR)*(SE|S?A)?|A)?D?")
"""What may happen to a job, one after the other."""
ENDS = {"JobCompleted", "JobFailed", "JobAborted", "JobDestroyed"}
ABSENT = (0, 502, 503, 504)
"""What tells a client to ask again: there is no answer, or none of a node that could do it."""


@dataclass
class Toil:
    """A job, what its client wants to come of it, and what he was told: statuses by what he asked for."""

    number: int
    service: str
    fate: str
    told: dict[str, int]
    id: str = ""


class Crowd:
    """Clients of several nodes: they ask whichever there is, and again when they were not answered."""

    def __init__(self, urls: Sequence[str], http: aiohttp.ClientSession, campaign: Campaign) -> None:
        self._clients = itertools.cycle([Client(url, http) for url in urls])
        self._campaign = campaign
        self.toils: list[Toil] = []
        self._made = asyncio.Condition()
        self._begun = 0
        """How many of the disturbances have begun."""

    # Disturbances come while there are jobs, and jobs while there are disturbances

    async def until_made(self, jobs: int) -> None:
        """Return when so many jobs were asked for; then the next disturbance has begun."""
        async with self._made:
            await self._made.wait_for(lambda: len(self.toils) >= jobs)
            self._begun += 1
            self._made.notify_all()

    async def client(self, jobs: int, due: Sequence[int]) -> None:
        """Have jobs done, one after the other, until there are so many of all clients."""
        chance = self._campaign.random
        while True:
            async with self._made:
                await self._made.wait_for(
                    lambda: (
                        len(self.toils) >= jobs
                        or sum(moment <= len(self.toils) for moment in due) <= self._begun
                    )
                )
                number = len(self.toils)
                if number >= jobs:
                    return
                toil = Toil(number, ("firm", "again")[number % 2], FATES[number // 2 % len(FATES)], {})
                self.toils.append(toil)
                self._made.notify_all()
            seconds = chance.uniform(0.05, 4)
            await self._live(toil, seconds)

    async def _live(self, toil: Toil, seconds: float) -> None:
        ends = toil.fate in ("succeeds", "fails")
        form = {
            "seconds": f"{seconds:.2f}" if ends else NEVER,
            "status": "3" if toil.fate == "fails" else "0",
            "RUNID": f"toil {toil.number}",
        }
        if toil.fate != "is dropped":
            form["PHASE"] = "RUN"
        if toil.fate == "takes too long":
            form["EXECUTIONDURATION"] = "1"
        answer = await self._command(toil, "create", f"/{toil.service}/async", form)
        toil.id = job_id(answer.location)
        job = f"/{toil.service}/async/{toil.id}"
        await self._see(job)
        match toil.fate:
            case "is dropped" | "is withdrawn":
                await self._command(toil, "abort", f"{job}/phase", {"PHASE": "ABORT"})
            case "is stopped":
                await self._wait(job, "QUEUED")
                await self._command(toil, "abort", f"{job}/phase", {"PHASE": "ABORT"})
            case "is deleted":
                if toil.number % 3:
                    await self._wait(job, "QUEUED")
                await self._command(toil, "delete", job, {"ACTION": "DELETE"})
        await self._wait(job, "QUEUED", "EXECUTING")

    async def _command(self, toil: Toil, wish: str, path: str, form: dict[str, str]) -> Answer:
        """Send a command until it is answered; so that it is done once, all of them have one key."""
        headers = {"Idempotency-Key": f"{toil.number} {wish}"}
        answer = await self._asked("POST", path, data=form, headers=headers)
        toil.told[wish] = answer.status
        # Who was told of the end of a job that was lost comes too late to abort it.
        assert answer.status == 303 or (wish, answer.status) == ("abort", 403), (toil, answer.text)
        self._campaign.counts["acknowledged"] += answer.status == 303
        return answer

    async def _wait(self, job: str, *phases: str) -> None:
        """Return when a job is in none of the phases, or is no more."""
        while True:
            answer = await self._asked("GET", f"{job}?WAIT=10&PHASE={phases[-1]}")
            if answer.status == 410 or text(answer.xml, "phase") not in phases:
                return

    async def _see(self, job: str) -> None:
        answer = await self._asked("GET", job)
        assert answer.status == 200, answer.text

    async def _asked(self, method: str, path: str, **options: object) -> Answer:
        """Ask one node after the other until one answers."""
        async with asyncio.timeout(3 * PATIENCE):
            while True:
                client = next(self._clients)
                try:
                    answer = await client.request(method, client.url + path, **options)
                except (aiohttp.ClientError, TimeoutError):
                    answer = Answer(0, {}, b"")
                if answer.status not in ABSENT:
                    return answer
                self._campaign.counts["asked again"] += 1
                await asyncio.sleep(_AGAIN)


class Disturber:
    """Kills nodes and their database, and starts them again."""

    def __init__(self, nodes: Sequence[Node], database: Server, crowd: Crowd, campaign: Campaign) -> None:
        self._there = {*nodes}
        """Nodes that serve, and nobody is about to kill."""
        self._database, self._crowd, self._campaign = database, crowd, campaign
        self._at_the_database = asyncio.Lock()

    async def disturb(self, what: Sequence[str], due: Sequence[int]) -> None:
        """Do it each time that so many jobs are due; return when all are there again."""
        chance = self._campaign.random
        async with asyncio.TaskGroup() as group:
            for each, jobs in zip(what, due, strict=True):
                await self._crowd.until_made(jobs)
                self._campaign.counts[each] += 1
                if each != NODES_KILLED:
                    group.create_task(self._restart(each == DATABASES_KILLED, chance.uniform(0, 1)))
                    continue
                while not self._there:
                    await asyncio.sleep(_AGAIN)
                node = chance.choice(sorted(self._there, key=lambda node: node.name))
                self._there.remove(node)
                away = chance.choice((0.0, chance.uniform(*AWAY)))
                group.create_task(self._kill(node, away, chance.choice((0.0, chance.uniform(*STARTING)))))

    async def _kill(self, node: Node, away: float, starting: float) -> None:
        """Kill a node, and have it back after a while; in its first seconds, it may be killed again."""
        await node.end(signal.SIGKILL)
        await asyncio.sleep(away)
        if starting:
            with suppress(TimeoutError):
                async with asyncio.timeout(starting):
                    await node.start()
            await node.end(signal.SIGKILL)
            self._campaign.counts["while they started"] += 1
        await node.start()
        self._there.add(node)

    async def _restart(self, kill: bool, away: float) -> None:
        async with self._at_the_database:
            await asyncio.to_thread(self._database.kill if kill else self._database.stop)
            await asyncio.sleep(away)
            await asyncio.to_thread(self._database.start)


@pytest.fixture
def database() -> Iterator[Server]:
    """One of its own, since it is killed."""
    with postgres() as server:
        yield server


@asynccontextmanager
async def three_nodes(
    directory: Path, database: Server, *, behind_nginx: bool, apart: bool
) -> AsyncIterator[tuple[list[Node], list[str]]]:
    """Give nodes with a job directory in common, and the URLs at which clients find them."""
    desk, jobs, port = directory / "desk", directory / "jobs", free_port()
    desk.mkdir()
    jobs.mkdir(mode=0o700)
    base_url = url_behind(port) if behind_nginx else None
    services = "".join(
        _SERVICE.format(name=name, on_lost=on_lost, desk=desk)
        for name, on_lost in (("firm", "error"), ("again", "requeue"))
    )
    nodes = []
    for name in NAMES:
        place = Apart(directory / f"machine of {name}", jobs) if apart else None
        nodes.append(
            Node(
                directory, name, services, store=database.url(), jobs=place.jobs if place else jobs,
                gone_after=GONE_AFTER, base_url=base_url, command=place.command if place else (),
            )
        )  # fmt: skip
    async with running(*nodes), AsyncExitStack() as stack:
        if behind_nginx:
            yield nodes, [await stack.enter_async_context(nginx(directory / "nginx", port, *nodes))]
        else:
            yield nodes, [node.url for node in nodes]


@pytest.mark.parametrize("behind", BEHIND)
async def test_whatever_is_killed_no_job_is_lost_or_run_twice_and_what_clients_were_told_is_so(
    tmp_path: Path, database: Server, campaign: Campaign, behind: str, apart: bool
) -> None:
    kinds = {NODES_KILLED: 10, DATABASES_RESTARTED: 2, DATABASES_KILLED: 1}
    jobs, clients = 300, 30
    if not campaign.is_long:
        kinds, jobs, clients = {NODES_KILLED: 3, DATABASES_RESTARTED: 1, DATABASES_KILLED: 1}, 56, 14
    what = [kind for kind, count in kinds.items() for _ in range(count)]
    campaign.random.shuffle(what)
    due = sorted(campaign.random.randrange(clients, jobs - clients // 2) for _ in what)
    campaign.counts["jobs"] = jobs
    campaign.counts["clients"] = clients
    async with three_nodes(tmp_path, database, behind_nginx=behind == "nginx", apart=apart) as (nodes, urls):
        async with session() as http:
            crowd = Crowd(urls, http, campaign)
            async with asyncio.TaskGroup() as group:
                group.create_task(Disturber(nodes, database, crowd, campaign).disturb(what, due))
                for _ in range(clients):
                    group.create_task(crowd.client(jobs, due))
        for node in nodes:
            for words in (("projections", "verify"), ("audit", "verify")):
                done = await node.uwsd(*words)
                assert done.status == 0, done.out + done.err
    await check(crowd.toils, tmp_path, nodes, database.url(), campaign)


async def check(
    toils: Sequence[Toil], directory: Path, nodes: Sequence[Node], url: str, campaign: Campaign
) -> None:
    """Hold what is left against what clients were told, and what programs have written down."""
    log = await PostgresEventLog.read(url)
    try:
        first, *others = [await folded(node.data, log) for node in nodes]
        assert all(other == first for other in others), "read models of nodes differ"
    finally:
        await log.close()
    events = await traces(nodes[0].data, EMPTY, url)
    histories = defaultdict[str, list[RecordedEvent]](list)
    for event in events:
        histories[event.stream].append(event)
    runs = Counter(line.split()[0] for line in _lines(directory) if line.endswith("begins"))
    assert not [line for line in _lines(directory) if line.endswith("twice")], "two programs at one time"
    named = Counter(
        payload.run_id
        for event in events
        if event.type == "JobCreated" and isinstance(payload := e.decode(event), e.JobCreated)
    )
    assert named == {f"toil {toil.number}": 1 for toil in toils}, (
        "jobs that nobody or somebody twice asked for"
    )
    campaign.counts["events"] = len(events)
    gone = {name: [*_gone(histories[e.node_stream(name)])] for name in NAMES}
    campaign.counts["times gone"] = sum(map(len, gone.values()))
    for toil in toils:
        _check_toil(toil, histories[e.job_stream(toil.id)], runs[toil.id], gone, campaign)


def _gone(history: Sequence[RecordedEvent]) -> Iterator[int]:
    """Yield the positions at which a node was taken for gone."""
    for event in history:
        payload = e.decode_node(event)
        if isinstance(payload, e.NodeLeft) and payload.reason == GONE:
            yield event.position


def _lines(directory: Path) -> list[str]:
    return (directory / "desk" / "ledger").read_text().splitlines()


def _check_toil(
    toil: Toil,
    history: Sequence[RecordedEvent],
    runs: int,
    gone: Mapping[str, Sequence[int]],
    campaign: Campaign,
) -> None:
    kinds = Counter(event.type for event in history)
    told = [event.type for event in history]
    about = toil, told
    assert HISTORY.fullmatch("".join(LETTERS.get(kind, "") for kind in told)), about
    assert kinds.keys() & ENDS, ("lost", *about)
    assert runs <= kinds["JobStarted"], ("more programs than were started", *about)
    # What was acknowledged is there.
    assert "JobQueued" in kinds or toil.fate == "is dropped", about
    if toil.told.get("abort") == 303:
        assert kinds.keys() & {"JobAborted", "StopRequested"}, about
    if toil.told.get("delete") == 303:
        assert "JobDestroyed" in kinds, about
    # It ends as it has earned, unless a node was gone that had started it.
    end = next(event for event in reversed(history) if event.type in ENDS)
    payload = e.decode(end)
    was_lost = isinstance(payload, e.JobFailed) and payload.failure.type == "transient"
    # What becomes of one that was lost is as its service says.
    if toil.service == "firm":
        assert kinds["JobStarted"] <= 1, ("started again", *about)
    if was_lost:
        assert toil.service == "firm", ("not started again", *about)
        assert payload.failure.message.startswith("the program was lost"), (*about, payload)
        start = next(event for event in reversed(history) if event.type == "JobStarted")
        started = e.decode(start)
        assert isinstance(started, e.JobStarted)
        assert started.node
        assert any(start.position < position for position in gone[started.node]), about
    elif toil.fate == "fails":
        assert isinstance(payload, e.JobFailed), about
        assert payload.exit_code == 3, (*about, payload)
    else:
        assert end.type == EARNED[toil.fate], (*about, payload)
    if toil.fate in ("succeeds", "fails"):
        assert runs or was_lost, about
    campaign.counts["programs"] += runs
    campaign.counts["started again"] += kinds["JobRequeued"]
    campaign.counts["lost"] += was_lost
