"""Server-sent events: what happens is told as it happens, in order, once, and to whom it concerns."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html

from eventstore import Metadata, NewEvent, RecordedEvent, StoreUnavailable
from tests.harness import BasicUsers, ManualClock, Site, job_id, running
from tests.web.support import ECHO, FAIL, GATE, PATIENCE, PHASES, SLEEP, gate, record
from uws import Phase, Service, UWSError, make_application, run_node
from uws.commands import SERVER
from uws.config import ServerSettings, Settings
from uws.feed import BEAT
from uws.model import Ending, fold
from uws.model import events as e
from uws.model.job import apply
from uws.web.events import STREAMS

LIST = "/echo/async/events"
BEAT_SPAN = timedelta(seconds=BEAT)


class Event(NamedTuple):
    """What a client was told: the last id it knows then, the event's type, and its data."""

    id: int | None
    type: str
    data: Any


class Stream:
    """A client of a stream, which reads as browsers do (HTML, section 9.2.6)."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.id: int | None = None
        self.comments = 0

    async def next(self) -> Event | None:
        """Return the next event once it comes, None when the stream has ended."""
        kind, data = "message", ""
        async with asyncio.timeout(PATIENCE):
            async for line in self.answer.content:
                name, _, value = line.decode().removesuffix("\n").partition(":")
                match name, value.removeprefix(" "):
                    case "", "" if line == b"\n":
                        if data:
                            return Event(self.id, kind, json.loads(data))
                        kind = "message"
                    case "", _:
                        self.comments += 1
                    case "id", given:
                        self.id = int(given)
                    case "event", kind:
                        pass
                    case "data", data:
                        pass
                    case name, _:
                        assert name == "retry"
        return None

    async def some(self, count: int) -> list[Event]:
        """Return the next ``count`` events, all of which have to come."""
        events = [await self.next() for _ in range(count)]
        return [event for event in events if event] if all(events) else pytest.fail(f"it ended: {events}")

    async def rest(self) -> list[Event]:
        """Return what comes until the stream ends."""
        events = []
        while event := await self.next():
            events.append(event)
        return events

    async def beat(self) -> None:
        """Read up to the next sign of life, before which there is nothing else to be read."""
        async with asyncio.timeout(PATIENCE):
            while (line := await self.answer.content.readline()) != b": \n":
                assert line == b"\n"
            name, _, value = (await self.answer.content.readline()).partition(b": ")
            assert name == b"id"
            self.id = int(value)


@asynccontextmanager
async def listening(
    site: Site, url: str, *, last: int | None = None, user: str | None = None,
    session: aiohttp.ClientSession | None = None,
) -> AsyncIterator[Stream]:  # fmt: skip
    """Listen to what a URL tells, behind the event ``last`` where it is given."""
    url = url if url.startswith("http") else site.url + url
    async with (session or site.session).get(url, headers=headers_of(user, last)) as answer:
        assert answer.status == 200, await answer.text()
        yield Stream(answer)


def headers_of(user: str | None, last: int | None) -> dict[str, str]:
    """Return what a browser sends that comes back, as a user."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    if user:
        headers["Authorization"] = f"Basic {b64encode(f'{user}:secret'.encode()).decode()}"
    return headers


async def log_of(site: Site, job: str) -> Sequence[RecordedEvent]:
    return await site.node.backend.store.read_stream(e.job_stream(job_id(job)))


def told(recorded: Sequence[RecordedEvent]) -> list[tuple[int, str, int, str]]:
    """Return what is to be told of a job's events: position, type, version, and the phase then."""
    told, job = [], None
    for event in recorded:
        job = apply(job, event)
        assert job
        told.append((event.position, event.type, event.version, str(job.phase)))
    return told


async def told_of(site: Site, jobs: Sequence[str], after: int = 0) -> list[tuple[int, str, int, str]]:
    """Return what is to be told of several jobs, behind a position."""
    everything = [each for job in jobs for each in told(await log_of(site, job))]
    return sorted(each for each in everything if each[0] > after)


def heard(events: Sequence[Event]) -> list[tuple[int | None, str, int, str]]:
    """Return the same of what was heard of jobs."""
    return [
        (event.id, event.data["type"], event.data["version"], event.data["phase"])
        for event in events
        if event.type == "job"
    ]


def types(events: Sequence[Event]) -> list[str]:
    return [event.data["type"] if event.type == "job" else event.type for event in events]


async def head_of(site: Site) -> int:
    return (await site.node.backend.store.head()).position


def nobody_listens(site: Site) -> bool:
    """Whether nothing is left of those who listened, in the server that is this process."""
    names = {task.get_name() for task in asyncio.all_tasks()}
    return not names & {"feed", "feed: signs of life"} and not site.app[STREAMS]._open


# A job


