"""Logging in and out: by a form for browsers, and for programs as IVOA SSO 2.0 has it (tls-with-password)."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web
from lxml import etree

from uws.model import NotAuthenticated, NotFound, TooMany, UsageError
from uws.model.text import made_fit

from .authentication import SESSION
from .documents import add, with_stylesheet
from .errors import answer_for
from .forms import query_of, read_form, single
from .negotiation import HTML, is_for_reading
from .pages import render
from .resource import Resource

LOGIN = "urn:uwsd:login"
"""The namespace of what the page is made of."""


async def login_form(request: web.Request) -> web.Response:
    """GET ``/login``: who one is here, and a form to be somebody. It leads to the path ``next``."""
    return await _page(Resource(request), single(query_of(request), "NEXT") or "")


async def login(request: web.Request) -> web.Response:
    """POST ``/login``: a session, in a cookie for browsers and in ``X-VO-Bearer`` for programs."""
    resource = Resource(request)
    authenticator = resource.site.authenticator
    lasts = authenticator.session if authenticator else None
    if not authenticator or not lasts:
        raise NotFound("nobody logs in here by user and password")
    name, password, leads_to = await read_form(request, "USERNAME", "PASSWORD", "NEXT")
    try:
        if not name or not password:
            raise UsageError("username and password are needed")
        token = await authenticator.log_in(request, name, password)
    except (NotAuthenticated, UsageError, TooMany) as error:
        if not is_for_reading(request):
            raise
        return await _page(resource, leads_to, name=name, refusal=error)
    if is_for_reading(request):
        response = resource.see(_inside(resource, leads_to))
    else:
        response = web.Response(text=f"logged in as {name}\n", headers={"X-VO-Bearer": token})
    base = urlsplit(resource.base_url)
    response.set_cookie(
        SESSION,
        token,
        path=base.path or "/",
        max_age=int(lasts.total_seconds()),
        httponly=True,
        secure=base.scheme == "https",
        samesite="Lax",
    )
    response.headers["Cache-Control"] = "no-store"
    return response


async def logout(request: web.Request) -> web.Response:
    """POST ``/logout``: the session is over, whoever has a copy of it."""
    resource = Resource(request)
    if resource.site.authenticator:
        await resource.site.authenticator.log_out(request)
    response = resource.see(f"{resource.base_url}/login")
    response.del_cookie(SESSION, path=urlsplit(resource.base_url).path or "/")
    return response


def _inside(resource: Resource, path: str) -> str:
    """Return where a log-in leads: to a path of this server, or else to its first page."""
    root = resource.base_url
    origin, prefix = root.removesuffix(urlsplit(root).path), urlsplit(root).path
    is_path = path.startswith(f"{prefix}/") and not path.startswith("//") and path.isascii()
    if is_path and path.isprintable() and not set(path) & set('\\"<>'):
        return origin + path
    return f"{root}/"


async def _page(
    resource: Resource, leads_to: str, *, name: str = "", refusal: Exception | None = None
) -> web.Response:
    authenticator = resource.site.authenticator
    document = etree.Element(f"{{{LOGIN}}}login", nsmap={"l": LOGIN})
    document.set("next", made_fit(leads_to))
    document.set("name", made_fit(name))
    document.set("root", urlsplit(resource.base_url).path.rstrip("/") + "/")
    if resource.caller.user is not None:
        you = add(document, "you", resource.caller.user)
        for role in sorted(resource.caller.roles):
            add(you, "role", role)
        for quota in await resource.quotas():
            add(document, "quota", quota)
    if authenticator and authenticator.session:
        document.set("form", "true")
        if SESSION in resource.request.cookies and resource.caller.user is not None:
            document.set("session", "true")
    if refusal:
        add(document, "refusal", str(refusal))
    with_stylesheet(document, resource.preamble("login"))
    answer = answer_for(refusal) if refusal else None
    response = web.Response(status=answer.status if answer else 200, body=render(document))
    response.headers["Content-Type"] = HTML.content_type
    response.headers["Cache-Control"] = "no-store"
    if answer and "Retry-After" in answer.headers:
        response.headers["Retry-After"] = answer.headers["Retry-After"]
    return response
