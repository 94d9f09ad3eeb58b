"""The ``[auth]`` table: by what somebody says who he is, and what he may be."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_network

import msgspec
from yarl import URL

from uws.config.hosts import is_loopback
from uws.model import Role
from uws.model.text import is_name
from uws.model.units import Duration, parse_duration

_TOKEN = re.compile(r"[A-Za-z0-9-]+")
_MEANS_SOMETHING_ELSE = re.compile(
    "accept|authorization|connection|content-.*|cookie|date|expect|forwarded|host|if-.*|origin|range|referer|te"
    "|trailer|transfer-encoding|upgrade|user-agent|via",
    re.IGNORECASE,
)


class ProxySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[auth.proxy]`` table: a reverse proxy that has found out who somebody is, and says so."""

    addresses: list[str]
    """Addresses or networks of proxies that are believed; from elsewhere the headers mean nothing."""
    header: str | None = None
    """The header with the user's name."""
    groups_header: str | None = None
    """The header with the user's groups, separated by commas."""
    address_header: str | None = None
    """The header to which each proxy adds the address that it has a request from."""

    def __post_init__(self) -> None:
        if not self.header and not self.address_header:
            raise ValueError("header: missing; name the one with the user's name, or an address_header")
        for field in ("header", "groups_header", "address_header"):
            if (name := getattr(self, field)) is not None and not _TOKEN.fullmatch(name):
                raise ValueError(f"{field}: {name!r} is no header's name such as X-Remote-User")
            if name and _MEANS_SOMETHING_ELSE.fullmatch(name):
                raise ValueError(f"{field}: {name} means something else; name one such as X-Remote-User")
        for field in ("groups_header", "address_header"):
            if (name := getattr(self, field)) and name.lower() == (self.header or "").lower():
                raise ValueError(f"{field}: {name} is the header with the user's name")
        if not self.addresses:
            raise ValueError("addresses: there is none; name those from which the header is believed")
        for entry in self.addresses:
            try:
                everywhere = ip_network(entry).prefixlen == 0
            except ValueError as error:
                raise ValueError(f"addresses: {error}") from None
            if everywhere:
                raise ValueError(f"addresses: with {entry} whoever sends the header is believed")

    @property
    def networks(self) -> list[IPv4Network | IPv6Network]:
        """The addresses, as networks."""
        return [ip_network(entry) for entry in self.addresses]


class OIDCSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[auth.oidc]`` table: an OpenID provider, or whoever signs JSON Web Tokens, that is believed."""

    issuer: str
    """The claim ``iss`` of its tokens, to the letter."""
    audience: str
    """What stands in the claim ``aud`` of those that are meant for this server."""
    jwks: str
    """Its public keys (RFC 7517): an https URL, or the path of a file."""
    user_claim: str = "sub"
    """The claim with the user's name."""
    groups_claim: str = "groups"
    """The claim with the user's groups, a list; without it, one is in none."""
    leeway: float = 30.0
    """Seconds by which the provider's clock may be wrong."""
    longest_fetch: float = 5.0
    """Seconds that fetching the keys may take."""

    def __post_init__(self) -> None:
        for field in ("issuer", "audience", "jwks", "user_claim", "groups_claim"):
            if not (text := getattr(self, field)) or not text.isprintable():
                raise ValueError(f"{field}: expected text, got {text!r}")
        if "://" in self.jwks and (mistake := _no_place_of_keys(self.jwks)):
            raise ValueError(f"jwks: {mistake}")
        if not 0 <= self.leeway <= 300:
            raise ValueError(f"leeway: {self.leeway} s is not between 0 and 300")
        if not 0 < self.longest_fetch <= 60:
            raise ValueError(f"longest_fetch: {self.longest_fetch} s is not above 0 and up to 60")

    @property
    def jwks_url(self) -> str | None:
        """The URL of the keys, where they are not in a file."""
        return self.jwks if "://" in self.jwks else None


def _no_place_of_keys(url: str) -> str | None:
    """Say what is wrong with a URL from which keys are to come."""
    try:
        parsed = URL(url)
    except ValueError:
        return "this is no URL"
    if parsed.raw_user is not None or parsed.raw_password is not None:
        return "there is a user or a password in the URL"  # which is not repeated
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        return f"expected an https URL or the path of a file, got {url!r}"
    if parsed.scheme == "http" and not is_loopback(parsed.raw_host):
        return f"{url!r} is not https: whoever is on the way could put other keys in place of these"
    return None


class RoleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[auth.roles]`` table: who has which role; users by name, groups as ``@name``."""

    operator: list[str] = []
    """Those who look at all jobs, abort and destroy them, and pause the queue."""
    auditor: list[str] = []
    """Those who look at all jobs, and at the log."""
    admin: list[str] = []
    """Those who may do all to all jobs."""

    def __post_init__(self) -> None:
        for role in Role:
            for name in getattr(self, role):
                if not is_name(name.removeprefix("@")):
                    raise ValueError(f"{role}: {name!r} is no user's name, and no group's such as @staff")

    def of(self, user: str, groups: Collection[str]) -> frozenset[Role]:
        """Return the roles of a user who is in these groups."""
        names = {f"@{group}" for group in groups}
        if not user.startswith("@"):  # which is no user's name
            names.add(user)
        return frozenset(role for role in Role if not names.isdisjoint(getattr(self, role)))


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[auth]`` table: who may use the services. ``users`` is relative to the data directory."""

    allow_anonymous: bool | None = None
    """Whether nobody in particular may use the services; by default only where the server is reached from
    this machine alone and there is no other way to be somebody.
    """
    users: str | None = None
    """The users file: HTTP Basic, and a form for browsers."""
    tokens: bool = False
    """Whether ``uwsd token`` makes tokens that are taken here."""
    session: Duration = "12h"
    """How long a browser stays logged in; at least 1min."""
    roles: RoleSettings = RoleSettings()
    """Who has which role; by default nobody has any."""
    oidc: OIDCSettings | None = None
    """Whose JSON Web Tokens are believed; by default nobody's."""
    proxy: ProxySettings | None = None
    """Which reverse proxies are believed that say who somebody is; by default none."""

    def __post_init__(self) -> None:
        try:
            if parse_duration(self.session) < 60:
                raise ValueError(f"{self.session} is below the minimum 1min")
        except ValueError as error:
            raise ValueError(f"session: {error}") from None
        if self.users is not None and not self.users:
            raise ValueError('users: expected a file such as "users.json"')

    @property
    def identifies(self) -> bool:
        """Whether there is any way to be somebody."""
        by_proxy = self.proxy and self.proxy.header
        return bool(self.users is not None or self.tokens or self.oidc or by_proxy)
