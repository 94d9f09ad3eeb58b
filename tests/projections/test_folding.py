"""Folding: at every moment the tables of the read models are what the log alone says, however it came."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import NewEvent, RecordedEvent
from projections import READ_MODELS, Batch, Behind, read_status
from tests.harness import ManualClock
from tests.projections.models import Slow, SlowJobList
from tests.projections.support import (
    NOBODY,
    Player,
    Rows,
    Step,
    comparable,
    histories,
    log,
    rows_of,
    told_by,
    with_models,
    world,
)
from uws import Changes, Phase


@settings(max_examples=25, deadline=None)
@given(history=histories)
def test_after_every_step_all_tables_hold_what_the_log_says(
    history: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def run() -> None:
        clock = ManualClock()
        async with world(tmp_path_factory.mktemp("world"), clock) as on:
            player = Player(on, clock)
            for step in history:
                await player.step(step)
                assert comparable(await on.rows()) == await told_by(on.store), step

    asyncio.run(run())


@settings(max_examples=25, deadline=None)
@given(history=histories, cuts=st.sets(st.integers(1, 60)))
def test_however_the_log_is_cut_into_batches_the_tables_are_the_same(
    history: list[Step], cuts: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whole, event by event, and cut anywhere; and as the projector cut it while it grew."""

    async def run() -> None:
        clock = ManualClock()
        async with world(tmp_path_factory.mktemp("world"), clock) as on:
            await Player(on, clock).play(history)
            rows, events = await on.rows(), await on.store.read_all(limit=1 << 30)
        assert _folded([events]) == rows
        assert _folded([(event,) for event in events]) == rows
        places = [0, *sorted(cuts), len(events)]
        assert _folded([events[a:b] for a, b in pairwise(places)]) == rows

    asyncio.run(run())


def _folded(parts: list[tuple[RecordedEvent, ...]]) -> Rows:
    with closing(sqlite3.connect(":memory:")) as connection:
        for model in READ_MODELS:
            connection.executescript(model.tables)
        for part in parts:
            for model in READ_MODELS:
                model.fold(connection, Batch(part))
        return rows_of(connection)


async def test_events_of_other_streams_are_passed_over(tmp_path: Path, clock: ManualClock) -> None:
    async with world(tmp_path, clock) as on:
        before = await on.rows()
        await on.store.append("service/x", [NewEvent(type="Anything", data=b"?")])
        await on.store.append("jobs/x", [NewEvent(type="JobCreated", data=b"?")])
        after = await on.rows()
        assert [row[1] for row in after.pop("occurrence")] == [None, None]  # they have no job
        assert after == {table: rows for table, rows in before.items() if table != "occurrence"}
        assert on.projector.position == 2


async def test_who_wrote_reads_what_he_wrote(tmp_path: Path, clock: ManualClock) -> None:
    async with log(tmp_path, clock) as store, world(tmp_path, clock, store) as on:

        async def write_and_read(text: str) -> None:
            job = await on.keeps.create_job(Changes(parameters={"x": [text]}), NOBODY)
            assert (await on.keeps.get_job(job.id, NOBODY)).parameters == {"x": (text,)}
            await on.keeps.abort_job(job.id, NOBODY)
            assert (await on.keeps.get_job(job.id, NOBODY)).phase is Phase.ABORTED
            assert job.id in [reference.id for reference in await on.keeps.get_ids_and_phases(None)]

        await asyncio.gather(*(write_and_read(str(number)) for number in range(25)))


async def test_a_watcher_is_told_when_the_read_models_show_the_change(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with world(tmp_path, clock) as on:
        job = await on.keeps.create_job(Changes(), NOBODY)
        other = await on.keeps.create_job(Changes(), NOBODY)
        await on.projector.caught_up()
        with (
            on.projector.watch(f"job/{job.id}") as changed,
            on.projector.watch(f"job/{other.id}") as other_changed,
        ):
            await on.keeps.abort_job(job.id, NOBODY)
            await asyncio.wait_for(changed.wait(), 5)
            seen = await on.jobs.get(job.id)
            assert seen is not None
            assert seen.phase is Phase.ABORTED
            assert not other_changed.is_set()


async def test_nobody_waits_for_a_document_or_the_queue_while_other_read_models_are_slow(
    tmp_path: Path, clock: ManualClock
) -> None:
    slow = SlowJobList()
    async with world(tmp_path, clock, models=with_models(slow)) as on:
        slow.may.set()
        job = await on.keeps.create_job(Changes(), NOBODY)
        await on.projector.caught_up()
        slow.began.clear()
        slow.may.clear()
        try:
            with on.projector.watch(f"job/{job.id}") as changed:
                await on.keeps.abort_job(job.id, NOBODY)
                await asyncio.wait_for(changed.wait(), 5)
                await asyncio.to_thread(slow.began.wait)
                await on.projector.caught_up("documents", "queue")
                assert (await on.keeps.get_job(job.id, NOBODY)).phase is Phase.ABORTED
                with pytest.raises(Behind):
                    await on.projector.caught_up("job_list", timeout=0)
        finally:
            slow.may.set()


async def test_closing_lets_a_batch_end(tmp_path: Path, clock: ManualClock) -> None:
    model = Slow()
    async with log(tmp_path, clock) as store:
        async with world(tmp_path, clock, store, with_models(model)) as on:
            await on.keeps.create_job(Changes(), NOBODY)
            await asyncio.to_thread(model.began.wait)
            asyncio.get_running_loop().call_soon(model.may.set)  # when it is being closed
        assert [s.position for s in read_status(tmp_path / "projections.db", 1, READ_MODELS)] == [1] * len(
            READ_MODELS
        )
