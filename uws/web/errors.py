"""The one place where errors become HTTP answers (DALI 1.1 section 4.2: text, a fault's name first)."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import web
from multidict import CIMultiDict

from eventstore import EventStoreError, Overloaded, StoreFull, StoreUnavailable
from uws.commands import KeyReused
from uws.model import (
    Altered,
    Broken,
    IllegalPhase,
    JobGone,
    NotAuthenticated,
    NotAuthorized,
    NotFound,
    NotSuccessful,
    OutOfSpace,
    OverQuota,
    RepeatedParameter,
    TooLarge,
    TooMany,
    Unavailable,
    UsageError,
    UWSError,
)
from uws.provenance.drawing import CannotDraw

_JOB_STREAM = re.compile(r"\bjob(/[0-9a-zA-Z-]+| [0-9a-f]{32}\b)")
SERVER_NAME = "uwsd"
"""What an answer says of what has made it: no versions, which tell others where to look for holes."""
_log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class TooSlow(UWSError, TimeoutError):
    """A body comes slower than it has to."""  # a TimeoutError is what aiohttp takes for a reason to close


class Encoded(UWSError):
    """A body is compressed, or encoded in another way."""


class Misdirected(UWSError):
    """A request is for a host that this server is not."""


class Misframed(UsageError):
    """Where a request ends is in doubt, so that nothing behind it can be taken for another one."""


class UnknownVersion(Misframed):
    """A request is in a version of HTTP that is not spoken here."""


class UnknownCoding(Misframed):
    """A body comes in a transfer coding that is not understood here (RFC 9112 section 6.1)."""


ANSWERS: tuple[tuple[type[Exception], int, str], ...] = (
    (RepeatedParameter, 400, "MultiValuedParamNotSupported"),
    (KeyReused, 422, "UsageFault"),
    (TooLarge, 413, "UsageFault"),
    (TooSlow, 408, "UsageFault"),
    (Encoded, 415, "UsageFault"),
    (Misdirected, 421, "UsageFault"),
    (UnknownVersion, 505, "UsageFault"),
    (UnknownCoding, 501, "UsageFault"),
    (UsageError, 400, "UsageFault"),
    (NotAuthenticated, 401, "AuthenticationError"),
    (NotAuthorized, 403, "AuthorizationError"),
    (IllegalPhase, 403, "UsageFault"),
    (OverQuota, 403, "UsageFault"),
    (TooMany, 429, "UsageFault"),
    (NotFound, 404, "UsageFault"),
    (JobGone, 410, "UsageFault"),
    (NotSuccessful, 422, "DefaultFault"),
    (Broken, 500, "DefaultFault"),
    (Altered, 500, "DefaultFault"),
    (Overloaded, 503, "ServiceUnavailable"),
    (StoreFull, 507, "ServiceUnavailable"),
    (StoreUnavailable, 503, "ServiceUnavailable"),
    (OutOfSpace, 507, "ServiceUnavailable"),
    (Unavailable, 503, "ServiceUnavailable"),
    (EventStoreError, 500, "DefaultFault"),
    (CannotDraw, 501, "DefaultFault"),
)
"""Which status and fault each error is; the first match counts."""
REASONS: dict[int, list[str]] = {
    status: [
        " ".join((kind.__doc__ or "").split()).partition(". ")[0].rstrip(".") + "."
        for kind, same, _ in ANSWERS
        if same == status
    ]
    for status in sorted({status for _, status, _ in ANSWERS})
}
"""What leads to a status: the first sentence of each error that does."""


def answer_for(error: Exception, challenges: Iterable[str] = ()) -> web.Response | None:
    """Return the answer to an error that is meant for the client, None for any other.

    Who must say who he is, is told by ``challenges`` how.
    """
    for kind, status, fault in ANSWERS:
        if isinstance(error, kind):
            headers = CIMultiDict[str]()
            if status == 401:
                headers.extend(("WWW-Authenticate", challenge) for challenge in challenges)
            if status in (429, 503, 507):
                headers["Retry-After"] = str(getattr(error, "retry_after", 5))
            if status == 415:
                headers["Accept-Encoding"] = "identity"
            return fault_response(status, fault, discreet(error), headers)
    return None


def discreet(error: Exception) -> str:
    """Return what an error says without the jobs' streams it names: who knows a job's id may look at it."""
    if isinstance(error, StoreUnavailable):
        return _JOB_STREAM.sub("a job", str(error))
    return str(error)


def fault_response(
    status: int, fault: str, text: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an error document: plain text, the fault's name first."""
    response = web.Response(status=status, text=f"{fault}: {legible(text)}\n", content_type="text/plain")
    response.headers.extend(headers or {})
    return response


def legible(text: str) -> str:
    """Return what a client sent as one line that UTF-8 can carry: what is no text becomes U+FFFD."""
    if text.isprintable():
        return text
    decoded = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in decoded)


def http_fault(error: web.HTTPException, request: web.Request) -> web.Response:
    """Put an error of the HTTP layer itself into the same form."""
    headers = {
        name: error.headers[name]
        for name in ("Allow", "Content-Range", "Retry-After")
        if name in error.headers
    }
    match error.status:
        case 404:
            text = f"there is nothing at {request.path}"
        case 405:
            text = f"{request.method} is not possible here; allowed: {error.headers.get('Allow', '')}"
        case _:
            text = error.reason
    return fault_response(error.status, "UsageFault" if error.status < 500 else "DefaultFault", text, headers)
