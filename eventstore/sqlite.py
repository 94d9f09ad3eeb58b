"""The durable event store of a single node, in one SQLite file.

One task, the committer, owns the writing connection. It takes all appends that are waiting, writes
them in one transaction and answers their callers after the commit has reached the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import aiosqlite
import msgspec

from ._chain import EMPTY, Append, Tip, checked, seal
from ._errors import EventStoreError, Overloaded, StoreClosed, StoreUnavailable
from ._following import Following
from ._lock import FileLock
from ._types import Head, NewEvent, RecordedEvent, to_microseconds

_INSERT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_READ_ALL = "SELECT * FROM event WHERE position > ? ORDER BY position LIMIT ?"
_READ_STREAM = "SELECT * FROM event WHERE stream = ? AND version > ? ORDER BY version"
_BY_ID = "SELECT * FROM event WHERE id IN (SELECT value FROM json_each(?)) ORDER BY position"
_TIPS = """SELECT stream, max(version), time FROM event
           WHERE stream IN (SELECT value FROM json_each(?)) GROUP BY stream"""
_HEAD = "SELECT position, hash FROM event ORDER BY position DESC LIMIT 1"

_Request = tuple[Append, "asyncio.Future[tuple[RecordedEvent, ...]]"]


class SQLiteEventStore(Following):
    """Make one with `open`; it belongs to the running event loop."""

    def __init__(
        self, *, lock: FileLock, writer: aiosqlite.Connection, reader: aiosqlite.Connection, head: Head,
        now: Callable[[], datetime], max_waiting: int, max_batch: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self._lock, self._writer, self._reader = lock, writer, reader
        self._head, self._now, self._max_batch = head, now, max_batch
        self._waiting: asyncio.Queue[_Request | None] = asyncio.Queue()
        self._max_waiting = max_waiting
        self._committer = asyncio.create_task(self._commit_all(), name=f"committer of {id(self):x}")

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_waiting: int = 10_000,
        max_batch: int = 512,
    ) -> SQLiteEventStore:
        """Open or create the log at ``path`` and become its only writer.

        ``max_waiting`` appends may wait before `Overloaded` is raised; at most ``max_batch`` share a
        transaction. Raises `StoreLocked` when another process has it, `StoreUnavailable` when the file
        cannot be opened or is no log.
        """
        try:
            async with AsyncExitStack() as undoing:
                lock = FileLock(path.with_name(path.name + ".lock"))
                undoing.callback(lock.release)
                path.touch(mode=0o600)  # what users sent is in there
                writer = await undoing.enter_async_context(aiosqlite.connect(path, isolation_level=None))
                await writer.execute("PRAGMA journal_mode = WAL")
                await writer.execute("PRAGMA synchronous = FULL")
                await writer.executescript(resources.files(__package__).joinpath("schema.sql").read_text())
                reader = await undoing.enter_async_context(aiosqlite.connect(path, isolation_level=None))
                # The writer alone checkpoints: SQLite up to 3.51.2 can corrupt a WAL that two reset.
                await reader.execute("PRAGMA wal_autocheckpoint = 0")
                await reader.execute("PRAGMA query_only = ON")
                rows = list(await reader.execute_fetchall(_HEAD))
                undoing.pop_all()
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"{path}: {error}") from error
        return cls(
            lock=lock,
            writer=writer,
            reader=reader,
            head=Head(*rows[0]) if rows else EMPTY,
            now=now,
            max_waiting=max_waiting,
            max_batch=max_batch,
        )

    async def append(
        self, stream: str, events: Sequence[NewEvent], *, expected: int | None = None
    ) -> tuple[RecordedEvent, ...]:
        if self._closed:
            raise StoreClosed
        request = checked(stream, events, expected)
        if self._waiting.qsize() >= self._max_waiting:
            raise Overloaded(self._waiting.qsize())
        answer: asyncio.Future[tuple[RecordedEvent, ...]] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((request, answer))
        return await answer

    async def read_stream(self, stream: str, *, after: int = 0) -> tuple[RecordedEvent, ...]:
        return await self._read(_READ_STREAM, (stream, after))

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]:
        return await self._read(_READ_ALL, (after, limit))

    async def head(self) -> Head:
        return self._head

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._waiting.put_nowait(None)
        await self._committer
        self._wake()
        await self._reader.close()
        # Last to close, the writer checkpoints: the log is then a single file.
        await self._writer.close()
        self._lock.release()

    async def _read(self, sql: str, arguments: Iterable[Any]) -> tuple[RecordedEvent, ...]:
        if self._closed:
            raise StoreClosed
        try:
            rows = await self._reader.execute_fetchall(sql, arguments)
        except sqlite3.Error as error:
            raise StoreUnavailable(str(error)) from error
        return tuple(map(_event, rows))

    async def _commit_all(self) -> None:
        """Serve appends until the `None` that `close` puts in; nothing else ends or cancels this task."""
        while (request := await self._waiting.get()) is not None:
            batch, last = [request], False
            while len(batch) < self._max_batch and not self._waiting.empty():
                if (request := self._waiting.get_nowait()) is None:
                    last = True
                    break
                batch.append(request)
            outcomes = await self._commit([append for append, _ in batch])
            for (_, answer), outcome in zip(batch, outcomes, strict=True):
                if answer.done():  # its caller was cancelled
                    continue
                if isinstance(outcome, EventStoreError):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)
            if last:
                return

    async def _commit(self, batch: list[Append]) -> list[tuple[RecordedEvent, ...] | EventStoreError]:
        try:
            streams = msgspec.json.encode([append.stream for append in batch]).decode()
            ids = msgspec.json.encode([event.id for append in batch for event in append.events]).decode()
            tips = await self._writer.execute_fetchall(_TIPS, (streams,))
            known = await self._writer.execute_fetchall(_BY_ID, (ids,))
            written, outcomes = seal(
                batch,
                head=self._head,
                tips={stream: Tip(version, time) for stream, version, time in tips},
                known={event.id: event for event in map(_event, known)},
                now=to_microseconds(self._now()),
            )
            if written:
                await self._writer.execute("BEGIN IMMEDIATE")
                await self._writer.executemany(_INSERT, map(msgspec.structs.astuple, written))
                await self._writer.execute("COMMIT")
        except Exception as error:  # whatever it is, the committer outlives the batch that met it
            with suppress(sqlite3.Error):  # there may be no transaction to roll back
                await self._writer.execute("ROLLBACK")
            return [StoreUnavailable(f"the log cannot be written: {error}") for _ in batch]
        if written:
            self._head = Head(written[-1].position, written[-1].hash)
            self._wake()
        return outcomes


def _event(row: Iterable[Any]) -> RecordedEvent:
    return RecordedEvent(**dict(zip(RecordedEvent.__struct_fields__, row, strict=True)))
