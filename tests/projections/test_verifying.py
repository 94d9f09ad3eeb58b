"""Verifying: the first row that is not what the log makes of it is told, and nothing is left behind."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from eventstore import SQLiteEventStore
from projections import Difference
from tests.harness import ManualClock
from tests.projections.models import BAD, BrokenDocuments
from tests.projections.support import HISTORY, NAMES, NOBODY, Player, World, log, with_models, world

MISSING, UNWANTED = "the row is missing", "the row should not be there"
PHASE = "CAST(json_set(document, '$.phase', 'HELD') AS BLOB)"
OWNER = "CAST(json_set(document, '$.owner', 'eve') AS BLOB)"
FIRST = "WHERE position = (SELECT min(position) FROM"
"""The job of ada, which is COMPLETED."""
CHANGES = [
    # the table, what is done to it, the words that tell, and which event should have made what is not there
    ("documents.document", f"UPDATE document SET document = {PHASE} {FIRST} document)",
     "document: phase is 'HELD', should be 'COMPLETED'", "JobCompleted"),
    ("documents.document", f"UPDATE document SET document = {OWNER} {FIRST} document)",
     "document: owner is 'eve', should be 'ada'", "JobCreated"),
    ("documents.document", f"UPDATE document SET destroyed = 1 {FIRST} document)",
     "destroyed is 1, should be 0", "JobCreated"),
    ("documents.document", f"DELETE FROM document {FIRST} document)", MISSING, "JobCreated"),
    ("documents.document", "INSERT INTO document VALUES (1000, 'x', 1, 0, x'7b7d')",
     UNWANTED, None),
    ("job_list.job", f"UPDATE job SET run_id = NULL {FIRST} job)", "run_id is None, should be 'first'",
     "JobCreated"),
    ("job_list.job", f"UPDATE job SET phase = 'QUEUED' {FIRST} job)",
     "phase is 'QUEUED', should be 'COMPLETED'", "JobCompleted"),
    ("job_list.job", f"DELETE FROM job {FIRST} job)", MISSING, "JobCreated"),
    ("job_list.job", "INSERT INTO job VALUES (1000, 'x', '', NULL, NULL, 'HELD', 1, NULL, 0, 1)",
     UNWANTED, None),
    ("job_list.changed", "UPDATE changed SET position = 1 WHERE owner IS NULL",
     "position is 1, should be ", None),
    ("job_list.changed", "DELETE FROM changed WHERE owner = 'ada'", MISSING, None),
    ("job_list.changed", "INSERT INTO changed VALUES ('keeps', 'eve', 1, 1)", UNWANTED, None),
    ("job_list.cut", "UPDATE cut SET position = 7", "position is 7, should be 0", None),
    ("job_list.cut", "DELETE FROM cut", MISSING, None),
    ("job_list.cut", "INSERT INTO cut VALUES (9)", UNWANTED, None),
    ("queue.active", "UPDATE active SET phase = 'QUEUED' WHERE phase = 'EXECUTING'",
     "phase is 'QUEUED', should be 'EXECUTING'", "JobStarted"),
    ("queue.active", "DELETE FROM active WHERE phase = 'EXECUTING'", MISSING, "JobCreated"),
    ("queue.active", "INSERT INTO active VALUES (99, 'x', '', NULL, 'HELD', 1, 1, '', NULL, '', '', 1)",
     UNWANTED, None),
    ("queue.paused", "UPDATE paused SET since = 1", "since is 1, should be ", None),
    ("queue.paused", "DELETE FROM paused", MISSING, None),
    ("queue.paused", "INSERT INTO paused VALUES ('', 1, 1)", UNWANTED, None),
    ("services.service", "UPDATE service SET versions = 2", "versions is 2, should be 1", "ServiceDeclared"),
    ("services.service", "DELETE FROM service", MISSING, "ServiceDeclared"),
    ("services.service", "INSERT INTO service VALUES ('x', '', '', 1, 1, 1)", UNWANTED, None),
    ("usage.lately", "UPDATE lately SET jobs = 9 WHERE owner IS NULL", "jobs is 9, should be 1", None),
    ("usage.lately", "DELETE FROM lately WHERE owner = 'ada'", MISSING, None),
    ("usage.lately", "INSERT INTO lately VALUES ('eve', 1, 1, 1)", UNWANTED, None),
    ("usage.used", f"UPDATE used SET results = 8 {FIRST} used)", "results is 8, should be 7", "JobCompleted"),
    ("usage.used", f"DELETE FROM used {FIRST} used)", MISSING, "JobCreated"),
    ("usage.used", "INSERT INTO used VALUES ('x', 1000, '', NULL, 'HELD', 0, NULL, NULL, 0, 0, '', 1)",
     UNWANTED, None),
    ("usage.usage", "UPDATE usage SET bytes = bytes + 1 WHERE owner = 'ada'",
     "bytes is 8, should be 7", None),
    ("usage.usage", "DELETE FROM usage WHERE owner = 'ada'", MISSING, None),
    ("usage.usage", "INSERT INTO usage VALUES ('keeps', 'eve', 'ERROR', 1, 1, 1)", UNWANTED, None),
]  # fmt: skip


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SQLiteEventStore]:
    async with log(tmp_path, clock) as store:
        yield store


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert [path.name for path in (tmp_path / "projections").glob("aside*")] == []


def file_of(directory: Path, name: str) -> Path:
    (path,) = (directory / "projections").glob(f"{name}-v*.db")
    return path


async def test_what_the_log_gives_is_found_to_be_right(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, clock, store) as on:
        player = Player(on, clock)
        await player.play([*HISTORY, (2, 1, ("destroy",)), (1, 1, ("erase",))])
        await player.prune(-1)
        await on.projector.caught_up()  # what had not seen all that was pruned is made anew
        right = dict.fromkeys(NAMES)
        assert await on.projector.verify() == right
        assert await on.projector.verify(["usage"]) == {"usage": None}
        monkeypatch.setattr("projections._following.WORTH_A_PROCESS", 0)
        told: list[tuple[int, int]] = []
        assert await on.projector.verify(progress=lambda done, total: told.append((done, total))) == right
        assert told[-1] == ((await store.head()).position,) * 2


@pytest.mark.parametrize(("place", "sql", "text", "maker"), CHANGES)
async def test_a_row_that_is_not_what_the_log_makes_of_it_is_told(
    tmp_path: Path,
    store: SQLiteEventStore,
    clock: ManualClock,
    place: str,
    sql: str,
    text: str,
    maker: str | None,
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        await on.projector.caught_up()
    name, _, table = place.partition(".")
    with closing(sqlite3.connect(file_of(tmp_path, name))) as file:
        file.execute(sql)
        file.commit()
    async with world(tmp_path, clock, store) as on:
        difference = (await on.projector.verify([name]))[name]
        assert difference is not None
        assert (difference.name, difference.table) == (name, table)
        assert text in difference.text
        await _check_maker(store, difference, maker)


async def test_of_a_long_log_the_same_is_told_by_a_process(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        await on.projector.caught_up()
    with closing(sqlite3.connect(file_of(tmp_path, "usage"))) as file:
        file.execute("UPDATE usage SET bytes = bytes + 1 WHERE owner = 'ada'")
        file.commit()
    async with world(tmp_path, clock, store) as on:
        here = await on.projector.verify()
        monkeypatch.setattr("projections._following.WORTH_A_PROCESS", 0)
        assert await on.projector.verify() == here
        assert [name for name, difference in here.items() if difference] == ["usage"]


async def _check_maker(store: SQLiteEventStore, difference: Difference, maker: str | None) -> None:
    if maker is None:
        assert difference.position is None
        return
    events = await store.read_all()
    event = next(event for event in events if event.position == difference.position)
    assert event.type == maker
    assert difference.text.endswith(f" since position {event.position} ({event.type} of {event.stream})")


async def test_the_first_difference_is_told_with_its_key(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store) as on:
        jobs = [await on.set_run_id(f"run {number}") for number in range(5)]
        await on.projector.caught_up()
        with closing(sqlite3.connect(file_of(tmp_path, "job_list"))) as file:
            for position in (4, 2):
                file.execute("UPDATE job SET run_id = 'other' WHERE position = ?", (position,))
            file.commit()
        assert await on.projector.verify(["job_list"]) == {
            "job_list": Difference(
                name="job_list",
                table="job",
                key="position 2",
                text=f"run_id is 'other', should be 'run 1' since position 2 (JobCreated of job/{jobs[1]})",
                position=2,
            )
        }
        await on.projector.rebuild(["job_list"])
        assert await on.projector.verify(["job_list"]) == {"job_list": None}


async def test_what_happens_meanwhile_makes_no_difference(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async def busy(on: World) -> None:
        for number in range(60):
            job = await on.set_run_id(f"busy {number}")
            await on.keeps.abort_job(job, NOBODY)

    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        writing = [asyncio.create_task(busy(on)) for _ in range(3)]
        while not all(task.done() for task in writing):
            assert set((await on.projector.verify()).values()) == {None}
        await asyncio.gather(*writing)


async def test_a_read_model_that_has_stopped_is_told_and_the_others_are_compared(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    async with world(tmp_path, clock, store, with_models(BrokenDocuments())) as on:
        await on.set_run_id(BAD)
        verified = await on.projector.verify(["documents", "queue"])
        assert verified["queue"] is None
        assert verified["documents"] is not None
        assert re.search("documents stopped at position 1 .*: a bug", verified["documents"].text)


async def test_a_verification_that_is_cancelled_leaves_nothing(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections._following.WORTH_A_PROCESS", 0)
    async with world(tmp_path, clock, store) as on:
        await Player(on, clock).play(HISTORY)
        verifying = asyncio.create_task(on.projector.verify())
        while not list((tmp_path / "projections").glob("aside-usage.db")):
            await asyncio.sleep(0)
        verifying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await verifying
        assert list((tmp_path / "projections").glob("aside*")) == []
        assert set((await on.projector.verify()).values()) == {None}
