"""The job list (UWS 1.1 section 2.2.2.1): as XML, streamed whole; as JSON, and for people, page by page."""

from __future__ import annotations

import logging
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Annotated, TypeVar
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from lxml import etree

from projections import EVERYBODY, Cursor, JobReference, Whose
from uws.jobs import JobFilter
from uws.jobs.questions import PAGE
from uws.model import Action, Job, NotAuthorized, Service, UsageError, did_you_mean

from . import json_documents
from .conditions import is_held, tag_of_state
from .documents import Facts, JobList, serialise
from .forms import Pair, instant, phase_of, query_of, single, whole_number
from .negotiation import HTML, JSON, XML, Form, form_of
from .pages import render, revision
from .resource import Resource

_log = logging.getLogger(__name__)
T = TypeVar("T")

OWN_PARAMETERS = ("PHASE", "AFTER", "LAST", "OWNERID", "RUNID", "TEXT", "LIMIT", "CURSOR", "RESPONSEFORMAT")
"""What a list's query means by itself; other names are those of a service's parameters."""
DEFAULT_LIMIT = 100
SHOWN = 50
"""Jobs on a page for people."""
MAX_LIMIT = 1000
_ENOUGH = 2_000_000
"""Bytes of documents after which a page ends, however few jobs they are."""
_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Left = Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
_CURSOR = re.compile(r"[A-Za-z0-9_-]+")


class _Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a cursor holds: the last entry seen, and how many more LAST allows."""

    created: _Number
    position: _Number
    left: _Left | None


_place = msgspec.json.Decoder(_Place)


async def job_list(request: web.Request) -> web.StreamResponse:
    """``/{service}/async``: the caller's jobs, newest first, filtered."""
    resource = Resource(request)
    resource.caller.check_scope(Action.READ)
    pairs = query_of(request)
    form = form_of(request, pairs)
    if form is HTML and (clean := _cleaned(resource, pairs)):
        return resource.see(clean)
    service, user = resource.uws.service, _owner(resource, pairs)
    wanted, last = _filter_of(pairs, service), _number(pairs, "LAST")
    if form is JSON:
        _refuse_unknown(pairs, service)
    in_pages = form is not XML or any(pair.name.upper() in ("LIMIT", "CURSOR") for pair in pairs)
    page = (
        _Page(resource, pairs, user, wanted, last, SHOWN if form is HTML else DEFAULT_LIMIT)
        if in_pages
        else None
    )
    # The state is read before the list: of two that differ, the tag is never the newer one.
    uws, shown = resource.uws, resource.uws.read_models_state()
    state = await resource.uws.list_state(user)
    # The declaration says which names in the query are filters.
    asked = (form.name, resource.base_url, request.path, request.rel_url.raw_query_string, service.digest)
    made_by = revision() if form is HTML else ""
    if shown is not None:
        resource.lasts_as(lambda: uws.read_models_state() == shown)
    headers = resource.headers(tag_of_state(*asked, user, state, made_by))
    if is_held(request, headers["ETag"]):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = form.content_type
    if page:
        return web.Response(body=await page.read(form), headers=headers)
    async with aclosing(resource.uws.pages(user, wanted, last=last)) as pages:
        return await _whole(resource, pages, headers)


def _cleaned(resource: Resource, pairs: Sequence[Pair]) -> str | None:
    """Return the URL at which a page is shown, None when it is the one that was asked for.

    It has nothing of what a form sends for fields that were left blank, and no slash at its end, behind which
    the links of the page would lead astray.
    """
    given = [pair for pair in pairs if pair.value or pair.name.upper() == "OWNERID"]  # blank, it is nobody's
    if len(given) == len(pairs) and not resource.request.path.endswith("/"):
        return None
    return _list_url(resource, given)


def _list_url(resource: Resource, query: Sequence[tuple[str, str]]) -> str:
    return resource.uws.joblist_url + (f"?{urlencode(query)}" if query else "")


async def _whole(
    resource: Resource, pages: AsyncGenerator[list[JobReference], None], headers: dict[str, str]
) -> web.StreamResponse:
    """Send the whole list: at once when it is one page, else page by page as the client takes it."""
    document = JobList(resource.uws)
    nothing: list[JobReference] = []
    first = await anext(pages, nothing)
    second = await anext(pages, None)
    if second is None:
        return web.Response(body=serialise(document.whole(first)), headers=headers)
    response = web.StreamResponse(headers={**headers, "X-Request-ID": resource.caller.request_id or ""})
    await response.prepare(resource.request)
    if resource.request.method == "HEAD":
        return response
    try:
        await response.write(document.begin + document.entries(first) + document.entries(second))
        async for page in pages:
            if resource.request.transport is None:  # nobody is there to read what may yet be found
                break
            await response.write(document.entries(page))
        await response.write(document.end)
    except ConnectionError:
        _log.debug("request %s: the client has gone", resource.caller.request_id)
    except Exception:
        _log.exception("request %s: the job list broke off", resource.caller.request_id)
        if resource.request.transport:  # nobody may take a part for the whole
            resource.request.transport.abort()
    return response


