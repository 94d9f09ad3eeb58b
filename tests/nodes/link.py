"""A way to a database that can be cut, as a network is: nothing comes through then, and nobody is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self


class Link:
    """Carries connections to a port of this machine. Make one with `to`."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._open = asyncio.Event()
        self._open.set()
        self._carrying: set[asyncio.Task[None]] = set()
        self._last_word: bytes | None = None
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator[Self]:
        link = cls(port)
        server = await asyncio.start_server(link._carry, "127.0.0.1", 0)
        link.port = server.sockets[0].getsockname()[1]
        try:
            yield link
        finally:
            server.close()
            for task in link._carrying:
                task.cancel()
            await asyncio.gather(*link._carrying, return_exceptions=True)
            await server.wait_closed()

    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def lead_to(self, port: int) -> None:
        """Carry connections that come from now on to another port."""
        self._to = port

    @property
    def connections(self) -> int:
        """How many are carried."""
        return len(self._carrying)

    def break_off(self) -> None:
        """Close all that are carried."""
        for task in self._carrying:
            task.cancel()

    def cut(self) -> None:
        """Let nothing through from now on."""
        self._open.clear()

    async def cut_before(self, word: bytes) -> None:
        """Cut it when it is to carry this, which waits then; returns when that is so."""
        self._last_word = word
        while self._open.is_set():
            await asyncio.sleep(0)

    def mend(self) -> None:
        """Let through what comes, and what has waited."""
        self._open.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._carrying.add(task)
        try:
            await self._open.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass_on(reader, back))
                    group.create_task(self._pass_on(there, writer))
            finally:
                back.close()
        except* (OSError, asyncio.CancelledError):  # nobody waits for this task
            pass
        finally:
            self._carrying.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._last_word and self._last_word in data:
                self._last_word = None
                self.cut()
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()
