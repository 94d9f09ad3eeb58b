"""The projector: follows the log and keeps the read models.

Nothing that it keeps is not in the log; all of it may be deleted whenever the server is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from eventstore import EventStore, StoreUnavailable
from eventstore.connection import Connection, translated
from uws.model import UsageError, did_you_mean

from ._comparing import Compared, Comparison, ComparisonHere, maker_of
from ._following import LONGEST_PAUSE, Following, HalfKnown, Progress, attach
from ._shelf import Shelf, Status, open_registry, read_status
from ._tables import Tables, mark_of
from .beside import beside
from .documents import Documents
from .job_list import JobList
from .queue import Queue
from .readmodel import ReadModel
from .services import Services
from .trail import Trail
from .usage import Usage

R = TypeVar("R")
_log = logging.getLogger(__name__)
_SELDOM = 20
"""Scrubbing, which folding waits for, takes at most one part of the time in so many."""
READ_MODELS: tuple[ReadModel[Any], ...] = (
    Documents(), JobList(), Queue(), Services(), Trail(), Usage(),
)  # fmt: skip
"""All that are kept, unless others are asked for."""


class Rebuilt(msgspec.Struct, frozen=True):
    """A read model was made anew: how many events were folded for it now, and in how many seconds."""

    name: str
    events: int
    seconds: float


class Difference(msgspec.Struct, frozen=True):
    """The first place where a read model is not what the log makes of it.

    ``text`` says what is there and what should be; ``position`` is that of the event which should have made
    it, None where no single one has.
    """

    name: str
    table: str
    key: str
    text: str
    position: int | None


class Projector(Following):
    """Folds events into read models, each in tables of its own. Make one with `open`.

    A read model that fails stops at the event that it cannot fold, and is tried again after
    ``retry_seconds``, then less and less often; the others go on. Read models that have folded that something
    was erased or pruned are scrubbed ``scrub_seconds`` later, with what else was erased until then.
    """

    scrub_seconds: float = 10.0

    def __init__(
        self, path: Path, store: EventStore, models: Iterable[ReadModel[Any]], writer: Connection,
        reader: Connection, shelf: Shelf,
    ) -> None:  # fmt: skip
        super().__init__(store, models, writer, reader, shelf)
        self._path = path
        self._at_length = asyncio.Lock()
        """Held to ask what takes long, one question at a time."""
        self._outdated: list[str] = []
        """Those that are of another version than their model."""
        self._rebuilding: set[str] = set()
        self.follows: bool = False
        """Whether anything is folded at all."""

    @classmethod
    async def open(
        cls,
        path: Path,
        store: EventStore,
        models: Sequence[ReadModel[Any]] = READ_MODELS,
        *,
        follow: bool = True,
    ) -> Projector:
        """Open or create the read models registered at ``path`` and begin to follow the log.

        What is missing, cannot be read or is of another version is made anew meanwhile. One that is not to
        ``follow`` folds nothing: it leaves what comes now to the next that does, who is faster when there is
        much of it. Raises `StoreUnavailable` when the disk does not take them.
        """
        with translated(str(path)):
            async with AsyncExitStack() as undoing:
                writer = Connection(lambda: open_registry(path), 64)
                await undoing.enter_async_context(writer)
                reader = Connection(_open_reader, 64)
                await undoing.enter_async_context(reader)
                shelf = await writer.run(Shelf, path)
                projector = cls(path, store, models, writer, reader, shelf)
                undoing.push_async_callback(lambda: projector._close(projector._tables.values()))
                await projector._open_tables()
                if follow:
                    await projector._begin_to_follow()
                undoing.pop_all()
        return projector

    async def ask_at_length(self, name: str, question: Callable[..., R], *arguments: Any, **named: Any) -> R:
        """Return what `ask` does, of one read model, to a question that may take long.

        It has a connection of its own, so that only those wait for it who ask at length, too. Raises
        `StoreUnavailable`.
        """
        async with self._at_length, beside(self._path, name) as model:
            if model is None:
                raise StoreUnavailable(f"the read model {name} is missing")
            return await model.ask(question, *arguments, **named)

    # Administration

    async def status(self) -> list[Status]:
        """Tell how the read models are. Raises `StoreUnavailable`."""
        head = (await self._store.head()).position
        with translated("the read models cannot be read"):
            found = await self._reader.run(lambda _: read_status(self._path, head, self._models.values()))
        return [
            replace(status, making=replace(status.making, going_on=status.name in self._rebuilding))
            if status.making
            else status
            for status in found
        ]

    async def rebuild(
        self, names: Iterable[str] = (), progress: Progress = lambda done, total: None
    ) -> list[Rebuilt]:
        """Make read models anew from the whole log, by default all, and let them be read from then on.

        What there is goes on being read, and following the log, until then. Cancelled or interrupted, it
        leaves what was made so far, and is gone on with the next time. ``progress`` is told the events that
        were folded, of how many. Raises `UsageError` for a name there is not, `StoreUnavailable` when a
        model cannot fold an event, and for the disk.
        """
        chosen = self._named(names)
        making: list[Tables] = []
        async with self._making:
            began = perf_counter()
            try:
                self._rebuilding = {model.name for model in chosen}
                with translated("the read models cannot be made"):
                    for model in chosen:
                        await self._resume(model, making)
                    there = {tables: tables.position for tables in making}
                    if not self.follows:
                        self._position = await self._head()
                    await self._build(making, progress)
                    return await self._take_all(there, began)
            finally:
                self._rebuilding = set()
                # In the thread that may still be adding the last one, when this is cancelled.
                await self._do(self._close_untaken, making)

    async def verify(
        self, names: Iterable[str] = (), progress: Progress = lambda done, total: None
    ) -> dict[str, Difference | None]:
        """Make read models anew aside and compare them, row by row, with what is read.

        Returns for each the first difference. The models go on following the log. Raises as `rebuild` does.
        """
        chosen = self._named(names)
        made: list[Tables] = []
        async with self._making:
            try:
                with translated("the read models cannot be made aside"):
                    for model in chosen:
                        await self._do(self._shelf.make_aside, model, await self._head(), made)
                    await self._build(made, progress)
                    return {tables.model.name: await self._judge(tables) for tables in made}
            finally:
                for model in chosen:
                    await self._do(self._shelf.discard, model.name)
                await self._close(made)

    async def scrub(self) -> None:
        """Leave nothing in the files, or beside them, of what was overwritten or deleted in the tables.

        Each is written anew, which takes the room of another one; folding waits. What was being made is
        thrown away. Raises `StoreUnavailable` when that cannot be, or when a reader keeps older pages on disk
        for as long as SQLite waits.
        """
        async with self._making, self._alone:
            with translated("the read models cannot be scrubbed"):
                for name, tables in self._tables.items():
                    await self._do(self._shelf.drop_unfinished, name)
                    await self._do(tables.scrub)

    async def scrubbed(self, timeout: float) -> None:
        """Return when no file holds what the log had forgotten at this call; of models that go on.

        Raises what `scrub` does, and `Behind` after ``timeout`` seconds.
        """
        hold = [name for name, tables in self._tables.items() if tables.position and not tables.error]
        if hold:
            await self.caught_up(*hold, timeout=timeout)
        if self._is_unscrubbed():
            await self.scrub()

    def _is_unscrubbed(self) -> bool:
        return any(tables.unscrubbed for tables in self._tables.values())

    async def _keep_scrubbed(self) -> None:
        """Scrub after what was erased, here or by another who shares the log; for long, for a round of it."""
        pause, told = 0.0, False
        while True:
            while not self._is_unscrubbed():
                await self._advanced.wait()
            await asyncio.sleep(max(pause, self.scrub_seconds))
            if not self._is_unscrubbed():  # who erased it has seen to that
                continue
            began = perf_counter()
            try:
                await self.scrub()
                told = False
            except StoreUnavailable as error:
                if not told:
                    _log.warning("%s; trying again", error)
                told = True
            pause = _SELDOM * (perf_counter() - began)

    async def close(self) -> None:
        """Stop following and close the files. The store must still be open."""
        while waiting := [*self._tasks, *self._folding]:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        # First, so that the last to close a file can leave it as a single one.
        await self._reader.close()
        await self._close(self._tables.values())
        await self._writer.close()

    # Opening

    async def _open_tables(self) -> None:
        head, outdated = await self._head(), []
        for name, model in self._models.items():
            tables = await self._do(self._shelf.open, model, head)
            self._tables[name] = tables
            if not await self._is_of_this_log(tables):
                _log.warning("the read model %s is made anew: it is of another log", name)
                await self._replace(name, head)
                continue
            await self._reader.run(attach, name, tables.path)
            if tables.version != model.version:
                outdated.append(name)
        self._outdated = outdated

    async def _is_of_this_log(self, tables: Tables) -> bool:
        """Whether what tables hold can have come from this log, which may be another: one from a backup."""
        if tables.position > await self._head():
            return False
        stands = await self._store.read_all(after=tables.position - 1, limit=1) if tables.position else ()
        return not stands or stands[0].position != tables.position or mark_of(stands[0]) == tables.mark

    async def _begin_to_follow(self) -> None:
        head = await self._head()
        late = [tables for tables in self._tables.values() if await self._is_worth_a_process(tables.position)]
        for tables in self._tables.values():
            if tables not in late:
                await self._do(tables.finish)
                self._live.add(tables.model.name)
        self._position = min((self._tables[name].position for name in self._live), default=head)
        self._spawn(self._follow(), "projector")
        self._spawn(self._keep_scrubbed(), "projector: scrubbing")
        if late or self._outdated:
            self._spawn(self._renew(late, self._outdated), "projector: making read models")
        self.follows = True

    async def _renew(self, late: list[Tables], outdated: list[str]) -> None:
        """Bring up what is read and far behind, then make anew what is of another version."""
        if late:
            _log.info("read models are made: %s", ", ".join(tables.model.name for tables in late))
            try:
                async with self._making:
                    await self._build(late)
            except Exception as error:  # each is tried again on its own
                _log.error("read models cannot be made together: %s", error)
            for tables in late:
                self._revive(tables.model.name)
        pause = self.retry_seconds
        while outdated:
            _log.info("read models are of another version and made anew: %s", ", ".join(outdated))
            try:
                await self.rebuild(outdated)
            except Exception as error:  # the others serve, and it is tried again
                _log.error("read models of another version stay in use: %s", error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            outdated = [name for name in outdated if self._tables[name].version != self._models[name].version]

    # Making

    def _named(self, names: Iterable[str]) -> list[ReadModel[Any]]:
        chosen = list(dict.fromkeys(names)) or list(self._models)
        for name in chosen:
            if name not in self._models:
                raise UsageError(
                    f"there is no read model {name}{did_you_mean(name, self._models)}; "
                    f"read models are {', '.join(sorted(self._models))}"
                )
        return [self._models[name] for name in chosen]

    async def _resume(self, model: ReadModel[Any], making: list[Tables]) -> None:
        """Add to ``making`` what is left of making a model, or begin anew, as when the log was pruned since.

        It is added in the thread that opens it: it is not lost when who asked for it is cancelled.
        """
        head, pruned = await self._ends()
        await self._do(self._shelf.resume, model, making)
        if making and making[-1].model is model:
            if await self._is_of_this_log(making[-1]) and pruned <= making[-1].began:
                return
            await self._do(making.pop().close)
        await self._do(lambda: making.append(self._shelf.new(model, began=head, serving=False)))

    async def _take_all(self, there: Mapping[Tables, int], began: float) -> list[Rebuilt]:
        """Let tables be read that were made; what fails of them keeps no other back."""
        taken, failures = [], []
        for tables, position in there.items():
            try:
                await self._take(tables)
                taken.append(Rebuilt(tables.model.name, tables.position - position, perf_counter() - began))
            except StoreUnavailable as error:
                failures.append(error)
        if failures:
            raise StoreUnavailable("; ".join(map(str, failures))) from failures[0]
        return taken

    def _close_untaken(self, making: Iterable[Tables]) -> None:
        for tables in making:
            if tables not in self._tables.values():
                tables.close()

    async def _take(self, tables: Tables) -> None:
        if tables.error:
            raise StoreUnavailable(f"the read model {tables.model.name} stopped {tables.error}")
        try:
            old = await self._catch_up(tables, self._switch_live)
        except HalfKnown:
            name = tables.model.name
            raise StoreUnavailable(f"the log was pruned meanwhile: rebuild {name} again") from None
        await self._dispose(old)

    async def _switch_live(self, tables: Tables) -> Tables:
        old = await self._switch(tables)
        await self._go_live(tables)
        return old

    async def _judge(self, made: Tables) -> Difference | None:
        """Compare one read model; that it cannot be compared is a difference, too."""
        try:
            return await self._compare(made)
        except StoreUnavailable as error:
            return Difference(made.model.name, "", "", str(error), None)

    async def _compare(self, made: Tables) -> Difference | None:
        shown = self._tables[made.model.name]
        if shown.error:
            raise StoreUnavailable(f"the read model {shown.model.name} stopped {shown.error}")
        compares = Comparison if await self._is_worth_a_process() else ComparisonHere
        async with compares(made.model, made.path, shown.path) as comparison:

            async def begin(tables: Tables) -> None:
                if shown.model.name not in self._live or self._tables[shown.model.name] is not shown:
                    raise StoreUnavailable(f"the read model {shown.model.name} is not up to date: try again")
                await self._do(tables.close)
                await comparison.begin()

            await self._catch_up(made, begin, exactly=True)
            found = await comparison.result()
        return await self._explained(made, found) if found else None

    async def _explained(self, made: Tables, found: Compared) -> Difference:
        """Say which event should have made what is not there."""
        name, event = made.model.name, None
        if found.stream:
            events = await self._store.read_stream(found.stream)
            known = [event for event in events if event.position <= made.position]
            event = await self._do(maker_of, made.model, known, found)
        if event is None:
            return Difference(name, found.table, found.key, found.text, None)
        by = f"position {event.position} ({event.type} of {event.stream})"
        return Difference(name, found.table, found.key, f"{found.text} since {by}", event.position)


def _open_reader() -> sqlite3.Connection:
    return sqlite3.connect("file::memory:", uri=True, isolation_level=None)
