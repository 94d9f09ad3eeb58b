"""What led to each event: the request that a client sent, or an event before it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.execution.programs import until_gone
from tests.harness import ManualClock, Site, job_id, running
from tests.web.support import ECHO, FAIL, SLEEP, Gate, gate
from tests.web.support import GATE as GATED
from uws import Service, StrParameter
from uws.model.units import format_time

HOUR = timedelta(hours=1)
KEPT = Service(name="kept", title="Kept", command=["true"], archive=True)


async def course(site: Site, job: str) -> list[str | tuple[str, str]]:
    """Return the life course of a job: each event's type, and with it the type of the one that led to it.

    Those that a request led to name that request alone; the others share the undertaking of their cause.
    """
    events = await site.node.backend.store.read_stream(f"job/{job_id(job)}")
    found: list[str | tuple[str, str]] = []
    for number, event in enumerate(events):
        about = event.about
        if about.causation_id is None:
            assert about.correlation_id == about.request_id is not None
            assert about.actor is None
            found.append(event.type)
        else:
            (cause,) = (earlier for earlier in events[:number] if earlier.id == about.causation_id)
            assert about.correlation_id == cause.about.correlation_id is not None
            assert (about.actor, about.request_id) == ("uwsd", None)
            found.append((event.type, cause.type))
    return found


async def request_of(site: Site, job: str, event_type: str) -> str | None:
    """Return the undertaking that the last event of a type belongs to."""
    events = await site.node.backend.store.read_stream(f"job/{job_id(job)}")
    return [event.about.correlation_id for event in events if event.type == event_type][-1]


async def due(site: Site, clock: ManualClock, job: str, span: timedelta) -> None:
    """Let the destruction time of a job come."""
    await clock.until_sleeping_for(clock.now() + span)
    clock.advance(seconds=span.total_seconds())
    await until_gone(site, job)


async def test_a_job_is_started_because_it_was_queued_and_ends_because_it_was_started(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FAIL) as site:
        for service, end in (("echo", "JobCompleted"), ("fail", "JobFailed")):
            made = await site.post(f"/{service}/async", {"RUNID": "r"})
            changed = await site.post(made.location, {"RUNID": "s", "EXECUTIONDURATION": "5"})
            run = await site.post(f"{made.location}/phase", {"PHASE": "RUN"})
            await site.ended(made.location)
            assert await course(site, made.location) == [
                "JobCreated", "RunIdSet", "ExecutionDurationSet", "JobQueued", ("JobStarted", "JobQueued"),
                (end, "JobStarted"),
            ]  # fmt: skip
            for event_type, answer in (
                ("JobCreated", made), ("RunIdSet", changed), ("ExecutionDurationSet", changed),
                ("JobQueued", run), ("JobStarted", run), (end, run),
            ):  # fmt: skip
                asked = await request_of(site, made.location, event_type)
                assert asked == answer.headers["X-Request-ID"]


async def test_all_events_of_one_request_are_of_one_undertaking(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo", RUNID="r", EXECUTIONDURATION=5, DESTRUCTION="2100-01-01")
        await site.ended(job)
        events = await site.node.backend.store.read_stream(f"job/{job_id(job)}")
        assert len(events) == 6
        assert len({event.about.correlation_id for event in events}) == 1


async def test_a_program_that_a_client_stops_ends_because_of_that(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP) as site:
        asked: list[tuple[str, str, Any]] = [("POST", "/phase", {"PHASE": "ABORT"}), ("DELETE", "", None)]
        for method, path, body in asked:
            job = await site.run("sleep")
            await site.executing(job)
            answer = await site.request(method, job + path, data=body)
            if method == "POST":
                await site.ended(job)
            removed = [("JobDestroyed", "StopRequested")] if method == "DELETE" else []
            assert await course(site, job) == [
                "JobCreated", "JobQueued", ("JobStarted", "JobQueued"), "StopRequested",
                ("ProgramSignalled", "StopRequested"), ("JobAborted", "StopRequested"), *removed,
            ]  # fmt: skip
            assert await request_of(site, job, "JobAborted") == answer.headers["X-Request-ID"]


async def test_a_job_that_is_too_long_is_stopped_because_it_was_started(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, SLEEP, clock=clock, grace=0.2) as site:
        job = await site.run("sleep", EXECUTIONDURATION=60)
        await site.executing(job)
        await clock.until_sleeping_for(clock.now() + timedelta(seconds=60))
        clock.advance(seconds=60)
        await site.ended(job)
        assert (await course(site, job))[-4:] == [
            ("JobStarted", "JobQueued"), ("StopRequested", "JobStarted"),
            ("ProgramSignalled", "StopRequested"), ("JobAborted", "StopRequested"),
        ]  # fmt: skip


async def test_a_job_goes_because_of_whoever_set_its_time(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, ECHO, clock=clock) as site:
        job = await site.create("echo")
        await due(site, clock, job, timedelta(days=7))
        assert await course(site, job) == [
            "JobCreated", ("JobAborted", "JobCreated"), ("JobDestroyed", "JobCreated"),
        ]  # fmt: skip
        job = await site.run("echo")
        await site.ended(job)
        await site.post(f"{job}/destruction", {"DESTRUCTION": format_time(clock.now() + 2 * HOUR)})
        last = await site.post(f"{job}/destruction", {"DESTRUCTION": format_time(clock.now() + HOUR)})
        await due(site, clock, job, HOUR)
        assert (await course(site, job))[-1] == ("JobDestroyed", "DestructionSet")
        assert await request_of(site, job, "JobDestroyed") == last.headers["X-Request-ID"]


async def test_a_program_that_is_still_running_at_its_jobs_destruction_is_stopped_because_of_that(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, SLEEP, clock=clock, grace=0.2) as site:
        job = await site.run("sleep", DESTRUCTION=format_time(clock.now() + HOUR), EXECUTIONDURATION=86400)
        await site.executing(job)
        await due(site, clock, job, HOUR)
        assert (await course(site, job))[-4:] == [
            ("StopRequested", "DestructionSet"), ("ProgramSignalled", "StopRequested"),
            ("JobAborted", "StopRequested"), ("JobDestroyed", "StopRequested"),
        ]  # fmt: skip


async def test_a_time_set_while_a_job_is_being_deleted_has_not_led_to_its_end(tmp_path: Path) -> None:
    script = 'trap "" TERM; echo ready > "$1"; sleep 1000'
    stubborn = Service(
        name="s",
        title="S",
        command=["sh", "-c", script, "s", "{gate}"],
        parameters={"gate": StrParameter(required=True)},
    )
    async with running(tmp_path / "data", stubborn, grace=0.5) as site:
        with gate(tmp_path / "gate") as held:
            job = await site.run("s", gate=held.path)
            assert await held.heard() == b"ready\n"
        with site.node.backend.projector.watch(f"job/{job_id(job)}") as changed:
            deletion = asyncio.create_task(site.request("DELETE", job))
            await changed.wait()
        await site.post(f"{job}/destruction", {"DESTRUCTION": "2100-01-01"})
        await deletion
        told = [step for step in await course(site, job) if step[0] != "ProgramSignalled"]
        assert told[-4:] == [
            "StopRequested", "DestructionSet",
            ("JobAborted", "StopRequested"), ("JobDestroyed", "StopRequested"),
        ]  # fmt: skip


async def test_a_job_that_was_aborted_long_ago_goes_because_of_its_time(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, SLEEP, clock=clock, grace=0.2) as site:
        job = await site.run("sleep")
        await site.executing(job)
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        await site.ended(job)
        await due(site, clock, job, timedelta(days=7))
        assert (await course(site, job))[-2:] == [
            ("JobAborted", "StopRequested"), ("JobDestroyed", "JobCreated"),
        ]  # fmt: skip


async def test_a_job_is_archived_for_the_same_reasons(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, KEPT, clock=clock) as site:
        job = await site.run("kept")
        await site.ended(job)
        await clock.until_sleeping_for(clock.now() + timedelta(days=7))
        with site.node.backend.projector.watch(f"job/{job_id(job)}") as changed:
            clock.advance(days=7)
            await changed.wait()
        await site.request("DELETE", job)
        assert (await course(site, job))[-2:] == [("JobArchived", "JobCreated"), "JobDestroyed"]


async def test_jobs_that_a_server_leaves_behind_end_because_they_were_started_or_stopped(
    tmp_path: Path,
) -> None:
    with gate(tmp_path / "gate") as held:
        job = await _stop_server_while_running(tmp_path, held)
    async with running(tmp_path / "data", GATED) as site:
        assert (await course(site, job))[-4:] == [
            ("JobStarted", "JobQueued"), ("StopRequested", "JobStarted"),
            ("ProgramSignalled", "StopRequested"), ("JobFailed", "StopRequested"),
        ]  # fmt: skip


async def _stop_server_while_running(tmp_path: Path, held: Gate) -> str:
    async with running(tmp_path / "data", GATED, grace=0.2) as site:
        job = await site.run("gate", gate=str(held.path))
        await site.executing(job)
        return job


async def test_declarations_belong_to_no_request(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        (declared,) = await site.node.backend.store.read_stream("service/echo")
        assert (declared.about.correlation_id, declared.about.causation_id) == (None, None)
