"""The read models: always the fold of the log, whatever happens to the log, their file and themselves."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from datetime import timedelta
from itertools import chain, combinations
from pathlib import Path
from random import randrange
from secrets import token_hex
from typing import Any

import aiosqlite
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    EventStore,
    MemoryEventStore,
    Metadata,
    NewEvent,
    RecordedEvent,
    SQLiteEventStore,
    StoreUnavailable,
    StreamNotFound,
)
from projections import Behind, JobReadModel, JobReference, JobTables, Projector
from tests.harness import ManualClock
from uws import (
    Backend,
    Caller,
    Changes,
    Ending,
    Failure,
    Job,
    JobGone,
    Phase,
    Result,
    Service,
    StrParameter,
    UnknownForm,
    UserUWS,
    UWSError,
    fold,
    make_uws_for_service,
)
from uws.audit.archiving import ENDED_BY
from uws.files import Files
from uws.model import events as e

NOBODY = Caller()
SERVICES = (
    Service(
        name="keeps",
        title="Keeps a record",
        command=["true"],
        archive=True,
        parameters={"x": StrParameter(), "many": StrParameter(multiple=True)},
    ),
    Service(name="forgets", title="Forgets", command=["true"], parameters={"x": StrParameter(required=True)}),
)


class World:
    """All that is below HTTP and above the disk, with nobody who runs programs."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.uws = [make_uws_for_service(service, backend, "http://localhost") for service in SERVICES]

    @property
    def keeps(self) -> UserUWS:
        return self.uws[0]

    async def rows(self) -> list[Any]:
        await self.backend.projector.caught_up()
        return list(await self.backend.projector.reader.execute_fetchall("SELECT * FROM job ORDER BY id"))


@asynccontextmanager
async def world(
    directory: Path,
    clock: ManualClock,
    store: EventStore | None = None,
    models: Sequence[JobTables] | None = None,
) -> AsyncIterator[World]:
    """Open a world over ``store``; a new one in memory by default."""
    own = store or MemoryEventStore(clock.now)
    projector = await Projector.open(directory / "projections.db", own, models or [JobTables()])
    projector.retry_seconds = 0
    files = Files(directory)
    files.prepare()
    try:
        yield World(Backend(own, projector, JobReadModel(projector.reader), files, clock))
    finally:
        await projector.close()
        if store is None:
            await own.close()


# Random histories

_result = Result(id="r", path="results/r", size=1, sha256="0" * 64, media_type="text/plain")
_endings = st.sampled_from(
    [
        Ending(exit_code=0, results=(_result,)),
        Ending(exit_code=3, failure=Failure(message="no")),
        Ending(signal="SIGTERM", failure=Failure(message="ended", type="transient", detail="x\ny")),
    ]
)
_wish = st.one_of(
    st.tuples(st.just("create"), st.sampled_from([None, "ada", "bob"]), st.booleans()),
    st.tuples(st.just("set"), st.text("ab\n", max_size=3)),
    st.tuples(st.just("duration"), st.integers(0, 10**6)),
    st.tuples(st.just("destruction"), st.integers(-100, 10**6)),
    st.tuples(st.just("runid"), st.text("rs", max_size=2)),
    st.tuples(st.just("queue")),
    st.tuples(st.just("start")),
    st.tuples(st.just("stop"), st.sampled_from(["duration", "shutdown"])),
    st.tuples(st.just("end"), _endings),
    st.tuples(st.just("abort")),
    st.tuples(st.just("destroy")),
    st.tuples(st.just("expire")),
    st.tuples(st.just("erase")),
    st.tuples(st.just("prune")),
)
Step = tuple[int, float, tuple[Any, ...]]
_histories = st.lists(st.tuples(st.integers(0, 7), st.sampled_from([0, 0.25, 1e5]), _wish), max_size=40)


