"""What all handlers begin with: the site, the service, the caller, the job; and the forms of an answer."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from urllib.parse import quote

from aiohttp import web
from cachetools import LRUCache
from lxml import etree
from yarl import URL

from uws.commands import Caller
from uws.config import AuditSettings
from uws.files import OwnFile, Spool
from uws.jobs import Backend, UserUWS
from uws.model import (
    STRANGER,
    Action,
    Identity,
    Job,
    NotAuthenticated,
    NotFound,
    OtherService,
    Phase,
    did_you_mean,
)
from uws.peers import PeerFile

from .conditions import is_held, tag_of, tag_of_state
from .documents import serialise
from .fetching import Fetcher, Fetches
from .negotiation import HTML, Form
from .origins import host_in
from .own_files import own_file
from .pages import render, revision
from .waiting import WAITS_PER_OWNER, Waits

LONGEST_WAIT = 60
"""Seconds that WAIT blocks at most: below the time-outs that proxies and clients usually have."""
SYNC_SECONDS = 60
"""Seconds that the result of a synchronous request is waited for; below these time-outs, too."""
RENDERED, LONGEST_RENDERED = 8_000_000, 16_000
"""Bytes of documents that are kept as they were sent, and of one of them."""


class Authenticator(ABC):
    """Tells who sends a request. Of all else it does nothing by itself."""

    @abstractmethod
    async def identify(self, request: web.Request) -> Identity:
        """Return who it is, which may be nobody in particular.

        Raises `NotAuthenticated` for wrong credentials, and for none where these are needed.
        """

    def address_of(self, request: web.Request) -> str | None:
        """Return the address from which a request comes: a proxy's own, unless one is known as such."""
        return request.remote

    def challenges(self, base_url: str) -> Sequence[str]:
        """Return a value of WWW-Authenticate for each way in which clients may say who they are.

        ``base_url`` is where the server is for the client that is told.
        """
        return ()

    def serving(self, backend: Backend) -> AbstractAsyncContextManager[None]:
        """Give the context in which it works."""
        return nullcontext()

    @property
    def session(self) -> timedelta | None:
        """How long a browser stays logged in that logs in by a form; None where there is none."""
        return None

    async def log_in(self, request: web.Request, name: str, password: str) -> str:
        """Return the token of a new session. Raises `NotAuthenticated`, `TooMany`."""
        raise NotFound("nobody logs in here by user and password")

    async def log_out(self, request: web.Request) -> None:
        """End the session of a browser, if it has one, or of a program, which names it in Authorization.

        Raises `NotAuthenticated` for what is named there and is no session.
        """
        return

    async def trouble(self) -> tuple[str, bool] | None:
        """Say what keeps it from telling who somebody is, and whether anybody is refused for that."""
        return None

    def note_refusal(self, request: web.Request, error: Exception) -> None:
        """Take note of a request that was refused for who sends it."""
        return

    def lasting(self, request: web.Request) -> Holds | None:
        """Return what tells at once whether `identify` would say the same again of this request.

        False stands also for what has to be asked. None, which is the default, is that always; and it is
        what is said of a request that was let in by other means.
        """
        return None

    async def still(self, request: web.Request) -> Identity:
        """Return who it is by now, of a request that `identify` has let in.

        It is asked again and again while the request lasts: to cost little, and leave nothing on record, is
        for who overrides it. Raises `NotAuthenticated` for credentials that are good no longer.
        """
        return await self.identify(request)


@dataclass(frozen=True)
class Site:
    """What the handlers know of the server they belong to. ``base_url`` None: as the request came."""

    services: dict[str, UserUWS]
    base_url: str | None
    closing: asyncio.Event
    authenticator: Authenticator | None
    longest_wait: float = LONGEST_WAIT
    sync_seconds: float = SYNC_SECONDS
    waits: Waits = field(default_factory=lambda: Waits(WAITS_PER_OWNER))
    audit: AuditSettings = field(default_factory=AuditSettings)
    rendered: LRUCache[Hashable, bytes] = field(default_factory=lambda: LRUCache(RENDERED, getsizeof=len))
    """Documents as they were sent, by all that they depend on."""

    @property
    def backend(self) -> Backend | None:
        """What all services share; None when there are none."""
        return next((uws.backend for uws in self.services.values()), None)


Holds = Callable[[], bool]
"""Tells whether something that was found out is still so."""
SITE = web.AppKey("site", Site)
FETCHER = web.AppKey("fetcher", Fetcher)
CALLER = web.RequestKey("caller", Caller)
HOLDS: web.RequestKey[tuple[Holds, Holds]] = web.RequestKey("holds")
"""Tell whether the same request would be the same caller's, and whether he would be answered alike."""


async def ask_again(request: web.Request) -> None:
    """Find out again who sends a request that has lasted: he may not be let in, or may less, by now.

    Raises `NotAuthenticated`, also when he is somebody else.
    """
    authenticator, caller = request.app[SITE].authenticator, request[CALLER]
    if authenticator is None:
        return
    try:
        identity = await authenticator.still(request)
    except NotAuthenticated:
        if caller.link is None or "Authorization" in request.headers:
            raise
        identity = STRANGER
    if identity.user != caller.user:
        raise NotAuthenticated("you are not logged in any more")
    request[CALLER] = caller.known_as(replace(identity, link=caller.link))


