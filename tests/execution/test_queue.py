"""The queue: slots, turns between owners, and what the quote promises."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.execution.programs import Pipe, shell
from tests.harness import BasicUsers, ManualClock, job_id, running, text
from uws import Service, StrParameter
from uws.model.units import format_time


def held(ready: Pipe, gate: Pipe, *, name: str = "run", max_running: int = 1, **fields: Any) -> Service:
    """Declare a service whose programs say ``x`` and then wait for a line."""
    return shell(
        'echo "$1" > "$READY"; read line < "$GATE"',
        "{x}",
        name=name,
        environment={"READY": ready.path, "GATE": gate.path},
        parameters={"x": StrParameter(required=True)},
        max_running=max_running,
        **fields,
    )


async def test_owners_of_short_jobs_take_turns_and_within_one_the_oldest_goes_first(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    service = held(ready, gate)
    async with running(tmp_path / "data", service, clock=clock, authenticator=BasicUsers()) as site:
        jobs = {}
        for name in ("ada-0", "ada-1", "ada-2", "ada-3", "bob-1", "bob-2", "cleo-1"):
            clock.advance(milliseconds=1)
            user = name.partition("-")[0]
            jobs[name] = await site.create("run", user=user, x=name, PHASE="RUN")
        order = []
        for _ in jobs:
            order.append(await ready.line())
            gate.send()
        assert order == ["ada-0", "bob-1", "cleo-1", "ada-1", "bob-2", "ada-2", "ada-3"]
        for name, job in jobs.items():
            document = await site.ended(job, user=name.partition("-")[0])
            assert text(document, "phase") == "COMPLETED"


async def test_as_many_run_as_there_are_slots_and_the_next_starts_when_one_is_free(
    tmp_path: Path, ready: Pipe, gate: Pipe
) -> None:
    async with running(tmp_path / "data", held(ready, gate, max_running=2)) as site:
        jobs = [await site.run("run", x=number) for number in range(4)]
        assert {await ready.line(), await ready.line()} == {"0", "1"}
        assert [await site.phase(job) for job in jobs] == ["EXECUTING", "EXECUTING", "QUEUED", "QUEUED"]
        gate.send()
        assert await ready.line() == "2"
        assert sorted([await site.phase(job) for job in jobs[:3]]).count("EXECUTING") == 2
        assert await site.phase(jobs[3]) == "QUEUED"
        gate.send()
        assert await ready.line() == "3"
        gate.send()
        gate.send()
        for job in jobs:
            assert text(await site.ended(job), "phase") == "COMPLETED"


async def test_a_full_service_does_not_hold_up_another(tmp_path: Path, ready: Pipe, gate: Pipe) -> None:
    async with running(tmp_path / "data", held(ready, gate), shell("true", name="other")) as site:
        jobs = [await site.run("run", x=number) for number in range(3)]
        assert await ready.line() == "0"
        assert text(await site.ended(await site.run("other")), "phase") == "COMPLETED"
        assert await site.phase(jobs[0]) == "EXECUTING"
        for job in jobs:
            gate.send()
            await site.ended(job)


async def test_many_short_jobs_run_one_after_the_other_without_waiting_for_a_clock(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path / "data", shell("true"), clock=clock) as site:
        jobs = [await site.run("run") for _ in range(20)]
        for job in jobs:
            assert text(await site.ended(job), "phase") == "COMPLETED"


async def test_the_quote_is_nil_without_experience_and_then_comes_from_past_durations(
    tmp_path: Path, clock: ManualClock, ready: Pipe, gate: Pipe
) -> None:
    async with running(tmp_path / "data", held(ready, gate), clock=clock) as site:
        first = await site.run("run", x=1)
        await ready.line()
        assert text(await site.document(first), "quote") is None
        assert (await site.get(f"{first}/quote")).text == ""
        clock.advance(seconds=40)
        gate.send()
        await site.ended(first)

        pending = await site.create("run", x=2)
        soon = format_time(clock.now() + timedelta(seconds=40))
        assert text(await site.document(pending), "quote") == soon
        assert (await site.get(f"{pending}/quote")).text == soon

        executing = await site.run("run", x=3)
        await ready.line()
        clock.advance(seconds=10)
        queued = await site.run("run", x=4)
        assert text(await site.document(executing), "quote") == soon
        later = format_time(clock.now() + timedelta(seconds=70))  # the one before it has run for 10
        assert text(await site.document(queued), "quote") == later
        for job in (executing, queued):
            gate.send()
            await site.ended(job)


async def test_failures_are_no_experience(tmp_path: Path, clock: ManualClock, gate: Pipe) -> None:
    service = shell('read line < "$GATE"; exit 1', environment={"GATE": gate.path})
    async with running(tmp_path / "data", service, clock=clock) as site:
        job = await site.run("run")
        await site.executing(job)
        clock.advance(seconds=5)
        gate.send()
        assert text(await site.ended(job), "phase") == "ERROR"
        assert text(await site.document(await site.create("run")), "quote") is None


async def test_jobs_of_a_service_that_is_no_longer_offered_wait_for_it_and_run_nothing(
    tmp_path: Path, ready: Pipe, gate: Pipe, clock: ManualClock
) -> None:
    withdrawn, other = held(ready, gate), shell("true", name="other")
    async with running(tmp_path / "data", withdrawn, other, clock=clock) as site:
        first, second = await site.run("run", x=1), await site.run("run", x=2)
        await ready.line()
    async with running(tmp_path / "data", other, clock=clock) as site:
        await site.ended(await site.run("other"))  # the queue has been looked at
        found = [await site.node.backend.jobs.get(job_id(job)) for job in (first, second)]
        assert [job and job.phase for job in found] == ["ERROR", "QUEUED"]
    async with running(tmp_path / "data", withdrawn, other, clock=clock) as site:
        assert await ready.line() == "2"
        gate.send()
        again = f"{site.list_url('run')}/{job_id(second)}"
        assert text(await site.ended(again), "phase") == "COMPLETED"
