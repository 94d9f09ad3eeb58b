"""The projector: follows the log and keeps the read models in ``projections.db``.

The file holds nothing that is not in the log; it may be deleted whenever the server is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import aiosqlite

from eventstore import EventStore, Pruned, RecordedEvent, StoreUnavailable

log = logging.getLogger(__name__)

_CHECKPOINTS = """
CREATE TABLE IF NOT EXISTS checkpoint (
    name TEXT PRIMARY KEY, version INTEGER NOT NULL, position INTEGER NOT NULL
) STRICT
"""
_READ_CHECKPOINT = "SELECT version, position FROM checkpoint WHERE name = ?"
_SET_CHECKPOINT = """
INSERT INTO checkpoint (name, version, position) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, position = excluded.position
"""


class ReadModel(Protocol):
    """Tables folded from events. A changed ``version`` makes them anew from the whole log."""

    name: str
    version: int
    schema: str
    """SQL that drops what there is and creates the tables, empty."""

    async def apply(self, events: Sequence[RecordedEvent], connection: aiosqlite.Connection) -> None:
        """Fold ``events`` into the tables, within the caller's transaction."""
        ...


class Behind(StoreUnavailable):
    """The read models have not reached the asked-for position in time."""


class Projector:
    """Folds events into read models, rows and checkpoint in one transaction. Make one with `open`.

    When a read model fails, it is tried again every ``retry_seconds``.
    """

    retry_seconds = 1.0

    def __init__(
        self, store: EventStore, writer: aiosqlite.Connection, reader: aiosqlite.Connection,
        models: Sequence[ReadModel], position: int, began: int,
    ) -> None:  # fmt: skip
        self._store, self._writer, self._models = store, writer, models
        self.reader = reader
        """A connection for queries; it sees whole batches only."""
        self.position = position
        """All events up to this one are in the read models."""
        self._began = began
        """Where the log ended when folding began. Prunings up to there have left nothing half known."""
        self._failure: BaseException | None = None
        self._advanced = asyncio.Event()
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._folding: asyncio.Future[None] | None = None
        self._alone = asyncio.Lock()
        self._task = asyncio.create_task(self._follow(), name="projector")

    @classmethod
    async def open(cls, path: Path, store: EventStore, models: Sequence[ReadModel]) -> Projector:
        """Open or create the read models' file and begin to follow the log.

        Raises `StoreUnavailable` when the file cannot be used; deleting it is then safe.
        """
        try:
            path.touch(mode=0o600)
            async with AsyncExitStack() as undoing:
                writer = await undoing.enter_async_context(aiosqlite.connect(path, isolation_level=None))
                await writer.execute("PRAGMA journal_mode = WAL")
                # Lost rows come back from the log, so a commit need not wait for the disk.
                await writer.execute("PRAGMA synchronous = NORMAL")
                await writer.execute("PRAGMA secure_delete = ON")
                head = (await store.head()).position
                position = await _prepare(writer, models, head)
                reader = await undoing.enter_async_context(aiosqlite.connect(path, isolation_level=None))
                await reader.execute("PRAGMA wal_autocheckpoint = 0")
                await reader.execute("PRAGMA query_only = ON")
                undoing.pop_all()
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"{path}: {error}; it may be deleted, the log rebuilds it") from error
        return cls(store, writer, reader, models, position, position or head)

    async def caught_up(self, timeout: float = 10.0) -> None:
        """Wait until everything that is in the log now is in the read models.

        Raises `Behind` after ``timeout`` seconds, or when a read model has failed.
        """
        await self.reached((await self._store.head()).position, timeout)

    async def reached(self, position: int, timeout: float = 10.0) -> None:
        """Wait until the events up to ``position`` are in the read models. Raises `Behind`."""
        try:
            async with asyncio.timeout(timeout):
                while self.position < position:
                    if self._failure:
                        raise Behind(f"the read models stopped at position {self.position}: {self._failure}")
                    await self._advanced.wait()
        except TimeoutError:
            raise Behind(f"the read models are at position {self.position} of {position}") from None

    @contextmanager
    def watch(self, stream: str) -> Iterator[asyncio.Event]:
        """Give an event that is set each time ``stream`` has grown and the read models show it."""
        watcher = asyncio.Event()
        self._watchers[stream].add(watcher)
        try:
            yield watcher
        finally:
            self._watchers[stream].discard(watcher)
            if not self._watchers[stream]:
                del self._watchers[stream]

    async def scrub(self) -> None:
        """Leave nothing in the file, or beside it, of what was overwritten or deleted in the tables.

        The file is written anew, which takes the room of another one; folding waits. Raises
        `StoreUnavailable` when that cannot be, or when a reader keeps older pages on disk for as long as
        SQLite waits.
        """
        async with self._alone:
            try:
                await self._writer.execute("VACUUM")
                ((busy, *_),) = await self._writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as error:
                raise StoreUnavailable(f"the read models cannot be scrubbed: {error}") from error
        if busy:
            raise StoreUnavailable("a reader of the read models keeps older pages on disk: scrub them again")

    async def close(self) -> None:
        """Stop following and close the file. The store must still be open."""
        self._task.cancel()
        await asyncio.wait([self._task, *([self._folding] if self._folding else [])])
        await self.reader.close()
        await self._writer.close()

    async def _follow(self) -> None:
        while True:
            try:
                async for batch in self._store.subscribe(after=self.position):
                    anew = await self._has_missed(batch)
                    # A transaction that is cancelled half-way through aiosqlite's thread may stay open:
                    # `close` cancels this task, but lets the batch end.
                    self._folding = asyncio.ensure_future(self._begin_anew() if anew else self._fold(batch))
                    await asyncio.shield(self._folding)
                    if anew:
                        break
                else:
                    return
            except Exception as error:  # the log goes on; readers are told, until a disk has room again
                log.exception("the read models stopped at position %s", self.position)
                self._failure = error
                self._advance()
                await asyncio.sleep(self.retry_seconds)

    async def _has_missed(self, batch: Sequence[RecordedEvent]) -> bool:
        """Whether events before or in ``batch`` were pruned since folding began: jobs may be half known."""
        if batch[-1].position - self.position == len(batch):
            return False
        pruned = await self._store.read_stream(Pruned.stream)
        return bool(pruned) and pruned[-1].position > self._began

    async def _begin_anew(self) -> None:
        async with self._alone:
            log.warning("the log was pruned of what was not folded yet: the read models are made anew")
            began = (await self._store.head()).position
            await _clear(self._writer, self._models)
            self._began, self.position = began, 0

    async def _fold(self, batch: Sequence[RecordedEvent]) -> None:
        position = batch[-1].position
        async with self._alone, self._transaction():
            for model in self._models:
                await model.apply(batch, self._writer)
            await self._writer.executemany(
                _SET_CHECKPOINT, [(model.name, model.version, position) for model in self._models]
            )
        self.position, self._failure = position, None
        self._advance()
        for stream in {event.stream for event in batch}:
            for watcher in self._watchers.get(stream, ()):
                watcher.set()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        await self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            await self._writer.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a failed commit may have rolled back by itself
                await self._writer.execute("ROLLBACK")
            raise

    def _advance(self) -> None:
        self._advanced.set()
        self._advanced = asyncio.Event()


async def _prepare(writer: aiosqlite.Connection, models: Sequence[ReadModel], head: int) -> int:
    """Create what is missing or outdated, and return the position from which all models are folded on."""
    await writer.execute(_CHECKPOINTS)
    positions: set[int] = set()
    for model in models:
        rows = list(await writer.execute_fetchall(_READ_CHECKPOINT, (model.name,)))
        positions.add(rows[0][1] if rows and rows[0][0] == model.version else 0)
    if len(positions) == 1 and 0 < (position := positions.pop()) <= head:
        return position
    await _clear(writer, models)
    return 0


async def _clear(writer: aiosqlite.Connection, models: Sequence[ReadModel]) -> None:
    """Empty all tables. The checkpoints come first: whatever then happens, everything is folded again."""
    await writer.executemany(_SET_CHECKPOINT, [(model.name, model.version, 0) for model in models])
    for model in models:
        await writer.executescript(model.schema)
