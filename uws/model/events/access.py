"""Events of access: tokens, and decisions on who somebody is and what he may."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from .base import Event


class TokenIssued(Event, frozen=True):
    """Whoever shows the secret of which this is the SHA-256 ``digest`` is ``user``, until it ``expires``.

    The event's id is the token's. A session is what a browser gets at a log-in. ``scopes`` None is no
    restriction (see `uws.model.access.Scope`). ``listed`` says that the user was in the users file, and is to
    be as long as it is used. A session is for the password that was verified, which was set when it was
    ``changed``.
    """

    user: str
    kind: Literal["token", "session"]
    digest: str
    expires: datetime
    scopes: tuple[str, ...] | None = None
    listed: bool = False
    changed: datetime | None = None


class TokenRevoked(Event, frozen=True):
    token: str
    reason: str


TokenEvent = TokenIssued | TokenRevoked


class LoggedIn(Event, frozen=True):
    """Somebody has said who he is: by the form, which makes a session; or with a request, for the first time
    in this way and from this address, or after an hour or more.
    """

    user: str
    address: str | None = None
    by: Literal["form", "basic", "jwt", "proxy"] = "form"


class LogInRefused(Event, frozen=True):
    """``user`` is None where there is none of the name that was given, which may be anything."""

    reason: str
    user: str | None = None
    address: str | None = None


class AccessRefused(Event, frozen=True):
    """A request was answered 401 though it had credentials, or 403 as not its user's to make."""

    reason: str
    method: str
    path: str
    address: str | None = None


class RefusalsOmitted(Event, frozen=True):
    """So many refusals more came than are put on record one by one."""

    count: int


class TokenUsed(Event, frozen=True):
    """A token was used for the first time, or after an hour or more."""

    token: str
    address: str | None = None


class UserChanged(Event, frozen=True):
    """The users file has another entry for a user, of which this is the SHA-256, or none any more.

    It is on record before it is so. What was "edited" was found to be so.
    """

    user: str
    change: Literal["added", "removed", "password", "groups", "edited"]
    groups: tuple[str, ...] = ()
    entry: str | None = None


class RolesDeclared(Event, frozen=True):
    """Who has which role, from now on: users by name, groups as ``@name``."""

    roles: dict[str, tuple[str, ...]]


SecurityEvent = (
    LoggedIn | LogInRefused | AccessRefused | RefusalsOmitted | TokenUsed | UserChanged | RolesDeclared
)
