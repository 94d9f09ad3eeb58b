"""Errors as pages, for whoever prefers HTML; what they say is what all others are told."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import quote, urlsplit

from aiohttp import web
from lxml import etree

from uws.model.text import made_fit

from .documents import with_stylesheet
from .negotiation import HTML, is_for_reading
from .pages import render
from .resource import SITE

FAULT = "urn:uwsd:fault"
"""The namespace of what tells of an error."""


def readable(request: web.Request, fault: web.Response) -> web.Response:
    """Return an error document as a page where the client prefers that, else as it is."""
    fault.headers["Vary"] = "Accept"
    if not is_for_reading(request):
        return fault
    name, _, message = (fault.text or "").strip().partition(": ")
    base = request.app[SITE].base_url
    root = urlsplit(base).path if base else str(request.app.router["index"].url_for())
    document = etree.Element(f"{{{FAULT}}}fault", nsmap={"f": FAULT})
    document.set("name", name)
    document.set("status", str(fault.status))
    document.set("reason", HTTPStatus(fault.status).phrase)
    document.set("root", root.rstrip("/") + "/")
    if fault.status == 401 and request.method == "GET":
        prefix = urlsplit(base).path.rstrip("/") if base else ""  # which the proxy takes away
        document.set("asked", quote(prefix + request.rel_url.raw_path_qs, safe="/"))
    if (job_id := request.match_info.get("job_id")) and request.method != "GET":
        document.set("job", f"{root.rstrip('/')}/{request.match_info['service']}/async/{job_id}")
    document.text = made_fit(message)
    with_stylesheet(document, ("xml-stylesheet", 'type="text/xsl" href="useruws-fault-to-html.xsl"'))
    fault.body = render(document)
    fault.headers["Content-Type"] = HTML.content_type
    return fault
