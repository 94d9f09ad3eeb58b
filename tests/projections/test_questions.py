"""Questions: answers are those that a plain look at all jobs gives, however they are cut into pages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Metadata, StoreUnavailable, from_microseconds, to_microseconds
from projections import EVERYBODY, Cursor, JobReadModel, JobReference, UsageOf, Whose
from tests.harness import ManualClock
from tests.projections.support import (
    HISTORY,
    NOBODY,
    SERVICES,
    Player,
    Step,
    World,
    histories,
    jobs_of,
    node_of,
    streams_of,
    world,
)
from uws import Changes, Ending, Failure, Job, Phase
from uws.model.events import JobQueued, Upload, encode

_phases = st.none() | st.lists(st.sampled_from(Phase), max_size=4)
_owners = st.sampled_from([None, "ada", "bob"])
_whose = _owners | st.just(EVERYBODY)
_services = st.sampled_from([service.name for service in SERVICES])
_limits = st.integers(1, 5)
_filters = st.fixed_dictionaries(
    {"phases": _phases, "after": st.none() | st.integers(0, 7)},
    optional={
        "run_id": st.sampled_from(["first", "r", "rs"]),
        "parameters": st.dictionaries(st.sampled_from(["x", "f"]), st.sampled_from(["1", "ab", "f"])),
        "text": st.sampled_from(["FIRST", "a", "no", "f", "imported", ""]),
    },
)


@settings(max_examples=25, deadline=None)
@given(
    history=histories,
    service=_services,
    owner=_whose,
    filters=st.lists(_filters, min_size=3, max_size=6),
    limit=_limits,
    examine=st.integers(1, 9),
)
def test_any_filters_let_through_what_a_plain_look_at_all_jobs_does(
    history: list[Step], service: str, owner: Whose, filters: list[dict[str, Any]], limit: int,
    examine: int, tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    async def run() -> None:
        clock = ManualClock()
        async with world(tmp_path_factory.mktemp("world"), clock) as on:
            await Player(on, clock).play(history)
            await on.projector.caught_up()
            jobs = list(jobs_of(await streams_of(on.store)).values())
            for chosen in filters:
                number = chosen.pop("after")
                after = jobs[number].created if number is not None and number < len(jobs) else None
                expected = _listed(jobs, service, owner, after=after, **chosen)
                asked = {"service": service, "owner": owner, "after": after, **chosen}
                assert await _all_entries(on.jobs, asked, limit, examine) == expected
                if chosen.keys() == {"phases"}:
                    assert await _all_pages(on.jobs, asked, limit) == [_reference(job) for job in expected]

    asyncio.run(run())


def _listed(
    jobs: list[Job], service: str, owner: Whose, *, phases: Iterable[Phase] | None,
    after: datetime | None, run_id: str | None = None, parameters: Mapping[str, str] | None = None,
    text: str | None = None,
) -> list[Job]:  # fmt: skip
    """Return the jobs of a list, newest first."""

    def has(job: Job, name: str, value: str) -> bool:
        return value in [_text(given) for given in job.parameters.get(name, ())]

    def mentions(job: Job, text: str) -> bool:
        values = [_text(given) for values in job.parameters.values() for given in values]
        places = [job.id, job.run_id or "", job.failure.message if job.failure else "", *values]
        return any(text.lower() in place.lower() for place in places)

    found = [
        job
        for job in jobs
        if job.service == service
        and owner in (EVERYBODY, job.owner)
        and not job.destroyed
        and (job.phase in phases if phases is not None else job.phase is not Phase.ARCHIVED)
        and (after is None or job.created > after)
        and (run_id is None or job.run_id == run_id)
        and all(has(job, *wanted) for wanted in (parameters or {}).items())
        and mentions(job, text or "")
    ]
    return sorted(found, key=lambda job: (job.created, job.position), reverse=True)


def _text(value: str | Upload) -> str:
    return value if isinstance(value, str) else value.filename


def _reference(job: Job) -> JobReference:
    cursor = Cursor(to_microseconds(job.created), job.position)
    return JobReference(job.id, job.phase, job.run_id, job.owner, job.created, cursor)


async def _all_pages(model: JobReadModel, asked: dict[str, Any], limit: int) -> list[JobReference]:
    found: list[JobReference] = []
    while page := await model.page(**asked, before=found[-1].cursor if found else None, limit=limit):
        assert len(page) <= limit
        found += page
    return found


async def _all_entries(model: JobReadModel, asked: dict[str, Any], limit: int, examine: int) -> list[Job]:
    page = await model.entries(**asked, limit=limit, examine=examine)
    found = page.jobs
    while page.next:
        page = await model.entries(**asked, before=page.next, limit=limit, examine=examine)
        assert len(page.jobs) <= limit
        found = found + page.jobs
    return found


@settings(max_examples=25, deadline=None)
@given(
    before=histories,
    meanwhile=st.lists(histories.map(lambda history: history[:5]), max_size=8),
    limit=_limits,
)
def test_going_through_pages_gives_each_job_once_though_jobs_come_change_and_go(
    before: list[Step], meanwhile: list[list[Step]], limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def run() -> None:
        clock = ManualClock()
        async with world(tmp_path_factory.mktemp("world"), clock) as on:
            player = Player(on, clock)
            await player.play([*before, (1, 0, ("create", None, False)), (3, 1, ("create", None, False))])
            first, seen = await _ids(on), list[str]()
            cursor, more = None, iter(meanwhile)
            while page := await on.jobs.page("forgets", None, before=cursor, limit=limit):
                cursor = page[-1].cursor
                seen += [reference.id for reference in page]
                await player.play(next(more, []))
                await on.projector.caught_up()
            assert len(seen) == len({*seen})
            last = await _ids(on)
            stayed = [job_id for job_id in first if job_id in last]
            assert [job_id for job_id in seen if job_id in stayed] == stayed

    asyncio.run(run())


async def _ids(on: World) -> list[str]:
    await on.projector.caught_up()
    return [reference.id for reference in await on.jobs.page("forgets", None, limit=1000)]


@settings(max_examples=25, deadline=None)
@given(history=histories)
def test_the_state_of_a_list_is_another_one_whenever_the_list_is(
    history: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nor is it ever again what it was when the list held something else."""

    async def run() -> None:
        clock, told = ManualClock(), dict[tuple[str, str | None, str], list[Job]]()
        async with world(tmp_path_factory.mktemp("world"), clock) as on:
            player = Player(on, clock)
            for step in history:
                await player.step(step)
                await _check_states(on, told)
            await on.projector.rebuild(["job_list"])
            await _check_states(on, told)

    asyncio.run(run())


