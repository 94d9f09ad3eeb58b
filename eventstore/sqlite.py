"""The durable event store of a single node, in one SQLite file.

One task, the committer, owns the writing connection. It takes all appends that are waiting, writes
them in one transaction and answers their callers after the commit has reached the disk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from errno import EACCES
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Self, TypeVar

import msgspec

from . import _failpoints as failpoint
from . import _ledger as ledger
from ._chain import Append, Outcome, Row, Walk, prepare
from ._committing import Committer
from ._errors import StoreClosed, StoreUnavailable
from ._following import Following
from ._recent import RecentEvents, RecentStreams
from ._types import NO_METADATA, Committed, Head, Metadata, NewEvent, RecordedEvent, to_microseconds
from ._walking import walk_together
from .connection import Connection, fetch, reading, translated, writing
from .lock import FileLock

R = TypeVar("R")

_READ_ALL = "SELECT * FROM event WHERE position > ? ORDER BY position LIMIT ?"


class SQLiteEventLog(Following):
    """A log that is only read, beside the process that writes it or without one. Make one with `read`.

    It has the part of the `EventStore` contract that reads. Nobody tells it of new events, though: a
    subscription gives what there is, and then waits until the log is closed.
    """

    def __init__(self, path: Path, reader: Connection) -> None:
        super().__init__()
        self._path, self._reader = path, reader

    @property
    def place(self) -> Path:
        """See `EventLog.place`."""
        return self._path

    @classmethod
    async def read(cls, path: Path) -> Self:
        """Open the log at ``path``. Raises `StoreUnavailable` when there is none, or not all of one."""
        with translated(str(path)):
            if not path.is_file():
                raise FileNotFoundError("this is no regular file" if path.exists() else "there is no log")
            if not path.stat().st_size:
                raise FileNotFoundError("there is no log: the file is empty")
            if not os.access(path, os.R_OK):  # SQLite would not say why
                raise PermissionError(EACCES, os.strerror(EACCES), str(path))
            async with AsyncExitStack() as undoing:
                reader = await undoing.enter_async_context(reading(path))
                await reader.run(ledger.check_format)
                undoing.pop_all()
        return cls(path, reader)

    async def read_stream(self, stream: str, *, after: int = 0) -> tuple[RecordedEvent, ...]:
        """See `EventLog.read_stream`."""
        return await self._read(ledger.STREAM, (stream, after))

    async def read_event(self, id: str) -> RecordedEvent | None:
        """See `EventLog.read_event`."""
        return next(iter(await self._read(ledger.ONE_BY_ID, (id,))), None)

    async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]:
        """See `EventLog.read_all`."""
        return await self._read(_READ_ALL, (after, limit))

    async def positions(self, stream: str) -> list[int]:
        """See `EventLog.positions`."""
        return await self._ask(ledger.read_positions, stream)

    async def read_at(self, positions: Sequence[int]) -> tuple[RecordedEvent, ...]:
        """See `EventLog.read_at`."""
        return await self._read(ledger.AT, (msgspec.json.encode(positions).decode(),))

    async def hashes_at(self, positions: Sequence[int]) -> dict[int, bytes]:
        """See `EventLog.hashes_at`."""
        return await self._ask(ledger.read_hashes, positions)

    async def head(self) -> Head:
        """See `EventLog.head`."""
        return await self._ask(ledger.read_head)

    async def close(self) -> None:
        """Release the file. May be called twice."""
        if not self._closed:
            self._closed = True
            self._wake()
            await asyncio.shield(self._reader.close())

    async def _page(self, after: int, limit: int) -> tuple[Sequence[Row], Mapping[int, bytes]]:
        return await self._ask(ledger.read_page, after, limit)

    async def _anchored(self) -> Iterable[int]:
        return await self._ask(ledger.read_anchored)

    async def _walk(self, progress: Callable[[int], None]) -> Walk:
        with translated("the log cannot be verified"):
            together = await walk_together(self._path, await self.head(), progress)
        return together or await super()._walk(progress)

    async def _read(self, sql: str, arguments: Iterable[Any]) -> tuple[RecordedEvent, ...]:
        return tuple(map(ledger.event_of, await self._ask(fetch, sql, arguments)))

    async def _ask(self, question: Callable[..., R], *arguments: Any) -> R:
        if self._closed:
            raise StoreClosed
        with translated("the log cannot be read"):
            return await self._reader.run(question, *arguments)


class SQLiteEventStore(SQLiteEventLog):
    """The one writer of a log. Make one with `open`; it belongs to the running event loop."""

    def __init__(
        self, path: Path, *, lock: FileLock, writer: Connection, reader: Connection, head: Head,
        now: Callable[[], datetime], max_waiting: int, max_batch: int,
    ) -> None:  # fmt: skip
        super().__init__(path, reader)
        self._lock, self._writer = lock, writer
        self._head, self._now = head, now
        self._recent, self._last = RecentStreams(), RecentEvents()
        self._committer = Committer(self._commit, self._release, max_waiting=max_waiting, max_batch=max_batch)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        max_waiting: int = 10_000,
        max_batch: int = 512,
        to_copy: bool = False,
    ) -> Self:
        """Open or create the log at ``path`` and become its only writer.

        ``max_waiting`` appends may wait before `Overloaded` is raised; at most ``max_batch`` share a
        transaction. Raises `StoreLocked` when another process has it, `StoreUnavailable` when the file
        cannot be opened or is no log, or not all of one, unless it is opened ``to_copy`` what is missing.
        """
        with translated(str(path)):
            path = path.resolve()  # the lock is the file's, whatever it is called
            async with AsyncExitStack() as undoing:
                lock = await FileLock.take(path.with_name(path.name + ".lock"))
                undoing.callback(lock.release)
                path.touch(mode=0o600)  # what users sent is in there
                writer = await undoing.enter_async_context(writing(path))
                await writer.run(ledger.make_ready, to_copy=to_copy)
                reader = await undoing.enter_async_context(reading(path))
                head = await reader.run(ledger.read_head)
                undoing.pop_all()
        return cls(
            path,
            lock=lock,
            writer=writer,
            reader=reader,
            head=head,
            now=now,
            max_waiting=max_waiting,
            max_batch=max_batch,
        )

    async def append(
        self, stream: str, events: Sequence[NewEvent], *, expected: int | None = None
    ) -> tuple[RecordedEvent, ...]:
        """See `EventStore.append`."""
        return await self._committer.append(prepare(stream, events, expected))

    async def read_stream(self, stream: str, *, after: int = 0) -> tuple[RecordedEvent, ...]:
        """See `EventLog.read_stream`."""
        if self._closed:
            raise StoreClosed
        events = self._recent.get(stream)
        if events is None:
            head = self._head
            events = await super().read_stream(stream)
            if head == self._head:  # nothing came meanwhile
                self._recent.put(stream, events)
        return tuple(event for event in events if event.version > after) if after else events

    def _just_written(self, after: int) -> tuple[RecordedEvent, ...]:
        return self._last.behind(after, self._head.position)

    async def head(self) -> Head:
        """See `EventLog.head`."""
        return self._head

    def recent(self, stream: str) -> tuple[RecordedEvent, ...] | None:
        """See `EventLog.recent`."""
        return self._recent.get(stream)

    @property
    def end(self) -> int:
        """See `EventLog.end`."""
        return self._head.position

    async def erase(self, stream: str, *, reason: str, metadata: Metadata = NO_METADATA) -> RecordedEvent:
        """See `EventStore.erase`."""
        return await self._change(ledger.erase, stream, reason, metadata)

    async def prune(
        self, through: int, *, ended_by: Collection[str], reason: str, checkpoint: str = "",
        metadata: Metadata = NO_METADATA,
    ) -> RecordedEvent:  # fmt: skip
        """See `EventStore.prune`.

        While it lasts it needs free space for what the log holds, beside it and among temporary files.
        """
        return await self._change(ledger.prune, through, tuple(ended_by), reason, checkpoint, metadata)

    async def settle(self) -> None:
        """See `EventStore.settle`."""
        await self._committer.do(lambda: self._write(ledger.settle))

    async def size(self) -> int:
        """See `EventStore.size`."""
        with translated("the log cannot be read"):
            files = self._path, self._path.with_name(f"{self._path.name}-wal")
            return sum(file.stat().st_size for file in files if file.exists())

    async def check_writable(self) -> None:
        """See `EventStore.check_writable`."""
        await self._committer.check(lambda: self._write(ledger.probe))

    async def close(self) -> None:
        """See `EventStore.close`."""
        self._closed = True
        await self._committer.close()

    async def _change(
        self, function: Callable[..., tuple[Head, RecordedEvent | StoreUnavailable]], *arguments: Any
    ) -> RecordedEvent:
        now = to_microseconds(self._now())

        async def change() -> RecordedEvent:
            try:
                done = await self._write(partial(function, now=now), *arguments)
            finally:
                self._recent.clear()  # what it erased is remembered, perhaps
                self._last.clear()
            if isinstance(done, StoreUnavailable):
                raise done
            return done

        return await self._committer.do(change)

    async def _adopt(self, rows: Sequence[Row], anchors: Mapping[int, bytes]) -> None:
        """Write events as another log has them: see `eventstore.copying`."""
        await self._committer.do(lambda: self._write(ledger.adopt, rows, anchors))

    async def _mark(self, *, under_way: bool) -> None:
        """Note whether a copy to this log is under way, so that nobody else takes it for whole."""
        await self._committer.do(lambda: self._write(partial(ledger.mark, under_way=under_way)))

    async def _commit(self, batch: Sequence[Append]) -> Sequence[Outcome]:
        before = self._head
        try:
            outcomes = await self._write(
                partial(ledger.commit, batch=batch, now=to_microseconds(self._now()))
            )
        except Exception:
            for append in batch:
                self._recent.drop(append.stream)
            raise
        written: dict[int, RecordedEvent] = {}
        for append, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._recent.drop(append.stream)
            elif outcome and outcome[0].position > before.position:  # else it was there already
                self._recent.appended(outcome)
                written.update((event.position, event) for event in outcome)
        self._last.appended(written.values())
        failpoint.reached(failpoint.BEFORE_ACKNOWLEDGE)
        return outcomes

    async def _write(self, work: Callable[..., tuple[Head, R]], *arguments: Any) -> R:
        began = perf_counter()
        with translated("the log cannot be written"):
            head, done = await self._writer.run(work, *arguments)
        if head != self._head:
            events = head.position - self._head.position
            self._head = head
            self._tell(Committed(events, perf_counter() - began))
        return done

    async def _release(self) -> None:
        self._closed = True
        self._wake()
        await self._reader.close()
        # Last to close, the writer checkpoints: the log is then a single file.
        await self._writer.close()
        self._lock.release()
