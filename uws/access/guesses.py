"""Passwords that are guessed: so many that are wrong in a minute, of one client for one user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from uws.clock import Clock
from uws.model import NotAuthenticated, TooMany

TRIES, WITHIN = 10, timedelta(minutes=1)
"""Wrong passwords that one client may send for one user, and in what time."""
_WATCHED = 10_000
"""Clients and users; verifying takes so long that there are not as many within the time."""

Guesser = tuple[str, str]
"""A client, and the user that it says it is."""


class Guesses:
    """The wrong passwords of the last minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wrong: dict[Guesser, list[datetime]] = {}
        """Those whose last one is the oldest first."""
        self._turns: WeakValueDictionary[Guesser, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def counted(self, client: str, user: str) -> AsyncIterator[int]:
        """Let a client try a password, one at a time; gives how many it may try, this one included.

        One that is wrong ends in `NotAuthenticated`. Raises `TooMany` when there were too many of these.
        """
        guesser = client, user
        # One by one, so that each knows of those before it: however many come at once, so many are verified.
        async with self._turns.setdefault(guesser, asyncio.Lock()):
            recent = self._recent(guesser)
            if len(recent) >= TRIES:
                wait = int((recent[0] + WITHIN - self._clock.now()).total_seconds()) + 1
                raise TooMany(f"too many wrong passwords for this user: try again in {wait} s", wait)
            try:
                yield TRIES - len(recent)
            except NotAuthenticated:
                self._wrong.pop(guesser, None)
                self._wrong[guesser] = [*recent, self._clock.now()]
                self._forget()
                raise
            self._wrong.pop(guesser, None)

    def _recent(self, guesser: Guesser) -> list[datetime]:
        now = self._clock.now()
        return [time for time in self._wrong.get(guesser, ()) if now - time < WITHIN]

    def _forget(self) -> None:
        """Let go of those that count no longer."""
        while first := next(iter(self._wrong), None):
            if self._recent(first) and len(self._wrong) <= _WATCHED:
                return
            del self._wrong[first]
