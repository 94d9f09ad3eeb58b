"""What Slurm is asked for all jobs at once, whoever waits for what it says of his."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from uws.clock import Clock
from uws.config import SlurmSettings

from .._persistence import keep_doing
from .commands import Answer, Commands, Row, Unknown

_log = logging.getLogger(__name__)


_Wanted = TypeVar("_Wanted")


class Cluster:
    """What the runs of all jobs in Slurm share: its commands, and its answers."""

    def __init__(self, clock: Clock, settings: SlurmSettings) -> None:
        self.commands: Commands = Commands()
        self.settings = settings
        self._queue = _Question[None](self._ask_queue, clock, settings.every)
        # Apart: accounting that does not answer keeps nobody from what the queue tells.
        self._accounts = _Question[tuple[str, datetime]](self._ask_accounts, clock, settings.every)

    def start(self) -> None:
        self._queue.start("slurm: looking")
        self._accounts.start("slurm: asking its accounting")

    async def close(self) -> None:
        """End looking. Jobs go on; whoever waits here is cancelled."""
        await self._queue.close()
        await self._accounts.close()

    async def look(self) -> Answer:
        """Return what Slurm says of all jobs when it is asked next. Raises `Unknown`."""
        return await self._queue.answer(None)

    async def accounted(self, name: str, since: datetime) -> list[Row]:
        """Return what Slurm's accounting has of jobs of this name that were there after ``since``."""
        return (await self._accounts.answer((name, since))).get(name, [])

    async def _ask_queue(self, _: list[None]) -> Answer:
        return await self.commands.queue()

    async def _ask_accounts(self, wanted: list[tuple[str, datetime]]) -> Answer:
        return await self.commands.accounted({name for name, _ in wanted}, min(since for _, since in wanted))


class _Question(Generic[_Wanted]):
    """What is asked once for all who want to know something, every so many seconds."""

    def __init__(self, ask: Callable[[list[_Wanted]], Awaitable[Answer]], clock: Clock, every: float) -> None:
        self._ask, self._clock, self._every = ask, clock, timedelta(seconds=every)
        self._waiting: list[tuple[_Wanted, asyncio.Future[Answer]]] = []
        self._anybody = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None

    def start(self, name: str) -> None:
        if self._asking is None:
            self._asking = asyncio.create_task(keep_doing(self._answer_all, self._clock), name=name)

    async def close(self) -> None:
        if asking := self._asking:
            self._asking = None
            asking.cancel()
            await asyncio.wait([asking])
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()

    async def answer(self, wanted: _Wanted) -> Answer:
        """Return the next answer. Raises `Unknown`."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        self._anybody.set()
        return await future

    async def _answer_all(self) -> None:
        """Ask once when somebody wants to know, and let some time pass."""
        await self._anybody.wait()
        self._anybody.clear()
        again = self._clock.now() + self._every
        waiting, self._waiting = self._waiting, []
        answer: Answer | Unknown
        try:
            answer = await self._ask([wanted for wanted, _ in waiting])
        except Unknown as error:
            _log.warning("nothing is known of jobs in Slurm: %s", error)
            answer = error
        except BaseException:
            self._waiting += waiting
            self._anybody.set()
            raise
        for _, future in waiting:
            if future.done():
                continue
            if isinstance(answer, Unknown):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        await self._clock.sleep_until(again)
