"""Files that clients name by URL (DALI 1.1 section 3.4.5), fetched while they wait for their answer.

What a client names must not lead to where only this machine or its network may go. So it is the socket that
is guarded: whatever a name, a redirect or a second look-up gives, the address that is judged is the one that
is then connected to.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractResolver
from yarl import URL

from uws.config import UploadSettings
from uws.files import OwnFile, Spool, Spooled
from uws.model import (
    Altered,
    JobGone,
    NotAuthenticated,
    NotAuthorized,
    NotFound,
    OtherService,
    ParameterError,
    TooLarge,
    UsageError,
)
from uws.model.units import format_size
from uws.peers import PeerFile

from .addresses import is_public
from .errors import legible
from .stored import media_type_of

MAX_FETCHED = 16
"""Files that one request may name by URL."""
MAX_URL = 8000
"""Characters of a URL."""
_CHUNK = 1 << 16
_LOOK = 1.0
"""Seconds between two looks at whether the client is still there."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GZIPPED = re.compile(r"\.t?gz\Z", re.IGNORECASE)
_HEADERS = {"User-Agent": "uwsd", "Accept": "*/*", "Accept-Encoding": "identity"}


class Fetcher:
    """Gets files under the operator's ``settings``; ``resolver`` finds the addresses of hosts."""

    def __init__(self, settings: UploadSettings, resolver: AbstractResolver) -> None:
        self.settings = settings
        self.resolver = resolver
        self._opened = frozenset(_host_and_port(entry) for entry in settings.allow_hosts)

    def opens(self, url: URL) -> bool:
        """Whether the operator allows this host, or this port of it, whatever its address."""
        return not self._opened.isdisjoint({(url.raw_host, None), (url.raw_host, url.port)})


class Fetches:
    """What is fetched for one request, all of it within ``longest_fetch`` seconds from now."""

    def __init__(
        self,
        fetcher: Fetcher,
        request: web.Request,
        spool: Spool,
        find_own: Callable[[URL], Awaitable[OwnFile | PeerFile | None]],
    ) -> None:
        self._fetcher, self._request, self._spool, self._find_own = fetcher, request, spool, find_own
        self._settings = fetcher.settings
        self._until = asyncio.get_running_loop().time() + self._settings.longest_fetch

    async def fetch(self, url: URL, name: str, max_size: int) -> Spooled:
        """Return the file at ``url``, of ``max_size`` bytes at most, for the parameter ``name``.

        For a command that comes again nothing is fetched: its URL tells that it is the same. Ends within a
        second when the client has gone. Raises `ParameterError`, `TooLarge`, and what `Spool.receive` does.
        """
        if self._spool.keep:
            spooled = await self._copy(url, name, max_size) or await self._in_time(url, name, max_size)
        else:
            spooled = Spooled(Path(), _name_of(url), "")
        spooled.url, spooled.source = str(url), _source_of(url)
        return spooled

    async def _copy(self, url: URL, name: str, max_size: int) -> Spooled | None:
        """Return a copy of what another job of this server has, where the URL names such a file."""
        try:
            if not (own := await self._find_own(url)):
                return None
            async with aclosing(own.chunks()) as chunks:
                return await self._spool.receive(
                    chunks, name=name, filename=own.name, media_type=own.media_type, max_size=max_size
                )
        except (NotFound, Altered, JobGone, NotAuthenticated, NotAuthorized, OtherService) as error:
            raise ParameterError(name, f"{_source_of(url)}: {error}") from error

    async def _in_time(self, url: URL, name: str, max_size: int) -> Spooled:
        longest = self._settings.longest_fetch
        try:
            async with asyncio.timeout_at(self._until):
                return await self._while_client_waits(self._follow(url, name, max_size))
        except TimeoutError:
            reason = f"could not be fetched: what a request fetches must be there within {longest:g} s"
            raise ParameterError(name, f"{_source_of(url)} {reason}") from None

    async def _follow(self, url: URL, name: str, max_size: int) -> Spooled:
        here = url
        redirects = 0
        while True:
            try:
                self._check(here)
                found = await self._get(here, name, max_size, filename=_name_of(url))
                if isinstance(found, Spooled):
                    return found
                if redirects == self._settings.redirects:
                    raise _Failed(f"leads on after {redirects} redirects, which is the most that is followed")
                if here.scheme == "https" and found.scheme == "http":
                    raise _Failed("leads from https to http")
            except _Failed as failed:
                which = "" if here is url else f" leads to {here.host}, which"
                raise ParameterError(name, f"{_source_of(url)}{which} {failed}") from failed
            here, redirects = found, redirects + 1

    def _check(self, url: URL) -> None:
        """Say what can be said before anything is asked of anybody."""
        if url.scheme not in ("http", "https") or not url.raw_host:
            raise _Failed("is no http(s) URL")
        if url.raw_user is not None or url.raw_password is not None:
            raise _Failed("is not fetched: there is a user or a password in the URL")
        if self._fetcher.opens(url):
            return
        if not self._settings.public_hosts:
            raise _Failed("is on a host from which files are not fetched here; send the file as a part")
        if url.port not in (80, 443) and not (url.port and url.port >= 1024):
            raise _Failed("is not fetched: its port is neither 80, 443 nor above 1023")

    async def _get(self, url: URL, name: str, max_size: int, filename: str) -> Spooled | URL:
        """Return the file, or where it is said to be instead."""
        guard = _Guard(self._fetcher.opens(url))
        silence = self._settings.longest_silence
        connector = aiohttp.TCPConnector(
            resolver=self._fetcher.resolver, use_dns_cache=False, force_close=True, socket_factory=guard
        )
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=aiohttp.ClientTimeout(total=None, connect=silence, sock_read=silence),
                    headers=_HEADERS,
                    auto_decompress=False,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    trust_env=False,  # a proxy would connect in our place, to wherever it may go
                ) as session,
                session.get(url, allow_redirects=False) as response,
            ):
                if response.status in _REDIRECTS:
                    return _target(response)
                if response.status != 200:
                    raise _Failed(f"answered {response.status}")
                _check_coding(response, url)
                if (response.content_length or 0) > max_size:
                    raise TooLarge(f"{name}: the file is larger than the maximum {format_size(max_size)}")
                return await self._spool.receive(
                    response.content.iter_chunked(_CHUNK),
                    name=name,
                    filename=filename,
                    media_type=media_type_of(response.content_type),
                    max_size=max_size,
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _Failed(_in_words(error, guard, silence)) from error

    async def _while_client_waits(self, work: Coroutine[Any, Any, Spooled]) -> Spooled:
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=_LOOK)
                if self._request.transport is None:
                    raise UsageError("the client has gone")
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class _Failed(Exception):
    """Why there is no file: what follows its URL in a sentence."""


