"""The least that a server can do for a job: a request, three events on the disk, a supervised program.

``python -m benchmarks.least DIRECTORY`` answers each POST when its program has ended and that is on record.
It has no queue, no read models and no documents, looks at nothing that is sent, and starts whatever comes.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import closing
from itertools import count
from pathlib import Path

import uvloop
from aiohttp import web

from eventstore import NewEvent, SQLiteEventStore
from uws.environment import base_environment
from uws.execution.process import Launcher, Process
from uws.execution.records import next_record
from uws.files import Files


class Least:
    """Runs `true` for whoever asks."""

    def __init__(self, store: SQLiteEventStore, files: Files) -> None:
        self._store, self._files = store, files
        self._launcher, self._numbers = Launcher(), count(1)

    async def run(self, request: web.Request) -> web.Response:
        """Answer when `true` has ended."""
        await request.post()
        name = f"j{next(self._numbers)}"
        await self._tell(name, "JobQueued")
        await self._tell(name, "JobStarted")
        directory = self._files.of(name)
        directory.make()
        record = await self._launcher.launch(
            ["true"],
            record=next_record(directory, 1),
            root=directory.root,
            directory=directory.work,
            environment=base_environment({}),
            stdout=directory.logs / "stdout",
            stderr=directory.logs / "stderr",
            limits={},
            nice=0,
        )
        if process := Process.of(record):
            with closing(process):
                await process.ended()
        await self._tell(name, "JobCompleted")
        return web.Response(text="COMPLETED")

    async def close(self) -> None:
        await self._launcher.close()

    async def _tell(self, stream: str, what: str) -> None:
        await self._store.append(stream, [NewEvent(type=what, data=b"{}")])


async def serve(data: Path) -> None:
    """Serve until SIGTERM, and say where."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    store, files = await SQLiteEventStore.open(data / "events.db"), Files(data)
    files.prepare()
    least, app = Least(store, files), web.Application()
    app.router.add_post("/", least.run)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"serving on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await ended.wait()
    await runner.cleanup()
    await least.close()
    await store.close()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