class _Page:
    """A page of the list. Raises `UsageError` for a query that makes no sense, when it is made."""

    def __init__(
        self,
        resource: Resource,
        pairs: Sequence[Pair],
        owner: Whose,
        wanted: JobFilter,
        last: int | None,
        default: int,
    ) -> None:
        self._resource, self._pairs, self._owner, self._wanted = resource, pairs, owner, wanted
        limit = _number(pairs, "LIMIT") or default
        if limit > MAX_LIMIT:
            raise UsageError(f"LIMIT: expected a whole number, at most {MAX_LIMIT}, got {limit}")
        cursor = single(pairs, "CURSOR")
        place = _decode(cursor) if cursor is not None else None
        self._before = Cursor(place.created, place.position) if place else None
        self._left = last if place is None or place.left is None else place.left
        self._limit = limit if self._left is None else min(limit, self._left)

    async def read(self, form: Form) -> bytes:
        """Return the document, or the page made of it."""
        if form is JSON:
            return await self._documents()
        root = await self._references()
        return render(root) if form is HTML else serialise(root)

    async def _documents(self) -> bytes:
        documents, behind = await self._found(partial(json_documents.job_document, self._resource.uws))
        return json_documents.job_list(documents, self._url_of_next(behind, len(documents)))

    async def _references(self) -> etree._Element:
        # Read before the jobs are: who listens from there on misses nothing.
        mine = self._owner == self._resource.caller.user  # of others' jobs nobody is told as it happens
        position = await self._resource.uws.list_position(self._owner) if mine else None
        jobs, behind = await self._found(lambda job: job)
        after = self._wanted.after
        facts: Facts = {
            "phase": next(iter(self._wanted.phases or ()), None),
            "kept": self._further_filters(),
            "text": self._wanted.text,
            "after": after.strftime("%Y-%m-%dT%H:%M:%S") if after else None,
            "next": self._url_of_next(behind, len(jobs)),
            "position": None if position is None else str(position),
            "first": self._url() if self._before else None,
        }
        return JobList(self._resource.uws, facts).whole(jobs)

    def _further_filters(self) -> list[str]:
        """Return the filters that the page has no field for, each as its name and its value."""
        own = [pair for pair in self._pairs if pair.name.upper() in ("PHASE", "OWNERID", "RUNID", "LAST")]
        first = next((pair for pair in own if pair.name.upper() == "PHASE"), None)
        return [f"{name.upper()} {value}" for name, value in own if (name, value) != first] + [
            f"{name} {value}" for name, value in self._wanted.parameters.items()
        ]

    async def _found(self, make: Callable[[Job], T]) -> tuple[list[T], Cursor | None]:
        """Return what is made of each job of the page, and where the next page begins."""
        uws = self._resource.uws
        made: list[T] = []
        before, size = self._before, 0
        while True:
            asked = min(PAGE, self._limit - len(made))
            page = await uws.find_jobs(self._owner, self._wanted, before=before, limit=asked)
            made += map(make, page.jobs)
            before, size = page.next, size + page.size
            # A slice that is not full has read as much as one request may.
            if before is None or len(page.jobs) < asked or len(made) == self._limit or size > _ENOUGH:
                return made, before

    def _url_of_next(self, before: Cursor | None, found: int) -> str | None:
        left = None if self._left is None else self._left - found
        if before is None or left == 0:
            return None
        return self._url(("CURSOR", _encode(_Place(before.created, before.position, left))))

    def _url(self, *more: tuple[str, str]) -> str:
        """Return the URL of another page of the same list."""
        kept = [pair for pair in self._pairs if pair.name.upper() != "CURSOR"]
        return _list_url(self._resource, [*kept, *more])


def _owner(resource: Resource, pairs: Sequence[Pair]) -> Whose:
    """Return whose jobs are listed: the caller's, or by OWNERID those of others, where his role lets him."""
    caller, wanted = resource.caller, single(pairs, "OWNERID")
    if wanted is None or wanted == caller.user:
        return caller.user
    if not caller.may_with_all(Action.READ):
        raise NotAuthorized("OWNERID: the jobs of others are listed to operators, auditors and admins only")
    return EVERYBODY if wanted == "*" else wanted or None


def _filter_of(pairs: Sequence[Pair], service: Service) -> JobFilter:
    after = single(pairs, "AFTER")
    given = {
        name: single(pairs, name.upper()) for name in service.parameters if name.upper() not in OWN_PARAMETERS
    }
    return JobFilter(
        phases=[phase_of(pair.value) for pair in pairs if pair.name.upper() == "PHASE"] or None,
        after=None if after is None else instant(after, "AFTER"),
        run_id=single(pairs, "RUNID"),
        parameters={name: value for name, value in given.items() if value is not None},
        text=single(pairs, "TEXT"),
    )


def _number(pairs: Sequence[Pair], name: str) -> int | None:
    text = single(pairs, name)
    return None if text is None else whole_number(text, name, 1)


def _refuse_unknown(pairs: Sequence[Pair], service: Service) -> None:
    known = (*OWN_PARAMETERS, *service.parameters)
    for name in (pair.name for pair in pairs):
        if name.upper() not in OWN_PARAMETERS and service.find(name) is None:
            raise UsageError(
                f"{name}: unknown filter{did_you_mean(name, known)}; the list takes: {', '.join(known)}"
            )


def _encode(place: _Place) -> str:
    return urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def _decode(cursor: str) -> _Place:
    try:
        if not _CURSOR.fullmatch(cursor):
            raise ValueError("not base64url")
        return _place.decode(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, msgspec.DecodeError):
        raise UsageError(f"CURSOR: {cursor!r} is none that this list gave") from None
