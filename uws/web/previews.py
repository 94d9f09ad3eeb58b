"""A first look at the files of a job: of results the beginning, of logs the end.

The picture of a FITS image is made by another process.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import BinaryIO

from aiohttp import web

from uws import quicklook
from uws.beneath import path_of
from uws.environment import base_environment
from uws.files import OwnFile
from uws.model import Action, NotFound, Unavailable

from .conditions import is_held, tag_of_state
from .documents import with_stylesheet
from .forms import query_of
from .handlers import log_of, result_of
from .looks import look
from .negotiation import HTML, XML, form_of
from .resource import Resource

LOOKERS = 2
"""Threads in which files are looked at; they serve no files, so that who looks keeps nobody waiting."""
_LINE = 8
"""Pictures that are asked for at one time, at most."""


async def result_preview(request: web.Request) -> web.Response:
    """``{job}/results/{id}/preview``: its beginning."""
    file = result_of(resource := Resource(request), await resource.job(Action.FILES))
    return await _preview(resource, file, request.match_info["result_id"], from_end=False)


async def log_preview(request: web.Request) -> web.Response:
    """``{job}/logs/{name}/preview``: its end."""
    file = log_of(resource := Resource(request), await resource.job(Action.FILES))
    return await _preview(resource, file, file.name, from_end=True)


async def picture(request: web.Request) -> web.StreamResponse:
    """``{job}/results/{id}/quicklook``: a picture of a FITS image, as PNG."""
    resource = Resource(request)
    job = await resource.job(Action.FILES)
    file = result_of(resource, job)
    with file.open() as opened:
        headers = resource.headers(tag_of_state("quicklook", job.id, file.name))  # a result stays as it is
        if is_held(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        png = await request.app[PICTURES].make(opened, file.name)
    return web.Response(body=png, content_type="image/png", headers=headers)


class Pictures:
    """Makes pictures one at a time, each in a process of its own."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting = 0

    async def make(self, file: BinaryIO, name: str) -> bytes:
        """Return a picture of a file called ``name``.

        Raises `NotFound` where there is no image, `Unavailable` when too many wait.
        """
        if self._waiting == _LINE:
            raise Unavailable("too many pictures are being made", quicklook.SECONDS)
        self._waiting += 1
        try:
            async with self._lock:
                return await self._made(file, name)
        finally:
            self._waiting -= 1

    async def _made(self, file: BinaryIO, name: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", quicklook.__file__, path_of(0),
            stdin=file, stdout=PIPE, stderr=DEVNULL, env=base_environment({}),
        )  # fmt: skip
        png = b""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * quicklook.SECONDS):
                    png, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode == quicklook.EMPTY:
            raise NotFound(f"in {name}, no pixel that would be shown has a value")
        if process.returncode != 0 or not png:
            raise NotFound(f"{name} has no image that can be shown")
        return png


PICTURES = web.AppKey("pictures", Pictures)
THREADS = web.AppKey("threads", ThreadPoolExecutor)


async def with_threads(app: web.Application) -> AsyncIterator[None]:
    """Have threads in which files are looked at, as long as the application runs."""
    with ThreadPoolExecutor(LOOKERS, "look") as app[THREADS]:
        yield
        app[THREADS].shutdown(wait=False, cancel_futures=True)


async def _preview(resource: Resource, file: OwnFile, item: str, *, from_end: bool) -> web.Response:
    form = form_of(resource.request, query_of(resource.request), (XML, HTML))
    with file.open() as opened:
        looking = partial(look, path_of(opened.fileno()), file.name, file.media_type, from_end=from_end)
        root = await asyncio.get_running_loop().run_in_executor(resource.request.app[THREADS], looking)
    root.set("job", resource.job_id)
    root.set("item", item)
    root.set("of", "logs" if from_end else "results")
    return resource.answer(with_stylesheet(root, resource.preamble("preview")), form)
