"""Make a log of two years, in `var`: the first of the months in which its clock stands is given."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.audit.test_retention import applied
from tests.harness import ManualClock, running
from uws.config import AuditSettings, load

JOBS = (2, 2, 0, 0, 1)
"""How many are run, and destroyed, in the first months; in the last of these less than two years ago."""


async def main() -> None:
    settings = load(Path("uwsd.toml"))
    clock = ManualClock(datetime.fromisoformat(f"{sys.argv[1]}-15T12:00Z"))
    audit = AuditSettings(origin=settings.audit.origin, checkpoint_every=0)
    async with running(
        settings.data, *settings.services, clock=clock, retention=settings.retention, audit=audit
    ) as site:
        await applied(clock)
        for jobs in (*JOBS, *[0] * 21):
            for _ in range(jobs):
                job = await site.run("stack")
                await site.ended(job)
                await site.request("DELETE", job)
            month = (clock.now().replace(day=1) + timedelta(days=32)).replace(day=1, hour=0)
            clock.advance(seconds=(month - clock.now()).total_seconds())
            await applied(clock)
        assert month.date() == datetime.now(UTC).date().replace(day=1)


asyncio.run(main())
