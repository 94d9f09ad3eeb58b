"""Comparing what was made of the log aside with what is read, row by row; of a long log, in a process."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from eventstore import RecordedEvent, StoreUnavailable
from eventstore.connection import connect_for_reading
from eventstore.processes import running
from eventstore.tasks import to_the_end

from ._building import find, named
from .readmodel import Batch, Contents, ReadModel

R = TypeVar("R")
Row = tuple[Any, ...]
_READY = b"ready\n"
_CANNOT = "the read models cannot be compared"


class Compared(msgspec.Struct):
    """The first row that is not the same, in words; ``column`` is where, None for a row that is not there.

    In a column that holds a document, ``member`` is where. ``stream`` is the one that the row is made from.
    """

    table: str
    key: str
    text: str
    stream: str | None
    column: int | None = None
    member: str | None = None


class _Outcome(msgspec.Struct):
    difference: Compared | None = None
    failure: str = ""


class Comparison:
    """Compares the tables at two places, in a process of its own. Leaving it ends the process."""

    def __init__(self, model: ReadModel[Any], made: Path, shown: Path) -> None:
        self._arguments = (*named(model), str(made), str(shown))
        self._undoing = AsyncExitStack()
        self._process: Process

    async def __aenter__(self) -> Self:
        self._process = await self._undoing.enter_async_context(
            running(__name__, *self._arguments, stdin=PIPE)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        await self._undoing.aclose()

    async def begin(self) -> None:
        """Take both as they are now: what is folded later is not compared. Raises `StoreUnavailable`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        if (line := await self._process.stdout.readline()) != _READY:
            self._outcome(line)

    async def result(self) -> Compared | None:
        """Return the first difference. Raises `StoreUnavailable`."""
        assert self._process.stdout is not None
        return self._outcome(await self._process.stdout.readline())

    def _outcome(self, line: bytes) -> Compared | None:
        outcome = msgspec.json.decode(line, type=_Outcome) if line else _Outcome(failure="it broke off")
        if outcome.failure:
            raise StoreUnavailable(f"{_CANNOT}: {outcome.failure}")
        return outcome.difference


class ComparisonHere:
    """Does what `Comparison` does in a thread, for so few rows that a process takes longer to start."""

    def __init__(self, model: ReadModel[Any], made: Path, shown: Path) -> None:
        self._model, self._places = model, (made, shown)
        self._thread, self._opened = ThreadPoolExecutor(1), ExitStack()
        self._both: Sequence[sqlite3.Connection] = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await to_the_end(self._do(self._opened.close))
        finally:
            self._thread.shutdown()

    async def begin(self) -> None:
        self._both = await self._do(_begin, self._opened, *self._places)

    async def result(self) -> Compared | None:
        ours, theirs = self._both
        return await self._do(_first_difference, self._model, ours, theirs)

    async def _do(self, function: Callable[..., R], *arguments: Any) -> R:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        except Exception as error:
            raise StoreUnavailable(f"{_CANNOT}: {_words(error)}") from error


def maker_of(model: ReadModel[Any], events: Sequence[RecordedEvent], found: Compared) -> RecordedEvent | None:
    """Return the event of a stream that made a row, or the value in one of its columns, what it should be."""
    query, before, maker = model.contents[found.table].query, None, None
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(model.tables)
        for event in events:
            model.fold(connection, Batch([event]))
            row = connection.execute(query).fetchone()
            value: Any = row is not None if found.column is None else row and row[found.column]
            if value and found.member:
                value = msgspec.json.decode(value).get(found.member)
            if value != before:
                before, maker = value, event
    return maker


def main(module: str, qualified_name: str, made: str, shown: str) -> None:
    """Compare, as soon as a line comes, and write the outcome to standard output."""
    outcome = _Outcome()
    try:
        model = find(module, qualified_name)
        sys.stdin.buffer.readline()
        with ExitStack() as opened:
            ours, theirs = _begin(opened, Path(made), Path(shown))
            sys.stdout.buffer.write(_READY)
            sys.stdout.buffer.flush()
            outcome.difference = _first_difference(model, ours, theirs)
    except Exception as error:
        outcome.failure = _words(error)
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _begin(opened: ExitStack, *places: Path) -> list[sqlite3.Connection]:
    """Open what is at each place, as it is now."""
    connections = [opened.enter_context(closing(connect_for_reading(place))) for place in places]
    for connection in connections:
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM checkpoint").fetchall()
    return connections


def _first_difference(
    model: ReadModel[Any], ours: sqlite3.Connection, theirs: sqlite3.Connection
) -> Compared | None:
    for table, contents in model.contents.items():
        made, shown = ours.execute(contents.query), theirs.execute(contents.query)
        columns = [column[0] for column in made.description]
        for ours_, theirs_ in _side_by_side(made, shown, contents.keys):
            if ours_ != theirs_:
                return _described(table, contents, columns, ours_, theirs_)
    return None


def _side_by_side(
    made: Iterator[Row], shown: Iterator[Row], keys: int
) -> Iterator[tuple[Row | None, Row | None]]:
    """Give the rows of both that have the same key, and None beside one that is alone."""
    one, other = next(made, None), next(shown, None)
    while one is not None or other is not None:
        order = _order(one, keys), _order(other, keys)
        yield one if order[0] <= order[1] else None, other if order[1] <= order[0] else None
        if order[0] <= order[1]:
            one = next(made, None)
        if order[1] <= order[0]:
            other = next(shown, None)


def _order(row: Row | None, keys: int) -> tuple[Any, ...]:
    """Return what sorts rows as SQLite does: no value before any, and no row after all."""
    if row is None:
        return (1,)
    return (
        0,
        *((value is not None, value or type(value)() if value is not None else 0) for value in row[:keys]),
    )


def _described(
    table: str, contents: Contents, columns: Sequence[str], made: Row | None, shown: Row | None
) -> Compared:
    row = made or shown
    assert row is not None
    key = ", ".join(f"{name} {value!r}" for name, value in zip(columns, row[: contents.keys], strict=False))
    stream = contents.stream(row) if contents.stream else None
    if made is None or shown is None:
        text = "the row is missing" if shown is None else "the row should not be there"
        return Compared(table, key, text, stream)
    column = next(number for number, pair in enumerate(zip(made, shown, strict=True)) if pair[0] != pair[1])
    member, text = _told(made[column], shown[column])
    return Compared(table, key, f"{columns[column]}{text}", stream, column, member)


def _told(made: Any, shown: Any) -> tuple[str | None, str]:
    """Say how two values differ; of documents the first member that does."""
    try:
        ours, theirs = (msgspec.json.decode(value, type=dict[str, Any]) for value in (made, shown))
    except (msgspec.MsgspecError, TypeError, ValueError):
        if isinstance(shown, bytes):
            return None, " is damaged"
        return None, f" is {shown!r}, should be {made!r}"
    for member in [*ours, *theirs]:
        if ours.get(member) != theirs.get(member):
            return member, f": {member} is {theirs.get(member)!r}, should be {ours.get(member)!r}"
    return None, " is written in another way"
