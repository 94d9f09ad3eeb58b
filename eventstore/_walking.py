"""Verification of a SQLite log by several processes: each walks along one stretch of the chain.

An event's recorded hash is all that a walk along the events after it needs, and the walk along the stretch
before shows whether that hash is right.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec

from ._chain import EMPTY, Walk
from ._errors import ChainBroken, StoreUnavailable
from ._ledger import read_page
from ._types import Head
from .connection import connect_for_reading
from .processes import running

_WORTH_A_PROCESS = 50_000
"""Events: fewer are walked along sooner than a process is started."""
_REPORT = 1_000
_BOUNDARY = "SELECT position, hash FROM event WHERE position >= ? ORDER BY position LIMIT 1"


class _Report(msgspec.Struct):
    """A line that a process writes: how far it has come, or what it has found at the end."""

    checked: int = 0
    failure: str = ""
    broken: tuple[int, str] | None = None
    head: tuple[int, str] | None = None
    erased: list[tuple[int, str, int]] = []
    gaps: list[tuple[int, int]] = []
    notes: list[tuple[str, str, bytes]] = []


async def walk_together(path: Path, head: Head, progress: Callable[[int], None]) -> Walk | None:
    """Walk from the first event to ``head``, or return None when that is better done alone.

    Raises `ChainBroken` at the first fault, `StoreUnavailable`. Cancelled, it ends its processes.
    """
    with closing(connect_for_reading(path)) as connection:
        bounds = _bounds(connection, head)
    if not bounds:
        return None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_walk_elsewhere(path, begin, end.position, progress))
                for begin, end in pairwise(bounds)
            ]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    reports = [task.result() for task in tasks]
    if faults := [report.broken for report in reports if report.broken]:
        raise ChainBroken(*min(faults))
    first, *later = map(_walked, bounds, reports)
    return first.joined(*later)


def _walked(begin: Head, report: _Report) -> Walk:
    assert report.head is not None
    walk = Walk(begin)
    walk.head = Head(report.head[0], bytes.fromhex(report.head[1]))
    walk.events, walk.erased, walk.gaps, walk.notes = (
        report.checked, report.erased, report.gaps, report.notes,
    )  # fmt: skip
    return walk


def _bounds(connection: sqlite3.Connection, head: Head) -> list[Head]:
    """Return where stretches of about the same length begin, and the end of the last one."""
    parts = min(len(os.sched_getaffinity(0)), head.position // _WORTH_A_PROCESS)
    wanted = (head.position * part // parts for part in range(1, parts))
    inner = (connection.execute(_BOUNDARY, (position,)).fetchone() for position in wanted)
    return list(dict.fromkeys([EMPTY, *(Head(*found) for found in inner if found), head])) if parts else []


async def _walk_elsewhere(path: Path, first: Head, last: int, progress: Callable[[int], None]) -> _Report:
    async with running(__name__, str(path), str(first.position), first.hash.hex(), str(last)) as process:
        return await _last_report(process, progress)


async def _last_report(process: Process, progress: Callable[[int], None]) -> _Report:
    assert process.stdout is not None
    seen = 0
    async for line in process.stdout:
        report = msgspec.json.decode(line, type=_Report)
        progress(report.checked - seen)
        seen = report.checked
        if report.failure:
            raise StoreUnavailable(report.failure)
        if report.head:
            return report
    raise StoreUnavailable(f"a process that was to verify ended with status {await process.wait()}")


def main(path: str, after: str, hash_: str, until: str) -> None:
    """Walk along a stretch and write reports to standard output."""
    report = _Report()
    walk = Walk(Head(int(after), bytes.fromhex(hash_)))
    try:
        with closing(connect_for_reading(Path(path))) as connection:
            # No transaction holds it all together: it would keep the WAL from being emptied.
            while (page := read_page(connection, walk.head.position, _REPORT, int(until)))[0]:
                walk.feed(*page)
                _write(_Report(checked=walk.events))
    except ChainBroken as error:
        report.broken = (error.position, error.reason)
    except sqlite3.Error as error:
        report.failure = f"the log cannot be verified: {error}"
    report.checked, report.erased, report.gaps, report.notes = walk.events, walk.erased, walk.gaps, walk.notes
    report.head = (walk.head.position, walk.head.hash.hex())
    _write(report)


def _write(report: _Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()