class Resource:
    """What all handlers begin with: the service, the caller, the job."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.site: Site = request.app[SITE]

    @property
    def caller(self) -> Caller:
        """Who asks, as far as it was found out."""
        return self.request[CALLER]

    @property
    def base_url(self) -> str:
        if self.site.base_url:
            return self.site.base_url
        host = self.request.headers.get("Host")
        if host is None:
            host = _own_address(self.request)
        host_in(host)
        prefix = str(self.request.app.router["index"].url_for()).rstrip("/")
        return f"{self.request.scheme}://{host}{prefix}"

    @cached_property
    def uws(self) -> UserUWS:
        name = self.request.match_info["service"]
        try:
            return self.site.services[name].at(self.base_url)
        except KeyError:
            known = [uws.service.name for uws in self.offered]
            raise NotFound(f"there is no service {name}{did_you_mean(name, known)}") from None

    @property
    def offered(self) -> list[UserUWS]:
        """The services that the caller may look at."""
        services = self.site.services.values()
        return [uws for uws in services if self.caller.may_use(Action.READ, uws.service)]

    @property
    def job_id(self) -> str:
        return self.request.match_info["job_id"]

    async def job(self, action: Action = Action.READ) -> Job:
        """Return the job that the URL names, for those who only look, be it into its files."""
        return await self.uws.get_job(self.job_id, self.caller, action)

    async def wait(self, seconds: float, lasting: Collection[Phase] | None) -> Job:
        """Do what `UserUWS.wait` does, for who may look at the job when that is over, too.

        Raises `TooMany` when the caller waits for as much as he may, and what `ask_again` does.
        """
        with self.site.waits.counted(self.request, self.caller):
            job = await self.uws.wait(
                self.job_id, self.caller, seconds=seconds, lasting=lasting, closing=self.site.closing
            )
        await ask_again(self.request)
        self.caller.check(Action.READ, job, self.uws.backend.clock.now())
        return job

    async def admit(self, *actions: Action) -> bool:
        """See `UserUWS.admit`: for the job that the URL names, or for a new one."""
        return await self.uws.admit(self.request.match_info.get("job_id"), self.caller, actions)

    def receiving(self) -> AbstractAsyncContextManager[Spool]:
        """See `UserUWS.receiving`: for the job that the URL names, or for a new one."""
        return self.uws.receiving(self.request.match_info.get("job_id"), self.caller)

    async def quotas(self) -> list[str]:
        """Say what the caller may have and what he has, each in words; nothing where nothing is limited."""
        backend = self.site.backend
        return await backend.quotas.told(self.caller, [*self.site.services]) if backend else []

    def preamble(self, name: str) -> tuple[str, str]:
        """Return the ``xml-stylesheet`` instruction for one of our stylesheets, as target and text."""
        return (
            "xml-stylesheet",
            f'type="text/xsl" href="{self.base_url}/static/xsl/useruws-{name}-to-html.xsl"',
        )

    def fetches(self, spool: Spool) -> Fetches:
        """Return what gets the files that this request names by URL."""
        return Fetches(self.request.app[FETCHER], self.request, spool, self.own_file)

    async def own_file(self, url: URL) -> OwnFile | PeerFile | None:
        """Return what `own_files.own_file` does for the caller."""
        return await own_file(self.site.services, self.base_url, self.caller, url)

    def elsewhere(self, error: OtherService) -> web.Response:
        """Send the client to the job's own URL when it asked for it in another service's list."""
        owner = self.site.services.get(error.service)
        if owner is None:
            raise NotFound(f"{error}, which is no longer offered")
        rest = quote(self.request.path.partition(f"/{self.job_id}")[2])
        if self.request.method in ("GET", "HEAD") and self.request.query_string:
            rest += f"?{self.request.rel_url.raw_query_string}"
        return self.see(owner.at(self.base_url).get_url_for_id(error.job_id) + rest)

    def headers(self, tag: str) -> dict[str, str]:
        """Return headers that let a client keep what has ``tag``, and ask each time if it is still good."""
        return {
            "ETag": tag,
            "Cache-Control": "private, no-cache",
            "Vary": "Accept, Authorization, Cookie" if self.site.authenticator else "Accept",
        }

    def answer(self, document: etree._Element | bytes, form: Form, status: int = 200) -> web.Response:
        """Answer with a document, or the page made of it, or with 304 when the client holds it."""
        body = document if isinstance(document, bytes) else serialise(document)
        headers = self.headers(tag_of_state(revision(), body) if form is HTML else tag_of(body))
        if status == 200 and is_held(self.request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        if form is HTML:
            assert not isinstance(document, bytes), "a page is made of a document"
            body = render(document)
        return web.Response(status=status, body=body, headers={**headers, "Content-Type": form.content_type})

    def lasts_as(self, holds: Holds) -> None:
        """Let the same request be answered as this one is while ``holds`` says so. See `repeated`."""
        authenticator = self.site.authenticator
        if sender := authenticator.lasting(self.request) if authenticator else _always:
            self.request[HOLDS] = sender, holds

    def rendered(self, key: Hashable, make: Callable[[], etree._Element | bytes]) -> bytes:
        """Return what is made, as it is sent; what was made under the same ``key`` is the same."""
        known = self.site.rendered
        if (body := known.get(key)) is None:
            document = make()
            body = document if isinstance(document, bytes) else serialise(document)
            if len(body) < LONGEST_RENDERED:
                known[key] = body
        return body

    def see(self, url: str) -> web.Response:
        return web.Response(status=303, headers={"Location": url})

    def see_job(self) -> web.Response:
        return self.see(self.uws.get_url_for_id(self.job_id))


def _always() -> bool:
    return True


def _own_address(request: web.Request) -> str:
    """Return the address that an HTTP/1.0 client has connected to, which names no Host."""
    host, port = request.transport.get_extra_info("sockname")[:2] if request.transport else ("localhost", 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