class _Guard:
    """Makes the sockets of one connection, and none to an address that it must not lead to."""

    def __init__(self, is_open: bool) -> None:
        self._is_open = is_open
        self.refused = False

    def __call__(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if not self._is_open and not is_public(address[0]):
            self.refused = True
            raise OSError("not a public address")
        return socket.socket(family, kind, protocol)


def url_of(text: str) -> URL:
    """Read the URL of a file. Raises `UsageError`."""
    if len(text) > MAX_URL:
        raise UsageError(f"UPLOAD: a URL has at most {MAX_URL} characters, not {len(text)}")
    with suppress(ValueError):
        url = URL(text)
        if url.scheme in ("http", "https") and url.host:
            return url.with_fragment(None)
    raise UsageError(f"UPLOAD: expected param:LABEL or an http(s) URL, got {text!r}")


def _host_and_port(entry: str) -> tuple[str | None, int | None]:
    url = URL(f"http://{entry}")
    return url.raw_host, url.explicit_port


def _source_of(url: URL) -> str:
    """Return a URL without what may be secret in it."""
    return str(url.with_user(None).with_query(None).with_fragment(None))


def _name_of(url: URL) -> str:
    return legible(url.name)[:255]


def _target(response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location", "")
    with suppress(ValueError):
        target = response.url.join(URL(location)).with_fragment(None)
        if location and len(str(target)) <= MAX_URL:
            return target
    raise _Failed(f"answered {response.status}, without saying where to go on")


def _check_coding(response: aiohttp.ClientResponse, url: URL) -> None:
    """Refuse what was compressed on its way: nothing is unpacked here, so that nothing can unfold.

    Some servers say this of a file that is itself compressed, and named so.
    """
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding == "identity" or (coding in ("gzip", "x-gzip") and _GZIPPED.search(url.name)):
        return
    raise _Failed(f"was sent compressed ({coding[:40]}), though asked for as it is")


def _in_words(error: Exception, guard: _Guard, silence: float) -> str:
    """Say what went wrong without the addresses and paths that libraries name."""
    match error:
        case TimeoutError():
            return f"could not be fetched: nothing came for {silence:g} s"
        case aiohttp.ClientConnectorDNSError():
            return "could not be fetched: no address of the host is known"
        case aiohttp.ClientConnectorCertificateError():
            why = getattr(error.certificate_error, "verify_message", "") or "it does not fit"
            return f"could not be fetched: its certificate is not trusted ({why})"
        case aiohttp.ClientSSLError():
            return "could not be fetched: the host does not speak TLS as is right"
        case aiohttp.ClientConnectorError() if guard.refused:
            return "is at an address that is not public; send the file as a part"
        case aiohttp.ClientConnectorError():
            return "could not be fetched: the host cannot be reached"
        case aiohttp.ClientPayloadError():
            return "could not be fetched: it broke off before its end"
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return "could not be fetched: the connection was closed"
        case aiohttp.InvalidURL() | UnicodeError():
            return "could not be fetched: the host's name is none"
    return "could not be fetched: the answer is not HTTP as is right"
