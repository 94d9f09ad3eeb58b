"""The nodes that share a log in PostgreSQL: who is there, and who does what only one may do.

A node is there as long as its beats in the database go on, and says with each how long after it that is over.
Each watches the beats of the others by its own clock, so that nobody's need be right; what it has seen counts
for nothing after it was cut off itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, Never, cast

from ._database import Connection, check_migrated, connect, translated
from ._errors import StoreUnavailable
from ._types import EventStore
from .addresses import named
from .membership import MOST_OFF, ClockOff, Duties, Member, NameTaken, NodeId, StillThere, UnknownNode

_log = logging.getLogger(__name__)

_LEASED = 0.75
"""The part of the time after which a node is gone for which it may go on without being heard of."""
_BEATS = 15
"""Beats in that time, at least."""
_SLOWEST = 2.0
"""Seconds between beats, at most."""
_PAUSE = 0.5
_UNHEARD = "the other nodes cannot be heard of"


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clocks(NamedTuple):
    """How a node takes the time, in seconds."""

    watched: Callable[[], float] = time.monotonic
    """In which others are watched: it stands still with the machine: they may have, too."""
    leased: Callable[[], float] = _uptime
    """In which this node counts as there: it goes on while the machine stands still, as others do."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    """In which what a leader does is due. It has to be right."""


_REAL = Clocks()


class OneOfSeveral:
    """A node of several, in PostgreSQL. Make one with `joined`.

    ``leased`` is told until when, in seconds of CLOCK_BOOTTIME, this node counts as there whatever happens.
    """

    _staying: asyncio.Task[None]

    def __init__(
        self,
        store: EventStore,
        node: NodeId,
        gone_after: float,
        leased: Callable[[float], None],
        clocks: Clocks,
    ) -> None:
        self._store, self._node, self._gone_after, self._leased = store, node, gone_after, leased
        self._clocks, self._every = clocks, min(_SLOWEST, gone_after / _BEATS)
        self.name: str | None = node.name
        self.key: bytes = b""
        self.cut_off: str | None = None
        """See `Membership.cut_off`."""
        self._urls: dict[str, str] = {}
        self._gone_afters: dict[str, float] = {}
        """After how many seconds a node is gone that has said so."""
        self._watched: dict[str, tuple[int, float]] = {}
        """The last beat of each node, and when it was seen to come."""
        self._since: float | None = None
        """Since when this has watched without a break."""
        self._looked = 0.0
        """When it did last: what comes after that it cannot know yet."""
        self._leased_until = 0.0
        self._ahead = timedelta()
        """How far this node's clock was ahead of the database's."""
        self._clock_off: ClockOff | None = None
        self._term: int | None = None
        self._taken: NameTaken | None = None
        self._news = asyncio.Event()
        """Set, and replaced, when any of this has changed."""

    @property
    def leads(self) -> bool:
        """See `Membership.leads`."""
        return self._term is not None

    def is_gone(self, name: str | None) -> bool:
        """See `Membership.is_gone`. One that this has never seen is gone, too."""
        if name == self.name or name is None or self._since is None:
            return False
        _, heard = self._watched.get(name, (0, self._since))
        return self._looked - max(heard, self._since) > self._gone_afters.get(name, self._gone_after)

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
        while self._taken or self._clocks.leased() >= self._leased_until:
            await self._news.wait()

    async def looked(self) -> None:
        """See `Membership.looked`."""
        asked = self._clocks.watched()
        while self._since is not None and self._looked <= asked:
            await self._news.wait()

    async def displaced(self) -> NameTaken:
        """See `Membership.displaced`."""
        while self._taken is None:
            await self._news.wait()
        return self._taken

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
            if (term := self._term) is None:
                await self._news.wait()
                continue
            _log.info("node %s leads, in term %s", self.name, term)
            try:
                async with duties(cast(EventStore, _Leaders(self._store, term, self._check_clock))):
                    while self._term == term:
                        await self._news.wait()
            except StoreUnavailable as error:
                _log.warning("what the leader does cannot be done: %s; trying again", error)
                await self._clocks.sleep(_PAUSE)
            except Exception:
                _log.exception("what the leader does cannot be done; trying again")
                await self._clocks.sleep(_PAUSE)

    # Being there

    async def begin(self) -> None:
        """Take the name, and keep it until `end`.

        Raises `NameTaken`, `ClockOff`, `StoreUnavailable`.
        """
        await self._check_clock()
        connection = await self._connected()
        try:
            with translated(_UNHEARD):
                self.key = await connection.fetchval("SELECT key FROM secret")
            await self._beat(connection)
        except BaseException:
            connection.terminate()
            raise
        self._staying = asyncio.create_task(self._stay(connection), name=f"node {self.name}")

    async def end(self) -> None:
        """Be heard of no more."""
        self._staying.cancel()
        await asyncio.gather(self._staying, return_exceptions=True)

    async def leave(self) -> None:
        """See `Membership.leave`."""
        await self.end()
        connection = await self._connected()
        try:
            with translated(_UNHEARD):
                await connection.execute(_LEAVE, self._node.name, self._node.identity)
        finally:
            connection.terminate()

    async def _connected(self) -> Connection:
        with translated(_UNHEARD):
            return await connect(str(self._store.place))

    async def _stay(self, connection: Connection) -> None:
        """Be there, and lead when nobody else does, until another has the name."""
        # On two connections: who waits for his turn to lead is there, too.
        striving = asyncio.create_task(
            self._keep(self._strive, self._lead_no_more, "leads no more"), name=f"node {self.name}: striving"
        )
        try:
            await self._keep(self._beat_and_look, self._lose_sight, "is cut off", connection)
        except NameTaken as error:
            _log.error("%s", error)
            self._taken = error
            self._tell()
        finally:
            striving.cancel()
            await asyncio.gather(striving, return_exceptions=True)

    async def _keep(
        self,
        doing: Callable[[Connection], Awaitable[Never]],
        undo: Callable[[str], None],
        what: str,
        connection: Connection = None,
    ) -> Never:
        """Keep ``doing`` something on connections that come and go, and ``undo`` it when one goes.

        ``undo`` is told why. That is logged once, until the others hear of this one again.

        Raises `NameTaken`, which is final, and nothing else.
        """
        while True:
            why = ""
            try:
                connection = connection or await self._connected()
                await doing(connection)
            except NameTaken:
                raise
            except StoreUnavailable as error:
                why = str(error)
                if connection and self.cut_off is None:
                    _log.warning("node %s %s: %s; trying again", self.name, what, error)
            except Exception as error:
                why = str(error)
                _log.exception("node %s %s; trying again", self.name, what)
            finally:
                if connection:
                    connection.terminate()
                    undo(why)
            connection = None
            await self._clocks.sleep(_PAUSE)

    async def _beat_and_look(self, connection: Connection) -> Never:
        while True:
            with translated(_UNHEARD):
                await self._compare(connection.fetchval("SELECT clock_timestamp()"))
            await self._beat(connection)
            await self._look(connection)
            await self._clocks.sleep(self._every)

    async def _check_clock(self) -> None:
        """Hold this node's clock against the database's. Raises `ClockOff`, `StoreUnavailable`."""
        await self._compare(cast(Any, self._store).time())
        if self._clock_off:
            raise self._clock_off

    async def _compare(self, told: Awaitable[datetime]) -> None:
        before = self._clocks.wall()
        there = await told
        after = self._clocks.wall()
        # However long that took: it is right as long as the other time is one between these.
        self._ahead = max(before - there, min(after - there, timedelta()))
        is_off = abs(self._ahead.total_seconds()) > MOST_OFF
        self._clock_off = ClockOff(after, there) if is_off else None

    async def _beat(self, connection: Connection) -> None:
        began, gone_after = self._clocks.leased(), timedelta(seconds=self._gone_after)
        with translated(_UNHEARD):
            is_first = not self._leased_until
            if not await connection.fetchval(_BEAT, *self._node, gone_after, self._ahead, is_first):
                seconds, _ = await connection.fetchrow(_SINCE, self._node.name)
                raise NameTaken(self._node.name, float(seconds))
        self._leased_until = began + _LEASED * self._gone_after
        self.cut_off = None
        self._tell()
        try:
            self._leased(self._leased_until)
        except Exception as error:
            _log.error("what node %s runs cannot be told that it is there: %s", self.name, error)

    async def _look(self, connection: Connection) -> None:
        began = self._clocks.watched()
        with translated(_UNHEARD):
            found = await connection.fetch("SELECT name, beats, url, gone_after FROM node")
        self._looked, now = began, self._clocks.watched()
        there = {name: beats for name, beats, *_ in found}
        self._urls = {name: url for name, _, url, _ in found}
        self._gone_afters = {name: after.total_seconds() for name, *_, after in found if after is not None}
        self._since = now if self._since is None else self._since
        before = self._watched
        self._watched = {
            name: before[name] if name in before and before[name][0] == beats else (beats, now)
            for name, beats in there.items()
        }
        self._tell()

    def _lose_sight(self, why: str) -> None:
        self._since, self.cut_off = None, why
        self._watched.clear()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # Leading

    async def _strive(self, connection: Connection) -> Never:
        """Lead as soon as nobody else does, for as long as the connection lasts and the clock is right."""
        while True:
            await self.there()  # by a name that is this node's own
            if self._clock_off:
                _log.error("node %s does not lead: %s", self.name, self._clock_off)
                while self._clock_off:
                    await self._news.wait()
                _log.info("node %s may lead: its clock is right again", self.name)
            with translated("the others are led by nobody"):
                self._term = await connection.fetchval("SELECT lead($1)", self.name)
                if self._term is None:
                    await self._depose(connection)
            self._tell()
            while self._term is not None:
                await self._clocks.sleep(self._every)
                if self._clock_off:
                    raise self._clock_off
                with translated("the database has ended it"):
                    await connection.execute("SELECT")
            await self._clocks.sleep(self._every)

    async def _depose(self, connection: Connection) -> None:
        """End the connection of a leader that is gone: it was stopped, or is cut off behind something."""
        number, node = await connection.fetchrow("SELECT number, node FROM term")
        if self.is_gone(node) or node == self.name:  # by that name an earlier server leads, which cannot
            await connection.execute(_DEPOSE, number)

    def _lead_no_more(self, why: str) -> None:
        self._term = None
        self._tell()


@asynccontextmanager
async def joined(
    store: EventStore,
    node: NodeId,
    *,
    gone_after: float,
    leased: Callable[[float], None],
    clocks: Clocks = _REAL,
) -> AsyncIterator[OneOfSeveral]:
    """Be a node of several that share a log in PostgreSQL, while the context lasts.

    It is gone for the others when it was not heard of for ``gone_after`` seconds. Raises `NameTaken`,
    `ClockOff`, `StoreUnavailable`.
    """
    member = OneOfSeveral(store, node, gone_after, leased, clocks)
    await member.begin()
    try:
        yield member
    finally:
        await member.end()


async def members(url: str) -> list[Member]:
    """Return the nodes of a log that there are or were, by name. Raises `StoreUnavailable`."""
    async with _asking(url) as connection:
        return [Member(*found) for found in await connection.fetch(_MEMBERS)]


async def forget(url: str, name: str, *, gone_after: float) -> None:
    """Make it so that there never was a node of this name.

    Raises `UnknownNode`, `StillThere` where it was heard of lately, and `StoreUnavailable`. One that does not
    say when it is gone is so after ``gone_after`` seconds.
    """
    async with _asking(url) as connection:
        if not await connection.fetchval(_FORGET, name, timedelta(seconds=gone_after)):
            if (found := await connection.fetchrow(_SINCE, name)) is None:
                raise UnknownNode(name)
            seconds, after = found
            raise StillThere(name, float(seconds), after.total_seconds() if after else gone_after)


@asynccontextmanager
async def _asking(url: str) -> AsyncIterator[Connection]:
    with translated(named(url)):
        connection = await connect(url)
        try:
            await check_migrated(connection)
            yield connection
        finally:
            connection.terminate()


class _Leaders:
    """The store of a node as long as it leads: what it wants written is refused once another leads.

    So it is when its clock is not right, by which it was due: before it is written, that is ``checked``. All
    else is as in the store itself, which stays open.
    """

    def __init__(self, store: Any, term: int, checked: Callable[[], Awaitable[None]]) -> None:
        self._store, self._checked = store, checked
        self.append = partial(self._written, store.append, term=term)
        self.erase = partial(self._written, store.erase, term=term)
        self.prune = partial(self._written, store.prune, term=term)

    async def _written(self, write: Callable[..., Awaitable[Any]], *what: Any, **how: Any) -> Any:
        await self._checked()
        return await write(*what, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


_BEAT = """
INSERT INTO node (name, identity, url, program, gone_after, ahead) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name) DO UPDATE
SET identity = $2, url = $3, program = $4, beats = node.beats + 1, seen = clock_timestamp(),
    ahead = $6, stopped = false,
    gone_after = CASE WHEN $7 THEN greatest(node.gone_after, $5) ELSE $5 END
WHERE node.identity = $2 OR node.stopped OR node.seen < clock_timestamp() - coalesce(node.gone_after, $5)
RETURNING true
"""
"""Of the first beat of a server it is told: leases may still be on as its earlier one has given them."""
_SINCE = "SELECT extract(epoch FROM clock_timestamp() - seen), gone_after FROM node WHERE name = $1"
_DEPOSE = "SELECT pg_terminate_backend(leaders_process()) FROM term WHERE number = $1"
_MEMBERS = """
SELECT name, seen, url, program,
    name = (SELECT node FROM term) AND leaders_process() IS NOT NULL,
    extract(epoch FROM ahead)::float8, stopped
FROM node ORDER BY name
"""
_LEAVE = "UPDATE node SET stopped = true, seen = clock_timestamp() WHERE name = $1 AND identity = $2"
_FORGET = """
DELETE FROM node WHERE name = $1 AND (stopped OR seen < clock_timestamp() - coalesce(gone_after, $2))
RETURNING true
"""
