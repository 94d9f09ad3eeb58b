"""What was read of the read models, kept as long as nothing has happened to what it is about."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from cachetools import LRUCache

MOST, LONGEST = 4_000_000, 16_000
"""Bytes that answers were read from, of all that are kept and of one: those that were asked for last."""


class Memory:
    """Answers, each about something such as a stream, with the bytes that it was read from.

    What is read while anything changes is not kept.
    """

    def __init__(self) -> None:
        self._answers = LRUCache[Hashable, tuple[Any, int]](MOST, getsizeof=lambda answer: answer[1])
        self._changes = 0
        """Begun and ended: odd while there is one."""

    @property
    def now(self) -> int:
        """What `keep` is to be told of when reading began."""
        return self._changes

    def find(self, about: Hashable) -> tuple[Any, int] | None:
        """Return what is kept about something, None for nothing."""
        return self._answers.get(about)

    def keep(self, about: Hashable, answer: tuple[Any, int], since: int) -> None:
        """Keep an answer that was read ``since`` then, unless something has changed meanwhile."""
        if since == self._changes and not since % 2 and 0 < answer[1] <= LONGEST:
            self._answers[about] = answer

    @contextmanager
    def changing(self, changed: Iterable[Hashable] | None) -> Iterator[None]:
        """Forget what is about these, None for all, and keep nothing of any until the context is left."""
        self._changes += 1
        if changed is None:
            self._answers.clear()
        for about in changed or ():
            self._answers.pop(about, None)
        try:
            yield
        finally:
            self._changes += 1

    def clear(self) -> None:
        """Forget everything."""
        self._changes += 2
        self._answers.clear()
