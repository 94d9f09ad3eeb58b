"""What was read of a job is kept until something happens to it, and never shown afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from projections._memory import LONGEST
from tests.harness import ManualClock
from tests.projections.support import NOBODY, SERVICES, world
from uws import Changes, Ending, Service


async def test_a_job_is_read_once_until_something_happens_to_it(tmp_path: Path, clock: ManualClock) -> None:
    async with world(tmp_path, clock) as here:
        job_id, other = await here.set_run_id("first"), await here.set_run_id("other")
        read = await here.keeps.get_job(job_id, NOBODY)
        await here.keeps.change_job(other, Changes(run_id="another"), NOBODY)
        assert await here.keeps.get_job(job_id, NOBODY) is read
        await here.keeps.change_job(job_id, Changes(run_id="second"), NOBODY)
        assert (await here.keeps.get_job(job_id, NOBODY)).run_id == "second"


async def test_what_was_kept_is_read_again_of_read_models_that_were_made_anew(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with world(tmp_path, clock) as here:
        job_id = await here.set_run_id("first")
        before = await here.keeps.get_job(job_id, NOBODY)
        await here.projector.rebuild()
        after = await here.keeps.get_job(job_id, NOBODY)
        assert after == before
        assert after is not before


async def test_of_jobs_that_are_large_none_is_kept(tmp_path: Path, clock: ManualClock) -> None:
    async with world(tmp_path, clock) as here:
        large = Changes(parameters={"X": ["x" * LONGEST]})
        job_id = (await here.keeps.create_job(large, NOBODY)).id
        read = await here.keeps.get_job(job_id, NOBODY)
        again = await here.keeps.get_job(job_id, NOBODY)
        assert again == read
        assert again is not read


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
async def test_what_jobs_took_is_known_at_once_and_for_as_long_as_there_are_any(
    tmp_path: Path, clock: ManualClock, service: Service
) -> None:
    async with world(tmp_path, clock) as here:
        uws = here.uws[SERVICES.index(service)]
        given = Changes(parameters={"x": ["1"]})

        async def takes() -> float | None:
            await here.projector.caught_up()
            for _ in range(2):  # once where it is read, once where it is kept
                told = await here.jobs.duration_of_like(service.name, None, {"x": ("1",)})
            return told

        assert await takes() is None
        seconds, ids = (10, 30), list[str]()
        for length in seconds:
            job = await uws.create_job(given, NOBODY, run=True)
            await uws.start_job(job.id)
            assert await takes() == (seconds[0] if ids else None)
            clock.advance(seconds=length)
            await uws.end_job(job.id, Ending(exit_code=0))
            ids.append(job.id)
            assert await takes() == sum(seconds[: len(ids)]) / len(ids)
        await uws.destroy_job(ids[0], NOBODY)
        assert await takes() == seconds[1]
        await here.projector.rebuild()
        assert await takes() == seconds[1]
        await uws.destroy_job(ids[1], NOBODY)
        assert await takes() is None
