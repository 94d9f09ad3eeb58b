"""Clocks that are wrong: who has one does not begin, or lead, and destroys nothing before its time."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from eventstore.membership import ClockOff
from eventstore.opening import members
from tests.daemon import uwsd
from tests.databases import needs_postgres
from tests.execution.programs import shell
from tests.harness import job_id
from tests.nodes.conftest import Start
from tests.nodes.test_nodes import types_of
from tests.nodes.test_settling import leads, soon
from uws.model import events as e

pytestmark = needs_postgres
QUICK = shell("true", name="quick")
DAYS = 30


class Machine:
    """The clock of a machine that somebody has set wrong by a span, or sets so."""

    def __init__(self, **wrong: float) -> None:
        self._wrong, self._was_set = timedelta(**wrong), asyncio.Event()

    def set(self, **wrong: float) -> None:
        self._wrong = timedelta(**wrong)
        self._was_set.set()
        self._was_set = asyncio.Event()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._wrong

    async def sleep_until(self, time: datetime) -> None:
        while (left := (time - self.now()).total_seconds()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._was_set.wait()


@pytest.mark.parametrize("seconds", [3 * 86400, 60, -60])
async def test_a_node_whose_clock_is_wrong_does_not_begin_and_says_so(
    start: Start, url: str, seconds: float
) -> None:
    with pytest.raises(
        ClockOff, match=r"it is 20.* here and 20.* there, and 5 s are the most by which they may"
    ):
        async with start("a", QUICK, clock=Machine(seconds=seconds)):
            pass
    assert await members(url) == []


async def test_a_clock_that_is_a_little_wrong_is_right_enough(start: Start) -> None:
    async with start("a", QUICK, clock=Machine(seconds=3)) as a:
        await soon(lambda: leads(a))


async def test_a_node_whose_clock_goes_wrong_destroys_nothing_and_leads_no_more_until_it_is_right(
    start: Start, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    declared = tmp_path / "uwsd.toml"
    declared.write_text(
        f'data = "var"\nstore = "{url}"\n[services.echo]\ntitle = "Echo"\ncommand = ["echo"]\n'
    )
    clock = Machine()
    async with start("a", QUICK, clock=clock) as a:
        await soon(lambda: leads(a))
        job = await a.create("quick")
        await a.node.backend.projector.caught_up()
        async with start("b", QUICK) as b:
            clock.set(days=DAYS)
            await soon(lambda: leads(b))
            assert not leads(a)
            await soon(lambda: "node a does not lead: the clock of this machine, or the" in caplog.text)
            assert await types_of(b, e.job_stream(job_id(job))) == ["JobCreated"]
            told = json.loads((await uwsd("nodes", "--config", declared, "--json")).out)
            assert [round(node["ahead"] / 86400) for node in told] == [DAYS, 0]
            clock.set()
        await soon(lambda: leads(a))
        assert await types_of(a, e.job_stream(job_id(job))) == ["JobCreated"]
