"""Entity tags, and whether a client holds already what it asks for (RFC 9110 sections 8.8.3 and 13.1.2)."""

from __future__ import annotations

import re
from hashlib import sha256

import msgspec
from aiohttp import web

from uws.version import VERSION

_TAG = re.compile('"[^"]*"')
_encoder = msgspec.json.Encoder()


def tag_of(body: bytes) -> str:
    """Return a strong tag for ``body``: the same one as long as it is the same."""
    return f'"{sha256(body).hexdigest()[:32]}"'


def tag_of_state(*parts: object) -> str:
    """Return a strong tag for what follows from ``parts`` and this program's version alone."""
    return tag_of(_encoder.encode((VERSION, *parts)))


def is_held(request: web.Request, tag: str) -> bool:
    """Whether If-None-Match says that the client holds what has ``tag``; tags are compared weakly."""
    sent = ", ".join(request.headers.getall("If-None-Match", ()))
    return sent.strip() == "*" or tag in _TAG.findall(sent)
