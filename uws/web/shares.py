"""Who else may look at a job: users and groups that its owner names, and whoever has a link.

A link is a URL of the job with a secret in its query. Browsers are led on to the URL without it, and keep it
in a cookie for the job and what is below it, so that what its pages lead to is there, too.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from aiohttp import web
from lxml import etree

from uws.model import (
    STRANGER,
    Action,
    JobGone,
    NotAuthenticated,
    NotFound,
    OtherService,
    Share,
    UsageError,
    digest_of_link,
)
from uws.model.units import format_time, parse_duration

from .documents import add, with_stylesheet
from .forms import query_of, read_form, single
from .negotiation import HTML, JSON, form_of, is_for_reading
from .resource import CALLER, Resource, ask_again

SHARES = "urn:uwsd:shares"
"""The namespace of what tells of shares."""
PARAMETER = "SHARE"
"""What the secret of a link is called in a query."""
COOKIE = "uwsd_share"
LINK = "LINK"
"""With whom a job is shared that is shared by a link."""


class Entry(msgspec.Struct, frozen=True, rename={"to": "with"}):
    """A share, as JSON; ``to`` is a user, a ``@group``, or LINK."""

    id: str
    to: str
    expires: str | None


async def shares(request: web.Request) -> web.Response:
    """GET ``{job}/shares``: those that are good now, for those who may end them."""
    resource = Resource(request)
    return await _answer(resource)


async def share(request: web.Request) -> web.Response:
    """POST to ``{job}/shares``: one more, or another time for the same. A link is told here alone."""
    resource = Resource(request)
    await resource.admit(Action.SHARE)
    to, expires = await read_form(request, "WITH", "EXPIRES")
    await ask_again(request)
    if not to:
        raise UsageError("WITH is missing: a user, a group as @name, or LINK")
    made = await resource.uws.share_job(
        resource.job_id,
        resource.caller,
        to=None if to.upper() == LINK else to,
        lasts=_time(expires) if expires else None,
    )
    if made is None or made[1] is None:
        return resource.see(_url(resource))
    new, secret = made
    link = f"{resource.uws.get_url_for_id(resource.job_id)}?{urlencode({PARAMETER: secret})}"
    if is_for_reading(request):
        response = await _answer(resource, link)
    else:
        response = web.Response(status=201, text=f"{link}\n")
    response.headers["Location"] = f"{_url(resource)}/{new.id}"
    response.headers["Cache-Control"] = "no-store"
    return response


async def unshare(request: web.Request) -> web.Response:
    """DELETE of ``{job}/shares/{id}``, and POST with ``ACTION=DELETE``: it is good no longer."""
    resource = Resource(request)
    await resource.admit(Action.SHARE)
    if request.method == "POST" and await read_form(request, "ACTION") != ["DELETE"]:
        raise UsageError("ACTION: expected DELETE")
    await ask_again(request)
    await resource.uws.unshare_job(resource.job_id, request.match_info["share_id"], resource.caller)
    return resource.see(_url(resource))


def _url(resource: Resource) -> str:
    return f"{resource.uws.get_url_for_id(resource.job_id)}/shares"


def _time(text: str) -> timedelta:
    try:
        return timedelta(seconds=parse_duration(int(text) if text.isdecimal() else text))
    except (ValueError, OverflowError):
        raise UsageError(f"EXPIRES: expected a duration such as 12h or 7d, got {text[:100]!r}") from None


async def _answer(resource: Resource, link: str | None = None) -> web.Response:
    """Answer with the shares, and with a ``link`` that was made this moment."""
    form = HTML if link else form_of(resource.request, query_of(resource.request))
    job, now = await resource.job(Action.SHARE), resource.uws.backend.clock.now()
    good = [_entry(one) for one in job.shares if one.is_good(now)]
    if form is JSON:
        return resource.answer(msgspec.json.encode({"shares": good}), form)
    root = etree.Element(f"{{{SHARES}}}shares", {"job": job.id}, {"s": SHARES})
    for entry in good:
        element = add(root, "share", "", id=entry.id, **{"with": entry.to})
        if entry.expires:
            element.set("expires", entry.expires)
    if link:
        add(root, "link", link)
    document = with_stylesheet(root, resource.preamble("shares"))
    return resource.answer(document, form, status=201 if link else 200)


def _entry(one: Share) -> Entry:
    return Entry(
        one.id, LINK if one.to is None else one.to, format_time(one.expires) if one.expires else None
    )


# Those who come by a link


def link_of(request: web.Request) -> str | None:
    """Return the digest of the secret that a request to look at a job shows, None without one.

    Raises `UsageError`.
    """
    if "job_id" not in request.match_info or request.method not in ("GET", "HEAD"):
        return None
    secret = _in_query(request) or request.cookies.get(COOKIE)
    return digest_of_link(secret) if secret else None


def _in_query(request: web.Request) -> str | None:
    if f"{PARAMETER}=" not in request.rel_url.raw_query_string.upper():
        return None
    return single(query_of(request), PARAMETER)


async def let_in(request: web.Request, link: str) -> None:
    """Let somebody in who is nobody, to the job that his link is for. Raises `NotAuthenticated`."""
    request[CALLER] = request[CALLER].known_as(replace(STRANGER, link=link))
    try:
        await Resource(request).job()
    except OtherService:
        pass  # he is led to where it is, with his link
    except (NotFound, JobGone, NotAuthenticated):
        raise NotAuthenticated("this link is not good, or not any more: say who you are") from None


async def led_on(request: web.Request) -> web.Response | None:
    """Have a browser that follows a link keep it, and go on without it in the URL; None for all others."""
    secret = _in_query(request) if request[CALLER].link and is_for_reading(request) else None
    if not secret:
        return None
    resource = Resource(request)
    job, now = await resource.job(), resource.uws.backend.clock.now()
    url = resource.uws.get_url_for_id(job.id)
    rest = quote(request.path.partition(f"/{job.id}")[2])
    query = urlencode([pair for pair in query_of(request) if pair.name.upper() != PARAMETER])
    response = resource.see(url + rest + (f"?{query}" if query else ""))
    response.headers["Cache-Control"] = "no-store"
    for one in job.shares:
        if one.digest == request[CALLER].link and one.expires and one.is_good(now):
            response.set_cookie(
                COOKIE,
                secret,
                path=urlsplit(url).path,
                max_age=int((one.expires - now).total_seconds()),
                httponly=True,
                secure=urlsplit(url).scheme == "https",
                samesite="Lax",
            )
    return response


async def keep_to_ourselves(request: web.Request, response: web.StreamResponse) -> None:
    """Have a browser tell nobody where it was, when that is a link."""
    if f"{PARAMETER}=" in request.rel_url.raw_query_string.upper():
        response.headers["Referrer-Policy"] = "no-referrer"
