"""Passwords that are guessed: so many that are wrong in a minute, of one client for one user and for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from uws.clock import Clock
from uws.model import NotAuthenticated, TooMany

TRIES, WITHIN = 10, timedelta(minutes=1)
"""Wrong passwords that one client may send for one user, and in what time."""
TRIES_IN_ALL, AT_ONCE = 60, 4
"""Those that one client may send for all users, and how many of its passwords are verified at one time.

Verifying takes long, so that others wait for that.
"""
_WATCHED = 10_000
"""Clients and users; verifying takes so long that there are not as many within the time."""

Guesser = tuple[str, str | None]
"""A client, and the user that it says it is; None for all of them."""


class Guesses:
    """The wrong passwords of the last minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wrong: dict[Guesser, list[datetime]] = {}
        """Those whose last one is the oldest first."""
        self._turns: WeakValueDictionary[Guesser, asyncio.Lock] = WeakValueDictionary()
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def counted(self, client: str, user: str) -> AsyncIterator[int]:
        """Let a client try a password, one at a time; gives how many it may try, this one included.

        One that is wrong ends in `NotAuthenticated`. Raises `TooMany` when there were too many of these.
        """
        guesser = client, user
        # One by one, so that each knows of those before it: however many come at once, so many are verified.
        async with self._turns.setdefault(guesser, asyncio.Lock()):
            before = self._check(guesser, TRIES, "this user")
            with self._noted(guesser):
                yield TRIES - before
            self._wrong.pop(guesser, None)

    @asynccontextmanager
    async def verifying(self, client: str) -> AsyncIterator[None]:
        """Let a client have a password verified, for whichever user, and few at one time.

        One that is wrong ends in `NotAuthenticated`. Raises `TooMany` when there were too many of these.
        """
        async with self._places.setdefault(client, asyncio.Semaphore(AT_ONCE)):
            self._check((client, None), TRIES_IN_ALL, "users")
            with self._noted((client, None)):
                yield

    def _check(self, guesser: Guesser, most: int, whose: str) -> int:
        """Return how many were wrong lately. Raises `TooMany` when there may be no more."""
        recent = self._recent(guesser)
        if len(recent) >= most:
            wait = int((recent[0] + WITHIN - self._clock.now()).total_seconds()) + 1
            raise TooMany(f"too many wrong passwords for {whose}: try again in {wait} s", wait)
        return len(recent)

    @contextmanager
    def _noted(self, guesser: Guesser) -> Iterator[None]:
        try:
            yield
        except NotAuthenticated:
            recent = self._recent(guesser)
            self._wrong.pop(guesser, None)
            self._wrong[guesser] = [*recent, self._clock.now()]
            self._forget()
            raise

    def _recent(self, guesser: Guesser) -> list[datetime]:
        now = self._clock.now()
        return [time for time in self._wrong.get(guesser, ()) if now - time < WITHIN]

    def _forget(self) -> None:
        """Let go of those that count no longer."""
        while first := next(iter(self._wrong), None):
            if self._recent(first) and len(self._wrong) <= _WATCHED:
                return
            del self._wrong[first]
