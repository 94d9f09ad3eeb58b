"""Signed checkpoints of the log, written on a schedule."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from pathlib import Path

from eventstore import EventStore, Head
from eventstore.checkpoint import Checkpoint, SigningKey, write_checkpoint
from uws.clock import Clock

_log = logging.getLogger(__name__)


def sign_head(key: SigningKey, head: Head, now: datetime, *extensions: str) -> str:
    """Return the signed note that says where the log ended at ``now``, and ``extensions``."""
    return Checkpoint(key.verifier.name, head, now, extensions).sign(key)


class Checkpointing:
    """Writes a checkpoint of the log at start and every ``every`` seconds, when the log has grown.

    A file for each goes into ``directory``, signed under the name ``origin`` with the key in the file
    ``key``, which is made when there is none. Whoever wants to prove something with them copies them to
    where nobody can change them together with the log.
    """

    def __init__(
        self, store: EventStore, clock: Clock, *, origin: str, key: Path, directory: Path, every: float
    ) -> None:
        self._store, self._clock, self._origin, self._key = store, clock, origin, key
        self._directory, self._every = directory, timedelta(seconds=every)
        self._written = -1
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write checkpoints."""
        self._task = asyncio.create_task(self._write_on_schedule(), name="checkpoints")

    async def close(self) -> None:
        """Stop writing checkpoints."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write_on_schedule(self) -> None:
        while True:
            now = self._clock.now()
            try:
                await self._write(now)
            except Exception as error:  # the log is more than its checkpoints; the next one may succeed
                _log.error("no checkpoint could be written: %s", error)
            await self._clock.sleep_until(now + self._every)

    async def _write(self, now: datetime) -> None:
        head = await self._store.head()
        if head.position == self._written:
            return
        await asyncio.to_thread(self._sign_and_write, head, now)
        self._written = head.position

    def _sign_and_write(self, head: Head, now: datetime) -> None:
        key = SigningKey.load_or_create(self._key, self._origin)
        if key.verifier.name != self._origin:
            _log.warning("%s signs as %s, not as %s", self._key, key.verifier.name, self._origin)
        self._directory.mkdir(exist_ok=True)
        write_checkpoint(self._directory, sign_head(key, head, now), head.position)
