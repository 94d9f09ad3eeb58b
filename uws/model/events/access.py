"""Events of access: tokens, and decisions on who somebody is and what he may."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from .base import Event


class TokenIssued(Event, frozen=True):
    """Whoever shows a secret is this user, until it expires. The event's id is the token's."""

    user: str
    """Whose token it is."""
    kind: Literal["token", "session"]
    """A ``session`` is what a browser gets at a log-in."""
    digest: str
    """SHA-256 of the secret that shows who one is, hexadecimal."""
    expires: datetime
    """Until when it is good (UTC)."""
    scopes: tuple[str, ...] | None = None
    """What it lets its holder do (see `uws.model.access.Scope`); None is no restriction."""
    listed: bool = False
    """Whether the user was in the users file, and is to be as long as it is used."""
    changed: datetime | None = None
    """Of a session: when the password was set that was verified (UTC)."""


class TokenRevoked(Event, frozen=True):
    """A token is good no longer, whenever it would have expired."""

    token: str
    """Its id."""
    reason: str
    """By whom or why, in words."""


TokenEvent = TokenIssued | TokenRevoked


class LoggedIn(Event, frozen=True):
    """Somebody has said who he is: by the form, which makes a session; or with a request, for the first time
    in this way and from this address, or after an hour or more.
    """

    user: str
    """Who."""
    address: str | None = None
    """The client's address."""
    by: Literal["form", "basic", "jwt", "proxy"] = "form"
    """In which way: the form, HTTP Basic, a JSON Web Token, or what a proxy says."""


class LogInRefused(Event, frozen=True):
    """Somebody has said who he is, and was not believed."""

    reason: str
    """Why, in words."""
    user: str | None = None
    """Whose name was given; None where there is no such user, since that may be anything."""
    address: str | None = None
    """The client's address."""


class AccessRefused(Event, frozen=True):
    """A request was answered 401 though it had credentials, or 403 as not its user's to make."""

    reason: str
    """Why, in words."""
    method: str
    """The request's method."""
    path: str
    """The request's path, without its query."""
    address: str | None = None
    """The client's address."""


class RefusalsOmitted(Event, frozen=True):
    """So many refusals more came than are put on record one by one."""

    count: int
    """How many."""


class TokenUsed(Event, frozen=True):
    """A token was used for the first time, or after an hour or more."""

    token: str
    """Its id."""
    address: str | None = None
    """The client's address."""


class UserChanged(Event, frozen=True):
    """The users file has another entry for a user, or none any more. It is on record before it is so."""

    user: str
    """Whose entry it is."""
    change: Literal["added", "removed", "password", "groups", "edited"]
    """What was done; what was ``edited`` was found to be so."""
    groups: tuple[str, ...] = ()
    """The groups that he is in from now on."""
    entry: str | None = None
    """SHA-256 of the entry, hexadecimal; None where there is none any more."""


class RolesDeclared(Event, frozen=True):
    """Who has which role, from now on."""

    roles: dict[str, tuple[str, ...]]
    """By role: users by name, groups as ``@name``."""


SecurityEvent = (
    LoggedIn | LogInRefused | AccessRefused | RefusalsOmitted | TokenUsed | UserChanged | RolesDeclared
)
