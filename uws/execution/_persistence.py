"""Going on whatever happens: tasks that must not end while the server runs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

from uws.clock import Clock, pause

log = logging.getLogger(__name__)


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