class Player:
    """Carries out wishes on jobs that are chosen by number."""

    def __init__(self, on: World, clock: ManualClock) -> None:
        self.world, self.clock = on, clock
        self.jobs: list[tuple[UserUWS, str, Caller]] = []

    async def play(self, history: Sequence[Step]) -> None:
        for number, seconds, wish in history:
            self.clock.advance(seconds=seconds)
            with suppress(UWSError):
                await self._do(number, *wish)

    async def prune(self, number: int) -> None:
        """Take out of the log what had ended up to one of its events."""
        store = self.world.backend.store
        if log := await store.read_all():
            with suppress(ValueError):  # it was pruned further before
                await store.prune(log[number % len(log)].position, ended_by=ENDED_BY, reason="archived")

    async def _do(self, number: int, kind: str, *details: Any) -> None:
        if kind == "create" or not self.jobs:
            owner, run = details if kind == "create" else (None, False)
            uws, caller = self.world.uws[number % 2], Caller(owner, request_id=f"request {number}")
            job = await uws.create_job(Changes(parameters={"x": ["1"]}, run_id="first"), caller, run=run)
            self.jobs.append((uws, job.id, caller))
            return
        uws, job_id, caller = self.jobs[number % len(self.jobs)]
        match kind, *details:
            case "set", text:
                await uws.change_job(job_id, Changes(parameters={"X": [text]}), caller)
            case "duration", seconds:
                await uws.change_job(job_id, Changes(execution_duration=seconds), caller)
            case "destruction", seconds:
                time = self.clock.now() + timedelta(seconds=seconds)
                await uws.change_job(job_id, Changes(destruction=time), caller)
            case "runid", text:
                await uws.change_job(job_id, Changes(run_id=text), caller)
            case ("queue",):
                await uws.queue_job(job_id, caller)
            case ("start",):
                await uws.start_job(job_id)
            case "stop", reason:
                await uws.stop_job(job_id, reason)
            case "end", ending:
                await uws.end_job(job_id, ending)
            case ("abort",):
                await uws.abort_job(job_id, caller)
            case ("destroy",):
                await uws.destroy_job(job_id, caller, patience=0)
            case ("expire",):
                await uws.expire_job(job_id)
            case ("erase",):
                with suppress(StreamNotFound):
                    await self.world.backend.store.erase(f"job/{job_id}", reason="on request")
            case ("prune",):
                await self.prune(number)

    async def folded(self) -> list[Job]:
        jobs = [
            fold(await self.world.backend.store.read_stream(f"job/{job_id}")) for _, job_id, _ in self.jobs
        ]
        return [job for job in jobs if job is not None]


