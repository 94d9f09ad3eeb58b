"""The files: any of them may go or be spoilt, and is made anew from the log; what is right stays."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventstore import SQLiteEventStore
from projections import READ_MODELS, Documents, read_status
from projections._shelf import Shelf, open_registry
from projections._tables import Tables
from tests.harness import ManualClock
from tests.projections.models import BAD, BrokenDocuments
from tests.projections.support import (
    HISTORY,
    NAMES,
    NOBODY,
    Player,
    comparable,
    job_events,
    log,
    told_by,
    with_models,
    world,
)
from uws import Changes, Phase


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SQLiteEventStore]:
    async with log(tmp_path, clock) as store:
        yield store


@pytest.fixture(params=[0, 20_000], ids=["processes", "alone"])
def however(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the log folded by other processes, and by the projector itself."""
    monkeypatch.setattr("projections._following.WORTH_A_PROCESS", request.param)


KILLED_WHILE_FOLDING = """
import os, signal, sys
from pathlib import Path
from projections import Documents
from projections._tables import Tables
tables = Tables.open(Documents(), Path(sys.argv[1]), Documents.version)
tables.hurry()
rows = tables._connection
rows.execute("PRAGMA cache_size = 5")  # so that pages are written before the end of a transaction
for first in (0, 1000):
    rows.execute("BEGIN IMMEDIATE")
    new = ((first + n, str(-n * 7919 % 1000 + first), 0, 0, bytes(500)) for n in range(1000))
    rows.executemany("INSERT INTO document VALUES (?, ?, ?, ?, ?)", new)
    if first == 0:
        rows.execute("COMMIT")
os.kill(os.getpid(), signal.SIGKILL)
"""
"""It has written one transaction, and half of another."""


def test_what_a_killed_process_was_writing_is_taken_back(tmp_path: Path) -> None:
    """The next server finds what the process was making, and goes on with it."""
    model = Documents()
    with closing(open_registry(tmp_path / "projections.db")) as registry:
        made = Shelf(registry, tmp_path / "projections.db").new(model, began=0, serving=False)
        made.close()
        subprocess.run([sys.executable, "-c", KILLED_WHILE_FOLDING, made.path], check=False)
        assert made.path.with_name(f"{made.path.name}-journal").stat().st_size > 4096
        left: list[Tables] = []
        Shelf(registry, tmp_path / "projections.db").resume(model, left)
        left[0].close()
    assert sorted(path.name for path in (tmp_path / "projections").iterdir()) == [made.path.name]
    with closing(sqlite3.connect(made.path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert file.execute("SELECT count(*), max(position) FROM document").fetchone() == (1000, 999)


def files(directory: Path) -> dict[str, Path]:
    """Return the file of each read model; there is nothing else."""
    found = {path.name.partition("-v")[0]: path for path in (directory / "projections").iterdir()}
    assert sorted(found) == NAMES
    return found


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _another_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as file:
        file.executescript(
            "CREATE TABLE job (x); CREATE TABLE secret (x); INSERT INTO secret VALUES ('secret')"
        )


def _left_by_a_power_cut(path: Path) -> None:
    """As when the machine stopped while processes were folding: the disk has some of it."""
    model = next(model for model in READ_MODELS if path.name.startswith(f"{model.name}-v"))
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE checkpoint SET boot = 'the one before'")
        for table in model.contents:
            file.execute(f"DELETE FROM {table}")


SPOILT: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "no database": lambda path: path.write_text("Dear diary, " * 1000),
    "truncated": truncate,
    "another database": _another_database,
    "left by a power cut": _left_by_a_power_cut,
    "overwritten": lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192),
}


