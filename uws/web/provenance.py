"""What a job came of and what came of it, as W3C PROV: JSON, PROV-N, or a drawing."""

from __future__ import annotations

import asyncio

from aiohttp import web

from uws.model import Unavailable
from uws.provenance import Run, run_of
from uws.provenance.drawing import SECONDS, draw

from .conditions import is_held, tag_of_state
from .forms import query_of
from .negotiation import JSON, SVG, Form, form_of
from .resource import Resource

PROVN = Form("provn", ("text/provenance-notation",), 'text/provenance-notation; charset="utf-8"')
FORMS = (JSON, PROVN, SVG)
_LINE = 8
"""Drawings that are asked for at one time, at most."""


async def provenance(request: web.Request) -> web.Response:
    """``{job}/provenance``: its provenance, for whoever may read its history."""
    resource = Resource(request)
    form = form_of(request, query_of(request), FORMS)
    recorded = await resource.uws.history(resource.job_id, resource.caller)
    run = run_of(recorded, await resource.uws.declarations())
    if form is SVG:
        headers = resource.headers(tag_of_state("provenance", run.job.id, recorded[-1].version))
        if is_held(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        svg = await request.app[DRAWINGS].make(run)
        return web.Response(body=svg, content_type=form.content_type, headers=headers)
    return resource.answer(await asyncio.to_thread(_written, run, form), form)


class Drawings:
    """Makes drawings one at a time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting = 0

    async def make(self, run: Run) -> bytes:
        """Draw the provenance of a job. Raises `CannotDraw`, and `Unavailable` when too many wait."""
        if self._waiting == _LINE:
            raise Unavailable("too many drawings are being made", SECONDS)
        self._waiting += 1
        try:
            async with self._lock:
                dot = await asyncio.to_thread(_graph, run)
                return await draw(dot, f"Provenance of job {run.job.id}")
        finally:
            self._waiting -= 1


DRAWINGS = web.AppKey("drawings", Drawings)


def _written(run: Run, form: Form) -> bytes:
    # Imported for who asks, and in a thread: servers start without, and nobody waits for it.
    from uws.provenance.document import as_json, as_provn, document_of

    return (as_json if form is JSON else as_provn)(document_of(run))


def _graph(run: Run) -> str:
    from uws.provenance.document import document_of
    from uws.provenance.graph import dot_of

    return dot_of(document_of(run))
