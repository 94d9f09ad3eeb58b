"""Time, as an interface: tests move it by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Protocol

_RETRY_SECONDS = 1.0


class Clock(Protocol):
    """The only source of time for jobs; UTC."""

    def now(self) -> datetime:
        """Return the present time, aware and in UTC."""
        ...

    async def sleep_until(self, time: datetime) -> None:
        """Return when `now` is not before ``time``. May be cancelled."""
        ...


class SystemClock:
    """The machine's clock."""

    LONGEST_SLEEP = 3600.0
    """Seconds after which a sleeper looks at the clock again, because an administrator may have set it."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep_until(self, time: datetime) -> None:
        while (left := (time - self.now()).total_seconds()) > 0:  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(min(left, self.LONGEST_SLEEP))


async def pause(clock: Clock) -> None:
    """Let some time pass before something is tried again."""
    await clock.sleep_until(clock.now() + timedelta(seconds=_RETRY_SECONDS))


async def first_of(*awaitables: Awaitable[object]) -> None:
    """Return when any of ``awaitables`` is done; the others are cancelled."""
    waiting = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
