"""What every back end does alike once it can read a page and be woken up."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from ._chain import EMPTY, check_link
from ._errors import ChainBroken
from ._types import Head, RecordedEvent


class Following(ABC):
    """Subscriptions and verification, built on `read_all` and `head` alone."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._closed = False

    @abstractmethod
    async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]: ...

    @abstractmethod
    async def head(self) -> Head: ...

    def _wake(self) -> None:
        """Tell subscribers to look again. Each wake-up has an `asyncio.Event` of its own, so none is lost."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def subscribe(self, *, after: int) -> AsyncIterator[tuple[RecordedEvent, ...]]:
        while not self._closed:
            changed = self._changed
            if (await self.head()).position <= after:
                await changed.wait()
            elif batch := await self.read_all(after=after):
                yield batch
                after = batch[-1].position

    async def verify(self) -> Head:
        end, seen = await self.head(), EMPTY
        while seen.position < end.position:
            batch = await self.read_all(after=seen.position, limit=5000)
            if not batch:
                raise ChainBroken(seen.position + 1, "missing; the log ends before its head")
            for event in batch:
                seen = check_link(seen, event)
        return seen
