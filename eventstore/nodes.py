"""The nodes that share a log in PostgreSQL: who is there, and who does what only one may do.

A node is there as long as its beats in the database go on. Each watches the beats of the others by its own
clock, so that nobody's need be right; what it has seen counts for nothing after it was cut off itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, cast

from ._database import Connection, check_migrated, connect, translated
from ._errors import EventStoreError, StoreUnavailable
from ._types import EventStore
from .addresses import named
from .membership import Duties, Member, NameTaken, NodeId

log = logging.getLogger(__name__)

_LEASED = 0.75
"""The part of the time after which a node is gone for which it may go on without being heard of."""
_BEATS = 15
"""Beats in that time, at least."""
_SLOWEST = 2.0
"""Seconds between beats, at most."""
_PAUSE = 0.5
_UNHEARD = "the other nodes cannot be heard of"
_LEADING = 8603146279045310003


class OneOfSeveral:
    """A node of several, in PostgreSQL. Make one with `joined`.

    ``leased`` is told until when, in seconds of CLOCK_BOOTTIME, this node counts as there whatever happens.
    """

    def __init__(
        self, store: EventStore, node: NodeId, gone_after: float, leased: Callable[[float], None]
    ) -> None:
        self._store, self._node, self._gone_after, self._leased = store, node, gone_after, leased
        self.name: str | None = node.name
        self.key = b""
        self._urls: dict[str, str] = {}
        self._watched: dict[str, tuple[int, float]] = {}
        """The last beat of each node, and when it was seen to come."""
        self._since: float | None = None
        """Since when this has watched without a break."""
        self._looked = 0.0
        """When it did last: what comes after that it cannot know yet."""
        self._leased_until = 0.0
        self._news = asyncio.Event()
        """Set, and replaced, when it was heard of, has looked, or is cut off."""
        self._term: int | None = None
        self._changed = asyncio.Event()
        """Set when a term begins or ends."""

    @property
    def leads(self) -> bool:
        """See `Membership.leads`."""
        return self._term is not None

    def is_gone(self, name: str | None) -> bool:
        """See `Membership.is_gone`. One that this has never seen is gone, too."""
        if name == self.name or name is None or self._since is None:
            return False
        _, heard = self._watched.get(name, (0, self._since))
        return self._looked - max(heard, self._since) > self._gone_after

    @property
    def others(self) -> Collection[str]:
        """See `Membership.others`."""
        return self._urls.keys() - {self.name}

    async def url_of(self, name: str) -> str | None:
        """See `Membership.url_of`. Of one that has come just now, it is known when this has looked again."""
        if name not in self._urls:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * _SLOWEST):
                    await self.looked()
        return self._urls.get(name)

    async def there(self) -> None:
        """See `Membership.there`."""
        while _uptime() >= self._leased_until:
            await self._news.wait()

    async def looked(self) -> None:
        """See `Membership.looked`."""
        asked = time.monotonic()
        while self._since is not None and self._looked <= asked:
            await self._news.wait()

    @asynccontextmanager
    async def leading(self, duties: Duties) -> AsyncIterator[None]:
        """See `Membership.leading`."""
        task = asyncio.create_task(self._lead(duties), name=f"{self.name}: leading")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _lead(self, duties: Duties) -> None:
        while True:
            self._changed.clear()
            if (term := self._term) is None:
                await self._changed.wait()
                continue
            log.info("node %s leads, in term %s", self.name, term)
            try:
                async with duties(cast(EventStore, _Leaders(self._store, term))):
                    while self._term == term:
                        await self._changed.wait()
                        self._changed.clear()
            except Exception:
                log.exception("what the leader does cannot be done; trying again")
                await asyncio.sleep(_PAUSE)

    # Being there

    async def begin(self) -> asyncio.Task[None]:
        """Take the name, and return the task that keeps it. Raises `NameTaken`, `StoreUnavailable`."""
        connection = await self._connected()
        try:
            await self._beat(connection)
            with translated(_UNHEARD):
                self.key = await connection.fetchval("SELECT key FROM secret")
        except BaseException:
            connection.terminate()
            raise
        return asyncio.create_task(self._stay(connection), name=f"node {self.name}")

    async def _connected(self) -> Connection:
        with translated(_UNHEARD):
            return await connect(str(self._store.place))

    async def _stay(self, connection: Connection) -> None:
        """Beat for as long as this node is there, on connections that come and go."""
        every = min(_SLOWEST, self._gone_after / _BEATS)
        while True:
            try:
                with translated(_UNHEARD):
                    while True:
                        await self._look(connection)
                        await self._try_to_lead(connection)
                        await asyncio.sleep(every)
                        await self._beat(connection)
            except EventStoreError as error:
                what = ", and leads no more" * self.leads
                log.warning("node %s is cut off%s: %s; trying again", self.name, what, error)
            finally:
                connection.terminate()
                self._since = self._term = None
                self._watched.clear()
                self._changed.set()
                self._tell()
            while True:
                await asyncio.sleep(_PAUSE)
                with suppress(StoreUnavailable):
                    connection = await self._connected()
                    break

    async def _beat(self, connection: Connection) -> None:
        began = _uptime()
        with translated(_UNHEARD):
            if not await connection.fetchval(_BEAT, *self._node, self._gone_after):
                seconds = await connection.fetchval(_SINCE, self._node.name)
                raise NameTaken(self._node.name, float(seconds))
        self._leased_until = began + _LEASED * self._gone_after
        self._leased(self._leased_until)
        self._tell()

    async def _look(self, connection: Connection) -> None:
        began = time.monotonic()
        found = await connection.fetch("SELECT name, beats, url FROM node")
        self._looked, now = began, time.monotonic()
        there = {name: beats for name, beats, _ in found}
        self._urls = {name: url for name, _, url in found}
        self._since = now if self._since is None else self._since
        before = self._watched
        self._watched = {
            name: before[name] if name in before and before[name][0] == beats else (beats, now)
            for name, beats in there.items()
        }
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _try_to_lead(self, connection: Connection) -> None:
        """Lead from now on if nobody else does. The lock is held as long as the connection."""
        if self._term is not None:
            return
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LEADING):
            # Its connection may be there when itself is not: it was stopped, or cut off behind something.
            if self.is_gone(await connection.fetchval("SELECT node FROM term")):
                await connection.execute(_DEPOSE, _LEADING)
        else:
            async with connection.transaction():
                await connection.execute("SELECT take_turn()")  # nothing of an earlier term comes after this
                self._term = await connection.fetchval(_BEGIN_TERM, self.name)
            self._changed.set()


@asynccontextmanager
async def joined(
    store: EventStore, node: NodeId, *, gone_after: float, leased: Callable[[float], None]
) -> AsyncIterator[OneOfSeveral]:
    """Be a node of several that share a log in PostgreSQL, while the context lasts.

    It is gone for the others when it was not heard of for ``gone_after`` seconds. Raises `NameTaken`,
    `StoreUnavailable`.
    """
    member = OneOfSeveral(store, node, gone_after, leased)
    task = await member.begin()
    try:
        yield member
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def members(url: str) -> list[Member]:
    """Return the nodes of a log that there are or were, by name. Raises `StoreUnavailable`."""
    with translated(named(url)):
        connection = await connect(url)
        try:
            await check_migrated(connection)
            return [Member(*found) for found in await connection.fetch(_MEMBERS, _LEADING)]
        finally:
            connection.terminate()


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Leaders:
    """The store of a node as long as it leads: what it wants written is refused once another leads.

    All else is as in the store itself, which stays open.
    """

    def __init__(self, store: Any, term: int) -> None:
        self._store = store
        self.append = partial(store.append, term=term)
        self.erase = partial(store.erase, term=term)
        self.prune = partial(store.prune, term=term)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


_BEAT = """
INSERT INTO node (name, identity, url, program) VALUES ($1, $2, $3, $4)
ON CONFLICT (name) DO UPDATE
SET identity = $2, url = $3, program = $4, beats = node.beats + 1, seen = clock_timestamp()
WHERE node.identity = $2 OR node.seen < clock_timestamp() - make_interval(secs => $5)
RETURNING true
"""
_SINCE = "SELECT extract(epoch FROM clock_timestamp() - seen) FROM node WHERE name = $1"
_BEGIN_TERM = "UPDATE term SET number = number + 1, node = $1 RETURNING number"
_DEPOSE = "SELECT pg_terminate_backend(leaders_process($1))"
_MEMBERS = """
SELECT name, seen, url, program,
    name = (SELECT node FROM term) AND leaders_process($1) IS NOT NULL
FROM node ORDER BY name
"""
