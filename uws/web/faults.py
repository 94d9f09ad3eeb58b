"""Errors as pages, and as pictures, for whoever prefers those; what they say is what all others are told."""

from __future__ import annotations

from http import HTTPStatus
from textwrap import wrap
from typing import Any
from urllib.parse import quote, urlsplit

from aiohttp import web
from lxml import etree

from uws.model.text import made_fit

from .documents import add, serialise, with_stylesheet
from .negotiation import HTML, JSON, SVG, XML, accepted, negotiate
from .pages import render
from .resource import SITE

FAULT = "urn:uwsd:fault"
"""The namespace of what tells of an error."""


def readable(request: web.Request, fault: web.Response) -> web.Response:
    """Return an error document as a page or a picture where the client prefers that, else as it is."""
    fault.headers["Vary"] = "Accept"
    form = negotiate(accepted(request), (XML, JSON, HTML, SVG))
    if form is HTML:
        fault.body = _page(request, fault)
    elif form is SVG:  # it is the place of a picture in a page
        fault.body = _picture(fault)
    else:
        return fault
    fault.headers["Content-Type"] = form.content_type
    return fault


def _picture(fault: web.Response) -> bytes:
    """Return the words of an error as a picture (SVG 1.1)."""
    lines = wrap((fault.text or "").partition(": ")[2], 60)
    width, height = "480", str(20 * len(lines) + 20)
    names: dict[Any, str] = {None: "http://www.w3.org/2000/svg"}  # the stubs know of no default namespace
    svg = etree.Element(f"{{{names[None]}}}svg", nsmap=names, width=width, height=height)
    add(svg, "rect", width=width, height=height, fill="#fff")
    for number, line in enumerate(lines, start=1):
        add(svg, "text", line, x="10", y=str(20 * number + 4)).set("font-family", "sans-serif")
    return serialise(svg)


def _page(request: web.Request, fault: web.Response) -> bytes:
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
    return render(document)
