"""Going on when the log cannot be read or written for a while."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import timedelta

from eventstore import EventStoreError, RecordedEvent
from uws.clock import Clock
from uws.jobs import Backend

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


async def pause(clock: Clock) -> None:
    """Let some time pass before something is tried again."""
    await clock.sleep_until(clock.now() + timedelta(seconds=RETRY_SECONDS))


async def follow(backend: Backend, after: int) -> AsyncIterator[tuple[RecordedEvent, ...]]:
    """Subscribe to the log, and anew whenever it could not be read."""
    while True:
        try:
            async for batch in backend.store.subscribe(after=after):
                after = batch[-1].position
                yield batch
            return
        except EventStoreError as error:
            log.warning("the log cannot be followed: %s; trying again", error)
            await pause(backend.clock)
