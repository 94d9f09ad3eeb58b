"""What happened to a job, step by step, as the log has it."""

from __future__ import annotations

import msgspec
from aiohttp import web
from lxml import etree

from eventstore import RecordedEvent, from_microseconds
from uws.model import events as e
from uws.model.telling import tell_of
from uws.model.text import made_fit
from uws.model.units import format_time

from .documents import with_stylesheet
from .forms import query_of
from .negotiation import JSON, form_of
from .resource import Resource

HISTORY = "urn:uwsd:history"
"""The namespace of what tells of events."""


class Step(msgspec.Struct, frozen=True):
    """An event of a job. ``version`` counts those of the job, ``position`` all of the log, both from 1.

    ``time`` is when it happened, ``actor`` who caused it: None is nobody in particular, uwsd the server.
    ``says`` is for people; ``facts`` is the payload.
    """

    version: int
    position: int
    time: str
    type: str
    actor: str | None
    says: str
    facts: msgspec.Raw


async def history(request: web.Request) -> web.Response:
    """``{job}/history``: the events of the job, in order."""
    resource = Resource(request)
    form = form_of(request, query_of(request))
    recorded = await resource.uws.history(resource.job_id, resource.caller)
    steps = [_step(event) for event in recorded]
    if form is JSON:
        return resource.answer(msgspec.json.encode(steps), form)
    root = etree.Element(f"{{{HISTORY}}}history", {"job": resource.job_id}, {"h": HISTORY})
    for step in steps:
        element = etree.SubElement(root, f"{{{HISTORY}}}event")
        for name in ("version", "position", "time", "type", "actor"):
            if (fact := getattr(step, name)) is not None:
                element.set(name, made_fit(str(fact)))
        element.text = made_fit(step.says)
    return resource.answer(with_stylesheet(root, resource.preamble("history")), form)


def _step(recorded: RecordedEvent) -> Step:
    return Step(
        recorded.version,
        recorded.position,
        format_time(from_microseconds(e.time_of(recorded))),
        recorded.type,
        recorded.about.actor,
        tell_of(recorded),
        msgspec.Raw(recorded.data),
    )
