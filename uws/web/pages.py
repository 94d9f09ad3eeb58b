"""Pages: what the stylesheets make of documents, here for whoever prefers HTML, or in the browser."""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from pathlib import Path, PurePosixPath

from aiohttp import web
from lxml import etree

_PACKAGED = Path(__file__).parent.parent / "static"
STATIC = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "static"
"""Stylesheets and script: within the installed package, or in the checkout."""
SAMP_HUB = "http://localhost:21012"
"""Where the hub is that pages may speak to (SAMP 1.3 section 5.2.1)."""
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        f"connect-src 'self' {SAMP_HUB}",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""What a page of ours may do: nothing that did not come from here, and nobody shows it as a part of his."""
_HREF = re.compile(r'\bhref="([^"]*)"')


async def protect(request: web.Request, response: web.StreamResponse) -> None:
    """Have a browser take an answer for what it is called, and do no more with it than our pages need."""
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Content-Security-Policy", _POLICY)
    response.headers.setdefault("Referrer-Policy", "same-origin")


@cache
def revision() -> str:
    """Return a text that is another one for other stylesheets: what a page's tag follows from, too."""
    digest = sha256()
    for stylesheet in sorted((STATIC / "xsl").iterdir()):
        digest.update(stylesheet.read_bytes())
    return digest.hexdigest()


def render(document: etree._Element) -> bytes:
    """Return the page that a document's own stylesheet makes of it."""
    named = document.xpath("string(preceding-sibling::processing-instruction('xml-stylesheet'))")
    found = _HREF.search(str(named))
    assert found, "a document of ours names its stylesheet"
    return bytes(_stylesheet(PurePosixPath(found[1]).name)(document.getroottree()))


@cache
def _stylesheet(name: str) -> etree.XSLT:
    # Whatever stands in a document: its page is made of that alone.
    nothing = dict.fromkeys(("read_file", "write_file", "create_dir", "read_network", "write_network"), False)
    return etree.XSLT(etree.parse(STATIC / "xsl" / name), access_control=etree.XSLTAccessControl(**nothing))
