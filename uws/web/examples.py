"""The examples of a service (DALI 1.1 section 2.3): a page for people, marked up in RDFa for programs."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from lxml import etree

from uws.files import files_of_example
from uws.jobs import UserUWS
from uws.model import Example, NotFound

from .capabilities import UWS_ID
from .documents import add, serialise, url_of_nth
from .negotiation import Form
from .own_files import file_of_example
from .resource import Resource
from .stored import stored_file

XHTML = "http://www.w3.org/1999/xhtml"
VOCABULARY = "http://www.ivoa.net/rdf/examples#"
_FORM = Form("xhtml", ("application/xhtml+xml",), "application/xhtml+xml; charset=utf-8")


async def examples(request: web.Request) -> web.Response:
    """``/{service}/examples``: well-formed XHTML with RDFa Lite; 404 without any examples."""
    resource = Resource(request)
    if not resource.uws.service.examples:
        raise NotFound(f"{resource.uws.service.name} has no examples")
    return resource.answer(serialise(_page(resource.uws)), _FORM)


async def example_file(request: web.Request) -> web.StreamResponse:
    """``/{service}/examples/{example}/{parameter}``: the file; the n-th of several with ``/n``."""
    resource = Resource(request)
    named = request.match_info
    file = file_of_example(resource.uws, named["example"], named["name"], int(named.get("number", "1")))
    return stored_file(request, file)


def request_of(uws: UserUWS, example: Example) -> list[tuple[str, str]]:
    """Return the parameters of a request that does what an example shows; its files are named by URL."""
    files = files_of_example(uws.service, example)
    return [
        ("UPLOAD", f"{name},{url_of_file(uws, example, name, number)}") if name in files else (name, value)
        for name, values in example.values.items()
        for number, value in enumerate(values, start=1)
    ]


def url_of_file(uws: UserUWS, example: Example, name: str, number: int) -> str:
    """Return where the ``number``-th file of a parameter is, counted from 1."""
    url = f"{uws.service_url}/examples/{example.id}/{name}"
    return url_of_nth(url, number, len(example.values[name]))


def _page(uws: UserUWS) -> etree._Element:
    title = f"Examples: {uws.service.title}"
    default: dict[Any, str] = {None: XHTML}  # the stubs know of no default namespace
    html = etree.Element(f"{{{XHTML}}}html", lang="en", nsmap=default)
    head = add(html, "head")
    add(head, "title", title)
    add(head, "meta").attrib.update({"name": "viewport", "content": "width=device-width"})
    add(head, "link", rel="stylesheet", href=f"{uws.base_url}/static/uws.css")
    add(head, "link", rel="icon", href=f"{uws.base_url}/static/uws.svg")
    main = add(add(html, "body"), "main", vocab=VOCABULARY)
    add(main, "h1", title)
    add(add(main, "p"), "a", "The form of the service", href=uws.service_url)
    for example in uws.service.examples:
        _describe(
            add(main, "section", id=example.id, resource=f"#{example.id}", typeof="example"), uws, example
        )
    return html


def _describe(section: etree._Element, uws: UserUWS, example: Example) -> None:
    add(section, "h2", example.title, property="name")
    if example.description:
        add(section, "p", example.description)
    table = add(section, "table")
    caption = add(table, "caption", "Parameters for ")
    add(caption, "code", UWS_ID, property="capability")
    body = add(table, "tbody")
    for name, value in request_of(uws, example):
        row = add(body, "tr", property="generic-parameter", typeof="keyval")
        add(row, "th", name, scope="row", property="key")
        add(row, "td", value, property="value")
    query = urlencode(request_of(uws, example))
    add(add(section, "p"), "a", "Fill in the form", href=f"{uws.service_url}?{query}")
