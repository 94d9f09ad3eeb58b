"""Files of jobs over HTTP: exact bytes, ranges, and headers that keep their contents from acting."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import BinaryIO
from urllib.parse import quote

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from uws.beneath import path_of
from uws.files import OwnFile

_UNTRUSTED = {
    # What a user's program made, or a user sent, must not act as the user who opens it in a browser.
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+")
CONDITIONS = (
    "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"
)  # fmt: skip


def media_type_of(text: str) -> str:
    """Return the media type that a Content-Type begins with, or that of any bytes when it names none."""
    found = _MEDIA_TYPE.match(text)
    return found[0] if found else "application/octet-stream"


def stored_file(request: web.Request, file: OwnFile) -> web.StreamResponse:
    """Serve one of the files in a job's directory. Raises what `OwnFile.open` does."""
    opened = file.open()
    size = os.fstat(opened.fileno()).st_size
    if "If-Range" not in request.headers and (_first_byte(request) or -1) >= size:
        opened.close()
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    headers = {
        **_UNTRUSTED,
        "Content-Type": file.media_type,
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(file.name, safe='')}",
    }
    return StoredFile(opened, headers)


class StoredFile(web.FileResponse):
    """A file as it is: no compressed neighbour in its place, and whole unless one range is asked for."""

    def __init__(self, opened: BinaryIO, headers: Mapping[str, str]) -> None:
        """``opened`` is what is served, whatever lies in its place by now; it is closed in the end."""
        super().__init__(path_of(opened.fileno()), headers=headers)
        self._opened = opened

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        sent = {name: request.headers.get(name, "") for name in CONDITIONS}
        if _first_byte(request) is None:
            del sent["Range"]
        conditions = {name: value for name, value in sent.items() if value and value.isascii()}
        with self._opened as file:
            writer = await super().prepare(request.clone(headers=conditions))
            if os.fstat(file.fileno()).st_size < self._whole():
                self.force_close()  # fewer bytes went than were announced: what follows is not the rest
        return writer

    def _whole(self) -> int:
        """Return how large the file was said to be."""
        size = self.headers.get("Content-Range", "").rpartition("/")[2]
        return int(size) if size else self.content_length or 0


def _first_byte(request: web.BaseRequest) -> int | None:
    """Return where the range begins, from the end when negative; None unless exactly one is asked for."""
    try:
        start: int | None = request.http_range.start
    except ValueError:
        return None
    return start
