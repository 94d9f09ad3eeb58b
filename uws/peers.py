"""What nodes ask of each other: files of jobs, where each keeps its own.

A request is signed with a key that is in the database of the log alone: who can read that may read all files.
It is good for reading, at one node, what its path names, for some seconds; what it is that a path may name
there is decided by whoever takes it (`uws.web.peering`).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256

import aiohttp
from yarl import URL

from eventstore import to_microseconds
from eventstore.membership import Membership
from uws.clock import Clock
from uws.files import OwnFile
from uws.model import NodeAway, NotAuthenticated, NotFound, OnOtherNode, Unavailable

_log = logging.getLogger(__name__)

HEADER = "X-Uwsd-Node"
"""The header of a request by another node: its name, that of the one that is asked, time, signature."""
FRESH = 15.0
"""Seconds that a signature is good, by the clock of the one that is asked."""
CONNECT = 3.0
"""Seconds that it may take to be connected to a node."""
SILENCE = 60.0
"""Seconds in which at least a byte must come; a picture takes some to be made."""
CHUNK = 1 << 16
_ASKS = {"User-Agent": "uwsd", "Accept-Encoding": "identity"}
_UNWELCOME = frozenset({401, 403, 405, 421})
"""The statuses of who does not take a request as another node's."""
_Asking = asyncio.Task[aiohttp.ClientResponse]


def sign(key: bytes, method: str, path: str, *, by: str, to: str, at: int) -> str:
    """Return the header of a request ``by`` one node ``to`` another, sent ``at`` that time (µs since 1970).

    The path is as it is sent, below the node's URL, with the query.
    """
    said = "\n".join(("uwsd", method, path, by, to, str(at)))
    return f"{by} {to} {at} {hmac.new(key, said.encode(), sha256).hexdigest()}"


@dataclass(frozen=True)
class PeerFile:
    """A file of a job that may be at another node, which offers it at this path below its URL."""

    peers: Peers
    file: OwnFile
    path: str

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def media_type(self) -> str:
        return self.file.media_type

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield its bytes. Raises what `OwnFile.chunks` does; `NotFound` and `Unavailable`."""
        try:
            async with aclosing(self.file.chunks()) as chunks:
                async for chunk in chunks:
                    yield chunk
        except OnOtherNode as elsewhere:
            async with self.peers.asked(elsewhere.node, "GET", self.path) as answer:
                if answer.status in (404, 410):
                    raise NotFound(f"the file {self.name} is missing") from None
                if answer.status != 200:
                    raise Unavailable(f"the file {self.name} cannot be read now") from None
                async for chunk in read(answer, elsewhere.node):
                    yield chunk


class Peers:
    """The other nodes, for the one that is this ``member`` of them."""

    def __init__(self, member: Membership, clock: Clock) -> None:
        self._member, self._clock = member, clock
        self._session = aiohttp.ClientSession(
            # As many as there are clients who want something of them.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE),
            headers=_ASKS,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    def file(self, file: OwnFile, path: str) -> PeerFile:
        """Return a file so that it is read from the node that has it; each node offers it at this path."""
        return PeerFile(self, file, path)

    @asynccontextmanager
    async def asked(
        self, node: str | None, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask a node for what is at a path below its URL; give what it answers, of which the head is there.

        None is whichever has it, as nobody knows where that is which was kept by the only server of a log:
        all are asked at once, and what is wrong with one of them counts only where no other has it.
        Raises `NodeAway`, `NotFound` when it was forgotten, or none has it, and `Unavailable` when the node
        does not take the request as this one's.
        """
        names = [node] if node else self._member.others
        if not names:
            raise NotFound("no node has this file")
        asking = [asyncio.create_task(self._ask(name, method, path, headers or {})) for name in names]
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_give_up, asking)
            first = await _first(asking)
            await _give_up(task for task in asking if task is not first)
            yield first.result()

    async def _ask(
        self, name: str, method: str, path: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        base = await self._member.url_of(name)
        if base is None:
            raise NotFound(f"the file was on node {name}, which is no node any more")
        if self._member.is_gone(name):
            raise NodeAway(name)
        if base == await self._member.url_of(self._member.name or ""):
            _log.error(
                "node %s says that it is reached at %s, where this one is: its [server] host, or [node] url, "
                "has to be an address at which others reach it",
                name, base,
            )  # fmt: skip
            raise NodeAway(name)
        at = to_microseconds(self._clock.now())
        signed = sign(self._member.key, method, path, by=self._member.name or "", to=name, at=at)
        try:
            answer = await self._session.request(
                method,
                URL(base.rstrip("/") + path, encoded=True),
                headers={**headers, HEADER: signed},
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:  # what is no URL is a ValueError
            _log.warning("node %s cannot be reached: %s", name, error or type(error).__name__)
            raise NodeAway(name) from error
        if answer.status in _UNWELCOME:
            answer.close()
            _log.error(
                "node %s refuses what this one asks (%s): are their clocks right?", name, answer.status
            )
            raise Unavailable(f"node {name}, which has the file, does not take what this one asks")
        return answer

    def check(self, said: str, method: str, path: str) -> str:
        """Return the node by which a request was sent that has this in its `HEADER`.

        Raises `NotAuthenticated` when it was signed for another one, at another time, or by nobody who may.
        """
        by, _, rest = said.partition(" ")
        to, _, rest = rest.partition(" ")
        at = rest.partition(" ")[0]
        if self._member.key and said.isascii() and at.isdecimal() and len(at) < 20:
            signed = sign(self._member.key, method, path, by=by, to=to, at=int(at))
            late = abs(to_microseconds(self._clock.now()) - int(at)) > FRESH * 1e6
            if hmac.compare_digest(signed.encode(), said.encode()) and to == self._member.name and not late:
                return by
        raise NotAuthenticated(f"{HEADER}: this was not signed by another node, for this one, just now")


async def _first(asking: Collection[_Asking]) -> _Asking:
    """Return the first that finds what all ask for; where none does, one that cannot tell, if there is."""
    left = set(asking)
    while left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        if found := [task for task in done if _finds(task)]:
            return found[0]
    return next((task for task in asking if _finds(task) is None), next(iter(asking)))


def _finds(task: _Asking) -> bool | None:
    """Whether a node has what it was asked for; None when it could not be asked, or cannot tell."""
    if task.exception() or task.result().status >= 500:
        return None
    return task.result().status not in (404, 410)


async def _give_up(asking: Iterable[_Asking]) -> None:
    """Ask no more, and close what was answered."""
    tasks = list(asking)
    for task in tasks:
        task.cancel()
    for answer in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(answer, aiohttp.ClientResponse):
            answer.close()


async def read(answer: aiohttp.ClientResponse, node: str | None) -> AsyncGenerator[bytes, None]:
    """Yield what comes of a node's answer. Raises `NodeAway` when it breaks off."""
    try:
        async for chunk in answer.content.iter_chunked(CHUNK):
            yield chunk
    except (aiohttp.ClientError, OSError) as error:
        raise NodeAway(node or "that has the file") from error
