"""Failing: a read model that cannot fold an event stops just before it, alone, and says so."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from errno import EAGAIN
from pathlib import Path
from typing import Any

import pytest

from eventstore import Metadata, NewEvent, SQLiteEventStore, StoreUnavailable
from projections import READ_MODELS, Batch, Behind, _following, read_status
from projections._tables import Tables
from tests.disks import mounted
from tests.harness import ManualClock
from tests.projections.models import BAD, BrokenDocuments, BrokenUsage, Slow
from tests.projections.support import (
    HISTORY,
    NAMES,
    NOBODY,
    Player,
    World,
    comparable,
    job_events,
    log,
    rows_of,
    told_by,
    with_models,
    world,
)
from uws import Changes, Phase, UnknownForm

MODELS = {model.name: model for model in READ_MODELS}


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SQLiteEventStore]:
    async with log(tmp_path, clock) as store:
        yield store


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


BROKEN: list[type[BrokenDocuments | BrokenUsage]] = [BrokenDocuments, BrokenUsage]


@pytest.mark.parametrize("kind", BROKEN)
async def test_one_stops_exactly_before_the_event_and_the_others_and_the_log_go_on(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, kind: type[BrokenDocuments | BrokenUsage]
) -> None:
    """Mended, it goes on there, in the same file, and folds nothing twice."""
    models = with_models(kind())
    async with world(tmp_path, clock, store, models) as on:
        at, error = await _stop(on, clock, kind.name)
    files = {*(tmp_path / "projections").glob("*.db")}
    head = (await store.head()).position
    for status in read_status(tmp_path / "projections.db", head, models):
        expected = (at - 1, head - at + 1, error) if status.name == kind.name else (head, 0, None)
        assert (status.position, status.lag, status.error) == expected
    async with world(tmp_path, clock, store) as on:
        assert comparable(await on.rows()) == await told_by(store)
        assert [status.error for status in await on.projector.status()] == [None] * len(READ_MODELS)
    assert {*(tmp_path / "projections").glob("*.db")} == files


async def _stop(on: World, clock: ManualClock, name: str) -> tuple[int, str]:
    """Record an event that a read model cannot fold among others; return its position and what is told."""
    await Player(on, clock).play(HISTORY)
    job, *_ = await asyncio.gather(on.set_run_id(BAD), *(on.set_run_id("good") for _ in range(9)))
    ((event, *_),) = [await on.store.read_stream(f"job/{job}")]
    error = f"at position {event.position} (JobCreated of job/{job}): a bug"
    with pytest.raises(Behind, match=re.escape(f"the read model {name} stopped {error}")):
        await on.projector.caught_up()
    await Player(on, clock).play(HISTORY)
    await on.projector.caught_up(*[other for other in NAMES if other != name])
    await on.jobs.queue_state()
    with pytest.raises(Behind, match=name):
        await on.projector.caught_up("queue", name)
    others = [model for model in READ_MODELS if model.name != name]
    told = await told_by(on.store)
    for table, rows in comparable(await on.projector.ask(rows_of, others)).items():
        assert rows == told[table]
    return event.position, error


async def test_one_that_is_mended_is_tried_again_by_itself(tmp_path: Path, clock: ManualClock) -> None:
    model = BrokenUsage()
    async with world(tmp_path, clock, models=with_models(model)) as on:
        await Player(on, clock).play(HISTORY)
        await on.set_run_id(BAD)
        await Player(on, clock).play(HISTORY)
        with pytest.raises(Behind, match="usage stopped"):
            await on.projector.caught_up()
        model.mended = True
        while any(status.error for status in await on.projector.status()):
            await asyncio.sleep(0)
        assert comparable(await on.rows()) == await told_by(on.store)


async def test_questions_that_need_it_not_are_answered_and_those_that_do_are_refused(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, models=with_models(BrokenDocuments())) as on:
        job = await on.set_run_id(BAD)
        with pytest.raises(Behind, match="documents stopped at position 1"):
            await on.keeps.get_job(job, NOBODY)
        assert [reference.id for reference in await on.keeps.get_ids_and_phases(None)] == [job]
        assert (await on.keeps.abort_job(job, NOBODY)).phase is Phase.ABORTED
        (reference,) = await on.keeps.get_ids_and_phases(None)
        assert reference.phase is Phase.ABORTED


async def test_an_event_of_a_newer_version_is_named_and_keeps_nothing_from_being_recorded(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with world(tmp_path, clock) as on:
        job = await on.keeps.create_job(Changes(), NOBODY)
        other = await on.keeps.create_job(Changes(), NOBODY)
        new = NewEvent(type="RunIdSet", data=b"{}", metadata=Metadata(schema=2))
        await on.store.append(f"job/{job.id}", [new])
        with pytest.raises(Behind, match=r"position 3 \(RunIdSet of job/.* in form 2 .* by a newer version"):
            await on.keeps.get_job(other.id, NOBODY)
        with pytest.raises(UnknownForm):
            await on.keeps.abort_job(job.id, NOBODY)
        assert (await on.keeps.abort_job(other.id, NOBODY)).phase is Phase.ABORTED
        await on.projector.caught_up("services")


async def test_readers_do_not_wait_for_ever(tmp_path: Path, clock: ManualClock) -> None:
    model = Slow()
    async with world(tmp_path, clock, models=with_models(model)) as on:
        await on.keeps.create_job(Changes(), NOBODY)
        try:
            with pytest.raises(Behind, match="documents is at position 0 of 1"):
                await on.projector.caught_up(timeout=0.01)
        finally:
            model.may.set()
        await on.projector.caught_up()


class SlowAndBroken(Slow):
    def fold(self, connection: Any, batch: Any) -> None:
        super().fold(connection, batch)
        raise RuntimeError("a bug")


async def test_one_that_fails_while_it_is_closed_leaves_nothing_behind(
    tmp_path: Path, clock: ManualClock
) -> None:
    model = SlowAndBroken()
    async with world(tmp_path, clock, models=with_models(model)) as on:
        await on.keeps.create_job(Changes(), NOBODY)
        await asyncio.to_thread(model.began.wait)
        asyncio.get_running_loop().call_soon(model.may.set)  # when it is being closed


# Disks


def told_of_room(error: pytest.ExceptionInfo[StoreUnavailable]) -> bool:
    return any(words in str(error.value) for words in ("disk is full", "No space left", "unable to open"))


async def test_on_a_full_disk_they_stop_in_words_and_go_on_when_there_is_room(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    with mounted(tmp_path / "disk", 4 << 20) as disk:
        async with world(tmp_path / "disk", clock, store) as on:
            await Player(on, clock).play(HISTORY)
            await on.projector.caught_up()
            disk.fill()
            await _until_full(on)
            for undertaking in (on.projector.rebuild, on.projector.verify):
                with pytest.raises(StoreUnavailable) as refused:
                    await undertaking()
                assert told_of_room(refused) or "stopped at" in str(refused.value)
            disk.empty()
            while any(status.error or status.lag for status in await on.projector.status()):
                await asyncio.sleep(0)
            assert comparable(await on.rows()) == await told_by(store)
            await on.projector.rebuild()
            assert set((await on.projector.verify()).values()) == {None}


async def _until_full(on: World) -> None:
    for number in range(10_000):
        await on.store.append(f"job/{number}", job_events(number, "?" * 1000))
        if number % 20 == 0:
            with suppress(Behind):
                await on.projector.caught_up()
                continue
            break
    with pytest.raises(
        Behind, match=r"stopped at position \d+ \(Job\w+ of job/\w+\): database or disk is full"
    ):
        await on.projector.caught_up()


async def test_no_file_is_thrown_away_because_a_disk_is_full_or_cannot_be_written(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    """It is told when they are opened; then there is room again."""
    with mounted(tmp_path / "disk", 4 << 20) as disk:
        async with world(tmp_path / "disk", clock, store) as on:
            await Player(on, clock).play(HISTORY)
            before = await on.rows()
        files = {path: path.stat().st_ino for path in (disk.path / "projections").glob("*.db")}
        disk.fill()
        with pytest.raises(StoreUnavailable):
            async with world(disk.path, clock, store):
                pass
        disk.empty()
        assert {path: path.stat().st_ino for path in (disk.path / "projections").glob("*.db")} == files
        async with world(disk.path, clock, store) as on:
            assert await on.rows() == before


async def test_a_disk_on_which_there_is_no_room_for_the_first_files_is_told(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    with mounted(tmp_path / "disk", 1 << 20) as disk:
        disk.fill()
        with pytest.raises(StoreUnavailable) as refused:
            async with world(disk.path, clock, store):
                pass
        assert told_of_room(refused)
        disk.empty()
        async with world(disk.path, clock, store) as on:
            await Player(on, clock).play(HISTORY)
            assert comparable(await on.rows()) == await told_by(store)


# What others do to the files


async def test_tables_that_another_process_took_further_are_followed_from_there(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    """As a process that makes them does when its server is killed, before it is, too."""
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        await on.projector.caught_up()
        async with on.projector._alone:
            job = await on.keeps.create_job(Changes(), NOBODY)
            for name in NAMES:
                (path,) = (tmp_path / "projections").glob(f"{name}-v*.db")
                other = Tables.open(MODELS[name], path, MODELS[name].version)
                other.fold(Batch(await store.read_all(after=other.position)))
                other.close()
        await on.keeps.abort_job(job.id, NOBODY)
        while on.projector.position < (await store.head()).position:
            await asyncio.sleep(0)
        assert comparable(await on.rows()) == await told_by(store)


async def test_a_switch_that_fails_leaves_the_old_tables_in_use_and_up_to_date(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        with monkeypatch.context() as patch:
            patch.setattr(_following, "_for_reading", _nowhere_but(_following._for_reading, on))
            with pytest.raises(StoreUnavailable, match="unable to open"):
                await on.projector.rebuild(["documents"])
        job = await on.keeps.create_job(Changes(), NOBODY)
        await on.projector.caught_up()
        assert await on.jobs.get(job.id) == job
        assert comparable(await on.rows()) == await told_by(store)
        await on.projector.rebuild()
        assert comparable(await on.rows()) == await told_by(store)


def _nowhere_but(for_reading: Callable[[Path], str], on: World) -> Callable[[Path], str]:
    """Let nothing be attached but what is read already."""
    there = {tables.path for tables in on.projector._tables.values()}
    return lambda path: for_reading(path if path in there else path / "nowhere")


async def test_when_no_process_can_be_started_they_are_made_all_the_same(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
    shutil.rmtree(tmp_path / "projections")
    failures = iter(range(3))

    async def build(*arguments: Any) -> None:
        if next(failures, None) is not None:
            raise BlockingIOError(EAGAIN, "no more processes")
        await real(*arguments)

    real = _following.build
    monkeypatch.setattr(_following, "build", build)
    monkeypatch.setattr(_following, "WORTH_A_PROCESS", 0)
    async with world(tmp_path, clock, store) as on:
        while on.projector.position < (await store.head()).position:
            await asyncio.sleep(0)
        assert comparable(await on.rows()) == await told_by(store)
