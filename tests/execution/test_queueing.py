"""Limits, priorities, fairness, holding and pausing: which job starts, and what those that wait are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from eventstore import Metadata
from tests.access.support import basic, limited
from tests.execution.programs import Pipe, shell
from tests.execution.test_queue import held
from tests.harness import BasicUsers, ManualClock, Site, job_id, running, text
from uws import Caller, QueueSettings, QuotaSettings, QuotaTable, Service, StrParameter
from uws.model import events as e
from uws.model.queueing import AT_ONCE
from uws.model.units import format_time

ADA = Caller("ada")


def info(document: Any, name: str) -> str | None:
    found: str | None = document.findtext(f".//{{urn:uwsd:jobinfo}}{name}")
    return found


async def waits(site: Site, job: str, user: str | None = None) -> tuple[str | None, str | None]:
    """Return the place of a job in its queue, and why it waits."""
    document = await site.document(job, user=user)
    return info(document, "place"), info(document, "waitsFor")


async def all_end(site: Site, gate: Pipe, *jobs: tuple[str, str | None]) -> None:
    """Let all programs go on, and jobs end."""
    for _ in jobs:
        gate.send()
    for job, user in jobs:
        assert text(await site.ended(job, user=user), "phase") == "COMPLETED"


async def test_no_more_run_than_may_on_the_node_however_many_slots_services_have(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    services = [held(ready, gate, name=name, max_running=2) for name in ("one", "two")]
    async with running(tmp_path / "data", *services, queue=QueueSettings(max_running=3)) as site:
        jobs = [await site.run(name, x=name) for name in ("one", "two") for _ in range(2)]
        assert [await ready.line() for _ in range(3)].count("one") == 2
        assert await waits(site, jobs[3]) == ("1", "3 jobs running, at most 3 allowed")
        gate.send()
        assert await ready.line() == "two"
        await all_end(site, gate, *((job, None) for job in jobs))


async def test_an_owner_runs_no_more_than_he_may_and_others_pass_him(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    service = held(ready, gate, max_running=3, max_running_per_owner=1)
    async with running(tmp_path / "data", service, authenticator=BasicUsers()) as site:
        first = await site.run("run", user="ada", x="ada-1")
        assert await ready.line() == "ada-1"
        second = await site.run("run", user="ada", x="ada-2")
        third = await site.run("run", user="ada", x="ada-3")
        bobs = await site.run("run", user="bob", x="bob-1")
        assert await ready.line() == "bob-1"
        why = "1 job of run of the same owner running, at most 1 allowed"
        assert await waits(site, second, "ada") == ("1", why)
        assert await waits(site, third, "ada") == ("2", why)
        await all_end(site, gate, (first, "ada"), (second, "ada"), (third, "ada"), (bobs, "bob"))


async def test_an_owner_runs_no_more_than_he_may_over_all_services(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    services = [held(ready, gate, name=name) for name in ("one", "two")]
    settings = QueueSettings(max_running_per_owner=1)
    async with running(tmp_path / "data", *services, queue=settings) as site:
        first = await site.run("one", x="1")
        assert await ready.line() == "1"
        second = await site.run("two", x="2")
        assert await waits(site, second) == ("1", "1 job of the same owner running, at most 1 allowed")
        await all_end(site, gate, (first, None), (second, None))


async def test_services_of_a_higher_priority_go_first(tmp_path: Path, ready: Pipe, gate: Pipe) -> None:
    low, high = held(ready, gate, name="low"), held(ready, gate, name="high", priority=1)
    async with running(tmp_path / "data", low, high, queue=QueueSettings(max_running=1)) as site:
        jobs = [await site.run("low", x="low-1")]
        assert await ready.line() == "low-1"
        jobs += [await site.run("low", x="low-2"), await site.run("high", x="high-1")]
        jobs += [await site.run("high", x="high-2")]
        order = []
        for _ in range(3):
            gate.send()
            order.append(await ready.line())
        assert order == ["high-1", "high-2", "low-2"]
        await all_end(site, gate, *((job, None) for job in jobs))


@pytest.fixture
def heavy_ada(tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe) -> Callable[[], Awaitable[None]]:
    """Makes a server run, and stop, on which ada has used two hours, and bob one."""

    async def run() -> None:
        async with running(
            tmp_path / "data", held(ready, gate), clock=clock, authenticator=BasicUsers()
        ) as site:
            for user, hours in (("ada", 2), ("bob", 1)):
                job = await site.run("run", user=user, x=user, EXECUTIONDURATION="86400")
                await ready.line()
                clock.advance(hours=hours)
                gate.send()
                await site.ended(job, user=user)

    return run


async def order_of(site: Site, ready: Pipe, gate: Pipe, *names: str) -> list[str]:
    """Queue jobs of owners while another one runs, and return the order in which they are started."""
    jobs = [(await site.run("run", user="zoe", x="zoe"), "zoe")]
    assert await ready.line() == "zoe"
    jobs += [(await site.run("run", user=name[:3], x=name), name[:3]) for name in names]
    started = []
    for _ in names:
        gate.send()
        started.append(await ready.line())
    await all_end(site, gate, *((job, user) for job, user in jobs))
    return started


async def test_who_has_used_less_lately_goes_first_also_after_a_restart(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe, heavy_ada: Callable[[], Awaitable[None]]
) -> None:
    await heavy_ada()
    async with running(tmp_path / "data", held(ready, gate), clock=clock, authenticator=BasicUsers()) as site:
        order = await order_of(site, ready, gate, "ada-1", "bob-1", "cleo-1", "bob-2", "cleo-2")
        assert order == ["cleo-1", "cleo-2", "bob-1", "bob-2", "ada-1"]


async def test_what_was_used_counts_half_after_each_half_life(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe, heavy_ada: Callable[[], Awaitable[None]]
) -> None:
    await heavy_ada()
    settings = QueueSettings(half_life="1h")
    async with running(
        tmp_path / "data", held(ready, gate), clock=clock, authenticator=BasicUsers(), queue=settings
    ) as site:
        # What ada used has halved since: 2 h are 1 h and bob's are still 1 h, so that a little more decides.
        clock.advance(hours=4)
        job = await site.run("run", user="bob", x="more")
        await ready.line()
        clock.advance(minutes=1)
        gate.send()
        await site.ended(job, user="bob")
        assert await order_of(site, ready, gate, "bob-1", "ada-1") == ["ada-1", "bob-1"]


async def test_what_runs_counts_for_its_owner(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    service = held(ready, gate, max_running=2)
    async with running(tmp_path / "data", service, clock=clock, authenticator=BasicUsers()) as site:
        jobs = [(await site.run("run", user="ada", x="long"), "ada")]
        await ready.line()
        clock.advance(minutes=30)
        jobs += [(await site.run("run", user="zoe", x="zoe"), "zoe")]
        await ready.line()
        jobs += [(await site.run("run", user=user, x=user), user) for user in ("ada", "bob")]
        assert await waits(site, jobs[2][0], "ada") == ("2", "2 jobs of run running, at most 2 allowed")
        assert await waits(site, jobs[3][0], "bob") == ("1", "2 jobs of run running, at most 2 allowed")
        gate.send()
        assert await ready.line() == "bob"
        await all_end(site, gate, *jobs)


# A full queue


def full(ready: Pipe, gate: Pipe, **fields: Any) -> Service:
    return held(ready, gate, max_queued_per_owner=1, **fields)


async def test_a_full_queue_refuses_run_with_the_limit_and_the_count(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    async with running(tmp_path / "data", full(ready, gate), authenticator=BasicUsers()) as site:
        first = await site.run("run", user="ada", x="1")
        await ready.line()
        second = await site.run("run", user="ada", x="2")
        pending = await site.create("run", user="ada", x="3")
        expected = "UsageFault: 1 job of run of the same owner queued, at most 1 allowed\n"
        refused = await site.post(f"{pending}/phase", {"PHASE": "RUN"}, user="ada")
        assert (refused.status, refused.text) == (403, expected)
        assert await site.phase(pending, user="ada") == "PENDING"
        before = len((await site.get(site.list_url("run"), user="ada")).xml)
        refused = await site.post(site.list_url("run"), {"PHASE": "RUN", "x": "4"}, user="ada")
        assert (refused.status, refused.text) == (403, expected)
        assert len((await site.get(site.list_url("run"), user="ada")).xml) == before
        bobs = await site.run("run", user="bob", x="5")
        gate.send()
        await ready.line()
        await site.executing(bobs, user="bob")
        await all_end(site, gate, (first, "ada"), (second, "ada"), (bobs, "bob"))
        assert (await site.post(f"{pending}/phase", {"PHASE": "RUN"}, user="ada")).status == 303
        await all_end(site, gate, (pending, "ada"))


async def test_of_many_that_come_at_once_as_many_are_queued_as_may(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    services = [held(ready, gate, name=name) for name in ("one", "two")]
    settings = QueueSettings(max_queued_per_owner=3)
    async with running(tmp_path / "data", *services, queue=settings) as site:
        await site.node.backend.queueing.pause(None, ADA)
        forms = [(site.list_url(name), {"PHASE": "RUN", "x": "1"}) for name in ("one", "two")] * 5
        answers = await asyncio.gather(*(site.post(url, form) for url, form in forms))
        assert sorted(answer.status for answer in answers) == [303] * 3 + [403] * 7
        told = {answer.text for answer in answers if answer.status == 403}
        assert told == {"UsageFault: 3 jobs of the same owner queued, at most 3 allowed\n"}


async def test_a_job_for_which_there_is_no_room_is_held_until_there_is(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    async with running(tmp_path / "data", full(ready, gate, when_full="hold")) as site:
        first = await site.run("run", x="1")
        await ready.line()
        second, third, fourth = [await site.run("run", x=number) for number in (2, 3, 4)]
        assert [await site.phase(job) for job in (second, third, fourth)] == ["QUEUED", "HELD", "HELD"]
        document = await site.document(third)
        reason = "waiting for room in the queue: 1 job of run of the same owner queued, at most 1 allowed"
        assert info(document, "reason") == reason
        again = await site.post(f"{third}/phase", {"PHASE": "RUN"})
        assert (again.status, await site.phase(third)) == (303, "HELD")
        order = []
        for _ in range(3):
            gate.send()
            order.append(await ready.line())
        assert order == ["2", "3", "4"]
        await all_end(site, gate, *((job, None) for job in (first, second, third, fourth)))


async def test_a_job_that_was_made_incomplete_while_it_was_held_fails_and_holds_up_no_other(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    async with running(tmp_path / "data", full(ready, gate, when_full="hold")) as site:
        first = await site.run("run", x="1")
        await ready.line()
        second, third, fourth = [await site.run("run", x=number) for number in (2, 3, 4)]
        taken = e.encode(e.ParametersSet(parameters={"x": ()}), Metadata())
        await site.node.backend.store.append(f"job/{job_id(third)}", [taken])
        gate.send()
        assert await ready.line() == "2"
        gate.send()
        assert await ready.line() == "4"
        document = await site.document(third)
        assert text(document, "phase") == "ERROR"
        assert text(document, "message") == (
            "it could not be queued when there was room: required, but not given: x"
        )
        await all_end(site, gate, *((job, None) for job in (first, second, fourth)))


# Pausing


async def test_while_the_queue_is_paused_nothing_starts_and_what_runs_goes_on_also_after_a_restart(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    services = held(ready, gate), shell("true", name="other")
    async with running(tmp_path / "data", *services, clock=clock) as site:
        first = await site.run("run", x="1")
        await ready.line()
        queueing = site.node.backend.queueing
        assert await queueing.pause(None, ADA)
        assert not await queueing.pause(None, ADA)
        second, third = await site.run("run", x="2"), await site.run("other")
        gate.send()
        assert text(await site.ended(first), "phase") == "COMPLETED"
        assert await waits(site, second) == ("1", "the queue is paused")
        assert text(await site.document(second), "quote") is None
    async with running(tmp_path / "data", *services, clock=clock) as site:
        second, third = (
            f"{site.list_url(name)}/{job_id(job)}" for name, job in (("run", second), ("other", third))
        )
        assert await site.node.backend.queueing.pause("run", ADA)
        assert [await site.phase(job) for job in (second, third)] == ["QUEUED", "QUEUED"]
        assert await site.node.backend.queueing.resume(None, ADA)
        assert not await site.node.backend.queueing.resume(None, ADA)
        assert text(await site.ended(third), "phase") == "COMPLETED"
        assert await waits(site, second) == ("1", "the queue of run is paused")
        assert await site.node.backend.queueing.resume("run", ADA)
        assert await ready.line() == "2"
        await all_end(site, gate, (second, None))


async def test_all_for_whom_there_is_room_start_when_a_pause_ends_however_many(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    """More than are started by one look at the queue."""
    async with running(tmp_path / "data", held(ready, gate, max_running=AT_ONCE + 4)) as site:
        await site.node.backend.queueing.pause(None, ADA)
        jobs = [await site.run("run", x=number) for number in range(AT_ONCE + 4)]
        await site.node.backend.queueing.resume(None, ADA)
        assert {await ready.line() for _ in jobs} == {str(number) for number in range(len(jobs))}
        await all_end(site, gate, *((job, None) for job in jobs))


async def test_who_is_held_follows_into_the_queue_as_soon_as_another_has_left_it_to_run(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    async with running(tmp_path / "data", full(ready, gate, when_full="hold", max_running=3)) as site:
        await site.node.backend.queueing.pause(None, ADA)
        jobs = [await site.run("run", x=number) for number in range(3)]
        assert [await site.phase(job) for job in jobs] == ["QUEUED", "HELD", "HELD"]
        await site.node.backend.queueing.resume(None, ADA)
        assert {await ready.line() for _ in jobs} == {"0", "1", "2"}
        await all_end(site, gate, *((job, None) for job in jobs))


async def test_a_pause_is_an_event_that_says_who_did_it(tmp_path: Path) -> None:
    async with running(tmp_path / "data", shell("true")) as site:
        await site.node.backend.queueing.pause("run", ADA)
        await site.node.backend.queueing.resume("run", ADA)
        events = await site.node.backend.store.read_stream("queue")
        assert [(event.type, event.data, event.about.actor) for event in events] == [
            ("QueuePaused", b'{"service":"run"}', "ada"),
            ("QueueResumed", b'{"service":"run"}', "ada"),
        ]


# What those who wait are told


async def test_a_waiting_job_tells_its_place_why_it_waits_and_when_it_may_start(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    service = held(ready, gate)
    async with running(tmp_path / "data", service, clock=clock, authenticator=BasicUsers()) as site:
        known = await site.run("run", user="ada", x="0")
        await ready.line()
        clock.advance(seconds=100)
        gate.send()
        await site.ended(known, user="ada")
        begin = clock.now()
        jobs = [(await site.run("run", user="ada", x="1"), "ada")]
        await ready.line()
        jobs += [(await site.run("run", user=user, x=user), user) for user in ("ada", "ada", "bob", "bob")]
        told = []
        for job, user in jobs[1:]:
            document = await site.document(job, user=user)
            assert info(document, "waitsFor") == "1 job of run running, at most 1 allowed"
            place, start = info(document, "place"), info(document, "expectedStart")
            told.append((user, place, start))
        assert [(user, place) for user, place, _ in told] == [
            ("ada", "2"), ("ada", "4"), ("bob", "1"), ("bob", "3"),
        ]  # fmt: skip
        assert [start for _, _, start in told] == [
            format_time(begin + timedelta(seconds=100 * int(place or 0))) for _, place, _ in told
        ]
        as_json = (await site.get(f"{jobs[1][0]}?RESPONSEFORMAT=json", user="ada")).text
        assert '"place":2,' in as_json
        await all_end(site, gate, *jobs)
        document = await site.document(jobs[1][0], user="ada")
        assert info(document, "place") is None


async def test_the_quote_comes_from_jobs_of_the_same_owner_that_were_called_alike(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    service = shell(
        'echo "$1" > "$READY"; read line < "$GATE"',
        "{x}",
        environment={"READY": ready.path, "GATE": gate.path},
        parameters={"x": StrParameter(required=True)},
    )
    async with running(tmp_path / "data", service, clock=clock, authenticator=BasicUsers()) as site:
        for user, x, seconds in (("ada", "short", 10), ("ada", "long", 1000), ("bob", "long", 50)):
            job = await site.run("run", user=user, x=x)
            await ready.line()
            clock.advance(seconds=seconds)
            gate.send()
            await site.ended(job, user=user)
        for user, x, seconds in (
            ("ada", "short", 10),
            ("ada", "long", 1000),
            ("bob", "other", 50),
            ("cleo", "long", 50),
        ):
            job = await site.create("run", user=user, x=x)
            quote = text(await site.document(job, user=user), "quote")
            assert quote == format_time(clock.now() + timedelta(seconds=seconds)), (user, x)


# Quotas


async def test_quotas_let_some_have_more_jobs_queued_than_all_others(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    service = held(ready, gate, when_full="refuse")
    allowed = QuotaSettings(others={"anonymous": QuotaTable(queued=2)})
    queue = QueueSettings(max_queued_per_owner=1)
    async with running(
        tmp_path / "data", service, queue=queue, quotas=allowed, authenticator=BasicUsers()
    ) as site:
        jobs = [await site.run("run", x="1")]
        assert await ready.line() == "1"
        jobs += [await site.run("run", x=x) for x in ("2", "3")]
        refused = await site.post(site.list_url("run"), {"x": "4", "PHASE": "RUN"})
        assert (refused.status, refused.text) == (
            403, "UsageFault: 2 jobs of the same owner queued, at most 2 allowed\n",
        )  # fmt: skip
        await site.run("run", user="ada", x="5")
        refused = await site.post(site.list_url("run"), {"x": "6", "PHASE": "RUN"}, user="ada")
        assert refused.status == 403
        for job in jobs:
            await site.request("DELETE", job)


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_group_runs_as_many_as_it_may_also_when_nobody_of_it_is_there(
    tmp_path: Path, ready: Pipe, gate: Pipe, restarts: bool
) -> None:
    service = held(ready, gate, max_running=9)
    others = {"@staff": {"running": 2, "queued": 2}, "operator": {"running": 3}}
    data = tmp_path / "data"
    async with limited(data, service, running=1, others=others) as site:
        await site.node.backend.queueing.pause(None, Caller("ops"))
        for user in ("ann", "bob"):
            for number in range(2):
                form = {"x": f"{user}-{number}", "PHASE": "RUN"}
                assert (await site.post("/run/async", form, headers=basic(user))).status == 303
        if not restarts:
            await site.node.backend.queueing.resume(None, Caller("ops"))
            await _two_of_bob_and_one_of_ann(site, ready, gate)
    if restarts:
        async with limited(data, service, running=1, others=others) as site:
            await site.node.backend.queueing.resume(None, Caller("ops"))
            await _two_of_bob_and_one_of_ann(site, ready, gate)


async def _two_of_bob_and_one_of_ann(site: Site, ready: Pipe, gate: Pipe) -> None:
    begun = {await ready.line() for _ in range(3)}
    assert begun == {"ann-0", "bob-0", "bob-1"}
    list_of_ann = (await site.get("/run/async?PHASE=QUEUED", headers=basic("ann"))).text
    job = list_of_ann.partition('id="')[2].partition('"')[0]
    shown = (await site.get(f"/run/async/{job}", headers=basic("ann"))).text
    assert "1 job of the same owner running, at most 1 allowed" in shown
    for user in ("ann", "bob"):
        listed = (await site.get("/run/async", headers=basic(user))).xml
        for reference in listed:
            url = f"/run/async/{reference.get('id')}"
            assert (await site.request("DELETE", url, headers=basic(user))).status == 303


async def test_of_a_group_as_many_are_queued_out_of_those_held_as_it_may_have(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    service = held(ready, gate, when_full="hold")
    others = {"@staff": {"queued": 2}}
    async with limited(tmp_path / "data", service, queued=1, others=others) as site:
        jobs = []
        for number in range(4):
            form = {"x": str(number), "PHASE": "RUN"}
            jobs.append((await site.post("/run/async", form, headers=basic("bob"))).location)
            if number == 0:
                assert await ready.line() == "0"
        told = [(await site.get(f"{job}/phase", headers=basic("bob"))).text for job in jobs]
        assert told == ["EXECUTING", "QUEUED", "QUEUED", "HELD"]
        changed = asyncio.create_task(_queued(site, jobs[3]))
        await site.request("DELETE", jobs[1], headers=basic("bob"))
        async with asyncio.timeout(20):
            await changed
        for job in jobs:
            await site.request("DELETE", job, headers=basic("bob"))


async def _queued(site: Site, job: str) -> None:
    """Return when the log says that a job is queued."""
    async for event in site.node.backend.follow(0):
        if any(e.job_stream(job_id(job)) == one.stream and one.type == "JobQueued" for one in event):
            return
