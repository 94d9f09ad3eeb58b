"""A job as it was, after any of its events or at any time, for auditors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from aiohttp import web
from lxml import etree

from eventstore import RecordedEvent, from_microseconds, to_microseconds
from uws.audit import Entry, NotThere, Past, check_time, entry_of, happened_by
from uws.model import UsageError
from uws.model import events as e
from uws.model.units import format_time

from .auditing import add_entry, as_field, asked, backend_of, number_of, past_of, root_of
from .changes import changes
from .documents import add, with_stylesheet
from .forms import Pair, instant, single
from .negotiation import JSON
from .past import document_then

WHEN = ("VERSION", "AT", "ELAPSED")
"""What says when, each in its own way."""
_NUMBER = re.compile(r"[0-9]{1,10}(\.[0-9]{1,30})?([eE]-[0-9]{1,3})?")
"""As a range of a form sends them."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it was right after one of its events, or at ``time``, when ``version`` events had happened.

    ``document`` is None when there was none, ``missing`` says why.
    """

    job: str
    version: int
    versions: int
    time: str | None
    document: msgspec.Raw | None
    missing: str | None
    events: list[Entry]


class _When(NamedTuple):
    """When a job is shown: right after so many of its events, or at ``time``, when these had happened."""

    version: int
    time: datetime | None = None


async def job_then(request: web.Request) -> web.Response:
    """``/audit/jobs/{id}``: the events of a job, and its document right after one of them, or at a time."""
    resource, pairs, form = asked(request, *WHEN)
    past, job_id = past_of(resource), request.match_info["job"]
    recorded = await past.history(job_id)
    when = _when(pairs, recorded, backend_of(resource).clock.now())
    document, missing = await _document(past, job_id, when, resource.base_url, as_json=form is JSON)
    entries = [entry_of(event) for event in recorded]
    if form is JSON:
        seen = Seen(
            job=job_id, version=when.version, versions=len(recorded),
            time=format_time(when.time) if when.time else None,
            document=msgspec.Raw(document) if document else None, missing=missing, events=entries,
        )  # fmt: skip
        return resource.answer(msgspec.json.encode(seen), form)
    root = root_of("job", id=job_id, version=str(when.version), versions=str(len(recorded)))
    moments = _moments(recorded)
    _add_time(root, when, moments)
    if missing:
        add(root, "missing", missing)
    else:
        before = b""
        if when.version > 1:
            before, _ = await _document(past, job_id, _When(when.version - 1), resource.base_url)
        # In a thread, and by the run: a document may have as many lines as its owner has sent line breaks.
        for change, lines in await asyncio.to_thread(changes, before, document):
            add(root, "lines", lines, **({"change": change} if change else {}))
    for entry, moment in zip(entries, moments, strict=True):
        add_entry(root, entry).set("elapsed", _seconds(moment - moments[0]))
    return resource.answer(with_stylesheet(root, resource.preamble("audit")), form)


def _when(pairs: Sequence[Pair], recorded: Sequence[RecordedEvent], now: datetime) -> _When:
    """Return what was asked for; by default, how a job is now. Raises `UsageError`."""
    given = [name for name in WHEN if single(pairs, name)]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)}: expected only one of them")
    if not given or given == ["VERSION"]:
        version = number_of(pairs, "VERSION", len(recorded), 1)
        if version > len(recorded):
            job_id = e.job_id_of(recorded[0].stream)
            raise UsageError(f"VERSION: job {job_id} has versions 1 to {len(recorded)}, not {version}")
        return _When(version)
    (name,) = given
    text = single(pairs, name) or ""
    if name == "AT":
        time = instant(text, name)
    elif _NUMBER.fullmatch(text):
        time = from_microseconds(_moments(recorded)[0]) + timedelta(seconds=float(text))
    else:
        raise UsageError(f"{name}: expected seconds since the first event of the job, got {text[:100]!r}")
    check_time(name, time, now)
    happened = happened_by(recorded, time)
    return _When(happened[-1].version if happened else 0, time)


async def _document(
    past: Past, job_id: str, when: _When, base_url: str, *, as_json: bool = False
) -> tuple[bytes, str | None]:
    """Return a job's document as its owner saw it then, or why there was none."""
    try:
        if when.time is not None:
            then = await past.job_at(job_id, when.time)
        else:
            then = await past.job_at_version(job_id, when.version)
    except NotThere as error:
        return b"", str(error)
    return document_then(then, base_url, as_json=as_json), None


def _add_time(root: etree._Element, when: _When, moments: Sequence[int]) -> None:
    """Tell the time that is shown, and where it is between the first event of the job and its last."""
    first, last = moments[0], max(moments)
    moment = to_microseconds(when.time) if when.time else moments[when.version - 1]
    if when.time:
        root.set("time", format_time(when.time))
    root.set("elapsed", _seconds(min(max(moment, first), last) - first))
    root.set("lasted", _seconds(last - first))
    shown = when.time or from_microseconds(
        moment - moment % 1000
    )  # what is recorded is told to the millisecond
    add(root, "filter", as_field(shown), name="AT")


def _moments(recorded: Sequence[RecordedEvent]) -> list[int]:
    return [e.time_of(event) for event in recorded]


def _seconds(microseconds: int) -> str:
    return f"{microseconds / 1_000_000:.6f}"
