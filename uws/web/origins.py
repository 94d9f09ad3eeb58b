"""Commands that a page of another site has a browser send: they are not its user's, and are refused.

A browser says of each request where it comes from (Fetch Metadata; the Origin of RFC 6454). Other clients say
nothing, and lend nobody their credentials.
"""

from __future__ import annotations

from aiohttp import web
from yarl import URL

from uws.model import NotAuthorized

_OWN = frozenset({"same-origin", "none"})


def check_origin(request: web.Request, base_url: str | None) -> None:
    """Raise `NotAuthorized` for what a page of another origin than the server's own has caused.

    ``base_url`` is how clients reach it, where that is not how the request came.
    """
    said = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if said is not None:
        is_own = said in _OWN
    else:
        own = {f"{request.scheme}://{request.host}", str(URL(base_url).origin()) if base_url else None}
        is_own = origin is None or origin in own
    if not is_own:
        raise NotAuthorized("this was sent by a page of another site; only pages of this server may do so")
