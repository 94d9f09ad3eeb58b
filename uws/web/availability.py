"""VOSI availability: whether the server does its work, found out anew for whoever asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from aiohttp import web
from lxml import etree

from eventstore import StoreUnavailable
from projections import Behind
from uws.jobs import Backend
from uws.model import Unavailable
from uws.model.text import made_fit
from uws.model.units import format_time

from .handlers import SITE

VOSI = "http://www.ivoa.net/xml/VOSIAvailability/v1.0"
LONGEST_LAG = 1.0
"""Seconds that the read models may need to show what is in the log, before that is told."""
_STARTED = web.AppKey("started", datetime)


async def note_start(app: web.Application) -> None:
    """Remember when the application has started; its services are there by then."""
    if backend := _backend(app):
        app[_STARTED] = backend.clock.now()


async def availability(request: web.Request) -> web.Response:
    """``/availability``: 200 in any case, for everybody (VOSI 1.1, availability metadata)."""
    backend = _backend(request.app)
    notes = [note async for note in _troubles(backend)] if backend else []
    document = _document(request.app.get(_STARTED), notes)
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=document, content_type="text/xml", charset="utf-8", headers=headers)


def _backend(app: web.Application) -> Backend | None:
    """Return what all services share; None when there are none."""
    return next((uws.backend for uws in app[SITE].services.values()), None)


async def _troubles(backend: Backend) -> AsyncIterator[str]:
    """Say in words what the server cannot do now, and what it still can."""
    try:
        await backend.store.check_writable()
    except StoreUnavailable as error:
        yield str(error)
        yield "jobs can be looked at; what becomes of those that run is recorded when the log can be written"
    try:
        backend.files.check_room()
    except Unavailable as error:
        yield str(error)
        yield "no job is created, changed or started; those that run end, all can be aborted and deleted"
    try:
        await backend.projector.caught_up(LONGEST_LAG)
    except Behind as error:
        yield str(error)
        yield "jobs cannot be looked at until the read models have reached the log; commands are carried out"


def _document(started: datetime | None, notes: list[str]) -> bytes:
    root = etree.Element(f"{{{VOSI}}}availability", nsmap={"vosi": VOSI})
    _add(root, "available", "false" if notes else "true")
    if started:
        _add(root, "upSince", format_time(started))
    for note in notes:
        _add(root, "note", made_fit(note))
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def _add(parent: etree._Element, name: str, text: str) -> None:
    etree.SubElement(parent, f"{{{VOSI}}}{name}").text = text
