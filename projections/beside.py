"""Reading read models beside whoever keeps them, or when nobody does."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from eventstore import StoreUnavailable
from eventstore.connection import Connection, connect_for_reading, translated

from ._following import in_one_transaction
from ._shelf import serving
from ._tables import checkpoint_of

R = TypeVar("R")


class Beside:
    """One read model, as it is in its file. Make one with `beside`."""

    def __init__(self, name: str, reader: Connection) -> None:
        self._name, self._reader = name, reader

    async def ask(self, question: Callable[..., R], *arguments: Any, **named: Any) -> R:
        """Return what ``question`` says of a connection to its tables. Raises `StoreUnavailable`."""
        with translated(f"the read model {self._name} cannot be read"):
            return await self._reader.run(in_one_transaction, question, arguments, named)

    async def ask_at(self, question: Callable[..., R], *arguments: Any) -> tuple[int, R]:
        """Return what `ask` does, and up to where events are in it, both of one moment."""

        def both(connection: sqlite3.Connection) -> tuple[int, R]:
            return checkpoint_of(connection)[0], question(connection, *arguments)

        return await self.ask(both)

    async def position(self) -> int:
        """Return up to where events are in it. Raises `StoreUnavailable` when it has stopped there."""
        position, error = await self.ask(checkpoint_of)
        if error:
            raise StoreUnavailable(f"the read model {self._name} stopped {error}")
        return position


@asynccontextmanager
async def beside(path: Path, name: str) -> AsyncIterator[Beside | None]:
    """Open the read model ``name`` of those registered at ``path``; give None when there is none.

    It stays the one that it was, should it be made anew meanwhile. Raises `StoreUnavailable`.
    """
    with translated(str(path)):
        found = await asyncio.to_thread(serving, path, name)
    if found is None:
        yield None
        return

    def opened() -> sqlite3.Connection:
        return connect_for_reading(found)

    reader = Connection(opened, 64)
    with translated(str(found)):
        await reader.opened()
    try:
        yield Beside(name, reader)
    finally:
        await reader.close()
