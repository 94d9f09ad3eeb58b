"""Whether the server does its work, found out anew for whoever asks: VOSI availability, and probes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from aiohttp import web
from lxml import etree

from eventstore import StoreUnavailable
from uws.jobs import Backend
from uws.model import Unavailable
from uws.model.units import format_time

from .documents import add
from .errors import discreet, legible
from .resource import SITE, Resource

VOSI = "http://www.ivoa.net/xml/VOSIAvailability/v1.0"
PATIENCE = 2.0
"""Seconds that the log may take to answer, before that is told."""
LONGEST_LAG = 1.0
"""Seconds that the read models may need to show what is in the log, before that is told."""
_WITHOUT = {
    "documents": "jobs cannot be looked at until it has reached the log; commands are carried out",
    "job_list": "jobs cannot be listed until it has reached the log; commands are carried out",
    "queue": "no job is started until it has reached the log; those that run go on",
}
"""What cannot be done without a read model, by its name."""
_NOTHING = "jobs are not concerned"
_STARTED = web.AppKey("started", datetime)


async def note_start(app: web.Application) -> None:
    """Remember when the application has started; its services are there by then."""
    if backend := app[SITE].backend:
        app[_STARTED] = backend.clock.now()


async def availability(request: web.Request) -> web.Response:
    """``/availability``: 200 in any case, for everybody (VOSI 1.1, availability metadata)."""
    return await _availability(request)


async def service_availability(request: web.Request) -> web.Response:
    """``/{service}/availability``: the same, as far as it concerns this service."""
    return await _availability(request, Resource(request).uws.service.name)


async def _availability(request: web.Request, only: str | None = None) -> web.Response:
    notes = await _told(request, only)
    document = _document(request.app.get(_STARTED), notes)
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=document, content_type="text/xml", charset="utf-8", headers=headers)


async def healthz(request: web.Request) -> web.Response:
    """``/healthz``: 200 as long as the process answers; nothing is looked at."""
    return _in_words(200, "the server answers")


async def readyz(request: web.Request) -> web.Response:
    """``/readyz``: 200 when commands are carried out and jobs can be looked at, else 503 and what hinders.

    That an operator has paused the queue does not.
    """
    told = await _told(request)
    missing = [note.text for note in told if note.hinders and not note.is_meant]
    warnings = [note.text for note in told if note.is_warning]
    return _in_words(503, *missing) if missing else _in_words(200, "the server is ready", *warnings)


def _in_words(status: int, *lines: str) -> web.Response:
    text = "".join(f"{legible(line)}\n" for line in lines)
    return web.Response(status=status, text=text, headers={"Cache-Control": "no-store"})


async def _told(request: web.Request, only: str | None = None) -> list[_Note]:
    site = request.app[SITE]
    notes = [note async for note in _notes(site.backend, only)] if site.backend else []
    if site.authenticator and (trouble := await site.authenticator.trouble()):
        text, hinders = trouble
        notes.append(_Note(text, hinders, is_warning=True))
    return notes


class _Note(NamedTuple):
    text: str
    hinders: bool = True
    """Whether clients cannot do all that they could."""
    is_meant: bool = False
    """Whether an operator wants it so."""
    is_warning: bool = False
    """Whether an operator is to know it, even if it hinders nobody."""


async def _notes(backend: Backend, only: str | None) -> AsyncIterator[_Note]:
    """Say in words what the server, or ``only`` one service, cannot do now, and what it still can."""
    if unread := await _hindered(backend.store.head(), "the log cannot be read"):
        yield _Note(unread)
        yield _Note(
            "jobs can neither be looked at nor changed; those that run go on, and what becomes of them is "
            "recorded when the log can be written"
        )
        return
    for unwritten in await _unwritten(backend):
        yield _Note(unwritten)
    try:
        backend.files.check_room()
    except Unavailable as error:
        yield _Note(str(error))
        yield _Note(
            "no job is created, changed or started; those that run end, all can be aborted and deleted"
        )
    with suppress(StoreUnavailable):  # of a read model that is not up to date is told below
        await backend.projector.caught_up("queue", timeout=LONGEST_LAG)
        for service, since in (await backend.jobs.paused()).items():
            if only and service not in (None, only):
                continue
            what = f"the queue of {service}" if service else "the queue"
            jobs = f"job of {service}" if service else "job"
            yield _Note(
                f"{what} is paused since {format_time(since)}: no {jobs} is started until it is resumed; "
                "those that run go on",
                hinders=service in (None, only),
                is_meant=True,
            )
    try:
        found = await backend.projector.status()
    except StoreUnavailable as error:
        yield _Note(str(error))
        return
    for status, late in zip(
        found, await asyncio.gather(*(_late(backend, s.name) for s in found)), strict=True
    ):
        if late:
            yield _Note(late, status.name in _WITHOUT)
            yield _Note(_WITHOUT.get(status.name, _NOTHING), status.name in _WITHOUT)
        if (making := status.making) and making.going_on:
            yield _Note(
                f"the read model {status.name} is being made anew (version {making.version}), "
                f"so far to position {making.position} of {status.position + status.lag}",
                hinders=False,
            )


async def _unwritten(backend: Backend) -> list[str]:
    """Say why the log cannot be written, and what can be done all the same; nothing when it can."""
    hindered = await _hindered(backend.store.check_writable(), "the log cannot be written")
    if hindered is None and backend.membership and (why := backend.membership.cut_off):
        hindered = f"node {backend.membership.name} is cut off: {why}"
    what = "jobs can be looked at; what becomes of those that run is recorded when the log can be written"
    return [hindered, what] if hindered else []


async def _hindered(trying: Awaitable[object], what: str) -> str | None:
    """Say why the log does not let something be done, or not in time: ``what`` that is; None when it does."""
    try:
        async with asyncio.timeout(PATIENCE):
            await trying
    except StoreUnavailable as error:
        return str(error)
    except TimeoutError:
        return f"{what}: there is no answer within {PATIENCE:.0f} s"
    return None


async def _late(backend: Backend, name: str) -> str | None:
    """Say why a read model does not show what is in the log; None when it does."""
    try:
        await backend.projector.caught_up(name, timeout=LONGEST_LAG)
    except StoreUnavailable as error:
        return discreet(error)
    return None


def _document(started: datetime | None, notes: list[_Note]) -> bytes:
    root = etree.Element(f"{{{VOSI}}}availability", nsmap={"vosi": VOSI})
    add(root, "available", "false" if any(note.hinders for note in notes) else "true")
    if started:
        add(root, "upSince", format_time(started))
    for note in notes:
        add(root, "note", note.text)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)
