"""Who waits for jobs: so many of one owner at one time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from uws.access.clients import network_of
from uws.commands import Caller
from uws.model import TooMany

WAITS_PER_OWNER = 200
"""Requests of one user that wait at one time; of one address where nobody is known."""
_AGAIN = 5
"""Seconds after which who waits for too much may ask again."""

Client = tuple[str | None, str]
"""Who is counted: a user, or an address."""
_Waiting = dict[asyncio.Task[None], web.Request]


class Waits:
    """The requests of an application that wait for a job."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: defaultdict[Client, _Waiting] = defaultdict(dict)

    @contextmanager
    def counted(self, request: web.Request, caller: Caller) -> Iterator[None]:
        """Let a request wait. Raises `TooMany` when its owner has as many that do as may."""
        owner = client_of(caller)
        waiting = self._waiting[owner]
        if len(waiting) >= self._most and self._dismiss(waiting) >= self._most:
            whose = caller.user or "this address"
            raise TooMany(f"{self._most} requests of {whose} wait for jobs, which is as many as may", _AGAIN)
        task = request.task
        waiting[task] = request
        try:
            yield
        finally:
            del waiting[task]
            if not waiting and self._waiting.get(owner) is waiting:
                del self._waiting[owner]

    def _dismiss(self, waiting: _Waiting) -> int:
        """Let those end whose clients have gone, which is noticed here, or when they are answered.

        Returns how many are left.
        """
        gone = [task for task, request in waiting.items() if request.transport is None]
        for task in gone:
            task.cancel()
        return len(waiting) - len(gone)


def client_of(caller: Caller) -> Client:
    """Return whom a request counts for: the user, or the client that is nobody in particular."""
    return caller.user, network_of(caller.address) if caller.user is None else ""
