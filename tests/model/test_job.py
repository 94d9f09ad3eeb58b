"""The job aggregate as it is folded from what the log has: its phases and its times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore import MemoryEventStore, Metadata, RecordedEvent, from_microseconds, to_microseconds
from tests.harness import ManualClock
from uws.model import Failure, Job, Phase, apply, fold
from uws.model import events as e
from uws.model.job import PHASE_AFTER, evolve_through

GOLDEN = Path(__file__).with_name("golden")
CREATED = msgspec.json.decode((GOLDEN / "JobCreated.1.full.json").read_bytes(), type=e.JobCreated)
COMPLETED = msgspec.json.decode((GOLDEN / "JobCompleted.1.full.json").read_bytes(), type=e.JobCompleted)
STEPS = [e.JobQueued(), e.JobStarted(declaration="d"), e.JobCompleted()]
TIMES = [datetime(1993, 10, 1, 7, 0, second, 123_456, tzinfo=UTC) for second in range(1 + len(STEPS))]


async def recorded(
    clock: ManualClock, *events: e.JobEvent, happened: list[datetime] | None = None
) -> tuple[RecordedEvent, ...]:
    """Return events as a log has them, recorded an hour after each other; some time after they happened."""
    store = MemoryEventStore(now=clock.now)
    for index, event in enumerate(events):
        clock.advance(hours=1)
        occurred = to_microseconds(happened[index]) if happened else None
        await store.append("job/j", [e.encode(event, Metadata(occurred=occurred))])
    await store.close()
    return await store.read_stream("job/j")


SHARE = e.Share(id="1", to="bob")
LATER = e.Share(id="2", to="@group")
CHANGES: list[tuple[e.JobEvent, dict[str, Any]]] = [
    (e.ParametersSet(parameters={"b": ("2",), "a": ()}), {"parameters": {"b": ("2",), "c": ("3",)}}),
    (e.RunIdSet(run_id="another"), {"run_id": "another"}),
    (e.ExecutionDurationSet(seconds=7), {"execution_duration": 7}),
    (e.DestructionSet(destruction=TIMES[0]), {"destruction": TIMES[0]}),
    (e.JobQueued(quote=TIMES[0]), {"queued": TIMES[1], "quote": TIMES[0], "note": ""}),
    (e.JobHeld(reason="r"), {"note": "r"}),
    (
        e.JobStarted(declaration="new", node="a"),
        {"started": TIMES[1], "declaration": "new", "quote": None, "note": "", "start": 2, "node": "a"},
    ),
    (
        e.JobSubmitted(declaration="new", quote=TIMES[0]),
        {"submitted": TIMES[1], "declaration": "new", "quote": TIMES[0], "note": "", "start": 2},
    ),
    (
        e.JobAccepted(batch_job="7", reason="r"),
        {"submitted": TIMES[1], "batch_job": "7", "note": "r", "reports": 1},
    ),
    (
        e.JobStarted(declaration="new", host="n1"),
        {"started": TIMES[1], "declaration": "new", "quote": None, "note": "", "start": 2, "host": "n1"},
    ),
    (e.JobSuspended(reason="r"), {"note": "r"}),
    (e.JobResumed(), {"note": ""}),
    (e.StopRequested(reason="abort"), {"stop": "abort"}),
    (
        COMPLETED,
        {"ended": TIMES[1], "results": COMPLETED.results, "exit_code": COMPLETED.exit_code},
    ),
    (
        e.JobFailed(failure=Failure(message="m"), exit_code=3, signal="SIGXCPU"),
        {"ended": TIMES[1], "failure": Failure(message="m"), "exit_code": 3, "signal": "SIGXCPU",
         "results": ()},
    ),
    (e.ProgramSignalled(signal="SIGKILL"), {"signalled": "SIGKILL"}),
    (e.ProgramFound(finding="running"), {}),
    (e.ProgressMade(fraction=0.5, text="half"), {"progress": 0.5, "doing": "half", "reports": 1}),
    (e.JobRequeued(reason="r"), {"started": None, "note": "r", "requeued": 1}),
    (e.JobAborted(reason="r"), {"ended": TIMES[1], "note": "r", "results": ()}),
    (
        e.JobAborted(reason="r", exit_code=3, signal="SIGKILL", cpu_seconds=1.5, memory_bytes=7),
        {"ended": TIMES[1], "note": "r", "results": (), "exit_code": 3, "signal": "SIGKILL",
         "cpu_seconds": 1.5, "memory_bytes": 7},
    ),
    (e.JobLost(reason="r"), {"note": "r"}),
    (e.JobShared(share=LATER), {"shares": (SHARE, LATER)}),
    (e.JobUnshared(share=SHARE), {"shares": ()}),
    (e.JobUnshared(share=LATER), {}),
    (e.JobArchived(reason="r"), {"note": "r", "results": (), "shares": ()}),
    (e.JobDestroyed(reason="r"), {"destroyed": TIMES[1], "note": "r", "shares": ()}),
]  # fmt: skip


@pytest.mark.parametrize(("event", "changed"), CHANGES, ids=lambda value: type(value).__name__)
async def test_an_event_changes_what_it_is_about_and_nothing_else(
    clock: ManualClock, event: e.JobEvent, changed: dict[str, Any]
) -> None:
    first, second = await recorded(clock, CREATED, event, happened=TIMES[:2])
    created = apply(None, first)
    assert created is not None
    assert created.phase is PHASE_AFTER[e.JobCreated]
    before = msgspec.structs.replace(
        created,
        parameters={"a": ("1",), "c": ("3",)},
        note="before",
        results=COMPLETED.results,
        shares=(SHARE,),
    )
    phase = PHASE_AFTER.get(type(event), Phase.PENDING)
    assert apply(before, second) == msgspec.structs.replace(before, version=2, phase=phase, **changed)


def test_the_changes_of_no_event_are_forgotten() -> None:
    assert {type(event) for event, _ in CHANGES} | {e.JobCreated} == set(e.JOB_EVENTS.values())


async def test_what_is_recorded_as_it_happens_has_the_times_of_the_log(clock: ManualClock) -> None:
    begin = clock.now()
    job = fold(await recorded(clock, CREATED, *STEPS))
    assert job is not None
    hours = [begin + timedelta(hours=hour) for hour in (1, 2, 3, 4)]
    assert [job.created, job.queued, job.started, job.ended] == hours


async def test_what_is_recorded_later_has_the_times_at_which_it_happened(clock: ManualClock) -> None:
    begin = clock.now()
    events = await recorded(clock, CREATED, *STEPS, happened=TIMES)
    job = fold(events)
    assert job is not None
    # Documents tell milliseconds of a creation.
    assert job.created == TIMES[0].replace(microsecond=123_000)
    assert [job.queued, job.started, job.ended] == TIMES[1:]
    assert [event.recorded_at for event in events] == [begin + timedelta(hours=hour) for hour in (1, 2, 3, 4)]
    assert [event.about.occurred for event in events] == [*map(to_microseconds, TIMES)]


@pytest.mark.parametrize("happened", [None, TIMES])
@pytest.mark.parametrize("at_once", [1, 2, 4])
async def test_however_many_events_are_applied_at_once_the_job_is_the_same(
    clock: ManualClock, happened: list[datetime] | None, at_once: int
) -> None:
    events = await recorded(clock, CREATED, *STEPS, happened=happened)
    job: Job | None = None
    for begin in range(0, len(events), at_once):
        course = [
            (e.decode(event), from_microseconds(e.time_of(event)))
            for event in events[begin : begin + at_once]
        ]
        job = evolve_through(job, course, job_id="j", position=events[begin].position)
        assert job == fold(events[: begin + at_once])


@pytest.mark.parametrize("happened", [None, TIMES])
async def test_an_event_shows_its_kind_and_its_time_before_its_payload_is_decoded(
    clock: ManualClock, happened: list[datetime] | None
) -> None:
    payloads = [CREATED, *STEPS]
    for event, payload in zip(await recorded(clock, *payloads, happened=happened), payloads, strict=True):
        kind, decoder, time, _ = e.outline(event)
        assert kind is type(payload)
        assert decoder is not None
        assert decoder.decode(event.data) == payload == e.decode(event)
        assert time == (to_microseconds(happened[event.version - 1]) if happened else event.time)


async def test_metadata_of_events_that_are_no_imports_take_no_more_room_than_before() -> None:
    assert msgspec.json.encode(Metadata(actor="ada", schema=2)) == b'{"actor":"ada","schema":2}'
