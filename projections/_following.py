"""Following the log: the part of the projector that folds what comes, and answers who waits for it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from eventstore import EventStore, Pruned, RecordedEvent, StoreUnavailable
from eventstore.connection import Connection, translated
from eventstore.tasks import to_the_end

from ._building import build
from ._memory import Memory
from ._shelf import Shelf
from ._tables import Tables, TakenOver, is_spoilt, unlink
from .readmodel import Batch, ReadModel
from .usage import EXPERIENCED

_log = logging.getLogger(__name__)
R = TypeVar("R")
Progress = Callable[[int, int], None]

_ATTACH = "ATTACH ? AS ?"
_AT_ONCE = 100
"""Events: folding them keeps those waiting for the writing thread who fold what is new."""
LONGEST_PAUSE = 10.0
"""Seconds between two tries of a read model that has failed."""
WORTH_A_PROCESS = 20_000
"""Events: fewer are folded sooner than a process is started."""


class Watch:
    """What one who watches a stream waits for: an `asyncio.Event` but small, as there may be thousands."""

    __slots__ = ("_grown",)

    def __init__(self) -> None:
        self._grown = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._grown.done():
            self._grown.set_result(None)

    def clear(self) -> None:
        if self._grown.done():
            self._grown = asyncio.get_running_loop().create_future()

    def is_set(self) -> bool:
        return self._grown.done()

    def wait(self) -> asyncio.Future[None]:
        """Return what is done when this has been set; one may wait for it at a time."""
        return self._grown


class Behind(StoreUnavailable):
    """A read model has not reached the asked-for position in time."""


class HalfKnown(Exception):
    """The log was pruned of events that tables have not folded; they may have seen what led to them."""


class Following:
    """Tables that are read, of which the *live* ones get every batch of events.

    The others, and those that are to replace them, catch up beside them by small batches, and join them
    before the next batch comes: that is the only seam there is.
    """

    retry_seconds: float = 1.0

    def __init__(
        self, store: EventStore, models: Iterable[ReadModel[Any]], writer: Connection, reader: Connection,
        shelf: Shelf,
    ) -> None:  # fmt: skip
        self._store, self._shelf = store, shelf
        self._writer, self._reader = writer, reader
        self._models = {model.name: model for model in models}
        self._tables: dict[str, Tables] = {}
        """What is read, by name."""
        self._live: set[str] = set()
        self._position = 0
        """How far the live ones have come."""
        self._advanced = asyncio.Event()
        self._watchers: defaultdict[str, set[Watch]] = defaultdict(set)
        self._memory = Memory()
        """About streams."""
        self._experience = Memory()
        """About jobs that COMPLETED."""
        self._alone = asyncio.Lock()
        """Held to fold, and to change what is folded."""
        self._making = asyncio.Lock()
        """Held to make files, one undertaking at a time."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._folding: set[asyncio.Task[None]] = set()

    # Reading

    @property
    def position(self) -> int:
        """All events up to this one are in all read models."""
        return min(self.positions.values())

    @property
    def positions(self) -> dict[str, int]:
        """How far each read model has come, by name."""
        return {name: tables.position for name, tables in self._tables.items()}

    async def ask(self, question: Callable[..., R], *arguments: Any, **named: Any) -> R:
        """Return what ``question`` says of a connection on which all read models can be read.

        Each is as it was at one moment between two batches. Raises `StoreUnavailable`.
        """
        with translated("the read models cannot be read"):
            return await self._reader.run(in_one_transaction, question, arguments, named)

    async def recall(
        self, name: str, stream: str, question: Callable[..., tuple[R, int]], *arguments: Any
    ) -> R:
        """Return what a question says of one stream, with the bytes it has read, of the read model ``name``.

        It has to be prompt. The answer is kept for those who ask the same again, until something happens to
        the stream. Raises what `ask` does.
        """
        return await self._recall(self._memory, stream, {name}, question, arguments)

    async def recall_experience(
        self, about: Hashable, question: Callable[..., tuple[R, int]], *arguments: Any
    ) -> R:
        """Return what a question says of jobs that COMPLETED, which ``about`` stands for.

        It is kept until another has, or is no more. Raises what `ask` does.
        """
        return await self._recall(self._experience, about, {"usage", "documents"}, question, arguments)

    async def _recall(
        self, memory: Memory, about: Hashable, names: set[str], question: Callable[..., tuple[R, int]],
        arguments: tuple[Any, ...],
    ) -> R:  # fmt: skip
        if not names <= self._live:
            return (await self.ask(question, *arguments))[0]
        known: tuple[R, int] | None = memory.find(about)
        if known is None:
            since = memory.now
            known = await self.ask(question, *arguments)
            memory.keep(about, known, since)
        return known[0]

    def is_known(self, name: str, stream: str, answer: object) -> bool:
        """Whether `recall` would give this very answer now; False where that cannot be told at once."""
        known = self._memory.find(stream)
        return known is not None and known[0] is answer and self._is_current(name)

    def state(self, *names: str) -> int | None:
        """Return what is another one as soon as any read model says something else.

        None when these have not everything that is in the log, or where that cannot be told at once.
        """
        return self._memory.now if all(map(self._is_current, names)) else None

    def _is_current(self, name: str) -> bool:
        end = self._store.end
        return end is not None and name in self._live and self._tables[name].position >= end

    async def caught_up(self, *names: str, timeout: float = 10.0) -> None:
        """Wait until everything that is in the log now is in the named read models; in all by default.

        Raises `Behind` after ``timeout`` seconds, or when one of them has stopped.
        """
        await self.reached((await self._store.head()).position, *names, timeout=timeout)

    async def reached(self, position: int, *names: str, timeout: float = 10.0) -> None:
        """Wait until the events up to ``position`` are in the named read models. Raises `Behind`."""
        needed = names or tuple(self._tables)
        try:
            async with asyncio.timeout(timeout):
                while late := [name for name in needed if self._tables[name].position < position]:
                    for name in late:
                        if error := self._tables[name].error:
                            raise Behind(f"the read model {name} stopped {error}")
                    await self._advanced.wait()
        except TimeoutError:
            name = late[0]
            raise Behind(
                f"the read model {name} is at position {self._tables[name].position} of {position}"
            ) from None

    @contextmanager
    def watch(self, stream: str) -> Iterator[Watch]:
        """Give what is set each time ``stream`` has grown and the read models show it."""
        watcher = Watch()
        self._watchers[stream].add(watcher)
        try:
            yield watcher
        finally:
            self._watchers[stream].discard(watcher)
            if not self._watchers[stream]:
                del self._watchers[stream]

    def wake(self) -> None:
        """Set what all who watch a stream wait for: there is something else for them to look at."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.set()

    # Following

    async def _follow(self) -> None:
        told = False
        while True:
            try:
                async for batch in self._store.subscribe(after=self._position):
                    told = False
                    # A transaction that is cancelled half-way would stay open: `close` lets the batch end.
                    folding = asyncio.create_task(self._fold(batch), name="projector: folding")
                    self._folding.add(folding)
                    folding.add_done_callback(self._folding.discard)
                    await asyncio.shield(folding)
                return
            except StoreUnavailable as error:
                if not told:
                    _log.warning("read models stay at position %s: %s; trying again", self._position, error)
                told = True
                await asyncio.sleep(self.retry_seconds)
            except Exception:
                _log.exception("the log cannot be followed from position %s", self._position)
                await asyncio.sleep(self.retry_seconds)

    async def _fold(self, batch: Sequence[RecordedEvent]) -> None:
        async with self._alone:
            for name in sorted(self._live):
                if await self._is_half_known(self._tables[name], batch):
                    self._live.discard(name)
                    self._revive(name)
            live = [self._tables[name] for name in sorted(self._live)]
            streams = {event.stream for event in batch}
            if Pruned.stream in streams:
                self._forget()
            with ExitStack() as changing, ExitStack() as promptly:
                promptly.enter_context(self._memory.changing(streams))
                if not EXPERIENCED.isdisjoint(event.type for event in batch):
                    changing.enter_context(self._experience.changing(None))
                show = partial(asyncio.get_running_loop().call_soon_threadsafe, self._show, streams, promptly)
                stopped = await self._do(_fold_all, live, batch, show)
            for tables, error in stopped:
                _log.error("the read model %s stopped %s", tables.model.name, tables.error, exc_info=error)
                self._live.discard(tables.model.name)
                self._revive(tables.model.name)
            self._position = batch[-1].position
        self._advance()

    def _show(self, streams: Iterable[str], changing: ExitStack) -> None:
        """Tell who waits that the prompt read models show a batch, while the others are still folded."""
        changing.close()
        self._advance()
        for stream in streams:
            for watcher in self._watchers.get(stream, ()):
                watcher.set()

    def _revive(self, name: str) -> None:
        """Let a read model that does not follow the log follow it again, as soon as it can."""
        self._spawn(self._until_live(name), f"projector: bringing up {name}")

    async def _until_live(self, name: str) -> None:
        told, pause = self._tables[name].error, self.retry_seconds
        while True:
            try:
                if await self._bring_up(name):
                    return
            except Exception as error:
                if (self._tables[name].error or str(error)) != told:
                    told = self._tables[name].error or str(error)
                    _log.error("the read model %s stopped %s", name, told)
                self._advance()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _bring_up(self, name: str) -> bool:
        """Fold what is missing and follow the log from then on; False when that has to be tried again."""
        tables = self._tables[name]
        try:
            if await self._is_worth_a_process(tables.position):
                async with self._making:
                    with suppress(StoreUnavailable):  # what it is shows when the rest is folded
                        await self._build([tables])
                with translated(f"the read model {name} cannot be written"):
                    await self._do(tables.finish)
            await self._catch_up(tables, self._go_live)
            return True
        except HalfKnown:
            _log.warning("the log was pruned of what %s had not folded: it is made anew", name)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, TakenOver):
                return False  # its position is known again
            if not is_spoilt(error.__cause__):
                raise
            _log.warning("the read model %s is made anew: %s", name, error)
        await self._begin_anew(name)
        return False

    async def _begin_anew(self, name: str) -> None:
        head = await self._head()
        async with self._making, self._alone:
            await to_the_end(self._replace(name, head))

    async def _replace(self, name: str, head: int) -> None:
        """Let tables without rows be read."""
        new = partial(self._shelf.new, self._models[name], began=head, serving=False)
        tables = await self._do(new)
        try:
            await self._do(tables.finish)
            old = await self._switch(tables)
        except BaseException:
            await self._do(tables.close)
            raise
        await self._dispose(old)

    async def _switch(self, tables: Tables) -> Tables:
        """Let tables be read in the place of those that it returns."""
        name = tables.model.name
        old = self._tables[name]
        await self._reader.run(attach, name, tables.path)
        try:
            await self._do(self._shelf.switch, name)
        except BaseException:
            await self._reader.run(attach, name, old.path)
            raise
        self._tables[name] = tables
        self._forget()
        return old

    async def _dispose(self, old: Tables) -> None:
        """Close and delete a file that is not read any more."""
        await self._do(old.abandon)
        await asyncio.to_thread(unlink, old.path)  # it may be large: nobody waits for that

    async def _catch_up(
        self, tables: Tables, then: Callable[[Tables], Coroutine[Any, Any, R]], *, exactly: bool = False
    ) -> R:
        """Fold up to where those are that follow the log, and do ``then`` before any of them goes on.

        Tables that are further already will do, unless they have to be ``exactly`` there. Raises what the
        model raises, and `HalfKnown`.
        """
        while True:
            if exactly:
                await self._until_folded(tables.position)
            async with self._alone:
                if tables.position == self._position or (tables.position > self._position and not exactly):
                    return await to_the_end(then(tables))
                batch = await self._store.read_all(after=tables.position, limit=_AT_ONCE)
                batch = tuple(event for event in batch if event.position <= self._position)
                if await self._is_half_known(tables, batch):
                    raise HalfKnown
                for _, error in await self._do(_fold_all, [tables], batch):
                    raise StoreUnavailable(
                        f"the read model {tables.model.name} stopped {tables.error}"
                    ) from error
            self._advance()

    async def _until_folded(self, position: int) -> None:
        """Wait until the live ones have come to a position."""
        while self._position < position:
            await self._advanced.wait()

    async def _is_half_known(self, tables: Tables, batch: Sequence[RecordedEvent]) -> bool:
        """Whether events before or in ``batch`` were pruned since folding began."""
        fresh = [event.position for event in batch if event.position > tables.position]
        if not fresh or fresh[-1] - tables.position == len(fresh):
            return False
        return (await self._ends())[1] > tables.began

    def _forget(self) -> None:
        self._memory.clear()
        self._experience.clear()

    async def _go_live(self, tables: Tables) -> None:
        self._forget()
        self._live.add(tables.model.name)
        self._advance()

    async def _build(self, making: Sequence[Tables], progress: Progress = lambda done, total: None) -> None:
        """Fold most of the log into tables that do not follow it, in processes of their own, and index them.

        What a model cannot fold stands in its tables. Raises `StoreUnavailable`, and for the disk.
        """
        place = self._store.place
        if place and any([await self._is_worth_a_process(tables.position) for tables in making]):
            await self._close(making)
            try:
                await build(place, making, await self._head(), progress)
            finally:
                for tables in making:
                    await self._do(tables.reopen)
                    self._advance()
        for tables in making:
            await self._do(tables.finish)

    # Small

    async def _is_worth_a_process(self, position: int = 0) -> bool:
        """Whether so many events come after a position."""
        return await self._head() - position > WORTH_A_PROCESS

    async def _head(self) -> int:
        return (await self._store.head()).position

    async def _ends(self) -> tuple[int, int]:
        """Return where the log ends, and where it was said last to have been pruned."""
        pruned = await self._store.read_stream(Pruned.stream)
        return await self._head(), pruned[-1].position if pruned else 0

    async def _do(self, function: Callable[..., R], *arguments: Any) -> R:
        """Run a function in the thread that writes."""
        return await self._writer.run(lambda _: function(*arguments))

    async def _close(self, opened: Iterable[Tables]) -> None:
        for tables in opened:
            await self._do(tables.close)

    def _advance(self) -> None:
        self._advanced.set()
        self._advanced = asyncio.Event()

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def in_one_transaction(
    connection: sqlite3.Connection, question: Callable[..., R], arguments: Sequence[Any],
    named: dict[str, Any],
) -> R:  # fmt: skip
    """Return what a question says, whose answer is of one moment. Raises `StoreUnavailable` for damage."""
    connection.execute("BEGIN")
    try:
        return question(connection, *arguments, **named)
    except msgspec.MsgspecError as error:
        raise StoreUnavailable(f"the read models are damaged, and can be rebuilt: {error}") from error
    finally:
        connection.execute("ROLLBACK")  # nothing was written


def _fold_all(
    live: Sequence[Tables], recorded: Sequence[RecordedEvent], show: Callable[[], object] = lambda: None
) -> list[tuple[Tables, Exception]]:
    """Fold events into all tables, and return those that stopped: the others go on.

    Those that are prompt come first; ``show`` is called when they are done.
    """
    batch, stopped = Batch(recorded), []
    prompt = [tables for tables in live if tables.model.prompt]
    others = [tables for tables in live if not tables.model.prompt]
    for part, done in ((prompt, show), (others, lambda: None)):
        for tables in part:
            try:
                tables.fold(batch)
            except Exception as error:
                stopped.append((tables, error))
        done()
    return stopped


def attach(connection: sqlite3.Connection, name: str, path: Path) -> None:
    """Let ``connection`` read the tables at ``path`` as those of ``name``, or go on reading those it did."""
    before = {found[1]: found[2] for found in connection.execute("PRAGMA database_list")}.get(name)
    if before is not None:
        connection.execute("DETACH ?", (name,))
    try:
        connection.execute(_ATTACH, (_for_reading(path), name))
    except BaseException:
        if before is not None:
            connection.execute(_ATTACH, (_for_reading(Path(before)), name))
        raise


def _for_reading(path: Path) -> str:
    # So that SQLite does not checkpoint when it is closed: see `eventstore.connection`.
    return f"{path.absolute().as_uri()}?mode=ro"
