"""Moving a log to another back end: event for event and hash for hash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ._chain import check_contained
from ._errors import ChainBroken, EventStoreError, PositionPruned
from ._types import Erased, Head, Pruned, Verified
from .addresses import named
from .postgres import PostgresEventLog, PostgresEventStore
from .scanning import scan_log
from .sqlite import SQLiteEventLog, SQLiteEventStore

_PAGE = 2000
Source = SQLiteEventLog | PostgresEventLog
Target = SQLiteEventStore | PostgresEventStore


class CannotCopy(EventStoreError):
    """One log cannot become a copy of another."""


async def copy(
    source: Source, target: Target, progress: Callable[[int, int], None] = lambda done, total: None
) -> Verified:
    """Copy what ``target`` lacks of ``source``, verify it, and return what that has found.

    ``target`` is empty, or the copy that was begun before. Nobody else may write it. ``progress`` is told the
    position that was reached, and the last one. Cancelled, it leaves a copy that can be gone on with. Raises
    `CannotCopy` when ``target`` holds something else, or more, or what was erased or pruned since it was
    copied; `ChainBroken`, `StoreUnavailable`. From the first event on until all is verified, nobody can open
    ``target`` but to copy.
    """
    there, end = await target.head(), await source.head()
    await _check_begins(source, target, there, end)
    begun = there.position or end.position
    await _check_nothing_went(source, begun)
    await target._mark(under_way=True)
    position = there.position
    while (page := await source._page(position, _PAGE))[0]:
        rows, anchors = page
        await target._adopt(rows, anchors)
        position = rows[-1][0]
        progress(position, max(position, end.position))
    await _check_nothing_went(source, begun)
    verified = await target.verify(contains=[end])
    await target._mark(under_way=False)
    return verified


async def _check_begins(source: Source, target: Target, there: Head, end: Head) -> None:
    """Raise `CannotCopy` unless ``target``, which ends ``there``, is how ``source`` begins."""
    whole, first, last = (source, there, end) if there.position <= end.position else (target, end, there)
    try:
        check_contained(first, last, (await whole.hashes_at([first.position])).get(first.position))
    except (ChainBroken, PositionPruned) as error:
        raise CannotCopy(f"{_told(target)} holds another log: {error}; copy to an empty place") from error
    if whole is target and first != last:
        more = last.position - first.position
        raise CannotCopy(
            f"{_told(target)} has all of {_told(source)} and what came later, {more} more up to position "
            f"{last.position}: there is nothing to copy"
        )


async def _check_nothing_went(source: Source, begun: int) -> None:
    """Raise `CannotCopy` when something was taken away that may have been copied before."""

    def went() -> bool:
        with scan_log(source.place) as log:
            return log.has_any([Erased.type, Pruned.type], after=begun)

    if await asyncio.to_thread(went):
        raise CannotCopy(
            f"of {_told(source)} something was erased or pruned since the copy was begun: "
            "begin with an empty one"
        )


def _told(log: Source | Target) -> str:
    return named(log.place) if isinstance(log.place, str) else str(log.place)
