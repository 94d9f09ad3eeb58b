"""Who sends a request: by password, by token, by a browser's session, or as a proxy says it."""

from __future__ import annotations

from base64 import b64decode
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from uws.access.record import SecurityRecord
from uws.access.tokens import PREFIX, Token, Tokens
from uws.access.users import Users
from uws.commands import SERVER
from uws.config import AuthSettings
from uws.jobs import Backend
from uws.model import Identity, NotAuthenticated, TooMany
from uws.model import events as e
from uws.model.text import is_name
from uws.model.units import parse_duration

from .resource import CALLER, Authenticator

if TYPE_CHECKING:
    from uws.access.oidc import OIDC

SESSION = "uwsd_session"
"""The cookie with a browser's session."""
REALM = "uwsd"
_TRIES, _WITHIN = 10, timedelta(minutes=1)
"""Wrong passwords that one address may send for one user, and in what time."""
_WATCHED = 10_000
_SEEN_AGAIN = timedelta(hours=1)
_HASH = web.RequestKey("hash", str)
"""What the users file had of the password that a request came with, when it was verified."""


class Authentication(Authenticator):
    """The ways that an operator has opened, one after the other. See `AuthSettings`."""

    def __init__(self, settings: AuthSettings, data: Path, *, anonymous: bool) -> None:
        self.settings, self._data, self._anonymous = settings, data, anonymous
        self._networks = settings.proxy.networks if settings.proxy else []
        self._failures: OrderedDict[tuple[str, str], list[datetime]] = OrderedDict()
        self._used: dict[str, datetime] = {}

    @asynccontextmanager
    async def serving(self, backend: Backend) -> AsyncIterator[None]:
        """Know users and tokens, and keep a record of what is decided, while the context lasts."""
        users = self.settings.users
        self.users = Users(self._data / users, backend.clock) if users is not None else None
        if self.users:
            self.users.all()  # what is wrong with the file is told now
        self.clock = backend.clock
        self.tokens = Tokens(backend.store, backend.clock)
        self.record = SecurityRecord(backend.store, backend.clock)
        self.oidc = self._oidc(backend)
        try:
            async with self.record.kept():
                await self._declare_roles(backend)
                yield
        finally:
            if self.oidc:
                await self.oidc.close()

    def _oidc(self, backend: Backend) -> OIDC | None:
        if not self.settings.oidc:
            return None
        from uws.access.oidc import OIDC  # which takes long to import

        return OIDC(self.settings.oidc, backend.clock)

    @property
    def has_form(self) -> bool:
        """Whether browsers can log in by a form."""
        return self.settings.users is not None

    @property
    def session(self) -> timedelta:
        """How long a browser stays logged in."""
        return timedelta(seconds=parse_duration(self.settings.session))

    def challenges(self, base_url: str) -> Sequence[str]:
        """Return what is asked of who must say who he is (RFC 7617, RFC 6750, IVOA SSO 2.0)."""
        found = []
        if self.has_form:
            found.append(f'Basic realm="{REALM}", charset="UTF-8"')
            found.append(
                'ivoa_bearer standard_id="ivo://ivoa.net/sso#tls-with-password", '
                f'access_url="{base_url}/login"'
            )
        if self.settings.tokens or self.settings.oidc:
            found.append(f'Bearer realm="{REALM}"')
        return found

    async def identify(self, request: web.Request) -> Identity:
        """Return who sends a request. Raises `NotAuthenticated`, `TooMany`."""
        return await self._identify(request, again=False)

    async def still(self, request: web.Request) -> Identity:
        """Return who sends a request that was let in, by what is known of him now.

        No password is verified again: it is good as long as the users file has none but that.
        """
        return await self._identify(request, again=True)

    async def _identify(self, request: web.Request, *, again: bool) -> Identity:
        if (header := request.headers.get("Authorization")) is not None:
            return self._with_roles(await self._by_header(request, header, again))
        if (identity := self._by_proxy(request)) is not None:
            return self._with_roles(identity)
        if (cookie := request.cookies.get(SESSION)) is not None:
            try:
                return self._with_roles(await self._by_token(request, cookie, again))
            except NotAuthenticated:  # a browser sends what it has: he is nobody, and may log in again
                if not self._anonymous:
                    raise
        if not self._anonymous:
            raise NotAuthenticated("say who you are")
        return Identity()

    async def check_password(self, request: web.Request, name: str, password: str) -> Identity:
        """Return the user who has this password. Raises `NotAuthenticated`, `TooMany`."""
        assert self.users is not None, "passwords are taken where there is a users file"
        address = address_of(request)
        key = address or "", name
        now = self.clock.now()
        failures = [time for time in self._failures.get(key, ()) if now - time < _WITHIN]
        if len(failures) >= _TRIES:
            wait = int((failures[0] + _WITHIN - now).total_seconds()) + 1
            raise TooMany(f"too many wrong passwords for this user: try again in {wait} s", wait)
        if not await self.users.verify(name, password):
            self._failures[key] = [*failures, now]
            while len(self._failures) > _WATCHED:
                self._failures.popitem(last=False)
            known = name if self.users.find(name) else None
            refusal = e.LogInRefused(reason="user or password is wrong", user=known, address=address)
            self.record.note(refusal, request[CALLER])
            raise NotAuthenticated("user or password is wrong")
        self._failures.pop(key, None)
        return self._listed(name)

    async def log_in(self, request: web.Request, name: str, password: str) -> str:
        """Return the token of a new session. Raises what `check_password` does."""
        caller = request[CALLER].known_as(await self.check_password(request, name, password))
        _, token = await self.tokens.issue(name, caller, lasts=self.session, kind="session", listed=True)
        self.record.note(e.LoggedIn(user=name, address=address_of(request)), caller)
        return token

    async def log_out(self, request: web.Request) -> None:
        """End the session that a browser has, if it has one."""
        try:
            token = await self.tokens.verify(request.cookies.get(SESSION, ""))
        except NotAuthenticated:
            return
        await self.tokens.revoke(
            token.id, "the user has logged out", replace(request[CALLER], user=token.issued.user)
        )

    def note_refusal(self, request: web.Request, error: Exception) -> None:
        """Put on record that a request was refused, unless it only did not say whose it is."""
        said = "Authorization" in request.headers or request[CALLER].link
        if isinstance(error, NotAuthenticated) and not said:
            return
        refusal = e.AccessRefused(
            reason=str(error)[:500],
            method=request.method[:20],
            path=request.rel_url.raw_path[:500],
            address=address_of(request),
        )
        self.record.note(refusal, request[CALLER])

    async def _by_header(self, request: web.Request, header: str, again: bool) -> Identity:
        scheme, _, credentials = header.partition(" ")
        match scheme.lower():
            case "basic" if self.users is not None:
                name, password = _name_and_password(credentials)
                user = self.users.find(name)
                if not again:
                    request[_HASH] = user.password if user else ""
                    return await self.check_password(request, name, password)
                if user and user.password != request[_HASH]:
                    raise NotAuthenticated("the password was changed: log in again")
                return self._listed(name)
            case "bearer":
                return await self._by_token(request, credentials.strip(), again)
        schemes = ", ".join(sorted({challenge.partition(" ")[0] for challenge in self.challenges("")}))
        raise NotAuthenticated(f"this is no way to say who you are here; expected {schemes or 'none'}")

    async def _by_token(self, request: web.Request, text: str, again: bool) -> Identity:
        if self.oidc and not text.startswith(PREFIX):
            return self._foreign(await self.oidc.identify(text))
        token = await self.tokens.verify(text)
        if token.issued.kind == "token":
            if not self.settings.tokens:
                raise NotAuthenticated("tokens are not taken here")
            if not again:
                self._note_use(request, token)
        identity = (
            self._listed(token.issued.user, token) if token.issued.listed else Identity(token.issued.user)
        )
        return replace(identity, scopes=token.scopes)

    def _foreign(self, identity: Identity) -> Identity:
        """Return somebody known elsewhere, who cannot have the name of a user that is known here."""
        if self.users and identity.user is not None and self.users.find(identity.user):
            raise NotAuthenticated(f"{identity.user} is a user of this server, who logs in here")
        return identity

    def _listed(self, name: str, token: Token | None = None) -> Identity:
        """Return a user of the users file, for whom ``token`` was issued."""
        user = self.users.find(name) if self.users else None
        if user is None:
            raise NotAuthenticated("there is no such user any more")
        if token and token.issued.kind == "session" and token.made < user.changed:
            raise NotAuthenticated("the password was changed: log in again")
        return Identity(name, frozenset(user.groups))

    def _by_proxy(self, request: web.Request) -> Identity | None:
        proxy, address = self.settings.proxy, address_of(request)
        if not proxy or not address or not any(ip_address(address) in network for network in self._networks):
            return None
        user = request.headers.get(proxy.header, "")
        if not user:
            return None
        if not is_name(user):
            raise NotAuthenticated(f"{proxy.header} has no name of a user")
        groups = request.headers.get(proxy.groups_header, "") if proxy.groups_header else ""
        return Identity(user, frozenset(group.strip() for group in groups.split(",") if group.strip()))

    def _with_roles(self, identity: Identity) -> Identity:
        assert identity.user is not None, "somebody was identified"
        return replace(identity, roles=self.settings.roles.of(identity.user, identity.groups))

    def _note_use(self, request: web.Request, token: Token) -> None:
        now, last = self.clock.now(), self._used.get(token.id)
        if last is None or now - last >= _SEEN_AGAIN:
            self._used[token.id] = now
            caller = replace(request[CALLER], user=token.issued.user)
            self.record.note(e.TokenUsed(token=token.id, address=address_of(request)), caller)

    async def _declare_roles(self, backend: Backend) -> None:
        """Put on record who has which role, unless that is the last that was."""
        roles = self.settings.roles
        declared = {role: tuple(getattr(roles, role)) for role in ("operator", "auditor", "admin")}
        recorded = await backend.store.read_stream(e.ROLES_STREAM)
        last = e.decode_security(recorded[-1]) if recorded else None
        event = e.RolesDeclared(roles={role: names for role, names in declared.items() if names})
        if event != (last or e.RolesDeclared(roles={})):
            await backend.store.append(e.ROLES_STREAM, [e.encode(event, SERVER.metadata)])


def address_of(request: web.Request) -> str | None:
    """Return the address that a request comes from, whatever it says of itself."""
    return request.remote


def _name_and_password(credentials: str) -> tuple[str, str]:
    """Read the credentials of HTTP Basic (RFC 7617)."""
    try:
        name, colon, password = b64decode(credentials.strip(), validate=True).decode().partition(":")
    except ValueError:  # no base64, no ASCII, or no UTF-8
        raise NotAuthenticated("these are no credentials of HTTP Basic") from None
    if not colon:
        raise NotAuthenticated("these are no credentials of HTTP Basic: expected user:password in base64")
    return name, password
