"""The durable event store of several nodes, in one PostgreSQL database.

Each node has a committer of its own. It sends all appends that are waiting in one round trip; the database
takes them one batch after the other (`append` in the migrations) and tells all nodes that there is more.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any, Self, TypeVar, cast

import msgspec

from . import _failpoints as failpoint
from ._chain import (
    EMPTY,
    Append,
    Outcome,
    Row,
    Tip,
    erasure,
    gaps_between,
    gaps_digest,
    known_or_refused,
    prepare,
    prunable,
    pruning,
)
from ._committing import Committer
from ._database import (
    LONG,
    LOST,
    PATIENCE,
    Connection,
    check_migrated,
    check_whole,
    connect,
    mark,
    migrate,
    pooled,
    translated,
    version_of,
)
from ._errors import EventStoreError, StoreClosed, StoreUnavailable, StreamNotFound, TermPassed
from ._following import Following
from ._postgres_rows import record_of, recorded, row_of, to_send, without_repetition
from ._types import NO_METADATA, Committed, Head, Metadata, NewEvent, Pruned, RecordedEvent, to_microseconds
from .addresses import named

R = TypeVar("R")
Change = Callable[[Connection], Awaitable[tuple[int, R]]]
"""What is done to the log: returns how many events it has brought, and what came of it."""

_HEARTBEAT = 2.0
"""Seconds between looks at whether the connection that hears of new events is still one."""
_PAUSE = 0.2
_CHANNEL = "uwsd_log"

_EVENT = "SELECT * FROM event WHERE "
_STREAM = _EVENT + "stream = $1 AND version > $2 ORDER BY version"
_ONE_BY_ID = _EVENT + "id = $1"
_BY_ID = _EVENT + "id = ANY ($1)"
_ALL = _EVENT + "position > $1 ORDER BY position LIMIT $2"
_AT = _EVENT + "position = ANY ($1) ORDER BY position"
_HEAD = "SELECT position, hash FROM event ORDER BY position DESC LIMIT 1"
_TIP = "SELECT version, time FROM event WHERE stream = $1 ORDER BY version DESC LIMIT 1"
_ANCHORS = "SELECT position, hash FROM anchor WHERE position BETWEEN $1 AND $2"
_HASHES = """
SELECT position, hash FROM event WHERE position = ANY ($1)
UNION ALL SELECT position, hash FROM anchor WHERE position = ANY ($1)
"""
_SIZE = "SELECT pg_total_relation_size('event') + pg_total_relation_size('anchor')"
_APPEND = "SELECT * FROM append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_ERASE = "UPDATE event SET salt = '', metadata = '', data = '' WHERE stream = $1 AND left(type, 1) <> '$'"
_LAST_PRUNING = """
SELECT data FROM event WHERE stream = '$log' AND type = '$pruned' ORDER BY version DESC LIMIT 1
"""
_FIND_ENDED = """
CREATE TEMP TABLE doomed ON COMMIT DROP AS
SELECT position FROM event WHERE stream IN (
    SELECT last.stream FROM event AS last
    WHERE last.position <= $1 AND last.type = ANY ($2) AND last.stream <> '$log'
    AND NOT EXISTS (SELECT FROM event WHERE stream = last.stream AND version > last.version)
)
"""
_KEPT = "SELECT position FROM event WHERE position <= $1 AND position NOT IN (TABLE doomed) ORDER BY position"
_PRUNE = (
    """INSERT INTO anchor SELECT position, hash FROM event
       WHERE position IN (TABLE doomed) AND position + 1 NOT IN (TABLE doomed)""",
    "DELETE FROM event WHERE position IN (TABLE doomed)",
    "DELETE FROM anchor WHERE NOT EXISTS (SELECT FROM event WHERE event.position = anchor.position + 1)",
)


class PostgresEventLog(Following):
    """A log that is only read, beside the nodes that write it. Make one with `read`.

    It has the part of the `EventStore` contract that reads, and hears of what others append.
    """

    def __init__(self, url: str, pool: Any) -> None:
        super().__init__()
        self._url, self._pool = url, pool
        self._listener = asyncio.create_task(self._listen(), name=f"listener of {id(self):x}")

    @classmethod
    async def read(cls, url: str) -> Self:
        """Open the log at ``url``. Raises `StoreUnavailable` when there is none, or not all of one."""
        with translated(named(url)):
            async with AsyncExitStack() as undoing:
                pool = await undoing.enter_async_context(pooled(url))
                async with pool.acquire() as connection:
                    await check_migrated(connection)
                    await check_whole(connection)
                undoing.pop_all()
        return cls(url, pool)

    @property
    def place(self) -> str:
        """See `EventLog.place`."""
        return self._url

    async def read_stream(self, stream: str, *, after: int = 0) -> tuple[RecordedEvent, ...]:
        """See `EventLog.read_stream`."""
        return await self._read(_STREAM, stream, after)

    async def read_event(self, id: str) -> RecordedEvent | None:
        """See `EventLog.read_event`."""
        return next(iter(await self._read(_ONE_BY_ID, id)), None)

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]:
        """See `EventLog.read_all`."""
        return await self._read(_ALL, after, limit)

    async def positions(self, stream: str) -> list[int]:
        """See `EventLog.positions`."""
        found = await self._fetch("SELECT position FROM event WHERE stream = $1 ORDER BY version", stream)
        return [position for (position,) in found]

    async def read_at(self, positions: Sequence[int]) -> tuple[RecordedEvent, ...]:
        """See `EventLog.read_at`."""
        return await self._read(_AT, positions)

    async def hashes_at(self, positions: Sequence[int]) -> dict[int, bytes]:
        """See `EventLog.hashes_at`."""
        return {EMPTY.position: EMPTY.hash, **dict(await self._fetch(_HASHES, positions))}

    async def head(self) -> Head:
        """See `EventLog.head`."""
        found = await self._fetch(_HEAD)
        return Head(*found[0]) if found else EMPTY

    async def time(self) -> datetime:
        """Return the time by the database's clock."""
        ((time,),) = await self._fetch("SELECT clock_timestamp()")
        return cast(datetime, time)

    async def close(self) -> None:
        """Release the connections. May be called twice."""
        self._closed = True
        self._wake()
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def _page(self, after: int, limit: int) -> tuple[Sequence[Row], Mapping[int, bytes]]:
        async with self._acquired() as connection, connection.transaction(isolation="repeatable_read"):
            rows = [row_of(found) for found in await connection.fetch(_ALL, after, limit)]
            last = rows[-1][0] if rows else (1 << 63) - 1
            return rows, dict(await connection.fetch(_ANCHORS, after, last))

    async def _anchored(self) -> Iterable[int]:
        return [position for (position,) in await self._fetch("SELECT position FROM anchor")]

    async def _read(self, sql: str, *arguments: Any) -> tuple[RecordedEvent, ...]:
        return tuple(RecordedEvent(*found) for found in await self._fetch(sql, *arguments))

    async def _fetch(self, sql: str, *arguments: Any) -> list[Any]:
        async with self._acquired() as connection:
            found: list[Any] = await connection.fetch(sql, *arguments)
            return found

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Any]:
        if self._closed:
            raise StoreClosed
        with translated("the log cannot be read"):
            async with self._pool.acquire(timeout=PATIENCE) as connection:
                try:
                    yield connection
                except (*LOST, TimeoutError, asyncio.CancelledError):
                    connection.terminate()  # else whoever gives it back waits for it, or another is given it
                    raise

    async def _listen(self) -> None:
        """Wake who follows the log when there is more, for as long as somebody may.

        What was told while nobody listened is lost: after each pause all look for themselves.
        """
        while True:
            with suppress(StoreUnavailable), translated("nobody tells of new events"):
                connection = await connect(self._url)
                try:
                    await connection.add_listener(_CHANNEL, lambda *_: self._wake())
                    self._wake()
                    while True:
                        await asyncio.sleep(_HEARTBEAT)
                        await connection.execute("SELECT")
                finally:
                    connection.terminate()
            await asyncio.sleep(_PAUSE)


