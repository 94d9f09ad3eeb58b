"""One look at Slurm for all jobs, whoever waits for what it says of his."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from uws.clock import Clock
from uws.config import SlurmSettings

from .._persistence import keep_doing
from .commands import Commands, Row, Unknown

log = logging.getLogger(__name__)

Answer = dict[str, list[Row]]


class Cluster:
    """What the runs of all jobs in Slurm share: its commands, and its answers."""

    def __init__(self, clock: Clock, settings: SlurmSettings) -> None:
        self.commands, self.settings, self._clock = Commands(), settings, clock
        self._waiting: list[asyncio.Future[Answer]] = []
        self._wanted = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._looking is None:
            self._looking = asyncio.create_task(keep_doing(self._look, self._clock), name="slurm: looking")

    async def close(self) -> None:
        """End looking. Jobs go on; whoever waits here is cancelled."""
        if looking := self._looking:
            self._looking = None
            looking.cancel()
            await asyncio.wait([looking])
        for future in self._waiting:
            future.cancel()
        self._waiting.clear()

    async def look(self) -> Answer:
        """Return what Slurm says of all jobs when it is asked next. Raises `Unknown`."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wanted.set()
        return await future

    async def _look(self) -> None:
        """Ask Slurm once when somebody wants to know, and let some time pass."""
        await self._wanted.wait()
        self._wanted.clear()
        again = self._clock.now() + timedelta(seconds=self.settings.every)
        waiting, self._waiting = self._waiting, []
        answer: Answer | Unknown
        try:
            answer = await self.commands.queue()
        except Unknown as error:
            log.warning("nothing is known of jobs in Slurm: %s", error)
            answer = error
        except BaseException:
            self._waiting += waiting
            self._wanted.set()
            raise
        for future in waiting:
            if future.done():
                continue
            if isinstance(answer, Unknown):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        await self._clock.sleep_until(again)
