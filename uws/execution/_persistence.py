"""Going on whatever happens: tasks that must not end while the server runs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta

from eventstore import RecordedEvent
from uws.clock import Clock
from uws.jobs import Backend

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


async def pause(clock: Clock) -> None:
    """Let some time pass before something is tried again."""
    await clock.sleep_until(clock.now() + timedelta(seconds=RETRY_SECONDS))


async def keep_doing(step: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Do ``step`` over and over; one that fails is tried again after a pause. Ends when cancelled."""
    while True:
        try:
            await step()
        except Exception:
            log.exception("%s failed; trying again", step.__qualname__)
            await pause(clock)


async def for_each(items: Iterable[str], action: Callable[[str], Awaitable[None]]) -> None:
    """Do ``action`` for all of ``items``, then raise the last of what failed."""
    failure: Exception | None = None
    for item in items:
        try:
            await action(item)
        except Exception as error:
            failure = error
    if failure:
        raise failure


async def follow(backend: Backend, after: int) -> AsyncIterator[tuple[RecordedEvent, ...]]:
    """Subscribe to the log, and anew whenever it could not be read."""
    while True:
        try:
            async for batch in backend.store.subscribe(after=after):
                after = batch[-1].position
                yield batch
            return
        except Exception as error:
            log.warning("the log cannot be followed: %s; trying again", error)
            await pause(backend.clock)
