"""Files of jobs over HTTP: exact bytes, ranges, and headers that keep their contents from acting."""

from __future__ import annotations

import re
from urllib.parse import quote

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from uws.files import OwnFile

_UNTRUSTED = {
    # What a user's program made, or a user sent, must not act as the user who opens it in a browser.
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+")
_CONDITIONS = (
    "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"
)  # fmt: skip


def media_type_of(text: str) -> str:
    """Return the media type that a Content-Type begins with, or that of any bytes when it names none."""
    found = _MEDIA_TYPE.match(text)
    return found[0] if found else "application/octet-stream"


def stored_file(request: web.Request, file: OwnFile) -> web.StreamResponse:
    """Serve one of the files in a job's directory. Raises `NotFound`."""
    file.check()
    size = file.path.stat().st_size
    if "If-Range" not in request.headers and (_first_byte(request) or -1) >= size:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    headers = {
        **_UNTRUSTED,
        "Content-Type": file.media_type,
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(file.name, safe='')}",
    }
    return StoredFile(file.path, headers=headers)


class StoredFile(web.FileResponse):
    """A file as it is: no compressed neighbour in its place, and whole unless one range is asked for."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        sent = {name: request.headers.get(name, "") for name in _CONDITIONS}
        if _first_byte(request) is None:
            del sent["Range"]
        conditions = {name: value for name, value in sent.items() if value and value.isascii()}
        return await super().prepare(request.clone(headers=conditions))


def _first_byte(request: web.BaseRequest) -> int | None:
    """Return where the range begins, from the end when negative; None unless exactly one is asked for."""
    try:
        start: int | None = request.http_range.start
    except ValueError:
        return None
    return start
