"""Requests that come again byte for byte, as those of clients that poll.

Such a request is known by its bytes and by the address it comes from. It is answered as before, without being
parsed or led to a handler, while all that its answer follows from is as it was: who sends it, which the
authenticator tells, and what it asks for, which its handler tells. Where either cannot tell at once, it is a
request like any other. It has an id, a measure and a line in the log of its own.
"""

from __future__ import annotations

from email.utils import formatdate
from hashlib import blake2b
from random import getrandbits
from secrets import token_bytes
from time import perf_counter, time
from typing import NamedTuple

from aiohttp import web
from aiohttp.http import HttpVersion11
from cachetools import LRUCache

from .accounting import NOTE, Note
from .resource import HOLDS, Holds

ROOM, LONGEST = 32_000_000, 64_000
"""Bytes that are kept of all answers, and of one."""
_BESIDES = 8_000
"""Bytes that an answer takes in memory besides, about: what it follows from, such as a whole job."""
_ANOTHER_EACH_TIME = frozenset({"date", "x-request-id"})
_MORE_THAN_A_REQUEST = ("Expect", "Upgrade")
"""Headers of requests that ask for more than an answer."""


class _Known(NamedTuple):
    """What is known of a request: its answer, without the headers that are others each time."""

    head: bytes
    body: bytes
    sender_holds: Holds
    answer_holds: Holds
    note: Note

    @property
    def size(self) -> int:
        return len(self.head) + len(self.body) + _BESIDES


class Repeated:
    """The requests to a server that may come again, those that were sent last."""

    def __init__(self) -> None:
        self._known = LRUCache[bytes, _Known](ROOM, getsizeof=lambda known: known.size)
        self._key = token_bytes(32)  # what is sent may be a secret, and is not kept
        self._second, self._date = 0, b""

    def name(self, sent: bytes, sender: str) -> bytes | None:
        """Return what a request is known by; None for what is not the head of one GET, and nothing else."""
        if not sent.startswith(b"GET ") or sent.find(b"\r\n\r\n") != len(sent) - 4:
            return None
        return blake2b(sent, key=self._key, digest_size=32).digest() + sender.encode()

    def answer(self, name: bytes) -> bytes | None:
        """Return the whole answer to a request, None where it is to be found as to any other."""
        began = perf_counter()
        known = self._known.get(name)
        if known is None or not (known.sender_holds() and known.answer_holds()):
            return None
        request_id = f"{getrandbits(128):032x}"  # it has to be another one, and need not be a secret
        told = b"Date: %b\r\nX-Request-ID: %b\r\n\r\n" % (self._now(), request_id.encode())
        answer = b"".join((known.head, told, known.body))
        known.note(request_id, perf_counter() - began, soon=True)
        return answer

    def keep(self, name: bytes, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Keep the answer that a request got, if it may be given again."""
        if (
            not isinstance(request, web.Request)
            or not isinstance(response, web.Response)
            or HOLDS not in request
            or request.version != HttpVersion11
            or request.body_exists  # it is no part of what the request is known by
            or any(header in request.headers for header in _MORE_THAN_A_REQUEST)
            or response.keep_alive is not True
            or response.cookies
            or not isinstance(response.body, bytes | None)
        ):
            return
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [
            f"{header}: {value}"
            for header, value in response.headers.items()
            if header.lower() not in _ANOTHER_EACH_TIME
        ]
        known = _Known(
            "".join(f"{line}\r\n" for line in lines).encode(),
            response.body or b"",
            *request[HOLDS],
            request[NOTE],
        )
        if known.size <= LONGEST:
            self._known[name] = known

    def _now(self) -> bytes:
        """Return the present time as HTTP has it (RFC 9110 section 5.6.7)."""
        second = int(time())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True).encode()
        return self._date
