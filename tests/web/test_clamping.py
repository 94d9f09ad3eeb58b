"""Destruction times and execution durations are held within what the service allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import ManualClock, running, text
from tests.web.support import events_of
from uws import ExecutionDuration, Lifetime, Service
from uws.model import events as e

LIMITED = Service(
    name="limited",
    title="Limited",
    command=["true"],
    execution_duration=ExecutionDuration(default=60, max=600),
    lifetime=Lifetime(default="1d", max="10d"),
)
UNLIMITED = Service(
    name="unlimited",
    title="Unlimited",
    command=["true"],
    execution_duration=ExecutionDuration(default=60, max=0),
    lifetime=Lifetime(default="1d", max=0),
)
ENDLESS = Service(
    name="endless",
    title="Endless by default",
    command=["true"],
    execution_duration=ExecutionDuration(default=0, max=0),
)
LARGEST = 2**31 - 1


@pytest.mark.parametrize(
    ("service", "asked", "allowed"),
    [
        ("limited", "1", 1),
        ("limited", "600", 600),
        ("limited", "601", 600),
        ("limited", "999999999999999999", 600),
        ("limited", "0", 600),
        ("unlimited", "0", 0),
        ("unlimited", "86400", 86400),
        ("unlimited", "999999999999999999", LARGEST),
    ],
)
async def test_the_execution_duration_is_clamped_and_the_document_tells(
    tmp_path: Path, service: str, asked: str, allowed: int
) -> None:
    async with running(tmp_path, LIMITED, UNLIMITED) as site:
        changed = await site.create(service)
        answer = await site.post(f"{changed}/executionduration", {"EXECUTIONDURATION": asked})
        assert answer.status == 303
        created = await site.create(service, EXECUTIONDURATION=asked)
        for job in (changed, created):
            assert (await site.get(f"{job}/executionduration")).text == str(allowed)
            assert text(await site.document(job), "executionDuration") == str(allowed)


async def test_a_job_begins_with_the_default_execution_duration(tmp_path: Path) -> None:
    async with running(tmp_path, LIMITED, ENDLESS) as site:
        assert (await site.get(f"{await site.create('limited')}/executionduration")).text == "60"
        assert (await site.get(f"{await site.create('endless')}/executionduration")).text == "0"


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("2026-01-05T00:00:00Z", "2026-01-05T00:00:00.000Z"),
        ("2026-01-11T00:00:00Z", "2026-01-11T00:00:00.000Z"),
        ("2026-01-11T00:00:00.001Z", "2026-01-11T00:00:00.000Z"),
        ("9999-12-31T23:59:59.999999Z", "2026-01-11T00:00:00.000Z"),
    ],
)
async def test_a_destruction_beyond_the_maximum_is_clamped_and_the_document_tells(
    tmp_path: Path, clock: ManualClock, asked: str, allowed: str
) -> None:
    async with running(tmp_path, LIMITED, clock=clock) as site:
        changed = await site.create("limited")
        assert (await site.post(f"{changed}/destruction", {"DESTRUCTION": asked})).status == 303
        created = await site.create("limited", DESTRUCTION=asked)
        for job in (changed, created):
            assert (await site.get(f"{job}/destruction")).text == allowed
            assert text(await site.document(job), "destruction") == allowed


async def test_the_maximum_counts_from_the_creation(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, LIMITED, clock=clock) as site:
        job = await site.create("limited", DESTRUCTION="2026-01-09")
        clock.advance(days=5)
        await site.post(f"{job}/destruction", {"DESTRUCTION": "2026-02-01"})
        assert (await site.get(f"{job}/destruction")).text == "2026-01-11T00:00:00.000Z"


async def test_any_destruction_is_allowed_where_there_is_no_maximum(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, UNLIMITED, clock=clock) as site:
        job = await site.create("unlimited", DESTRUCTION="2090-01-01")
        assert (await site.get(f"{job}/destruction")).text == "2090-01-01T00:00:00.000Z"


@pytest.mark.parametrize("asked", ["0001-01-01", "1970-01-01", "2025-12-31T23:59:59.999Z", "2026-01-01"])
async def test_a_destruction_in_the_past_is_now(tmp_path: Path, clock: ManualClock, asked: str) -> None:
    async with running(tmp_path, LIMITED, clock=clock) as site:
        job = await site.create("limited")
        clock.advance(hours=1)
        assert (await site.post(f"{job}/destruction", {"DESTRUCTION": asked})).status == 303
        assert (await site.get(f"{job}?WAIT=-1")).status == 410
        assert e.DestructionSet(destruction=clock.now()) in await events_of(site, job)


async def test_a_job_begins_with_the_default_lifetime(tmp_path: Path, clock: ManualClock) -> None:
    async with running(tmp_path, LIMITED, clock=clock) as site:
        assert (
            await site.get(f"{await site.create('limited')}/destruction")
        ).text == "2026-01-02T00:00:00.000Z"
