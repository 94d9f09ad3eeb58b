"""What every back end does alike once it can read a page and be woken up."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ._chain import EMPTY, Row, Walk, check_contained
from ._errors import ChainBroken, PositionPruned
from ._types import Committed, Head, RecordedEvent, Verified

_PAGE = 5000
_BATCH = 1000
"""What a subscriber gets at once, at most."""


class Following(ABC):
    """Subscriptions and verification, built on a few reads."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._closed = False
        self._reads: dict[int, asyncio.Future[tuple[RecordedEvent, ...]]] = {}
        self._observers: list[Callable[[Committed], None]] = []

    @abstractmethod
    async def read_all(self, *, after: int = 0, limit: int = 1000) -> tuple[RecordedEvent, ...]: ...

    @abstractmethod
    async def head(self) -> Head: ...

    @abstractmethod
    async def _page(self, after: int, limit: int) -> tuple[Sequence[Row], Mapping[int, bytes]]:
        """Return rows above position ``after`` and the anchors up to the last of them, both of one moment.

        An anchor is the hash of a pruned event that stands before an event which is still there.
        """

    @abstractmethod
    async def _anchored(self) -> Iterable[int]:
        """Return the positions of all anchors."""

    async def _walk(self, progress: Callable[[int], None]) -> Walk:
        """Walk from the beginning to the head, or to some point before it."""
        return Walk(EMPTY)

    def _wake(self) -> None:
        """Tell subscribers to look again. Each wake-up has an `asyncio.Event` of its own, so none is lost."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._reads = {}  # whoever is woken has to read what was not there when these began

    def _tell(self, committed: Committed) -> None:
        """Tell subscribers and observers of new events."""
        self._wake()
        for observer in self._observers:
            # Not from here: what fails there is not to end what writes the log.
            asyncio.get_running_loop().call_soon(observer, committed)

    @contextmanager
    def observed(self, observer: Callable[[Committed], None]) -> Iterator[None]:
        self._observers.append(observer)
        try:
            yield
        finally:
            self._observers.remove(observer)

    async def subscribe(self, *, after: int) -> AsyncIterator[tuple[RecordedEvent, ...]]:
        woken = False
        while not self._closed:
            changed, end = self._changed, self.end
            batch: tuple[RecordedEvent, ...] = ()
            if end is None or after < end:
                # What was there before is what the log says now, whatever was written.
                batch = (self._just_written(after) if woken else ()) or await self._read_next(after)
            if batch:
                yield batch
                after = batch[-1].position
            if len(batch) == _BATCH:
                continue
            if end is not None and after < end and not await self.read_all(after=after, limit=1):
                raise ChainBroken(after + 1, "missing; the log ends before its head")
            await changed.wait()
            woken = True

    def _just_written(self, after: int) -> tuple[RecordedEvent, ...]:
        """Return all that stands behind a position, where that is known without reading; else nothing."""
        return ()

    def recent(self, stream: str) -> tuple[RecordedEvent, ...] | None:
        """See `EventLog.recent`."""
        return None

    @property
    def end(self) -> int | None:
        """See `EventLog.end`."""
        return None

    async def _read_next(self, after: int) -> tuple[RecordedEvent, ...]:
        """Read what stands behind a position: once, for all subscribers that are woken at one moment."""
        if reading := self._reads.get(after):
            await asyncio.wait([reading])
            if not reading.cancelled():
                return reading.result()
        reads = self._reads
        reading = reads[after] = asyncio.get_running_loop().create_future()
        try:
            batch = await self.read_all(after=after, limit=_BATCH)
            reading.set_result(batch)
            return batch
        finally:  # whoever waits for a read that failed does it himself
            reading.cancel()
            if reads.get(after) is reading:
                del reads[after]

    async def verify(
        self, *, contains: Iterable[Head] = (), progress: Callable[[int], None] | None = None
    ) -> Verified:
        progress, contains = progress or (lambda count: None), tuple(contains)
        while (verified := await self._verify(contains, progress)) is None:
            pass  # it was pruned meanwhile
        return verified

    async def _verify(self, contains: Iterable[Head], progress: Callable[[int], None]) -> Verified | None:
        """Verify once; None when a pruning came between walk and verdict."""
        known, anchored = await self.head(), {*await self._anchored()}
        walk = await self._walk(progress)
        # What was appended, erased or pruned meanwhile is on record after the walk's end.
        while (page := await self._page(walk.head.position, _PAGE))[0]:
            walk.feed(*page)
            progress(len(page[0]))
        try:
            return await self._judged(walk, known, contains)
        except (ChainBroken, PositionPruned):
            if {*await self._anchored()} == anchored:
                raise
            return None

    async def _judged(self, walk: Walk, known: Head, contains: Iterable[Head]) -> Verified:
        verified = walk.verdict()
        await self._check_anchors(walk)
        check_contained(known, verified.head, await self._hash_at(known.position) or known.hash)
        if pruning := verified.pruning:
            contains = (Head(pruning.through, bytes.fromhex(pruning.hash)), *contains)
        for seen in contains:
            check_contained(seen, verified.head, await self._hash_at(seen.position))
        return verified

    async def _check_anchors(self, walk: Walk) -> None:
        """Show that there are no more anchors than the walk has leapt to."""
        for position in sorted({*await self._anchored()} - {last for _, last in walk.gaps}):
            rows, anchors = await self._page(position - 1, 1)
            # Unless something was pruned since the walk came by.
            if position in anchors and not (rows and rows[0][0] == position + 1 > 1):
                raise ChainBroken(position, "said to be pruned, which it is not")

    async def _hash_at(self, position: int) -> bytes | None:
        if position == 0:
            return EMPTY.hash
        rows, anchors = await self._page(position - 1, 1)
        return rows[0][-1] if rows and rows[0][0] == position else anchors.get(position)
