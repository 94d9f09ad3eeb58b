"""Security decisions go on record, in a stream a month; nobody who is refused waits for that."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from eventstore import EventStore, EventStoreError, NewEvent
from uws.clock import Clock, first_of, pause
from uws.commands import SERVER, Caller
from uws.model import events as e

from .clients import network_of

PER_CLIENT, IN_ALL = 60, 600
"""Refusals in a minute that are recorded one by one; of others, how many there were."""
_ROOM = 1000
_log = logging.getLogger(__name__)


class SecurityRecord:
    """Takes decisions at once, and writes them soon after. What cannot be written now is tried again."""

    def __init__(self, store: EventStore, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._pending: deque[tuple[str, NewEvent]] = deque()
        self._wake = asyncio.Event()
        self._over = asyncio.Event()
        self._minute, self._omitted = 0, 0
        self._refused: Counter[str] = Counter()
        """Those that were recorded in this minute, by client."""

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Write while the context lasts; at its end all that can be written is."""
        writing = asyncio.create_task(self._keep_writing(), name="security record")
        try:
            yield
        finally:
            self._over.set()
            self._tell_omitted()
            self._wake.set()
            await asyncio.wait([writing])

    def note(self, event: e.SecurityEvent, caller: Caller) -> None:
        """Have a decision recorded."""
        self._turn_minute()
        if isinstance(event, e.LogInRefused | e.AccessRefused) and not self._has_room(event):
            self._omitted += 1
            self._wake.set()
            return
        self._add(event, caller)

    def _has_room(self, refusal: e.LogInRefused | e.AccessRefused) -> bool:
        if len(self._pending) >= _ROOM:
            return False
        if isinstance(refusal, e.LogInRefused) and refusal.user:
            return True  # of these a client has few: see `uws.access.guesses`
        client = network_of(refusal.address)
        if self._refused[client] >= PER_CLIENT or self._refused.total() >= IN_ALL:
            return False
        self._refused[client] += 1
        return True

    def _turn_minute(self) -> None:
        minute = int(self._clock.now().timestamp() // 60)
        if minute != self._minute:
            self._tell_omitted()
            self._minute = minute
            self._refused.clear()

    def _tell_omitted(self) -> None:
        if self._omitted:
            count, self._omitted = self._omitted, 0
            self._add(e.RefusalsOmitted(count=count), SERVER)

    def _add(self, event: e.SecurityEvent, caller: Caller) -> None:
        self._pending.append((e.security_stream(self._clock.now()), e.encode(event, caller.metadata)))
        self._wake.set()

    async def _keep_writing(self) -> None:
        while not self._over.is_set() or self._pending:
            waiting: list[Awaitable[object]] = [self._wake.wait()]
            if self._omitted:
                waiting.append(self._clock.sleep_until(datetime.fromtimestamp((self._minute + 1) * 60, UTC)))
            await first_of(*waiting)
            self._wake.clear()
            self._turn_minute()
            try:
                await self._write()
            except EventStoreError as error:
                _log.error("%d security decisions cannot go on record: %s", len(self._pending), error)
                if self._over.is_set():
                    return
                await first_of(pause(self._clock), self._over.wait())
                self._wake.set()

    async def _write(self) -> None:
        while self._pending:
            stream = self._pending[0][0]
            batch = [event for where, event in self._pending if where == stream]
            await self._store.append(stream, batch)  # the same ids again are no second record
            done = {event.id for event in batch}
            self._pending = deque(entry for entry in self._pending if entry[1].id not in done)
