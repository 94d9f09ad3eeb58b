"""The least that a handler can do: what `benchmarks.requests` holds this server against.

``python -m benchmarks.bare DIRECTORY`` answers a GET with a file of the directory, which it has read before,
and a POST with where the job is that it has not made: it reads the form, and that is all.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop
from aiohttp import web


async def serve(directory: Path) -> None:
    """Serve until SIGTERM, and say where."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    files = {path.name: path.read_bytes() for path in directory.iterdir()}

    async def get(request: web.Request) -> web.Response:
        return web.Response(body=files[request.match_info["name"]], content_type="text/xml")

    async def post(request: web.Request) -> web.Response:
        form = await request.post()
        return web.Response(status=303, headers={"Location": f"/{len(form)}"})

    app = web.Application()
    app.router.add_get("/{name}", get)
    app.router.add_post("/", post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"serving on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await ended.wait()
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