class PostgresEventStore(PostgresEventLog):
    """One of those who write a log. Make one with `open`; it belongs to the running event loop."""

    def __init__(
        self, url: str, pool: Any, *, now: Callable[[], datetime], max_waiting: int, max_batch: int
    ) -> None:
        super().__init__(url, pool)
        self._now = now
        self._writer: Any = None
        self._committer = Committer(self._commit, self._release, max_waiting=max_waiting, max_batch=max_batch)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_waiting: int = 10_000,
        max_batch: int = 512,
        to_copy: bool = False,
    ) -> Self:
        """Open the log at ``url``, in a database that exists; where there is none in it, it is made.

        ``max_waiting`` appends may wait before `Overloaded` is raised; at most ``max_batch`` are sent
        together. Raises `StoreUnavailable` when the database cannot be reached, or has a log of another form,
        or not all of one, unless it is opened ``to_copy`` what is missing.
        """
        with translated(named(url)):
            async with AsyncExitStack() as undoing:
                pool = await undoing.enter_async_context(pooled(url))
                async with pool.acquire() as connection:
                    if await version_of(connection) == 0:
                        await migrate(connection)
                    await check_migrated(connection)
                    if not to_copy:
                        await check_whole(connection)
                undoing.pop_all()
        return cls(url, pool, now=now, max_waiting=max_waiting, max_batch=max_batch)

    async def append(
        self,
        stream: str,
        events: Sequence[NewEvent],
        *,
        expected: int | None = None,
        term: int | None = None,
    ) -> tuple[RecordedEvent, ...]:
        """See `EventStore.append`. In a leader's ``term``, it raises `TermPassed` when that is over."""
        append = msgspec.structs.replace(prepare(stream, events, expected), term=term)
        if append.events:
            return await self._committer.append(append)
        tip = Tip(*next(iter(await self._fetch(_TIP, stream)), (0, 0)))
        if isinstance(refused := known_or_refused(append, tip, {}), Exception):
            raise refused
        return ()

    async def erase(
        self, stream: str, *, reason: str, metadata: Metadata = NO_METADATA, term: int | None = None
    ) -> RecordedEvent:
        """See `EventStore.erase`, and `append` for the ``term``.

        Dead rows are left to be overwritten by `settle`; what the database's own files, its write-ahead log
        and backups still have of them is the operator's.
        """
        return await self._alone(partial(self._erase, stream, reason, metadata), term)

    async def prune(
        self, through: int, *, ended_by: Collection[str], reason: str, checkpoint: str = "",
        metadata: Metadata = NO_METADATA, term: int | None = None,
    ) -> RecordedEvent:  # fmt: skip
        """See `EventStore.prune`, and `append` for the ``term``."""
        change = partial(self._prune, through, tuple(ended_by), reason, checkpoint, metadata)
        return await self._alone(change, term)

    async def settle(self) -> None:
        """See `EventStore.settle`."""
        if self._closed:
            raise StoreClosed
        with translated("what was erased cannot be overwritten"):
            connection = await connect(self._url)  # of its own: nobody who appends waits for it
            try:
                await connection.execute("VACUUM event", timeout=LONG)
            finally:
                connection.terminate()

    async def size(self) -> int:
        """See `EventStore.size`."""
        ((size,),) = await self._fetch(_SIZE)
        return int(size)

    async def check_writable(self) -> None:
        """See `EventStore.check_writable`."""
        await self._committer.check(partial(self._written, self._probe))

    async def close(self) -> None:
        """See `EventStore.close`."""
        self._closed = True
        await self._committer.close()

    async def _release(self) -> None:
        if self._writer:
            self._writer.terminate()
        await super().close()

    # What the committer does

    async def _adopt(self, rows: Sequence[Row], anchors: Mapping[int, bytes]) -> None:
        """Write events as another log has them: see `eventstore.copying`."""

        async def adopt(connection: Connection) -> tuple[int, None]:
            records = [*map(record_of, rows)]
            await connection.copy_records_to_table("event", records=records, timeout=LONG)
            await connection.copy_records_to_table("anchor", records=[*anchors.items()], timeout=LONG)
            await connection.execute("SELECT pg_notify($1, '')", _CHANNEL)
            return len(records), None

        await self._committer.do(partial(self._written, partial(_in_turn, adopt), LONG))

    async def _mark(self, *, under_way: bool) -> None:
        """Note whether a copy to this log is under way, so that nobody else takes it for whole."""

        async def note(connection: Connection) -> tuple[int, None]:
            await mark(connection, under_way=under_way)
            return 0, None

        await self._committer.do(partial(self._written, partial(_in_turn, note), LONG))

    async def _commit(self, batch: Sequence[Append]) -> Sequence[Outcome]:
        outcomes = await self._written(partial(self._append, batch))
        failpoint.reached(failpoint.BEFORE_ACKNOWLEDGE)
        return outcomes

    async def _alone(self, change: Change[RecordedEvent], term: int | None) -> RecordedEvent:
        return await self._committer.do(
            partial(self._written, partial(_in_turn, change, term=term), patience=LONG)
        )

    async def _written(self, change: Change[R], patience: float = PATIENCE) -> R:
        """Carry out a change, which can be repeated, and once more when the connection is lost meanwhile."""
        began = perf_counter()
        with translated("the log cannot be written"):
            try:
                events, done = await self._attempt(change, patience)
            except LOST:
                events, done = await self._attempt(change, patience)
        if events:
            self._tell(Committed(events, perf_counter() - began))
        return done

    async def _attempt(self, change: Change[R], patience: float) -> tuple[int, R]:
        if self._writer is None or self._writer.is_closed():
            self._writer = await connect(self._url)
        try:
            async with asyncio.timeout(patience):
                return await change(self._writer)
        except (*LOST, TimeoutError, asyncio.CancelledError):
            self._writer.terminate()
            raise

    async def _append(self, batch: Sequence[Append], connection: Connection) -> tuple[int, list[Outcome]]:
        failpoint.reached(failpoint.BEFORE_WRITE)
        events, outcomes = 0, list[Outcome]()
        for part in without_repetition(batch):
            rows = [*to_send(part)]
            found = await connection.fetch(
                _APPEND, to_microseconds(self._now()), *zip(*rows, strict=True), timeout=LONG
            )
            failpoint.reached(failpoint.AFTER_COMMIT)
            known = await self._known(part, found, connection)
            proofs = iter([(salt, digest) for *_, salt, _, digest in rows])
            for append, there in zip(part, found, strict=True):
                proved = [*islice(proofs, len(append.events))]
                refused = (
                    TermPassed()
                    if there["passed"]
                    else known_or_refused(append, Tip(there["tip"], there["time"]), known)
                )
                outcomes.append(refused or recorded(append, there, proved))
                events += len(there["hashes"])
        return events, outcomes

    async def _known(
        self, batch: Sequence[Append], found: Sequence[Mapping[str, Any]], connection: Connection
    ) -> dict[str, RecordedEvent]:
        """Return what is recorded under those ids of a batch that were there before."""
        ids = [
            event.id for append, there in zip(batch, found, strict=True) if there["known"]
            for event in append.events
        ]  # fmt: skip
        rows = await connection.fetch(_BY_ID, ids) if ids else ()
        return {event.id: event for event in (RecordedEvent(*row) for row in rows)}

    async def _append_one(self, append: Append, connection: Connection) -> tuple[int, RecordedEvent]:
        events, (outcome,) = await self._append([append], connection)
        if isinstance(outcome, EventStoreError):
            raise outcome
        return events, outcome[0]

    async def _erase(
        self, stream: str, reason: str, metadata: Metadata, connection: Connection
    ) -> tuple[int, RecordedEvent]:
        tip = await connection.fetchrow(_TIP, stream)
        if tip is None:
            raise StreamNotFound(stream)
        await connection.execute(_ERASE, stream, timeout=LONG)
        return await self._append_one(erasure(stream, Tip(*tip), reason, metadata), connection)

    async def _prune(
        self, through: int, ended_by: Collection[str], reason: str, checkpoint: str, metadata: Metadata,
        connection: Connection,
    ) -> tuple[int, RecordedEvent]:  # fmt: skip
        there = dict(await connection.fetch(_HASHES, [through])).get(through)
        before = await connection.fetchrow(_LAST_PRUNING)
        hash_ = prunable(through, there, before and (before["data"],))
        await connection.execute(_FIND_ENDED, through, ended_by, timeout=LONG)
        kept = await connection.fetch(_KEPT, through, timeout=LONG)
        gaps = gaps_digest(gaps_between((position for (position,) in kept), through))
        note = Pruned(through=through, hash=hash_, gaps=gaps, reason=reason, checkpoint=checkpoint)
        # First, so that there is always an event after what goes.
        done = await self._append_one(pruning(note, metadata), connection)
        for statement in _PRUNE:
            await connection.execute(statement, timeout=LONG)
        return done

    async def _probe(self, connection: Connection) -> tuple[int, None]:
        """Write something of no effect through to the disk."""
        await connection.execute("UPDATE migration SET number = number")
        return 0, None


async def _in_turn(change: Change[R], connection: Connection, term: int | None = None) -> tuple[int, R]:
    async with connection.transaction():
        await connection.execute("SELECT take_turn()", timeout=LONG)
        if await connection.fetchval("SELECT has_passed($1)", term):
            raise TermPassed
        return await change(connection)
