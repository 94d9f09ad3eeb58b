"""What a page of another site has a browser send: it is not its user's, and is refused.

A browser says of each request where it comes from (Fetch Metadata; the Origin of RFC 6454). Other clients say
nothing, and lend nobody their credentials.

A page whose site's name has come to mean this machine (DNS rebinding) is of the server's own origin, for all
that its browser can tell. Only the Host tells the two apart.
"""

from __future__ import annotations

import re

from aiohttp import web
from yarl import URL

from uws.config import is_loopback
from uws.model import NotAuthorized, UsageError

from .errors import Misdirected

_OWN = frozenset({"same-origin", "none"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


def host_in(said: str) -> str:
    """Return the host that a Host header names, without its port. Raises `UsageError` when it names none."""
    found = _HOST.fullmatch(said)
    if not found:
        raise UsageError("the Host header names no host")
    return found[1].lower().removesuffix(".")


def check_host(request: web.Request, base_url: str | None) -> None:
    """Raise `Misdirected` for what comes from this machine to a name that is neither its nor the server's.

    Raises `UsageError` for what is no name. HTTP/1.0, which no browser speaks, need not have any.
    """
    said, remote = request.headers.get("Host"), (request.remote or "").removeprefix("::ffff:")
    if said is None or not is_loopback(remote):
        return
    name = host_in(said)[:100]
    known = URL(base_url).raw_host if base_url else None
    # Browsers look for such a name nowhere else (RFC 6761 section 6.3).
    if is_loopback(name) or name.endswith(".localhost") or name.strip("[]") == known:
        return
    if known is None:
        advice = f"where clients reach this server by {name}, its base_url has to say so"
    else:
        advice = f"a proxy on this machine has to send the Host that clients send, {known}, or localhost"
    raise Misdirected(f"the Host {name} is not this server; {advice}")


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