async def test_a_job_is_told_as_it_is_and_then_each_change_until_it_has_ended(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo", x="1", RUNID="mine")
        await site.post(job, {"x": "2"})
        async with listening(site, f"{job}/events") as stream:
            assert types(await stream.some(1)) == ["ParametersSet"]
            await record(site, job, e.JobQueued())
            await record(site, job, e.JobStarted(declaration=""), e.ProgressMade(fraction=0.25, text="stars"))
            await record(site, job, e.JobCompleted())
            events = await stream.rest()
        assert heard(events) == told(await log_of(site, job))[2:]
        assert types(events) == ["JobQueued", "JobStarted", "ProgressMade", "JobCompleted", "end"]
        assert [event.data["progress"] for event in events[:-1]] == [None, None, 0.25, 0.25]
        assert [event.data["doing"] for event in events[:-1]] == [None, None, "stars", "stars"]


@pytest.mark.parametrize("phase", PHASES)
async def test_what_is_told_of_a_job_is_what_its_document_says(
    tmp_path: Path, clock: ManualClock, phase: str
) -> None:
    async with running(tmp_path, ECHO, clock=clock, executes=False) as site:
        job = await site.create("echo")
        clock.advance(seconds=1.5)
        await record(site, job, *PHASES[phase])
        async with listening(site, f"{job}/events") as stream:
            ((last, kind, told),) = await stream.some(1)
        recorded = (await log_of(site, job))[-1]
        assert (last, kind) == (recorded.position, "job")
        document = json.loads((await site.get(job, headers={"Accept": "application/json"})).body)
        info = document.pop("jobInfo")
        for name in ("progress", "doing", "reason", "stopping"):
            assert told.pop(name) == info.get(name)
        assert told.pop("type") == recorded.type
        assert told.pop("version") == recorded.version
        assert told.pop("time") == ("2026-01-01T00:00:01.500Z" if PHASES[phase] else document["creationTime"])
        assert told == {name: document[name] for name in told}
        assert {"jobId", "phase", "quote", "startTime", "endTime", "destruction"} <= told.keys()


async def test_a_program_is_followed_from_the_queue_to_its_end(tmp_path: Path) -> None:
    with gate(tmp_path / "gate") as fifo:
        async with running(tmp_path / "data", GATE) as site:
            job = await site.create("gate", gate=fifo.path)
            async with listening(site, f"{job}/events") as stream:
                await stream.some(1)
                await site.post(f"{job}/phase", {"PHASE": "RUN"})
                assert [event.data["phase"] for event in await stream.some(2)] == ["QUEUED", "EXECUTING"]
                fifo.let_through()
                assert types(await stream.rest()) == ["JobCompleted", "end"]


async def test_all_of_a_command_that_ends_a_job_is_told_before_the_end(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP) as site:
        job = await site.run("sleep")
        await site.executing(job)
        async with listening(site, f"{job}/events") as stream:
            await stream.some(1)
            await site.request("DELETE", job)
            assert types(await stream.rest())[-3:] == ["JobAborted", "JobDestroyed", "end"]
        assert (await site.get(f"{job}/events", headers={"Last-Event-ID": "1"})).status == 410


async def test_other_jobs_are_not_told_of(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job, other = await site.create("echo"), await site.create("echo")
        async with listening(site, f"{job}/events") as stream:
            await stream.some(1)
            await site.post(f"{other}/phase", {"PHASE": "ABORT"})
            await site.post(f"{job}/phase", {"PHASE": "ABORT"})
            assert types(await stream.rest()) == ["JobAborted", "end"]


async def test_who_has_heard_the_end_is_told_not_to_ask_again(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES["COMPLETED"])
        async with listening(site, f"{job}/events") as stream:
            events = await stream.rest()
            assert types(events) == ["JobCompleted", "end"]
            assert stream.id == (await log_of(site, job))[-1].position
        for url, headers in (
            (f"{job}/events", {"Last-Event-ID": str(stream.id)}),
            (f"{job}/events?after={stream.id}", {}),
        ):
            answer = await site.get(url, headers=headers)
            assert (answer.status, answer.body) == (204, b"")
            assert answer.headers["Cache-Control"] == "no-store"


async def test_what_happens_to_a_job_that_has_ended_is_told_to_who_comes_back(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES["COMPLETED"])
        ended = (await log_of(site, job))[-1].position
        await site.post(f"{job}/destruction", {"DESTRUCTION": "2030-01-01"})
        async with listening(site, f"{job}/events", last=ended) as stream:
            events = await stream.rest()
        assert types(events) == ["DestructionSet", "end"]
        assert events[0].data["destruction"] == (await site.get(f"{job}/destruction")).text


# Coming back


async def test_who_comes_back_is_told_what_was_missed_and_nothing_twice(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES["EXECUTING"])
        for missed in range(4):
            everything = told(await log_of(site, job))
            async with listening(site, f"{job}/events", last=everything[-1 - missed][0]) as stream:
                assert heard(await stream.some(missed)) == everything[len(everything) - missed :]
                await record(site, job, e.ProgressMade(fraction=missed / 10))
                (now,) = await stream.some(1)
                assert (now.type, now.data["progress"]) == ("job", missed / 10)


async def test_what_a_browser_heard_last_counts_more_than_what_it_asked_for_first(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES["COMPLETED"])
        everything = told(await log_of(site, job))
        async with listening(site, f"{job}/events?after=0") as stream:
            assert heard(await stream.rest()) == everything
        async with listening(site, f"{job}/events?AFTER=0", last=everything[1][0]) as stream:
            assert heard(await stream.rest()) == everything[2:]


async def test_who_has_a_version_of_a_job_is_told_what_came_after_it(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES["EXECUTING"])
        everything = told(await log_of(site, job))
        for version in range(len(everything)):
            async with listening(site, f"{job}/events?version={version}") as stream:
                assert heard(await stream.some(len(everything) - version)) == everything[version:]
        async with listening(site, f"{job}/events?version=3") as stream:
            await record(site, job, e.JobCompleted())
            assert types(await stream.rest()) == ["JobCompleted", "end"]
        async with listening(site, f"{job}/events?version=4", last=everything[1][0]) as stream:
            assert heard(await stream.rest()) == told(await log_of(site, job))[2:]
        assert (await site.get(f"{job}/events?version=4")).status == 204
        answer = await site.get(f"{job}/events?version=x")
        assert answer.text == "UsageFault: version: expected a whole number, at least 0, got 'x'\n"


@pytest.mark.parametrize("path", ["/echo/async", "/echo/async?LIMIT=1", "{job}"])
async def test_a_page_listens_from_where_it_was_made_and_misses_and_repeats_nothing(
    tmp_path: Path, path: str
) -> None:
    async with running(tmp_path, ECHO, FAIL, executes=False) as site:
        job = await site.create("echo")
        await site.post(job, {"x": "2"})
        await site.create("fail")  # of another list
        at = path.format(job=urlsplit(job).path)
        page = html.fromstring((await site.get(at, headers={"Accept": "text/html"})).body)
        url = urljoin(site.url + at, page.body.get("data-live"))
        before = len(await log_of(site, job))
        await record(site, job, *PHASES["EXECUTING"])
        async with listening(site, url) as stream:
            assert heard(await stream.some(2)) == told(await log_of(site, job))[before:]
            await record(site, job, e.ProgressMade(fraction=0.5))
            assert types(await stream.some(1)) == ["ProgressMade"]


async def test_the_page_of_a_job_that_has_ended_listens_to_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES["COMPLETED"])
        page = html.fromstring((await site.get(job, headers={"Accept": "text/html"})).body)
        assert "data-live" not in page.body.attrib


@pytest.mark.parametrize("sent", ["", "-1", "x", "1.5", "9" * 19])
@pytest.mark.parametrize("path", ["", "/{}"])
async def test_what_is_no_position_is_400(tmp_path: Path, path: str, sent: str) -> None:
    async with running(tmp_path, ECHO) as site:
        url = f"/echo/async{path.format(job_id(await site.create('echo')))}/events"
        answer = await site.get(url, headers={"Last-Event-ID": sent})
        expected = f"expected a whole number, at least 0, got '{sent}'"
        assert (answer.status, answer.text) == (400, f"UsageFault: Last-Event-ID: {expected}\n")
        answer = await site.get(f"{url}?after={sent}")
        assert (answer.status, answer.text) == (400, f"UsageFault: after: {expected}\n")


async def test_who_has_heard_of_another_log_is_told_how_things_are(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES["COMPLETED"])
        async with listening(site, f"{job}/events", last=1000) as stream:
            assert types(await stream.rest()) == ["JobCompleted", "end"]
        async with listening(site, LIST, last=1000) as stream:
            assert types(await stream.some(1)) == ["reset"]
            assert stream.id == await head_of(site)


# A list


async def test_a_list_is_told_of_every_change_of_any_job(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FAIL, executes=False) as site:
        await site.create("echo")
        head = await head_of(site)
        async with listening(site, LIST) as stream:
            assert types(await stream.some(1)) == ["reset"]  # nobody knows yet what there is
            assert stream.id == head
            one, two = await site.create("echo"), await site.create("echo")
            await site.create("fail")
            await record(site, two, *PHASES["EXECUTING"])
            await site.request("DELETE", one)
            events = await stream.some(6)
        assert heard(events) == await told_of(site, [one, two])
        assert {event.data["jobId"] for event in events} == {job_id(one), job_id(two)}
        assert types(events)[-1] == "JobDestroyed"


async def test_both_addresses_of_a_list_have_the_same_events(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        async with listening(site, "/echo/uws.xml/events") as stream:
            await stream.some(1)
            job = await site.create("echo")
            assert types(await stream.some(1)) == ["JobCreated"]
        async with listening(site, f"/echo/uws.xml/{job_id(job)}/events") as stream:
            assert types(await stream.some(1)) == ["JobCreated"]


@pytest.mark.parametrize("restarts", [False, True])
async def test_who_comes_back_to_a_list_is_told_what_was_missed(tmp_path: Path, restarts: bool) -> None:
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(running(tmp_path, ECHO, executes=False))
        await site.create("echo")
        head = await head_of(site)
        jobs = [await site.create("echo") for _ in range(3)]
        for job in jobs:
            await record(site, job, *PHASES["EXECUTING"])
        expected = await told_of(site, jobs)
        if restarts:
            await stack.aclose()
            site = await stack.enter_async_context(running(tmp_path, ECHO, executes=False))
        for begin in range(len(expected)):
            last = expected[begin - 1][0] if begin else head
            async with listening(site, LIST, last=last) as stream:
                assert heard(await stream.some(len(expected) - begin)) == expected[begin:]


async def test_who_comes_back_after_too_long_is_told_to_read_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uws.feed.KEPT", 10)
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        for number in range(20):
            await record(site, job, e.ProgressMade(fraction=number / 20))
        head = await head_of(site)
        # What is remembered does not depend on who listens already, and since when.
        async with listening(site, LIST) as other:
            for last in (0, head - 11):
                async with listening(site, LIST, last=last) as stream:
                    assert types(await stream.some(1)) == ["reset"]
                    assert stream.id == head
            for last in (head - 10, head - 3):
                async with listening(site, LIST, last=last) as stream:
                    assert [event.id for event in await stream.some(head - last)] == [
                        *range(last + 1, head + 1)
                    ]
            await record(site, job, e.ProgressMade(fraction=1))
            assert types(await other.some(2)) == ["reset", "ProgressMade"]
            async with listening(site, LIST, last=head - 10) as stream:
                assert types(await stream.some(1)) == ["reset"]


# Who may listen. Statuses of a job's events are in test_statuses and test_ownership.


async def test_what_happens_to_a_job_is_told_to_its_owner_alone(tmp_path: Path) -> None:
    users = ("ann", "bob", None)
    async with (
        running(tmp_path, ECHO, authenticator=BasicUsers(), executes=False) as site,
        AsyncExitStack() as stack,
    ):
        streams = {
            user: await stack.enter_async_context(listening(site, LIST, user=user)) for user in users
        }  # fmt: skip
        head = await head_of(site)
        jobs = {user: await site.create("echo", user=user) for user in users}
        for user in (*users, *users):
            await site.post(jobs[user], {"x": f"of {user}"}, user=user)
            await site.post(jobs[user], {"x": "another"}, user=user)
        for user in users:
            await site.post(f"{jobs[user]}/phase", {"PHASE": "ABORT"}, user=user)
        for user, stream in streams.items():
            expected = told(await log_of(site, jobs[user]))
            assert heard(await stream.some(1 + len(expected))) == expected
            async with listening(site, LIST, user=user, last=head) as again:
                events = await again.some(len(expected))
                assert {event.data["jobId"] for event in events} == {job_id(jobs[user])}


async def test_a_service_that_does_not_exist_has_no_events(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        assert (await site.get("/ehco/async/events")).status == 404
        assert nobody_listens(site)


async def test_who_has_wrong_credentials_hears_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        answer = await site.get(LIST, headers={"Authorization": "Basic Ym9iOndyb25n"})
        assert answer.status == 401


async def test_what_is_told_of_a_job_is_short_whatever_its_client_has_sent(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo", x="x" * 400_000, RUNID="r" * 400_000)
        async with listening(site, f"{job}/events") as stream:
            ((_, _, data),) = await stream.some(1)
            assert len(json.dumps(data)) < 1000
            (feed,) = site.app[STREAMS]._feeds.values()
            assert len(msgspec.json.encode([*feed._jobs.values()])) < 1000


# The queue


async def test_a_job_in_the_queue_is_told_its_place_and_when_that_changes(
    tmp_path: Path, clock: ManualClock
) -> None:
    one = Service(name="one", title="One at a time", command=["sleep", "1000"], max_running=1)
    async with running(tmp_path, one, clock=clock) as site:
        first, second, third = [await site.run("one") for _ in range(3)]
        await site.executing(first)
        async with listening(site, f"{third}/events") as stream:
            job, place = await stream.some(2)
            assert (job.type, place.type, place.id) == ("job", "queue", job.id)
            assert place.data == {
                "jobId": job_id(third),
                "place": 2,
                "waitsFor": "1 job of one running, at most 1 allowed",
                "expectedStart": None,
            }
            await site.request("DELETE", second)
            await passed(clock)
            (place,) = await stream.some(1)
            assert (place.type, place.data["place"]) == ("queue", 1)
            await passed(clock)
            await stream.beat()  # nothing is said that is known
            await site.request("DELETE", first)
            assert types(await stream.some(1)) == ["JobStarted"]


async def test_all_jobs_in_the_queue_are_told_their_places_in_turn(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uws.feed._LOOKED_AT", 1)
    one = Service(name="one", title="One at a time", command=["sleep", "1000"], max_running=1)
    async with running(tmp_path, one, clock=clock) as site, AsyncExitStack() as stack:
        first, second, *others = [await site.run("one") for _ in range(5)]
        await site.executing(first)
        streams = [await stack.enter_async_context(listening(site, f"{job}/events")) for job in others]
        for place, stream in enumerate(streams, 2):
            assert (await stream.some(2))[1].data["place"] == place
        await site.request("DELETE", second)
        for _ in others:
            await passed(clock)
        for place, stream in enumerate(streams, 1):
            assert (await stream.some(1))[0].data["place"] == place


async def passed(clock: ManualClock) -> None:
    """Let the time pass until the next sign of life."""
    await clock.until_sleeping_for(clock.now() + BEAT_SPAN)
    clock.advance(seconds=BEAT)


# Signs of life, and those who go


@pytest.mark.parametrize("of", ["a job", "a list"])
async def test_a_stream_without_events_shows_that_it_lives(
    tmp_path: Path, clock: ManualClock, of: str
) -> None:
    async with running(tmp_path, ECHO, clock=clock, executes=False) as site:
        job, other = await site.create("echo"), await site.create("echo")
        async with (
            listening(site, LIST) as witness,
            listening(site, f"{job}/events" if of == "a job" else LIST) as stream,
        ):
            await stream.some(1)
            await record(site, other, *PHASES["EXECUTING"])
            await witness.some(3)
            if of == "a list":
                await stream.some(2)
            await passed(clock)
            await stream.beat()
            # It tells up to where all is known: whoever comes back need not go through what concerns others.
            assert stream.id == await head_of(site)
            await record(site, job, *PHASES["EXECUTING"])
            expected = told(await log_of(site, job))[1:]
            assert heard(await stream.some(2)) == expected
            async with listening(site, stream.answer.url.path, last=expected[0][0] - 1) as again:
                assert heard(await again.some(2)) == expected


@pytest.mark.parametrize("of", ["a job", "a list"])
async def test_nothing_is_left_of_a_client_that_goes(tmp_path: Path, clock: ManualClock, of: str) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        job = await site.create("echo")
        async with listening(site, f"{job}/events" if of == "a job" else LIST) as stream:
            await stream.some(1)
            assert not nobody_listens(site)
            (request,) = site.app[STREAMS]._open.values()
        async with asyncio.timeout(PATIENCE):
            while request.transport:
                await asyncio.sleep(0)
            await passed(clock)
            while not nobody_listens(site):
                await asyncio.sleep(0)
        assert (await site.post(f"{job}/phase", {"PHASE": "ABORT"})).status == 303


@pytest.mark.parametrize(("most", "files"), [(2, 1024), (10_000, 8)])
async def test_more_streams_than_there_may_be_are_refused_for_a_while(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, most: int, files: int
) -> None:
    monkeypatch.setattr("uws.web.events.MAX_STREAMS", most)
    monkeypatch.setattr("uws.web.events.SHARE", 1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    async with running(tmp_path, ECHO, clock=clock) as site, asyncio.timeout(PATIENCE):
        job = await site.create("echo")
        async with listening(site, LIST) as first:
            await first.some(1)
            async with listening(site, f"{job}/events") as second:
                await second.some(1)
                for url in (LIST, f"{job}/events"):
                    answer = await site.get(url)
                    assert (answer.status, answer.headers["Retry-After"]) == (503, "15")
                    assert answer.text.startswith("ServiceUnavailable: 2 streams of events are open")
                assert (await site.get(job)).status == 200
            while (answer := await head(site, LIST)).status == 503:  # until it is known that one has gone
                pass
            assert answer.status == 200
            await site.create("echo")
            assert types(await first.some(1)) == ["JobCreated"]


async def test_one_client_cannot_have_all_streams(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uws.web.events.MAX_STREAMS", 20)
    async with (
        running(tmp_path, ECHO, clock=clock, authenticator=BasicUsers()) as site,
        elsewhere() as other,
        AsyncExitStack() as stack,
        asyncio.timeout(PATIENCE),
    ):
        for user in ("ada", None):
            job = await site.create("echo", user=user)
            async with listening(site, LIST, user=user), listening(site, f"{job}/events", user=user):
                for url in (LIST, f"{job}/events"):
                    answer = await site.get(url, user=user)
                    assert (answer.status, answer.headers["Retry-After"]) == (429, "15")
                    assert answer.text == (
                        "UsageFault: you have 2 streams of events open, which is as many as one may; "
                        "close one, or try again in 15 s\n"
                    )
                assert (await site.get(job, user=user)).status == 200
                await stack.enter_async_context(listening(site, LIST, user="bob" if user else "eve"))
                if user is None:  # one of another address is somebody else
                    await stack.enter_async_context(listening(site, LIST, session=other))
            while (answer := await head(site, LIST, user=user)).status == 429:  # until it is known to be gone
                pass
            assert answer.status == 200


@asynccontextmanager
async def elsewhere() -> AsyncIterator[aiohttp.ClientSession]:
    """Give a client with another address."""
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def head(site: Site, url: str, **options: Any) -> Any:
    return await site.request("HEAD", url, **options)


async def test_head_tells_what_would_be_sent(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        for url in (LIST, f"{job}/events"):
            answer = await head(site, url)
            assert (answer.status, answer.body) == (200, b"")
            assert answer.headers["Content-Type"] == "text/event-stream"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Accel-Buffering"] == "no"
            assert answer.headers["X-Request-ID"]
        assert nobody_listens(site)


# Many who listen, and those who do not keep up


async def test_many_who_listen_cost_no_more_questions_than_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        backend = site.node.backend
        asked = 0
        for place in (backend.store._reader, backend.projector._reader):  # type: ignore[attr-defined]  # of SQLite
            run = place.run

            async def counted(*arguments: Any, run: Any = run) -> Any:
                nonlocal asked
                asked += 1
                return await run(*arguments)

            monkeypatch.setattr(place, "run", counted)
        for many in (1, 30):
            jobs = [await site.create("echo") for _ in range(many + 1)]
            async with AsyncExitStack() as stack:
                urls = [LIST] * many + [f"{jobs[0]}/events"] * many + [f"{job}/events" for job in jobs[1:]]
                streams = [await stack.enter_async_context(listening(site, url)) for url in urls]
                for stream in streams:
                    await stream.some(1)
                asked = 0
                for number in range(10):
                    await record(site, jobs[0], e.ProgressMade(fraction=number / 10))
                    for stream in streams[: 2 * many]:
                        assert types(await stream.some(1)) == ["ProgressMade"]
                assert asked <= 20  # for each event, the read models have read the log, and the feed
                last = await head_of(site)
        # And who comes back when all have gone costs nothing as long as what was missed is remembered.
        while not nobody_listens(site):
            site.app[STREAMS]._dismiss(site.app[STREAMS]._open)
            await asyncio.sleep(0)
        asked = 0
        async with listening(site, LIST, last=last - 5) as stream:
            assert len(await stream.some(5)) == 5
        assert asked == 0


async def test_a_sign_of_life_amid_an_event_keeps_nobody_from_being_told(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uws.feed._AT_ONCE", 1)
    async with running(tmp_path, ECHO, clock=clock, executes=False) as site, AsyncExitStack() as stack:
        job = await site.create("echo")
        urls = [*[LIST] * 25, *[f"{job}/events"] * 25]
        streams = [await stack.enter_async_context(listening(site, url)) for url in urls]
        for stream in streams:
            await stream.some(1)
        await clock.until_sleeping_for(clock.now() + BEAT_SPAN)
        await record(site, job, e.ProgressMade(text="now"))
        position = await head_of(site)
        while not any(listener.position == position for listener in site.app[STREAMS]._open):
            await asyncio.sleep(0)
        clock.advance(seconds=BEAT)
        for stream in streams:
            assert types(await stream.some(1)) == ["ProgressMade"]


async def test_a_client_that_does_not_keep_up_is_cut_off_and_misses_nothing_when_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uws.feed.ROOM", 250)
    async with running(tmp_path, ECHO, executes=False) as site, asyncio.timeout(PATIENCE):
        job = await site.create("echo")
        async with listening(site, LIST) as other, lazy(site, f"{job}/events") as (reader, _):
            await other.some(1)
            sent = 0
            while len(site.app[STREAMS]._open) == 2:
                some = [e.ProgressMade(fraction=0.5, text=f"{sent + n} " + 150 * "ü") for n in range(200)]
                await record(site, job, *some)
                assert len(await other.some(200)) == 200  # who reads is told all
                sent += 200
            received = b""
            with suppress(ConnectionError):
                while part := await reader.read(1 << 20):
                    received += part
        last = int(received[: received.rindex(b"\n\n")].rpartition(b"\nid: ")[2].partition(b"\n")[0])
        everything = told(await log_of(site, job))
        missed = [each for each in everything if each[0] > last]
        assert len(missed) > 250
        async with listening(site, f"{job}/events", last=last) as stream:
            assert heard(await stream.some(len(missed))) == missed


@asynccontextmanager
async def lazy(
    site: Site, url: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:  # fmt: skip
    """Listen on a connection of its own, that takes no more than a little until it is read from."""
    where = urlsplit(site.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (where.hostname, where.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1000)
    try:
        writer.write(f"GET {urlsplit(url).path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"retry: ")
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_jobs_that_are_not_remembered_are_told_of_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uws.feed._KNOWN", 1)
    async with running(tmp_path, ECHO, executes=False) as site, listening(site, LIST) as stream:
        await stream.some(1)
        jobs = [await site.create("echo") for _ in range(3)]
        for events in zip(*[PHASES["EXECUTING"]] * 3, strict=True):
            for job, event in zip(jobs, events, strict=True):
                await record(site, job, event)
        assert heard(await stream.some(9)) == await told_of(site, jobs)


# The end of the server


@pytest.mark.parametrize("mount", [None, "/vo"])
async def test_a_server_that_stops_says_so_and_closes(tmp_path: Path, mount: str | None) -> None:
    async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
        async with running(tmp_path, ECHO, mount=mount) as site:
            job = await site.create("echo")
            urls = [f"{site.list_url('echo')}/events", f"{job}/events"]
            streams = [await stack.enter_async_context(listening(site, url, session=session)) for url in urls]
            for stream in streams:
                await stream.some(1)
        for stream in streams:
            assert types(await stream.rest()) == ["bye"]
            assert stream.answer.content.at_eof()


async def test_a_client_that_takes_nothing_does_not_hold_up_a_server_that_stops(tmp_path: Path) -> None:
    async with (
        run_node(
            Settings(data=tmp_path, services=(ECHO,), server=ServerSettings(jobs_end_with_server=True))
        ) as node,
        asyncio.timeout(PATIENCE),
    ):
        app = make_application(node.services)
        runner = web.AppRunner(app, shutdown_timeout=10 * PATIENCE)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            site = Site(node, f"http://127.0.0.1:{runner.addresses[0][1]}", session, app)
            job = await site.create("echo")
            async with lazy(site, f"{job}/events"):
                (listener,) = app[STREAMS]._open
                while len(listener._messages) < 500:  # so many are not taken any more
                    await record(site, job, *[e.ProgressMade(text=f"{n} " + 150 * "ü") for n in range(200)])
                    await site.get("/availability")
                await runner.cleanup()
        assert nobody_listens(site)


# What cannot be read


async def test_the_feed_goes_on_where_it_was_when_the_log_can_be_read_again(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, ECHO, clock=clock, executes=False) as site:
        job = await site.create("echo")
        async with listening(site, LIST) as stream:
            await stream.some(1)

            async def broken(**_: Any) -> Any:
                raise StoreUnavailable("the log cannot be read: disk I/O error")

            monkeypatch.setattr(site.node.backend.store, "read_all", broken)
            # Else nobody would have to read it.
            monkeypatch.setattr(site.node.backend.store, "_just_written", lambda after: ())
            monkeypatch.setattr(site.node.backend.projector, "retry_seconds", 0.01)
            await record(site, job, *PHASES["EXECUTING"])
            await clock.until_sleeping_for(clock.now() + timedelta(seconds=1))
            monkeypatch.undo()
            clock.advance(seconds=1)
            assert heard(await stream.some(2)) == told(await log_of(site, job))[1:]
    assert "the feed stands at position" in caplog.text


async def test_the_end_of_a_job_is_told_though_what_came_with_it_cannot_be_read_yet(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with running(tmp_path, ECHO, clock=clock, executes=False) as site:
        other, job = await site.create("echo"), await site.create("echo")
        async with listening(site, f"{job}/events") as stream:
            await stream.some(1)
            store = site.node.backend.store
            read = store.read_stream

            async def broken(stream: str, **more: Any) -> Any:
                if stream == e.job_stream(job_id(other)):
                    raise StoreUnavailable("the log cannot be read: disk I/O error")
                return await read(stream, **more)

            monkeypatch.setattr(store, "read_stream", broken)
            # In one transaction, so that they are read together.
            ends = record(site, job, e.JobAborted(reason="no more"))
            await asyncio.gather(ends, record(site, other, e.JobQueued()))
            assert types(await stream.rest()) == ["JobAborted", "end"]


async def test_an_event_that_cannot_be_read_keeps_nobody_from_being_told_of_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        one, two = await site.create("echo"), await site.create("echo")
        async with listening(site, LIST) as stream:
            await stream.some(1)
            for stream_name in (e.job_stream(job_id(one)), "other/stream"):
                new = NewEvent(type="JobTeleported", data=b"{}", metadata=Metadata(actor="test"))
                await site.node.backend.store.append(stream_name, [new])
            await record(site, two, *PHASES["ABORTED"])
            assert types(await stream.some(1)) == ["JobAborted"]
    assert "cannot be told" in caplog.text


async def test_nothing_is_told_of_a_job_that_was_erased(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job, other = await site.create("echo"), await site.create("echo")
        head = await head_of(site)
        await record(site, job, e.JobQueued(), e.JobStarted(declaration=""), e.ProgressMade(text="a secret"))
        await site.request("DELETE", other)
        await record(site, job, e.JobAborted(reason="no more"), e.JobDestroyed(reason="old"))
        async with listening(site, LIST, last=head) as stream:
            assert len(await stream.some(7)) == 7
            await site.node.backend.store.erase(e.job_stream(job_id(job)), reason="forgotten")
            await site.create("echo")
            assert types(await stream.some(1)) == ["JobCreated"]
            async with listening(site, LIST, last=head) as again:
                assert types(await again.some(1)) == ["reset"]
    async with running(tmp_path, ECHO, executes=False) as site, listening(site, LIST, last=head) as stream:
        assert types(await stream.some(1)) == ["reset"]
        tasks = asyncio.all_tasks()
        async with listening(site, LIST, last=head) as again:
            assert types(await again.some(1)) == ["reset"]
        # Nothing is looked for again that cannot be told.
        assert {task for task in tasks if task.get_name() == "feed"} <= asyncio.all_tasks()
        await site.create("echo")
        assert types(await stream.some(1)) == ["JobCreated"]


async def test_who_comes_back_over_a_moment_when_something_was_pruned_is_told_to_read_the_list(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        head = await head_of(site)
        await site.request("DELETE", job)
        await site.node.backend.store.prune(await head_of(site), ended_by=["JobDestroyed"], reason="old")
        async with listening(site, LIST, last=head) as stream:  # nobody can tell it that the job has gone
            assert types(await stream.some(1)) == ["reset"]
            assert stream.id == await head_of(site)


# Whatever happens, and whenever a client goes and comes back

USER = st.sampled_from(["ann", "bob"])
STEP = st.sampled_from(
    ["x", "runid", "duration", "destruction", "run", "start", "progress", "progress", "complete", "fail",
     "abort", "stop", "delete", "create"],
)  # fmt: skip


async def do(site: Site, job: str, step: str, number: int, user: str) -> None:
    """Do something to a job, if it may be done in its phase."""
    uws, name = site.node.services[0], job_id(job)
    with suppress(UWSError):
        match step:
            case "x":
                await site.post(job, {"x": str(number)}, user=user)
            case "runid":
                await site.post(job, {"RUNID": str(number)}, user=user)
            case "duration":
                await site.post(job, {"EXECUTIONDURATION": str(number + 1)}, user=user)
            case "destruction":
                await site.post(job, {"DESTRUCTION": f"2026-01-01T01:00:{number:02}"}, user=user)
            case "run" | "abort":
                await site.post(job, {"PHASE": step.upper()}, user=user)
            case "start":
                await uws.start_job(name)
            case "progress":
                await uws.report_progress(name, number / 100, f"step {number}")
            case "complete":
                await uws.end_job(name, Ending(exit_code=0))
            case "fail":
                await uws.end_job(name, Ending(exit_code=number + 1))
            case "stop":
                await uws.stop_job(name, "abort")
            case "delete":
                await uws.purge_job(name, SERVER, tuple(Phase))


class Wanderer:
    """A client that goes whenever it is told to, and comes back knowing what it heard last."""

    def __init__(self, site: Site, url: str, user: str) -> None:
        self._site, self._url, self._user = site, url, user
        self._stream: Stream | None = None
        self._stack = AsyncExitStack()
        self.last: int | None = None
        self.heard: list[Event] = []
        self.is_done = False

    async def comes(self) -> None:
        """Listen, unless it does or there is nothing more to be heard."""
        if self._stream is None and not self.is_done:
            request = self._site.session.get(self._url, headers=headers_of(self._user, self.last))
            answer = await self._stack.enter_async_context(request)
            self.is_done = answer.status in (204, 410)
            assert self.is_done or answer.status == 200
            self._stream = Stream(answer)

    async def hears(self, count: int) -> None:
        """Read so many events, or up to the end of the stream."""
        while count > 0 and self._stream and not self.is_done:
            event = await self._stream.next()
            if event is None:
                await self.goes()
                await self.comes()
                continue
            self.last = event.id
            if event.type in ("job", "reset"):
                self.heard.append(event)
                count -= 1

    async def goes(self) -> None:
        self._stream = None
        await self._stack.aclose()


@given(
    tale=st.lists(
        st.tuples(STEP, USER) | st.tuples(st.sampled_from(["goes", "comes", "hears"]), st.integers(1, 6)),
        max_size=50,
    )
)
@settings(max_examples=40, deadline=None)
async def test_whenever_a_client_goes_and_comes_back_it_hears_all_in_order_and_once(
    tmp_path_factory: pytest.TempPathFactory, tale: list[tuple[str, str | int]]
) -> None:
    clock = ManualClock()
    async with running(
        tmp_path_factory.mktemp("data"), ECHO, clock=clock, authenticator=BasicUsers(), executes=False
    ) as site:
        job = await site.create("echo", user="ann")
        jobs = {"ann": [job], "bob": [await site.create("echo", user="bob")]}
        of_job, of_list = Wanderer(site, f"{job}/events", "ann"), Wanderer(site, site.url + LIST, "ann")
        clients = ((of_job, [job]), (of_list, jobs["ann"]))
        for client, _ in clients:
            await client.comes()
            await client.hears(1)
        began = of_list.last
        for number, (step, detail) in enumerate(tale):
            clock.advance(seconds=1)
            for client, its in clients:
                match step:
                    case "goes":
                        await client.goes()
                    case "comes":
                        await client.comes()
                    case "hears" if isinstance(detail, int):
                        await client.hears(min(detail, len(await told_of(site, its, client.last or 0))))
            if step == "create":
                jobs[str(detail)].append(await site.create("echo", user=str(detail)))
            elif isinstance(detail, str):
                await do(site, jobs[detail][-1], step, number, detail)
        for client, its in clients:
            await client.comes()
            await client.hears(len(await told_of(site, its, client.last or 0)))
        assert of_list.heard[0].type == "reset"
        assert heard(of_list.heard) == await told_of(site, jobs["ann"], began or 0)
        expected = await told_of(site, [job])
        now = fold(await log_of(site, job))
        assert now
        if now.destroyed:  # it may have been away then
            expected = expected[: len(of_job.heard)]
        assert heard(of_job.heard) == expected
        if now.has_ended or now.destroyed:
            await of_job.hears(1)
            assert of_job.is_done
            assert heard(of_job.heard) == expected
        for client, _ in clients:
            await client.goes()
