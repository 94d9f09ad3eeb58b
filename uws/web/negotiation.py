"""Which form of a resource a client gets: by RESPONSEFORMAT, else by Accept (RFC 9110 section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from aiohttp import web

from uws.model import UsageError

from .forms import Pair, single


class Form(NamedTuple):
    """A form of resources: its short name, the media types it is asked for by, and that it is sent with."""

    name: str
    media_types: tuple[str, ...]
    content_type: str


XML = Form("xml", ("text/xml", "application/xml"), "text/xml; charset=utf-8")
JSON = Form("json", ("application/json",), "application/json")
HTML = Form("html", ("text/html",), "text/html; charset=utf-8")
SVG = Form("svg", ("image/svg+xml",), "image/svg+xml")

_JAVA = frozenset(
    {"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "text/html, image/gif, image/jpeg, */*; q=0.2"}
)
"""What Java sends for a program that has said nothing, such as TOPCAT; no browser sends it."""

_ELEMENT = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
_RANGE = re.compile(r"\s*([\w.+*-]+)/([\w.+*-]+)\s*(;.*)?", re.ASCII | re.DOTALL)
_QUALITY = re.compile(r";\s*q\s*=\s*([^;\s]*)", re.IGNORECASE)
_QVALUE = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


class _Range(NamedTuple):
    type: str
    subtype: str
    quality: float

    def fit(self, media_type: str) -> int:
        """Return how specific this range is for ``media_type``: 3 by name, 0 when it does not cover it."""
        kind, _, subtype = media_type.partition("/")
        match self.type, self.subtype:
            case "*", "*":
                return 1
            case type, "*" if type == kind:
                return 2
        return 3 if (self.type, self.subtype) == (kind, subtype) else 0


def form_of(request: web.Request, pairs: Sequence[Pair], offered: Sequence[Form] = (XML, JSON, HTML)) -> Form:
    """Return the form that a request asks for; RESPONSEFORMAT wins over Accept (DALI 1.1 section 3.4.3).

    Raises `UsageError` for a RESPONSEFORMAT that is none of ``offered``.
    """
    wanted = single(pairs, "RESPONSEFORMAT")
    if wanted is None:
        return negotiate(accepted(request), offered)
    names = {name: form for form in offered for name in (form.name, *form.media_types)}
    try:
        return names[wanted.strip().lower()]
    except KeyError:
        raise UsageError(f"RESPONSEFORMAT: expected one of {', '.join(names)}, got {wanted!r}") from None


def accepted(request: web.Request) -> str:
    """Return what a request accepts: all that its Accept headers say, or nothing in particular."""
    said = ", ".join(request.headers.getall("Accept", ()))
    return "" if said in _JAVA else said


def is_for_reading(request: web.Request) -> bool:
    """Whether what is sent is best a page: the client is a browser, or like one."""
    return negotiate(accepted(request), (XML, JSON, HTML)) is HTML


def negotiate(accept: str, offered: Sequence[Form]) -> Form:
    """Return the form that ``accept`` prefers; of equal ones that named more exactly, then the first.

    What accepts none of ``offered``, or cannot be read, gives the first: an answer is better than 406.
    """
    ranges = list(_ranges(accept))
    return max(offered, key=lambda form: max(_preference(name, ranges) for name in form.media_types))


def _preference(media_type: str, ranges: Sequence[_Range]) -> tuple[float, int]:
    """Return the quality of a media type, which the most specific range decides, and how specific that is."""
    fits = [(fit, found.quality) for found in ranges if (fit := found.fit(media_type))]
    if not fits:
        return 0.0, 0
    fit, quality = max(fits)
    return quality, fit if quality else 0


def _ranges(accept: str) -> Iterator[_Range]:
    for element in _ELEMENT.findall(accept):
        if not (found := _RANGE.fullmatch(element)):
            continue
        # Other parameters than q would tell forms apart that are not offered here.
        quality = _QUALITY.search(found[3] or "")
        if quality is None or _QVALUE.fullmatch(quality[1]):
            yield _Range(found[1].lower(), found[2].lower(), float(quality[1]) if quality else 1.0)
