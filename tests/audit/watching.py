"""A client that watches a server, and holds what it was answered against what is told of the past."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from projections import DESTROYED
from tests.harness import BasicUsers, ManualClock, Site, job_id, running
from uws import (
    Caller,
    Ending,
    Failure,
    Phase,
    Result,
    Service,
    StrParameter,
    UserUWS,
    UWSError,
)
from uws.audit import Past
from uws.queueing import QueueShown
from uws.web import document_then

JSON = {"Accept": "application/json"}
SERVICES = (
    Service(
        name="first", title="First", command=["true"], priority=1, max_running=2, max_running_per_owner=1,
        parameters={"x": StrParameter(required=True), "many": StrParameter(multiple=True)}, archive=True,
    ),
    Service(name="second", title="Second & last", command=["true"], parameters={"x": StrParameter()}),
)  # fmt: skip
OWNERS = ("ada", "bob", "eve")
RESULT = Result(id="r", path="results/r", size=7, sha256="0" * 64, media_type="text/plain")
ENDINGS = (
    Ending(exit_code=0, results=(RESULT,)),
    Ending(exit_code=3, failure=Failure(message="no", detail="not\nat all")),
    Ending(signal="SIGTERM", failure=Failure(message="ended", type="transient")),
)


class Made(NamedTuple):
    url: str
    owner: str
    uws: UserUWS

    @property
    def id(self) -> str:
        return job_id(self.url)


class Watch:
    """Does what a history says, one thing after the other, each at a time of its own, and looks at it."""

    def __init__(self, site: Site, clock: ManualClock) -> None:
        self.site, self.clock = site, clock
        self.jobs: list[Made] = []
        self.documents: list[tuple[str, int, bytes, bytes]] = []
        """What was answered of a job that something had just happened to: id, version, XML, JSON."""
        self.waiting: list[tuple[datetime, str, bytes]] = []
        """What was answered of all jobs that were QUEUED, at each time."""
        self.states: list[tuple[datetime, dict[tuple[str, str], int], QueueShown]] = []

    async def step(self, number: int, milliseconds: int, kind: str, *details: Any) -> None:
        self.clock.advance(milliseconds=milliseconds)
        if kind == "create" or not self.jobs:
            await self.create(number, *(details if kind == "create" else (True,)))
            return
        job = self.jobs[number % len(self.jobs)]
        with suppress(UWSError):  # not everything may happen at any time
            await self._change(job, kind, *details)
        await self.look(job)

    async def create(self, number: int, run: bool, owner: str | None = None) -> Made:
        uws, owner = self.site.node.services[number % 2], owner or OWNERS[number % 3]
        more = {"PHASE": "RUN"} if run else {}
        url = await self.site.create(uws.service.name, user=owner, x=f"<{number}>", RUNID="mine", **more)
        self.jobs.append(Made(url, owner, uws))
        await self.look(self.jobs[-1])
        return self.jobs[-1]

    async def _change(self, job: Made, kind: str, *details: Any) -> None:
        match kind, *details:
            case "set", name, value:
                await self.site.post(f"{job.url}/{name}", {name.upper(): value}, user=job.owner)
            case "phase", phase:
                await self.site.post(f"{job.url}/phase", {"PHASE": phase}, user=job.owner)
            case ("delete",):
                # Over HTTP it would wait for a program to end, which does so when the history says.
                await job.uws.destroy_job(job.id, Caller(job.owner), patience=0)
            case ("start",):
                await job.uws.start_job(job.id)
            case "progress", fraction:
                await job.uws.report_progress(job.id, fraction, "at work")
            case "end", ending:
                await job.uws.end_job(job.id, ending)
            case "pause", service:
                await self.site.node.backend.queueing.pause(service, Caller("operator"))
            case "resume", service:
                await self.site.node.backend.queueing.resume(service, Caller("operator"))

    async def look(self, job: Made) -> None:
        backend = self.site.node.backend
        known = await backend.store.read_stream(f"job/{job.id}")
        answer = await self.site.get(job.url, user=job.owner)
        if answer.status == 200 and known[-1].position == (await backend.store.head()).position:
            as_json = await self.site.get(job.url, user=job.owner, headers=JSON)
            self.documents.append((job.id, len(known), answer.body, as_json.body))
        await backend.projector.caught_up()
        shown, now = await backend.queueing.show(1000), self.clock.now()
        self.states.append((now, await backend.jobs.jobs_by_phase(), shown))
        owners = {each.id: each for each in self.jobs}
        for waiting in shown.waiting:
            if waiting.job.phase is Phase.QUEUED:
                each = owners[waiting.job.job_id]
                self.waiting.append((now, each.id, (await self.site.get(each.url, user=each.owner)).body))

    async def compare(self) -> None:
        """Hold all that was answered against what is told of it now."""
        past = past_of(self.site)
        await self.site.node.backend.projector.caught_up()
        for job, version, xml, json in self.documents:
            then = await past.job_at_version(job, version)
            assert document_then(then, self.site.url) == xml
            assert document_then(then, self.site.url, as_json=True) == json
        for time, job, xml in self.waiting:
            then = document_then(await past.job_at(job, time), self.site.url)
            assert then == xml
        for time, counts, shown in self.states:
            state = await past.state(time)
            assert state.counts == {place: jobs for place, jobs in counts.items() if place[1] != DESTROYED}
            assert [*state.waiting] == shown.waiting
            assert len(state.running) == shown.running
            assert [*state.paused.items()] == shown.paused
            jobs = [job async for job in past.jobs_waiting(time)]
            told = {(job.service, job.phase): 0 for job in jobs}
            for job in jobs:
                told[job.service, job.phase] += 1
            assert told == state.counts
            assert {job.id for job in jobs if job.waits_for} == {one.job.job_id for one in shown.waiting}


def past_of(site: Site) -> Past:
    backend = site.node.backend
    return Past(backend.store, backend.projector.ask, backend.limits, backend.allowed)


@asynccontextmanager
async def watching(
    directory: Path, clock: ManualClock, services: Iterable[Service] = SERVICES
) -> AsyncIterator[Watch]:
    """Give a watch on a server that starts no programs: what they do happens when the history says so."""
    async with running(directory, *services, clock=clock, authenticator=BasicUsers(), executes=False) as site:
        yield Watch(site, clock)
