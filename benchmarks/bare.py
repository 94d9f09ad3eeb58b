"""The least that handlers can do: what benchmarks hold this server against.

``python -m benchmarks.bare DIRECTORY`` answers

- a GET with a file of the directory, which it has read before;
- a POST with where the job is that it has not made: it reads the form and tells those who listen;
- a GET of ``/file`` with what a POST to ``/file`` has brought as the first part of a form;
- a GET of ``/events`` by telling of each POST.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from aiohttp import BodyPartReader, web

EVENT = b"event: job\ndata: {}\n\n"
PIECE = 1 << 18


class Bare:
    """Handlers that do not know what a job is."""

    def __init__(self, directory: Path, kept: Path) -> None:
        self._bodies = {path.name: path.read_bytes() for path in directory.iterdir()}
        self._kept, self._listening = kept, set[web.StreamResponse]()
        self._ended = asyncio.Event()

    async def get(self, request: web.Request) -> web.Response:
        return web.Response(body=self._bodies[request.match_info["name"]], content_type="text/xml")

    async def post(self, request: web.Request) -> web.Response:
        form = await request.post()
        for stream in self._listening:
            await stream.write(EVENT)
        return web.Response(status=303, headers={"Location": f"/{len(form)}"})

    async def send(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(self._kept)

    async def keep(self, request: web.Request) -> web.Response:
        part = await (await request.multipart()).next()
        assert isinstance(part, BodyPartReader)
        with self._kept.open("wb") as file:
            while piece := await part.read_chunk(PIECE):
                file.write(piece)
        return web.Response(status=303, headers={"Location": "/file"})

    async def tell(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"\n" + EVENT)
        self._listening.add(stream)
        try:
            await self._ended.wait()
        finally:
            self._listening.discard(stream)
        return stream

    def end(self) -> None:
        self._ended.set()

    async def serve(self) -> None:
        """Serve until `end`, and say where."""
        app = web.Application(client_max_size=1 << 40, handler_args={"handler_cancellation": True})
        app.router.add_get("/file", self.send)
        app.router.add_post("/file", self.keep)
        app.router.add_get("/events", self.tell)
        app.router.add_get("/{name}", self.get)
        app.router.add_post("/", self.post)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(f"serving on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await self._ended.wait()
        await runner.cleanup()


async def main(directory: Path) -> None:
    """Serve until SIGTERM."""
    with TemporaryDirectory(dir=directory.parent) as kept:
        bare = Bare(directory, Path(kept) / "file")
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, bare.end)
        await bare.serve()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