@pytest.mark.parametrize("how", ["missing", "empty", "no database"])
async def test_without_its_registry_all_are_made_anew(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, how: str
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        before = await on.rows()
    SPOILT[how](tmp_path / "projections.db")
    async with world(tmp_path, clock, store) as on:
        assert await on.rows() == before
    assert files(tmp_path)


async def test_a_file_of_an_earlier_program_in_its_place_goes_with_all_that_is_in_it(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        before = await on.rows()
    _another_database(tmp_path / "projections.db")
    (tmp_path / "projections.db-journal").write_bytes(b"secret")
    async with world(tmp_path, clock, store) as on:
        assert await on.rows() == before
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.glob("projections.db*"))


@pytest.mark.usefixtures("however")
async def test_what_was_folded_from_another_log_is_made_anew_though_that_was_not_longer(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    """As after the log was taken from a backup, and has grown since."""
    (tmp_path / "other").mkdir()
    async with log(tmp_path / "other", clock) as other, world(tmp_path, clock, other) as on:
        await Player(on, clock).play(HISTORY[:3])
        await on.projector.caught_up()
    async with world(tmp_path / "elsewhere", clock, store) as on:
        await Player(on, clock).play(HISTORY)
        expected = await on.rows()
    async with world(tmp_path, clock, store) as on:
        assert await on.rows() == expected


@pytest.mark.usefixtures("however")
async def test_all_files_may_go(tmp_path: Path, store: SQLiteEventStore, clock: ManualClock) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        before = await on.rows()
    (tmp_path / "projections.db").unlink()
    shutil.rmtree(tmp_path / "projections")
    async with world(tmp_path, clock, store) as on:
        assert await on.rows() == before


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("name", NAMES)
async def test_a_spoilt_file_is_made_anew_and_the_others_are_left_alone(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, name: str, how: str
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        before = await on.rows()
    old = files(tmp_path)
    SPOILT[how](old[name])
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        assert comparable(await on.rows()) == await told_by(store)
        assert len((await on.rows())["job"]) > len(before["job"])
    new = files(tmp_path)
    assert {other for other in NAMES if new[other] != old[other]} == {name}


async def test_damage_that_is_met_only_later_is_repaired_all_the_same(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path, clock, store) as on:
        for number in range(300):
            await store.append(f"job/{number}", job_events(number, "?" * 500))
        await on.projector.caught_up()
    path = files(tmp_path)["documents"]
    whole = path.read_bytes()
    path.write_bytes(whole[: 4 * 4096] + b"\xff" * (len(whole) - 4 * 4096))
    async with world(tmp_path, clock, store) as on:
        await on.set_run_id("one more")
        while (await on.projector.status())[0].lag or (await on.projector.status())[0].error:
            await asyncio.sleep(0)
        assert comparable(await on.rows()) == await told_by(store)
    assert "made anew" in caplog.text


async def test_files_that_are_ahead_of_the_log_are_made_anew(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    """As after events.db was taken from a backup."""
    async with world(tmp_path, clock) as on:
        await Player(on, clock).play([*HISTORY, *HISTORY])
        await on.rows()
    async with world(tmp_path / "elsewhere", clock, store) as on:
        await Player(on, clock).play(HISTORY)
    async with world(tmp_path, clock, store) as on:
        assert comparable(await on.rows()) == await told_by(store)


async def test_reopened_files_are_followed_on_and_not_made_anew(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        await on.rows()
    old, position = files(tmp_path), (await store.head()).position
    assert {s.position for s in read_status(tmp_path / "projections.db", position, READ_MODELS)} == {position}
    async with world(tmp_path, clock, store) as on:
        assert on.projector.position == position
        await Player(on, clock).play(HISTORY)
        assert comparable(await on.rows()) == await told_by(store)
    assert files(tmp_path) == old


@pytest.mark.usefixtures("however")
async def test_what_came_while_the_read_models_were_away_is_folded(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
    async with world(tmp_path / "elsewhere", clock, store) as on:
        await Player(on, clock).play(HISTORY)
    async with world(tmp_path, clock, store) as on:
        assert comparable(await on.rows()) == await told_by(store)


async def test_files_that_the_registry_does_not_know_are_deleted(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        before = await on.rows()
    old = files(tmp_path)
    for name in ("usage-v1-99.db", "usage-v1-99.db-wal", "aside-usage.db", "aside-usage.db-shm"):
        (tmp_path / "projections" / name).write_bytes(b"?")
    async with world(tmp_path, clock, store) as on:
        assert await on.rows() == before
    assert files(tmp_path) == old


@pytest.mark.usefixtures("however")
async def test_what_was_pruned_before_it_was_folded_is_gone(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The read models know the beginning of a job of which the log knows nothing any more."""
    models = READ_MODELS[:2]
    async with world(tmp_path, clock, store, models) as on:
        job = await on.uws[1].create_job(Changes(), NOBODY)
        kept = await on.keeps.create_job(Changes(), NOBODY)
        await on.projector.caught_up()
    async with world(tmp_path / "elsewhere", clock, store) as on:
        await on.uws[1].destroy_job(job.id, NOBODY)
        await Player(on, clock).prune(-1)
    async with world(tmp_path, clock, store, models) as on:
        while any(status.lag for status in await on.projector.status()):
            await asyncio.sleep(0)
        assert "made anew" in caplog.text
        assert await on.jobs.get(job.id) is None
        assert await on.jobs.get(kept.id) == kept
        told, rows = await told_by(store), comparable(await on.rows())
        assert rows == {table: told[table] for table in rows}
        await on.keeps.abort_job(kept.id, NOBODY)
        assert (await on.keeps.get_job(kept.id, NOBODY)).phase is Phase.ABORTED


@pytest.mark.usefixtures("however")
async def test_a_log_that_was_pruned_is_folded_in_one_go(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path / "first", clock, store) as on:
        await Player(on, clock).play([*HISTORY, (1, 1, ("destroy",))])
        await on.projector.caught_up()  # what had not seen all that is pruned would be made anew
        await Player(on, clock).prune(-1)
        rows = await on.rows()
    async with world(tmp_path / "second", clock, store) as on:
        assert await on.rows() == rows
    assert "made anew" not in caplog.text


async def test_one_that_had_stopped_before_what_was_pruned_is_made_anew(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store, with_models(BrokenDocuments())) as on:
        job = await on.uws[1].create_job(Changes(run_id=BAD), NOBODY)
        await on.uws[1].destroy_job(job.id, NOBODY)
        await on.projector.caught_up("job_list")
        await Player(on, clock).play(HISTORY)
        await Player(on, clock).prune(-1)
        while any(status.lag for status in await on.projector.status()):
            await asyncio.sleep(0)
        assert comparable(await on.rows()) == await told_by(store)
