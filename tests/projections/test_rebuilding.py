"""Rebuilding: what there is serves until something new is right, whole and in its place."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventstore import SQLiteEventStore, StoreUnavailable
from eventstore.connection import connect_for_reading
from projections import READ_MODELS, Making, ReadModel, Status
from projections.documents import Documents
from tests.harness import ManualClock
from tests.projections.models import (
    BAD,
    NEXT,
    STOP,
    BrokenDocuments,
    GatedDocuments,
    NextBrokenDocuments,
    NextDocuments,
    OtherShape,
)
from tests.projections.support import (
    HISTORY,
    NAMES,
    NOBODY,
    Gate,
    Player,
    World,
    comparable,
    gate,
    job_events,
    log,
    told_by,
    with_models,
    world,
)
from uws import Changes, Phase, UsageError


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SQLiteEventStore]:
    async with log(tmp_path, clock) as store:
        yield store


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the smallest log folded by other processes."""
    monkeypatch.setattr("projections._following.WORTH_A_PROCESS", 0)


def files(directory: Path) -> dict[str, Path]:
    """Return the file of each read model; there must not be two."""
    found = list((directory / "projections").glob("*.db"))
    named = {path.name.partition("-v")[0]: path for path in found}
    assert len(named) == len(found), found
    return named


async def status(on: World, name: str) -> Status:
    return next(status for status in await on.projector.status() if status.name == name)


async def switched(on: World, name: str, version: int) -> None:
    """Wait until a version of a read model is read."""
    while (await status(on, name)).version != version:
        await asyncio.sleep(0)


# On demand


