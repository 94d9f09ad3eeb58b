"""What was read of streams, kept as long as nothing has happened to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from cachetools import LRUCache

MOST = 1_000
"""Streams of which something is kept: those that were asked for last."""


class Memory:
    """Answers about streams, by stream. What is read while anything changes is not kept."""

    def __init__(self) -> None:
        self._answers = LRUCache[str, Any](MOST)
        self._changes = 0
        """Begun and ended: odd while there is one."""

    @property
    def now(self) -> int:
        """What `keep` is to be told of when reading began."""
        return self._changes

    def find(self, stream: str) -> Any:
        """Return what is kept of a stream, None for nothing."""
        return self._answers.get(stream)

    def keep(self, stream: str, answer: Any, since: int) -> None:
        """Keep an answer that was read ``since`` then, unless something has changed meanwhile."""
        if since == self._changes and not since % 2 and answer is not None:
            self._answers[stream] = answer

    @contextmanager
    def changing(self, streams: Iterable[str]) -> Iterator[None]:
        """Forget these streams, and keep nothing of any until the context is left."""
        self._changes += 1
        for stream in streams:
            self._answers.pop(stream, None)
        try:
            yield
        finally:
            self._changes += 1

    def clear(self) -> None:
        """Forget everything."""
        self._changes += 2
        self._answers.clear()