@settings(max_examples=60, deadline=None)
@given(history=_histories)
def test_every_row_is_the_fold_of_its_jobs_events(
    history: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def run() -> None:
        clock = ManualClock()
        async with world(tmp_path_factory.mktemp("world"), clock) as on:
            player = Player(on, clock)
            await player.play(history)
            await on.backend.projector.caught_up()
            jobs = await player.folded()
            known = {job.id: job for job in jobs}
            for _, job_id, _ in player.jobs:
                assert await on.backend.jobs.get(job_id) == known.get(job_id)
            await _lists_equal_folds(on.backend.jobs, jobs)
            await _questions_equal_folds(on.backend.jobs, jobs, clock)

    asyncio.run(run())


async def _lists_equal_folds(model: JobReadModel, jobs: list[Job]) -> None:
    newest_first = sorted(jobs, key=lambda job: (job.created, job.position), reverse=True)
    after = newest_first[len(jobs) // 2].created if jobs else None
    for service, owner, phases, since, last in (
        (service.name, owner, phases, since, last)
        for service in SERVICES
        for owner in (None, "ada", "bob")
        for phases in (frozenset(Phase), {Phase.PENDING}, {Phase.ARCHIVED, Phase.ERROR, Phase.ABORTED})
        for since in (None, after)
        for last in (None, 2)
    ):
        expected = [
            JobReference(job.id, job.phase, job.run_id, job.owner, job.created)
            for job in newest_first
            if (job.service, job.owner) == (service, owner)
            and not job.destroyed
            and job.phase in phases
            and (since is None or job.created > since)
        ][:last]
        assert await model.references(service, owner, phases=phases, after=since, last=last) == expected


async def _questions_equal_folds(model: JobReadModel, jobs: list[Job], clock: ManualClock) -> None:
    heads = await model.queue_heads()
    queued = [job for job in jobs if job.phase is Phase.QUEUED]
    assert {(head.service, head.owner) for head in heads} == {(job.service, job.owner) for job in queued}
    for head in heads:
        line = [job for job in queued if (job.service, job.owner) == (head.service, head.owner)]
        assert head.queued == min(job.queued for job in line if job.queued)
        assert head.queued == next(job.queued for job in line if job.id == head.job_id)
    started = {Phase.EXECUTING, Phase.SUSPENDED, Phase.UNKNOWN}
    assert {job.id for job in await model.started()} == {job.id for job in jobs if job.phase in started}
    for service in SERVICES:
        active = [job for job in jobs if job.service == service.name and job.phase in ("QUEUED", "EXECUTING")]
        assert await model.active(service.name) == len(active)
    kept = [job for job in jobs if not job.destroyed and job.phase is not Phase.ARCHIVED]
    assert await model.keep_files([job.id for job in jobs] + ["other"]) == {
        job.id: job in kept for job in jobs
    }
    assert {job_id for job_id, _ in await model.due(clock.now())} == {
        job.id for job in kept if job.destruction and job.destruction <= clock.now()
    }
    later = [job.destruction for job in kept if job.destruction and job.destruction > clock.now()]
    assert await model.next_destruction(clock.now()) == min(later, default=None)
    assert await model.services() == {job.service for job in jobs if not job.destroyed}


@settings(max_examples=60, deadline=None)
@given(history=_histories)
def test_following_a_log_and_rebuilding_from_it_give_the_same_bytes(
    history: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def run() -> None:
        clock = ManualClock()
        async with world(tmp_path_factory.mktemp("world"), clock) as on:
            await Player(on, clock).play(history)
            rows = await on.rows()
            async with world(tmp_path_factory.mktemp("other"), clock, on.backend.store) as other:
                assert await other.rows() == rows

    asyncio.run(run())


# The file may go


HISTORY: list[Step] = [
    (0, 0, ("create", "ada", True)),
    (1, 1, ("create", None, False)),
    (2, 1, ("create", "bob", False)),
    (0, 1, ("start",)),
    (1, 1, ("set", "ab")),
    (2, 1, ("destroy",)),
    (0, 1, ("end", Ending(exit_code=0, results=(_result,)))),
    (3, 1, ("create", None, True)),
    (3, 1, ("start",)),
]


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[EventStore]:
    store = await SQLiteEventStore.open(tmp_path / "events.db", now=clock.now)
    yield store
    await store.close()


async def test_a_deleted_file_is_rebuilt_to_the_same_rows(
    tmp_path: Path, store: EventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        before = await on.rows()
        assert len(before) == 4
    for path in tmp_path.glob("projections.db*"):
        path.unlink()
    async with world(tmp_path, clock, store) as on:
        assert await on.rows() == before


async def test_an_outdated_file_is_rebuilt_to_the_same_rows(
    tmp_path: Path, store: EventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        before = await on.rows()
    with closing(sqlite3.connect(tmp_path / "projections.db")) as file:
        file.execute("UPDATE checkpoint SET version = version - 1")
        file.execute("UPDATE job SET phase = 'HELD'")
        file.commit()
    async with world(tmp_path, clock, store) as on:
        assert await on.rows() == before


async def test_a_file_that_is_ahead_of_the_log_is_rebuilt(
    tmp_path: Path, store: EventStore, clock: ManualClock
) -> None:
    """As after events.db was taken from a backup."""
    async with world(tmp_path, clock) as on:
        await Player(on, clock).play(HISTORY)
        assert await on.rows()
    async with world(tmp_path, clock, store) as on:
        assert await on.rows() == []


async def test_a_reopened_file_is_followed_on_and_not_made_anew(
    tmp_path: Path, store: EventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        before = await on.rows()
    position = (await store.head()).position
    async with world(tmp_path, clock, store) as on:
        assert on.backend.projector.position == position
        await Player(on, clock).play(HISTORY[:2])
        after = await on.rows()
    assert len(after) == len(before) + 2
    assert set(before) < set(after)


async def test_what_came_while_the_read_models_were_away_is_folded(
    tmp_path: Path, store: EventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
    (tmp_path / "elsewhere").mkdir()
    async with world(tmp_path / "elsewhere", clock, store) as on:
        await Player(on, clock).play(HISTORY)
        expected = await on.rows()
    async with world(tmp_path, clock, store) as on:
        assert await on.rows() == expected


async def test_a_file_that_is_no_database_is_refused_with_advice(
    tmp_path: Path, store: EventStore, clock: ManualClock
) -> None:
    (tmp_path / "projections.db").write_text("Dear diary, " * 1000)
    with pytest.raises(StoreUnavailable, match="may be deleted"):
        async with world(tmp_path, clock, store):
            pass


# Reading


async def test_who_wrote_reads_what_he_wrote(tmp_path: Path, store: EventStore, clock: ManualClock) -> None:
    async with world(tmp_path, clock, store) as on:

        async def write_and_read(text: str) -> None:
            job = await on.keeps.create_job(Changes(parameters={"x": [text]}), NOBODY)
            assert (await on.keeps.get_job(job.id, NOBODY)).parameters == {"x": (text,)}
            await on.keeps.abort_job(job.id, NOBODY)
            assert (await on.keeps.get_job(job.id, NOBODY)).phase is Phase.ABORTED
            assert job.id in [reference.id for reference in await on.keeps.get_ids_and_phases(None)]

        await asyncio.gather(*(write_and_read(str(number)) for number in range(25)))


async def test_a_watcher_is_told_when_the_read_model_shows_the_change(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with world(tmp_path, clock) as on:
        job = await on.keeps.create_job(Changes(), NOBODY)
        other = await on.keeps.create_job(Changes(), NOBODY)
        await on.backend.projector.caught_up()
        with (
            on.backend.projector.watch(f"job/{job.id}") as changed,
            on.backend.projector.watch(f"job/{other.id}") as other_changed,
        ):
            await on.keeps.abort_job(job.id, NOBODY)
            await asyncio.wait_for(changed.wait(), 5)
            seen = await on.backend.jobs.get(job.id)
            assert seen is not None
            assert seen.phase is Phase.ABORTED
            assert not other_changed.is_set()


async def test_every_question_uses_an_index(tmp_path: Path, clock: ManualClock) -> None:
    """The statements are taken as the read model sends them."""
    async with world(tmp_path, clock) as on:
        model, reader = on.backend.jobs, on.backend.projector.reader
        await Player(on, clock).play(HISTORY)
        await on.backend.projector.caught_up()
        sent: list[str] = []
        await reader.set_trace_callback(sent.append)
        some = [{Phase.PENDING}, {Phase.QUEUED, Phase.EXECUTING}, frozenset(Phase)]
        filters: list[tuple[str, Any]] = [("after", clock.now()), ("last", 3)]
        given_filters = chain.from_iterable(combinations(filters, count) for count in range(3))
        for chosen in list(given_filters):
            for phases in some:
                for owner in (None, "ada"):
                    await model.references("keeps", owner, phases=phases, **dict(chosen))
        await model.get("x")
        await model.queue_heads()
        await model.services()
        await model.started()
        await model.active("keeps")
        await model.usual_duration("keeps")
        await model.next_destruction(clock.now())
        await model.due(clock.now())
        await model.keep_files(["x"])
        await reader.set_trace_callback(None)  # type: ignore[arg-type]  # None is how it is switched off
        questions = {name for name in vars(JobReadModel) if not name.startswith("_")}
        assert questions == {
            "get", "references", "queue_heads", "services", "started", "active", "usual_duration",
            "next_destruction", "due", "keep_files",
        }, "a question is new: ask it above"  # fmt: skip
        for sql in set(sent):
            for *_, step in await reader.execute_fetchall(f"EXPLAIN QUERY PLAN {sql}"):
                assert not step.startswith("SCAN job") or "USING" in step, (sql, step)
                assert "TEMP B-TREE" not in step, (sql, step)


async def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, clock) as on:

        async def fail(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(on.backend.projector.reader, "execute_fetchall", fail)
        with pytest.raises(StoreUnavailable, match="disk I/O error"):
            await on.backend.jobs.queue_heads()


# Failing


class Fragile(JobTables):
    """Fails, after its tables were changed, as long as ``broken`` is set."""

    broken = False

    async def apply(self, events: Sequence[RecordedEvent], connection: aiosqlite.Connection) -> None:
        await super().apply(events, connection)
        if self.broken:
            raise RuntimeError("a bug")


class Slow(JobTables):
    """Folds nothing before it may."""

    def __init__(self) -> None:
        self.began, self.may = asyncio.Event(), asyncio.Event()

    async def apply(self, events: Sequence[RecordedEvent], connection: aiosqlite.Connection) -> None:
        self.began.set()
        await self.may.wait()
        await super().apply(events, connection)


async def test_when_a_read_model_fails_the_log_goes_on_and_readers_are_told(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    model = Fragile()
    async with world(tmp_path, clock, models=[model]) as on:
        job = await on.keeps.create_job(Changes(), NOBODY)
        await on.backend.projector.caught_up()
        on.backend.projector.retry_seconds = 1000
        model.broken = True
        await on.keeps.abort_job(job.id, NOBODY)
        with pytest.raises(Behind, match="stopped at position 1: a bug"):
            await on.keeps.get_job(job.id, NOBODY)
        assert "the read models stopped" in caplog.text
        await on.keeps.destroy_job(job.id, NOBODY)
        log = await on.backend.store.read_all()
        assert [event.type for event in log] == ["JobCreated", "JobAborted", "JobArchived"]


async def test_a_batch_is_in_the_tables_whole_or_not_at_all(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    model = Fragile()
    async with world(tmp_path, clock, models=[model]) as on:
        model.broken = True
        on.backend.projector.retry_seconds = 1000
        await on.keeps.create_job(Changes(run_id="r"), NOBODY, run=True)
        with pytest.raises(Behind):
            await on.backend.projector.caught_up()
        fetch = on.backend.projector.reader.execute_fetchall
        assert list(await fetch("SELECT * FROM job")) == []
        assert list(await fetch("SELECT position FROM checkpoint")) == [(0,)]


async def test_a_read_model_that_failed_is_tried_again(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    model = Fragile()
    async with world(tmp_path, clock, models=[model]) as on:
        model.broken = True
        job = await on.keeps.create_job(Changes(), NOBODY)
        with pytest.raises(Behind):
            await on.backend.projector.caught_up()
        model.broken = False
        while on.backend.projector.position == 0:
            await asyncio.sleep(0)
        assert (await on.keeps.get_job(job.id, NOBODY)).phase is Phase.PENDING


async def test_readers_do_not_wait_for_ever(tmp_path: Path, clock: ManualClock) -> None:
    model = Slow()
    async with world(tmp_path, clock, models=[model]) as on:
        await on.keeps.create_job(Changes(), NOBODY)
        with pytest.raises(Behind, match="position 0 of 1"):
            await on.backend.projector.caught_up(timeout=0.01)
        model.may.set()
        await on.backend.projector.caught_up()


async def test_closing_lets_a_batch_end(tmp_path: Path, store: EventStore, clock: ManualClock) -> None:
    model = Slow()
    async with world(tmp_path, clock, store, models=[model]) as on:
        await on.keeps.create_job(Changes(), NOBODY)
        closing_ = asyncio.create_task(on.backend.projector.close())
        await asyncio.sleep(0)
        model.may.set()
        await closing_
        assert on.backend.projector.position in (0, 1)
    async with world(tmp_path, clock, store) as on:
        assert len(await on.rows()) == 1


async def test_events_of_other_streams_are_passed_over(tmp_path: Path, clock: ManualClock) -> None:
    async with world(tmp_path, clock) as on:
        await on.backend.store.append("service/x", [NewEvent(type="Anything", data=b"?")])
        assert await on.rows() == []
        assert on.backend.projector.position == 1


async def test_an_event_of_a_newer_version_is_named_and_keeps_nothing_from_being_recorded(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with world(tmp_path, clock) as on:
        on.backend.projector.retry_seconds = 1000
        job = await on.keeps.create_job(Changes(), NOBODY)
        other = await on.keeps.create_job(Changes(), NOBODY)
        new = NewEvent(type="RunIdSet", data=b"{}", metadata=Metadata(schema=2))
        await on.backend.store.append(f"job/{job.id}", [new])
        with pytest.raises(Behind, match=r"position 3: RunIdSet in form 2 .* by a newer version"):
            await on.keeps.get_job(other.id, NOBODY)
        with pytest.raises(UnknownForm):
            await on.keeps.abort_job(job.id, NOBODY)
        assert (await on.keeps.abort_job(other.id, NOBODY)).phase is Phase.ABORTED


# What is taken away


async def test_an_erased_job_is_gone_for_everybody(
    tmp_path: Path, store: EventStore, clock: ManualClock
) -> None:
    ada, bob = Caller("ada"), Caller("bob")
    async with world(tmp_path, clock, store) as on:
        job = await on.keeps.create_job(Changes(parameters={"x": ["secret"]}, run_id="mine"), ada)
        await store.erase(f"job/{job.id}", reason="she asked for it")
        for caller in (ada, bob, NOBODY):
            with pytest.raises(JobGone):
                await on.keeps.get_job(job.id, caller)
            with pytest.raises(JobGone):
                await on.keeps.abort_job(job.id, caller)
        assert await on.keeps.get_ids_and_phases("ada") == []
        assert await on.backend.jobs.services() == set()
        assert await on.backend.jobs.keep_files([job.id]) == {job.id: False}
        left = await on.backend.jobs.get(job.id)
        assert left is not None
        assert (left.note, left.owner, left.parameters) == ("she asked for it", None, {})


async def test_what_was_pruned_before_it_was_folded_is_gone(
    tmp_path: Path, store: EventStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The read models know the beginning of a job of which the log knows nothing any more."""
    caplog.set_level(logging.WARNING)
    async with world(tmp_path, clock, store) as on:
        job = await on.uws[1].create_job(Changes(), NOBODY)
        kept = await on.keeps.create_job(Changes(), NOBODY)
        await on.backend.projector.caught_up()
    (tmp_path / "elsewhere").mkdir()
    async with world(tmp_path / "elsewhere", clock, store) as on:
        await on.uws[1].destroy_job(job.id, NOBODY)
        await Player(on, clock).prune(-1)
    model = JobTables()
    model.schema = "the disk is full"
    async with world(tmp_path, clock, store, models=[model]) as on:
        with pytest.raises(Behind, match="syntax error"):
            await on.backend.projector.caught_up()
        model.schema = JobTables.schema  # it is tried again
        while on.backend.projector.position < (await store.head()).position:
            await asyncio.sleep(0)
        assert "made anew" in caplog.text
        assert await on.backend.jobs.get(job.id) is None
        assert await on.backend.jobs.get(kept.id) == kept
        await on.keeps.abort_job(kept.id, NOBODY)
        assert (await on.keeps.get_job(kept.id, NOBODY)).phase is Phase.ABORTED


async def test_a_log_that_was_pruned_is_folded_in_one_go(
    tmp_path: Path, store: EventStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for directory in (tmp_path / "first", tmp_path / "second"):
        directory.mkdir()
    async with world(tmp_path / "first", clock, store) as on:
        await Player(on, clock).play([*HISTORY, (1, 1, ("destroy",))])
        await Player(on, clock).prune(-1)
        rows = await on.rows()
    async with world(tmp_path / "second", clock, store) as on:
        assert await on.rows() == rows
    assert len(rows) == 3
    assert "made anew" not in caplog.text


def _files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.glob("projections.db*"))


async def test_after_scrubbing_no_file_holds_a_byte_of_what_was_erased(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Rows of all sizes come and grow everywhere in the file, so that its pages are split again and again."""
    async with world(tmp_path, clock) as on:
        secrets: dict[str, list[bytes]] = {}
        for number in range(1000):
            words = [f"{word}{number:05}{token_hex(8)}" for word in ("owner", "value", "run", "reason")]
            values = [words[1], "." * randrange(400)]
            changes = Changes(parameters={"many": values}, run_id=words[2])
            job = await on.keeps.create_job(changes, Caller(words[0]))
            held = e.encode(e.JobHeld(reason=words[3]), Metadata())
            await on.backend.store.append(f"job/{job.id}", [held])
            secrets[job.id] = [word.encode() for word in words]
            if number % 20 == 0:
                await on.backend.projector.caught_up()
        erased = sorted(secrets)[::3]
        for number, job_id in enumerate(erased):
            await on.backend.store.erase(f"job/{job_id}", reason="on request")
            if number % 20 == 0:
                await on.backend.projector.caught_up()
        await on.backend.projector.caught_up()
        await on.backend.projector.scrub()
        left = _files(tmp_path)
        for job_id, words in secrets.items():
            assert [word in left for word in words] == [job_id not in erased] * 4
        assert [path.stat().st_size for path in tmp_path.glob("projections.db-wal")] == [0]
        kept = next(job_id for job_id in secrets if job_id not in erased)
        await on.keeps.destroy_job(kept, Caller(secrets[kept][0].decode()))  # it goes on


async def test_scrubbing_waits_until_a_batch_is_folded(tmp_path: Path, clock: ManualClock) -> None:
    model = Slow()
    async with world(tmp_path, clock, models=[model]) as on:
        await on.keeps.create_job(Changes(), NOBODY)
        await model.began.wait()
        scrubbing = asyncio.create_task(on.backend.projector.scrub())
        await asyncio.sleep(0)
        model.may.set()
        await scrubbing
        assert len(await on.rows()) == 1


async def test_a_reader_who_keeps_older_pages_on_disk_is_told_of(tmp_path: Path, clock: ManualClock) -> None:
    async with world(tmp_path, clock) as on:
        await on.backend.projector._writer.execute("PRAGMA busy_timeout = 10")
        await on.keeps.create_job(Changes(), NOBODY)
        await on.backend.projector.caught_up()
        with closing(sqlite3.connect(tmp_path / "projections.db", isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM job").fetchall()
            with pytest.raises(StoreUnavailable, match="a reader"):
                await on.backend.projector.scrub()
        await on.backend.projector.scrub()


async def test_a_file_that_cannot_be_written_anew_is_told(tmp_path: Path, clock: ManualClock) -> None:
    async with world(tmp_path, clock) as on:
        await on.backend.projector._writer.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreUnavailable, match="cannot be scrubbed"):
            await on.backend.projector.scrub()
        await on.backend.projector._writer.execute("PRAGMA query_only = OFF")
