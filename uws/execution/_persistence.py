"""Going on whatever happens: tasks that must not end while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from eventstore import StoreUnavailable
from uws.clock import Clock, pause

_log = logging.getLogger(__name__)


def lasting(coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Begin what goes on until it is cancelled; that it fails is told at once, as nobody awaits it."""
    task = asyncio.create_task(coroutine, name=name)
    task.add_done_callback(_tell_of_failure)
    return task


def _tell_of_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.critical(
            "%s has ended, and is done no more: restart the server", task.get_name(), exc_info=error
        )


async def keep_doing(step: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Do ``step`` over and over; one that fails is tried again after a pause. Ends when cancelled.

    That the log cannot be read or written is told once, until a step can be done again.
    """
    told = False
    while True:
        try:
            await step()
            told = False
        except StoreUnavailable as error:
            if not told:
                _log.warning("%s; trying again", error)
            told = True
            await pause(clock)
        except Exception:
            _log.exception("%s failed; trying again", step.__qualname__)
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