async def _check_states(on: World, told: dict[tuple[str, str | None, str], list[Job]]) -> None:
    await on.projector.caught_up()
    for service in SERVICES:
        for owner in (None, "ada", "bob"):
            state = await on.jobs.list_state(service.name, owner)
            page = await on.jobs.entries(service.name, owner, phases=Phase, limit=1000)
            assert told.setdefault((service.name, owner, state), page.jobs) == page.jobs


@settings(max_examples=25, deadline=None)
@given(history=histories)
def test_questions_about_all_jobs_are_answered_as_a_plain_look_at_them_does(
    history: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def run() -> None:
        clock = ManualClock()
        async with world(tmp_path_factory.mktemp("world"), clock) as on:
            await Player(on, clock).play(history)
            await on.projector.caught_up()
            jobs = list(jobs_of(await streams_of(on.store)).values())
            await _check_queue(on.jobs, jobs)
            await _check_destruction(on.jobs, jobs, clock)
            there = [job for job in jobs if not job.destroyed]
            assert await on.jobs.services_with_jobs() == {job.service for job in there}
            for job in jobs:
                assert await on.jobs.get(job.id) == job
            counted = {(used.service, used.owner, used.phase): used.jobs for used in await on.jobs.usage()}
            for job in there:
                same = [other for other in there if _place(other) == _place(job)]
                assert counted[_place(job)] == len(same)

    asyncio.run(run())


def _place(job: Job) -> tuple[str, str | None, str]:
    return job.service, job.owner, job.phase


async def _check_queue(model: JobReadModel, jobs: list[Job]) -> None:
    heads, running, _, first_held, _ = await model.queue_state()
    queued = [job for job in jobs if job.phase is Phase.QUEUED and not job.submitted]
    submitted = [job for job in jobs if job.phase is Phase.QUEUED and job.submitted]
    assert {(head.service, head.owner) for head in heads} == {(job.service, job.owner) for job in queued}
    for head in heads:
        line = [job for job in queued if (job.service, job.owner) == (head.service, head.owner)]
        since = {job.id: job.queued or from_microseconds(0) for job in line}
        assert head.queued == since[head.job_id] == min(since.values())
        assert head.jobs == len(line)
        in_order = sorted(line, key=lambda job: (since[job.id], job.position))
        known = [(head.job_id, head.queued), *head.behind]
        assert known == [(job.id, since[job.id]) for job in in_order][: len(known)]
        assert len(known) == min(len(line), max(1, 16 // len(heads)))
        assert [await model.queued_before(job.id) for job in in_order] == [*range(len(line))]
        assert await model.queued_of(head.owner, [head.service]) == {head.service: len(line)}
    held = [job for job in jobs if job.phase is Phase.HELD]
    assert first_held == sorted(
        {(job.service, job.owner): (job.service, job.owner, job.id) for job in reversed(held)}.values(),
        key=lambda found: (found[0], found[1] or ""),
    )
    waiting = await model.waiting(1000)
    assert {job.job_id for job in waiting} == {job.id for job in submitted + queued + held}
    assert [job.job_id for job in waiting if job.phase is Phase.QUEUED] == [
        job.id
        for there in (submitted, queued)
        for job in sorted(there, key=lambda job: (job.queued or job.created, job.position))
    ]
    assert waiting[:2] == await model.waiting(2)
    started = [job for job in jobs if job.is_under_way]
    assert await model.started() == [(job.id, job.service, node_of(job)) for job in started]
    assert Counter((job.service, job.owner, job.started) for job in running) == Counter(
        # Whoever runs without having been started, in a log that nobody can explain, holds up no queue.
        (job.service, job.owner, job.started or job.queued or from_microseconds(0))
        for job in started
    )


async def _check_destruction(model: JobReadModel, jobs: list[Job], clock: ManualClock) -> None:
    kept = [job for job in jobs if not job.destroyed and job.phase is not Phase.ARCHIVED]
    assert await model.keep_files([job.id for job in jobs] + ["other"]) == {
        job.id: job in kept for job in jobs
    }
    assert {job_id for job_id, _ in await model.due(clock.now())} == {
        job.id for job in kept if job.destruction and job.destruction <= clock.now()
    }
    later = [job.destruction for job in kept if job.destruction and job.destruction > clock.now()]
    assert await model.next_destruction(clock.now()) == min(later, default=None)


async def test_the_usual_duration_is_the_median_of_the_last_hundred_that_completed(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with world(tmp_path, clock) as on:
        assert await on.jobs.usual_duration("keeps") is None
        for seconds in [1000] * 30 + [7] * 51 + [1] * 49:
            job = await on.keeps.create_job(Changes(), NOBODY, run=True)
            await on.keeps.start_job(job.id)
            clock.advance(seconds=seconds)
            await on.keeps.end_job(job.id, Ending(exit_code=0))
        failed = await on.keeps.create_job(Changes(), NOBODY, run=True)
        await on.keeps.start_job(failed.id)
        await on.keeps.end_job(failed.id, Ending(exit_code=1, failure=Failure(message="no")))
        await on.projector.caught_up()
        assert await on.jobs.usual_duration("keeps") == 7
        assert await on.jobs.usual_duration("forgets") is None


async def test_what_services_were_declared_is_told_as_they_were_declared_last(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with world(tmp_path, clock) as on:
        first = clock.now()
        steps = [(1, 0, "other"), (2, 1, "keeps"), (3, 1, "keeps")]
        await Player(on, clock).play([(digest, wait, ("declare", name)) for digest, wait, name in steps])
        await on.projector.caught_up()
        assert [(s.name, int(s.digest), s.declared, s.versions) for s in await on.jobs.services()] == [
            ("keeps", 3, clock.now(), 2),
            ("other", 1, first, 1),
        ]


async def test_every_question_uses_an_index(tmp_path: Path, clock: ManualClock) -> None:
    """The statements are taken as the read models send them."""
    async with world(tmp_path, clock) as on:
        await Player(on, clock).play(HISTORY)
        await on.projector.caught_up()
        sent: list[str] = []
        await on.projector.ask(lambda connection: connection.set_trace_callback(sent.append))
        await _ask_everything(on.jobs, clock)
        await on.projector.ask(lambda connection: connection.set_trace_callback(None))
        assert len({*sent}) > 20
        for sql in {statement for statement in sent if not statement.startswith(("--", "BEGIN", "ROLLBACK"))}:
            for *_, step in await on.projector.ask(_explained, sql):
                if "FROM job" in sql and "service = " in sql:
                    assert step.startswith("SEARCH job USING INDEX"), (sql, step)
                    assert "service=? AND owner=?" in step, (sql, step)
                    assert ("phase=?" in step) == ("phase = " in sql), (sql, step)
                small = ("json_each", "json_tree", "CONSTANT ROW", "cut", "pragma_database_list")
                assert not step.startswith("SCAN") or "USING" in step or any(w in step for w in small), (
                    sql,
                    step,
                )
                assert "TEMP B-TREE" not in step, (sql, step)


def _explained(connection: Any, sql: str) -> list[Any]:
    return list(connection.execute(f"EXPLAIN QUERY PLAN {sql}"))


async def _ask_everything(model: JobReadModel, clock: ManualClock) -> None:
    asked = 0
    for phases in (None, {Phase.PENDING}, {Phase.QUEUED, Phase.EXECUTING}, frozenset(Phase)):
        for owner in (None, "ada"):
            for after in (None, clock.now()):
                for before in (None, Cursor(1, 1)):
                    some: dict[str, Any] = {"phases": phases, "after": after, "before": before, "limit": 3}
                    await model.page("keeps", owner, **some)
                    for run_id in (None, "first"):
                        await model.entries("keeps", owner, run_id=run_id, parameters={"x": "1"}, **some)
                    asked += 1
    await model.get("x")
    await model.list_state("keeps", None)
    await model.list_state("keeps", "ada")
    await model.list_position("keeps", "ada")
    await model.queue_state()
    await model.paused()
    await model.queued_before("x")
    await model.queued_of("ada", ["keeps"])
    await model.running_of("ada")
    await model.use_of("ada", clock.now(), 3)
    await model.waiting(3)
    await model.started()
    await model.nodes()
    await model.used_lately([None, "ada"], clock.now(), 86400)
    await model.duration_of_like("keeps", "ada", {"x": ("1",)})
    await model.outlook("keeps", "ada", {})
    await model.next_destruction(clock.now())
    await model.due(clock.now())
    await model.expired(clock.now(), limit=3)
    await model.expired(clock.now(), behind=Cursor(1, 1), limit=3)
    await model.keep_files(["x"])
    await model.usage()
    await model.jobs_by_phase()
    await model.usual_duration("keeps")
    await model.destroyed_first(3)
    await model.services_with_jobs()
    await model.services()
    assert asked == 32
    questions = {name for name in vars(JobReadModel) if not name.startswith("_")}
    assert questions == {
        "get", "page", "entries", "list_state", "list_position", "queue_state", "paused", "queued_before",
        "queued_of", "running_of", "use_of", "destroyed_first",
        "waiting", "started", "nodes", "used_lately", "duration_of_like", "outlook", "next_destruction",
        "due", "expired", "keep_files", "usage", "jobs_by_phase", "usual_duration", "services_with_jobs",
        "services", "is_now",
    }, "a question is new: ask it above"  # fmt: skip


async def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, clock: ManualClock) -> None:
    async with world(tmp_path, clock) as on:
        await on.projector.ask(lambda connection: connection.execute("DETACH queue"))
        with pytest.raises(StoreUnavailable, match="the read models cannot be read: no such table: active"):
            await on.jobs.queue_state()
        assert await on.jobs.usage() == []


async def test_the_seconds_of_all_runs_of_a_job_are_counted(tmp_path: Path, clock: ManualClock) -> None:
    async with world(tmp_path, clock) as on:
        job = await on.keeps.create_job(Changes(), NOBODY, run=True)
        await on.keeps.start_job(job.id)
        clock.advance(seconds=3)
        await on.store.append(f"job/{job.id}", [encode(JobQueued(), Metadata())])
        clock.advance(seconds=100)
        await on.keeps.start_job(job.id)
        clock.advance(seconds=4)
        await on.keeps.end_job(job.id, Ending(exit_code=0))
        await on.projector.caught_up()
        assert await on.jobs.usage() == [UsageOf("keeps", None, "COMPLETED", 1, 7.0, 0)]
