"""Looks at many jobs at once: a page shows jobs as they are, and is bounded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from projections import Event, JobList
from projections.history import ENOUGH
from projections.job_list import Listed
from tests.harness import ManualClock
from tests.projections.support import NOBODY, with_models, world
from uws import Changes, Phase
from uws.model import events as e

LATE = (e.JobAborted, e.JobDestroyed, e.RunIdSet)


class LateJobList(JobList):
    """Does not come to learn what happens to a job after all others have."""

    def apply(self, row: Listed | None, events: Sequence[Event]) -> Listed | None:
        if any(event.kind in LATE for event in events):
            raise RuntimeError("late")
        return super().apply(row, events)


async def test_no_page_shows_a_job_that_its_filters_do_not_let_through(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the job list may be behind the documents."""
    caplog.set_level(logging.CRITICAL)
    async with world(tmp_path, clock, models=with_models(LateJobList())) as on:
        _, forgets, *_ = on.uws
        stays, moves, aborts, goes = [
            (await forgets.create_job(Changes(run_id="a"), NOBODY)).id for _ in range(4)
        ]
        await on.projector.caught_up()
        await forgets.change_job(moves, Changes(run_id="b"), NOBODY)
        await forgets.change_job(aborts, Changes(), NOBODY, abort=True)
        await forgets.destroy_job(goes, NOBODY)
        await on.projector.caught_up("documents")
        for phases, run_id, expected in (
            (None, None, [aborts, moves, stays]),
            ([Phase.PENDING], None, [moves, stays]),
            (None, "a", [aborts, stays]),
            ([Phase.PENDING], "a", [stays]),
        ):
            page = await on.jobs.entries("forgets", None, phases=phases, run_id=run_id, limit=9)
            assert [job.id for job in page.jobs] == expected


async def test_a_page_ends_with_the_job_that_makes_it_large(tmp_path: Path, clock: ManualClock) -> None:
    async with world(tmp_path, clock) as on:
        text = "x" * (ENOUGH // 2)
        made = [(await on.keeps.create_job(Changes(parameters={"x": [text]}), NOBODY)).id for _ in range(5)]
        await on.projector.caught_up()
        pages, before = [], None
        while before or not pages:
            page = await on.jobs.entries("keeps", None, before=before, limit=100)
            pages.append([job.id for job in page.jobs])
            before = page.next
        assert pages == [made[:-3:-1], made[2:0:-1], made[:1]]
