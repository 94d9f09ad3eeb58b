"""Erasing: what was taken out of the log is taken out of all read models, and once scrubbed, of all files."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from random import Random
from secrets import token_hex

import pytest

from eventstore import Metadata, SQLiteEventStore, StoreUnavailable
from tests.harness import ManualClock
from tests.projections.models import BAD, BrokenDocuments, Slow
from tests.projections.support import NOBODY, comparable, log, told_by, with_models, world
from uws import Caller, Changes, JobGone
from uws.model import events as e


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SQLiteEventStore]:
    async with log(tmp_path, clock) as store:
        yield store


async def test_an_erased_job_is_gone_for_everybody(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    ada, bob = Caller("ada"), Caller("bob")
    async with world(tmp_path, clock, store) as on:
        job = await on.keeps.create_job(Changes(parameters={"x": ["secret"]}, run_id="mine"), ada, run=True)
        await store.erase(f"job/{job.id}", reason="she asked for it")
        for caller in (ada, bob, NOBODY):
            with pytest.raises(JobGone):
                await on.keeps.get_job(job.id, caller)
            with pytest.raises(JobGone):
                await on.keeps.abort_job(job.id, caller)
        assert await on.keeps.get_ids_and_phases("ada") == []
        await on.projector.caught_up()
        assert await on.jobs.services_with_jobs() == set()
        assert await on.jobs.usage() == []
        assert (await on.jobs.queue_state()).lines == []
        assert await on.jobs.used_lately(["ada"], clock.now(), 3600) == {"ada": 0}
        assert await on.jobs.keep_files([job.id]) == {job.id: False}
        left = await on.jobs.get(job.id)
        assert left is not None
        assert (left.note, left.owner, left.parameters) == ("she asked for it", None, {})


def _files(directory: Path) -> bytes:
    found = [directory / "projections.db", *(directory / "projections").iterdir()]
    return b"".join(path.read_bytes() for path in found)


async def test_after_scrubbing_no_file_holds_a_byte_of_what_was_erased(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Rows of all sizes come and grow everywhere in the files: their pages are split again and again."""
    random = Random(1)
    async with world(tmp_path, clock) as on:
        secrets: dict[str, list[bytes]] = {}
        for number in range(1000):
            words = [f"{word}{number:05}{token_hex(8)}" for word in ("owner", "value", "run", "reason")]
            changes = Changes(parameters={"many": [words[1], "." * random.randrange(400)]}, run_id=words[2])
            job = await on.keeps.create_job(changes, Caller(words[0]))
            held = e.encode(e.JobHeld(reason=words[3]), Metadata())
            await on.store.append(f"job/{job.id}", [held])
            secrets[job.id] = [word.encode() for word in words]
            if number % 20 == 0:
                await on.projector.caught_up()
        erased = sorted(secrets)[::3]
        for number, job_id in enumerate(erased):
            await on.store.erase(f"job/{job_id}", reason="on request")
            if number % 20 == 0:
                await on.projector.caught_up()
        await on.projector.caught_up()
        await on.projector.scrub()
        left = _files(tmp_path)
        for job_id, words_ in secrets.items():
            assert [word in left for word in words_] == [job_id not in erased] * 4
        assert {path.stat().st_size for path in (tmp_path / "projections").glob("*-wal")} == {0}
        kept = next(job_id for job_id in secrets if job_id not in erased)
        await on.keeps.destroy_job(kept, Caller(secrets[kept][0].decode()))  # it goes on
        assert comparable(await on.rows()) == await told_by(on.store)


async def test_scrubbing_throws_away_what_was_being_made(
    tmp_path: Path, store: SQLiteEventStore, clock: ManualClock
) -> None:
    model = BrokenDocuments()
    model.mended = True
    async with world(tmp_path, clock, store, with_models(model)) as on:
        job = await on.keeps.create_job(Changes(parameters={"x": ["secret"]}), NOBODY)
        await on.set_run_id(BAD)
        await on.projector.caught_up()
        model.mended = False
        with pytest.raises(StoreUnavailable, match="a bug"):
            await on.projector.rebuild(["documents"])
        model.mended = True
        await store.erase(f"job/{job.id}", reason="on request")
        await on.projector.caught_up()
        await on.projector.scrub()
        assert {status.making for status in await on.projector.status()} == {None}
        assert b"secret" not in _files(tmp_path)
        assert len(list((tmp_path / "projections").glob("documents-*.db"))) == 1
        await on.projector.rebuild()
        assert comparable(await on.rows()) == await told_by(store)


async def test_scrubbing_waits_until_a_batch_is_folded(tmp_path: Path, clock: ManualClock) -> None:
    model = Slow()
    async with world(tmp_path, clock, models=with_models(model)) as on:
        await on.keeps.create_job(Changes(), NOBODY)
        await asyncio.to_thread(model.began.wait)
        scrubbing = asyncio.create_task(on.projector.scrub())
        await asyncio.sleep(0)
        assert not scrubbing.done()
        model.may.set()
        await scrubbing
        assert len((await on.rows())["job"]) == 1


async def test_a_reader_who_keeps_older_pages_on_disk_is_told_of(tmp_path: Path, clock: ManualClock) -> None:
    async with world(tmp_path, clock) as on:
        for tables in on.projector._tables.values():
            tables._connection.execute("PRAGMA busy_timeout = 10")
        await on.keeps.create_job(Changes(), NOBODY)
        await on.projector.caught_up()
        (path,) = (tmp_path / "projections").glob("usage-*.db")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM used").fetchall()
            with pytest.raises(StoreUnavailable, match="cannot be scrubbed: a reader"):
                await on.projector.scrub()
        await on.projector.scrub()
