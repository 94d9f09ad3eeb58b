"""Making read models in processes of their own, so that a server goes on answering meanwhile.

The models are shared out among as many processes as there are cores; each reads the log once.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from eventstore import Pruned, StoreUnavailable
from eventstore.processes import running
from eventstore.scanning import LogScan, parse_place, scan_log

from ._tables import Tables
from .readmodel import Batch, ReadModel

_FEWEST, _MOST = 1_000, 20_000
"""Events that are folded at once. Few stay in the processor's caches, which is faster by a tenth; of many
fewer rows have to be read back and written again."""
_PAUSE = 0.05
"""Seconds between two reports."""


class _Work(msgspec.Struct):
    """A read model, by the name of its class, and the file it is folded into."""

    module: str
    qualified_name: str
    path: str


class _Report(msgspec.Struct):
    """A line that a process writes: how far each model has come, or what keeps the process from going on."""

    positions: dict[str, int]
    failure: str = ""


def named(model: ReadModel[Any]) -> tuple[str, str]:
    """Return under which name another process finds the class of a model."""
    return type(model).__module__, type(model).__qualname__


def find(module: str, qualified_name: str) -> ReadModel[Any]:
    """Return a model by the name of its class."""
    model: ReadModel[Any] = getattr(import_module(module), qualified_name)()
    return model


async def build(
    log: Path | str, making: Sequence[Tables], until: int, progress: Callable[[int, int], None]
) -> None:
    """Fold the log up to ``until`` into closed tables, and index them.

    ``progress`` is told how far they have come on the average. A model that fails stops, and its tables say
    why; the others go on. Raises `StoreUnavailable`. Cancelled, it ends its processes; what they have done
    stays.
    """
    positions = {tables.model.name: tables.position for tables in making}

    def report(news: dict[str, int]) -> None:
        positions.update(news)
        for tables in making:
            tables.position = positions[tables.model.name]
        progress(sum(positions.values()) // len(positions), until)

    try:
        async with asyncio.TaskGroup() as group:
            for part in _shared_out(making):
                group.create_task(_build_elsewhere(log, part, until, report))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _shared_out(making: Sequence[Tables]) -> list[list[Tables]]:
    """Share tables out among the cores, so that each has about as much to do."""
    parts: list[list[Tables]] = [[] for _ in range(min(len(making), len(os.sched_getaffinity(0))))]
    for tables in sorted(making, key=lambda tables: -tables.model.share):
        min(parts, key=lambda part: sum(tables.model.share for tables in part)).append(tables)
    return parts


async def _build_elsewhere(
    log: Path | str, part: Sequence[Tables], until: int, report: Callable[[dict[str, int]], None]
) -> None:
    work = [_Work(*named(tables.model), str(tables.path)) for tables in part]
    async with running(__name__, str(log), str(until), msgspec.json.encode(work).decode()) as process:
        await _listen(process, report)


async def _listen(process: Process, report: Callable[[dict[str, int]], None]) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        news = msgspec.json.decode(line, type=_Report)
        if news.failure:
            raise StoreUnavailable(news.failure)
        report(news.positions)
    if status := await process.wait():
        raise StoreUnavailable(f"a process that was to fold the log ended with status {status}")


def main(log: str, until: str, work: str) -> None:
    """Fold and index, and write reports to standard output; end when nobody listens any more."""
    gc.disable()  # nothing here refers to itself; looking for it takes a tenth of the time
    with suppress(BrokenPipeError):
        _write(_Report({}, _make(parse_place(log), int(until), msgspec.json.decode(work, type=list[_Work]))))


def _make(log: Path | str, until: int, work: Sequence[_Work]) -> str:
    """Fold and index; return what keeps that from being done, in words."""
    try:
        making = [_open(part) for part in work]
        _fold(log, making, until)
        with ThreadPoolExecutor(len(making)) as threads:  # SQLite sorts without Python
            list(threads.map(Tables.finish, making))
        for tables in making:
            tables.close()
    except BrokenPipeError:
        raise
    except Exception as error:
        return f"read models cannot be made: {error or type(error).__name__}"
    return ""


def _open(part: _Work) -> Tables:
    model = find(part.module, part.qualified_name)
    tables = Tables.open(model, Path(part.path), model.version)
    tables.error = None  # what failed once is tried again
    tables.hurry()
    return tables


def _fold(path: Path | str, making: Sequence[Tables], until: int) -> None:
    going, at_once, told = list(making), _FEWEST, 0.0
    with scan_log(path) as log:
        while going and (position := min(tables.position for tables in going)) < until:
            events = log.read(after=position, limit=min(at_once, until - position))
            if not events or events[-1].position - position != len(events):
                _check_known(log, going, position)
            if not events or events[-1].position > until:
                break
            batch = Batch(events)
            going = [tables for tables in going if _folded(tables, batch)]
            at_once = _suited(at_once, batch)
            if monotonic() > told + _PAUSE:
                told = monotonic()
                _tell(making)
    _tell(making)


def _suited(at_once: int, batch: Batch) -> int:
    """Return how many events to fold next, by how many rows of those before were there already."""
    known = len(batch.jobs) - len(batch.born)
    if known > len(batch.jobs) // 4:
        return min(2 * at_once, _MOST)
    return at_once if known > len(batch.jobs) // 16 else max(at_once // 2, _FEWEST)


def _tell(making: Sequence[Tables]) -> None:
    _write(_Report({tables.model.name: tables.position for tables in making}))


def _folded(tables: Tables, batch: Batch) -> bool:
    try:
        tables.fold(batch)
    except Exception:
        if tables.error is None:
            raise
        return False
    return True


def _check_known(log: LogScan, going: Sequence[Tables], position: int) -> None:
    """Raise `StoreUnavailable` when what is missing behind ``position`` was there when folding began."""
    pruned = log.read_stream(Pruned.stream)
    if pruned and any(pruned[-1].position > tables.began for tables in going):
        raise StoreUnavailable(f"the log was pruned behind position {position} meanwhile: begin again")


def _write(report: _Report) -> None:
    # Not through a buffer, which would be tried again at the end, when nobody listens any more.
    line = msgspec.json.encode(report) + b"\n"
    while line:
        line = line[os.write(sys.stdout.fileno(), line) :]