async def test_what_is_rebuilt_is_what_was_there_in_a_new_file(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        before, old = await on.rows(), files(tmp_path)
        assert [len(rows) > 0 for rows in before.values()] == [True] * len(before)
        rebuilt = await on.projector.rebuild()
        position = (await store.head()).position
        assert [(one.name, one.events) for one in rebuilt] == [(name, position) for name in NAMES]
        assert await on.rows() == before
        assert not {*files(tmp_path).values()} & {*old.values()}
        await Player(on, clock).play(HISTORY)
        assert comparable(await on.rows()) == await told_by(store)


@pytest.mark.usefixtures("processes")
async def test_processes_make_what_the_projector_itself_does(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        player = Player(on, clock)
        await player.play(
            [*HISTORY, (0, 1, ("erase",)), (2, 1, ("destroy",)), (1, 1, ("create", None, False))]
        )
        await player.prune(-1)
        before, told = await on.rows(), list[tuple[int, int]]()
        await on.projector.rebuild(progress=lambda done, total: told.append((done, total)))
        position = (await store.head()).position
        assert await on.rows() == before
        assert told[-1] == (position, position)
        assert [done for done, _ in told] == sorted(done for done, _ in told)


async def test_a_large_log_is_folded_by_other_processes(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    """Also when it has not been folded before."""
    created = [job_events(number) for number in range(7000)]
    await asyncio.gather(*(store.append(f"job/{number:032x}", new) for number, new in enumerate(created)))
    async with world(tmp_path, clock, store) as on:
        await on.projector.caught_up(timeout=60)
        told: list[tuple[int, int]] = []
        before = await on.rows()
        assert len(before["job"]) == 7000
        await on.projector.rebuild(["queue", "usage"], lambda done, total: told.append((done, total)))
        assert told[-1] == (21_000, 21_000)
        assert await on.rows() == before
        for path in files(tmp_path).values():
            with closing(connect_for_reading(path)) as file:
                assert file.execute("SELECT boot FROM checkpoint").fetchall() == [
                    (None,)
                ]  # all is on the disk


async def test_one_is_rebuilt_and_the_others_are_left_alone(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        before, old = await on.rows(), files(tmp_path)
        assert [one.name for one in await on.projector.rebuild(["usage", "usage"])] == ["usage"]
        new = files(tmp_path)
        assert {name for name in NAMES if new[name] != old[name]} == {"usage"}
        assert await on.rows() == before


async def test_a_name_that_there_is_not_is_refused_with_what_may_be_meant(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with world(tmp_path, clock) as on:
        for question in (on.projector.rebuild, on.projector.verify):
            with pytest.raises(
                UsageError, match=r"no read model usag \(did you mean usage\?\); .* queue, services"
            ):
                await question(["queue", "usag"])


async def test_a_model_that_cannot_fold_the_log_is_not_switched_to(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    """Mended, it is gone on with where it stopped."""
    model = BrokenDocuments()
    model.mended = True
    async with world(tmp_path, clock, store, with_models(model)) as on:
        await Player(on, clock).play(HISTORY)
        job = await on.set_run_id(BAD)
        before, old = await on.rows(), files(tmp_path)["documents"]
        position = (await store.head()).position
        model.mended = False
        error = f"at position {position} (JobCreated of job/{job}): a bug"
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=f"documents stopped {re.escape(error)}"):
                await on.projector.rebuild(["documents"])
        assert (await status(on, "documents")).making == Making(Documents.version, position - 1, error)
        assert old.exists()
        assert await on.rows() == before
        model.mended = True
        await on.projector.rebuild(["documents"])
        assert await on.rows() == before
        assert not old.exists()


@pytest.mark.usefixtures("processes")
async def test_a_model_that_cannot_fold_the_log_in_a_process_is_named_and_the_others_are_taken(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    model = BrokenDocuments()
    model.mended = True
    async with world(tmp_path, clock, store, with_models(model)) as on:
        await Player(on, clock).play(HISTORY)
        job = await on.set_run_id(BAD)
        before = await on.rows()
        with pytest.raises(StoreUnavailable, match=rf"documents stopped .* of job/{job}\): a bug"):
            await on.projector.rebuild()
        assert await on.rows() == before
        head = (await store.head()).position
        made = {status.name: status.making for status in await on.projector.status()}
        error = f"at position {head} (JobCreated of job/{job}): a bug"
        assert made.pop("documents") == Making(Documents.version, head - 1, error)
        assert made == {name: None for name in NAMES if name != "documents"}


# Interrupted


GATED = with_models(GatedDocuments())


async def _half_rebuilt(on: World, clock: ManualClock, gate_: Gate) -> tuple[asyncio.Task[Any], int, int]:
    """Rebuild until a process waits half-way; return what does it, the process, and how far it is."""
    await Player(on, clock).play(HISTORY)
    await on.projector.caught_up()
    half = (await on.store.head()).position
    await on.set_run_id(STOP)
    await Player(on, clock).play(HISTORY)
    rebuilding = asyncio.create_task(on.projector.rebuild())
    return rebuilding, await gate_.reached(), half


@pytest.mark.usefixtures("processes")
async def test_a_rebuild_that_was_cancelled_is_gone_on_with(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store, GATED) as on:
        with gate(tmp_path / "gate") as waiting:
            rebuilding, process, half = await _half_rebuilt(on, clock, waiting)
            before = await on.rows()
            rebuilding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await rebuilding
        assert not Path(f"/proc/{process}").exists()
        assert (await status(on, "documents")).making == Making(Documents.version + 1, half, None)
        assert await on.rows() == before
    await _gone_on_with(tmp_path, store, clock, half)


@pytest.mark.usefixtures("processes")
async def test_a_rebuild_whose_process_was_killed_is_gone_on_with(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store, GATED) as on:
        with gate(tmp_path / "gate") as waiting:
            rebuilding, process, half = await _half_rebuilt(on, clock, waiting)
            before = await on.rows()
            os.kill(process, signal.SIGKILL)
            with pytest.raises(StoreUnavailable, match="ended with status -9"):
                await rebuilding
        assert (await status(on, "documents")).making == Making(Documents.version + 1, half, None)
        assert await on.rows() == before
    await _gone_on_with(tmp_path, store, clock, half)


async def _gone_on_with(directory: Path, store: SQLiteEventStore, clock: ManualClock, half: int) -> None:
    """Show that the next server knows how far it was, and makes its file the one that serves."""
    async with world(directory, clock, store, GATED) as on:
        assert (await status(on, "documents")).making == Making(Documents.version + 1, half, None)
        unfinished = {path.stat().st_ino for path in (directory / "projections").glob("documents-*.db")}
        before = await on.rows()
        await on.projector.rebuild()
        assert await on.rows() == before
        assert {made.making for made in await on.projector.status()} == {None}
        assert files(directory)["documents"].stat().st_ino in unfinished


async def test_what_was_made_before_the_log_was_pruned_is_made_anew(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    model = BrokenDocuments()
    model.mended = True
    async with world(tmp_path, clock, store, with_models(model)) as on:
        player = Player(on, clock)
        await player.play([(1, 0, ("create", None, False)), (2, 0, ("create", None, False))])
        await on.set_run_id(BAD)
        await player.play([(0, 0, ("destroy",))])
        await on.projector.caught_up()
        model.mended = False
        with pytest.raises(StoreUnavailable, match="stopped"):
            await on.projector.rebuild(["documents"])
        model.mended = True
        await player.prune(-1)
        await on.projector.rebuild(["documents"])
        assert comparable(await on.rows()) == await told_by(store)


# Another version


@pytest.mark.usefixtures("processes")
async def test_another_version_is_made_while_the_old_one_is_read_and_kept_up_to_date(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    models = [GatedDocuments(), *NEXT[1:]]
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        old_job = await on.set_run_id(STOP)
        await on.projector.caught_up()
    with gate(tmp_path / "gate") as waiting:
        async with world(tmp_path, clock, store, models) as on:
            await waiting.reached()
            assert [
                (s.name, s.version, s.making and s.making.version) for s in await on.projector.status()
            ] == [(old.name, old.version, new.version) for old, new in zip(READ_MODELS, NEXT, strict=True)]
            await _check_old_ones_serve(on, clock, old_job)
            await waiting.release()
            await asyncio.gather(
                *(_busy(on, number) for number in range(4)), switched(on, "usage", NEXT[-1].version)
            )
            versions = [status.version for status in await on.projector.status()]
            assert versions == [model.version for model in NEXT]
            assert (await on.keeps.get_job(old_job, NOBODY)).note == "the next version"
            while len([*(tmp_path / "projections").glob("*.db")]) > len(
                NEXT
            ):  # the old ones go after the switch
                await asyncio.sleep(0)
            warm, old = await on.rows(), files(tmp_path)
    async with world(tmp_path, clock, store, models) as on:
        assert files(tmp_path) == old
    async with world(tmp_path / "elsewhere", clock, store, models) as on:
        assert await on.rows() == warm


async def _check_old_ones_serve(on: World, clock: ManualClock, old_job: str) -> None:
    job = await on.keeps.create_job(Changes(), NOBODY)
    await on.keeps.abort_job(job.id, NOBODY)
    assert (await on.keeps.get_job(job.id, NOBODY)).phase is Phase.ABORTED
    assert (await on.keeps.get_job(old_job, NOBODY)).note == ""
    await Player(on, clock).play(HISTORY)


async def _busy(on: World, number: int) -> None:
    """Have events recorded, and read, as long as the switching may last."""
    for _ in range(25):
        job = await on.set_run_id(f"busy {number}")
        await on.keeps.abort_job(job, NOBODY)
        assert (await on.keeps.get_job(job, NOBODY)).phase is Phase.ABORTED


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_no_event_is_missed_or_folded_twice_where_the_new_tables_begin_to_follow(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch,
    elsewhere: bool,
) -> None:  # fmt: skip
    if elsewhere:
        monkeypatch.setattr("projections._following.WORTH_A_PROCESS", 0)
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        busy = [asyncio.create_task(_busy(on, number)) for number in range(4)]
        while not all(task.done() for task in busy):
            await on.projector.rebuild()
        await asyncio.gather(*busy)
        assert comparable(await on.rows()) == await told_by(store)


async def test_tables_of_another_shape_are_waited_for(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        before = await on.rows()
    models: list[ReadModel[Any]] = with_models(OtherShape())
    async with world(tmp_path, clock, store, models) as on:
        with pytest.raises(StoreUnavailable, match="documents is at position"):
            await on.projector.caught_up("documents", timeout=0)
        await on.projector.caught_up("job_list", timeout=0)
        after = await on.rows()
        assert (await status(on, "documents")).version == OtherShape.version
    assert after == before


async def test_a_new_version_that_cannot_be_made_leaves_the_old_one_in_use(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path, clock, store) as on:
        job = await on.set_run_id(BAD)
        await on.projector.caught_up()
    async with world(tmp_path, clock, store, with_models(NextBrokenDocuments())) as on:
        while "stay in use: the read model documents stopped at position 1" not in caplog.text:
            await asyncio.sleep(0)
        assert (await on.keeps.abort_job(job, NOBODY)).phase is Phase.ABORTED
        assert (await on.keeps.get_job(job, NOBODY)).phase is Phase.ABORTED
        assert (await status(on, "documents")).version == Documents.version
    async with world(tmp_path, clock, store, with_models(NextDocuments())) as on:
        await switched(on, "documents", NextDocuments.version)
        assert (await on.keeps.get_job(job, NOBODY)).note == "the next version"


async def test_each_read_model_has_the_name_that_its_operators_use() -> None:
    assert sorted(NAMES) == NAMES
    assert NAMES == ["documents", "job_list", "queue", "services", "trail", "usage"]
