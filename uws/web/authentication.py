"""Who sends a request: by password, by token, by a browser's session, or as a proxy says it."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from aiohttp import web

from eventstore import EventStore, EventStoreError
from eventstore.tasks import to_the_end
from uws.access.changes import record_edits
from uws.access.clients import address_behind, is_among, network_of
from uws.access.guesses import Guesses
from uws.access.record import SecurityRecord
from uws.access.tokens import PREFIX, Token, Tokens
from uws.access.users import User, Users, UsersUnreadable
from uws.clock import Clock, pause
from uws.commands import SERVER
from uws.config import AuthSettings
from uws.jobs import Backend
from uws.model import Identity, NotAuthenticated, Unavailable
from uws.model import events as e
from uws.model.text import SERVER_NAME, is_name
from uws.model.units import parse_duration

from .resource import CALLER, Authenticator, Holds

if TYPE_CHECKING:
    from uws.access.oidc import OIDC

_log = logging.getLogger(__name__)

SESSION = "uwsd_session"
"""The cookie with a browser's session."""
REALM = "uwsd"
_UNKNOWN = "the users file cannot be read"
_SEEN, _SEEN_AGAIN = 10_000, timedelta(hours=1)
_HASH = web.RequestKey("hash", str)
"""What the users file had of the password that a request came with, when it was verified."""
_ALWAYS = datetime.max.replace(tzinfo=UTC)


class _Known(NamedTuple):
    """Who somebody is, and by what he says so, where that goes on record when it is used."""

    identity: Identity
    by: Literal["basic", "jwt", "proxy"] | None = None
    token: Token | None = None


_KNOWN = web.RequestKey("known", _Known)
_Use = tuple[str | None, str, str]
"""Who has said who he is, by what, and from which network."""


class WrongPassword(NotAuthenticated):
    """What `Authentication.check_password` has put on record already."""


class Authentication(Authenticator):
    """The ways that an operator has opened, one after the other. See `AuthSettings`."""

    def __init__(self, settings: AuthSettings, data: Path, *, anonymous: bool) -> None:
        self.settings = settings
        self._data, self._anonymous = data, anonymous
        self._networks = settings.proxy.networks if settings.proxy else []
        self._used: dict[_Use, datetime] = {}
        """Who has said in which way, and from where, who he is, and since when that is on record."""

    @asynccontextmanager
    async def serving(self, backend: Backend) -> AsyncIterator[None]:
        """Know users and tokens, and keep a record of what is decided, while the context lasts."""
        users = self.settings.users
        self.users: Users | None = Users(self._data / users, backend.clock) if users is not None else None
        if self.users:
            await self.users.current()  # what is wrong with the file is told now
            if self.users.problem:
                _log.warning("%s", self.users.problem)
        self.clock: Clock = backend.clock
        self.guesses: Guesses = Guesses(backend.clock)
        self.tokens: Tokens = Tokens(backend.store, backend.clock)
        self.record: SecurityRecord = SecurityRecord(backend.store, backend.clock)
        self.oidc: OIDC | None = self._oidc(backend)
        try:
            async with self.record.kept(), self._watching_users(backend.store):
                await self._declare_roles(backend)
                yield
        finally:
            if self.oidc:
                await self.oidc.close()

    @asynccontextmanager
    async def _watching_users(self, store: EventStore) -> AsyncIterator[None]:
        """Put on record what somebody has edited in the users file."""
        if not self.users:
            yield
            return
        await record_edits(store, self.tokens, self.users)
        self.users.was_read.clear()
        watching = asyncio.create_task(self._watch_users(store, self.users), name="edits of the users file")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _watch_users(self, store: EventStore, users: Users) -> None:
        while True:
            await users.was_read.wait()
            users.was_read.clear()
            if users.problem:
                _log.error("%s", users.problem)  # once, until it is read again
                continue
            try:
                await to_the_end(record_edits(store, self.tokens, users))
            except EventStoreError as error:
                _log.error("what was edited in the users file cannot go on record: %s", error)
                await pause(self.clock)
                users.was_read.set()

    def _oidc(self, backend: Backend) -> OIDC | None:
        if not self.settings.oidc:
            return None
        from uws.access.oidc import OIDC  # which takes long to import

        return OIDC(self.settings.oidc, backend.clock)

    @property
    def session(self) -> timedelta | None:
        has_form = self.settings.users is not None
        return timedelta(seconds=parse_duration(self.settings.session)) if has_form else None

    def address_of(self, request: web.Request) -> str | None:
        proxy = self.settings.proxy
        told = request.headers.getall(proxy.address_header, []) if proxy and proxy.address_header else []
        return address_behind(request.remote, self._networks, told)

    def challenges(self, base_url: str) -> Sequence[str]:
        """Return what is asked of who must say who he is (RFC 7617, RFC 6750, IVOA SSO 2.0)."""
        found = []
        if self.session:
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
        known = request[_KNOWN] = await self._known(request, again=False)
        self._note_use(request, known)
        return known.identity

    def lasting(self, request: web.Request) -> Holds | None:
        """See `Authenticator.lasting`. What an issuer elsewhere has signed is looked at each time."""
        known, users = request.get(_KNOWN), self.users
        if known is None or known.by == "jwt":
            return None
        until = known.token.issued.expires if known.token else _ALWAYS
        if known.by == "basic" and users:
            name, password = _name_and_password(request.headers["Authorization"].partition(" ")[2])
            until = users.remembered_until(name, password)
        seen, use = users.seen if users else None, self._use(known, request[CALLER].address)

        def holds() -> bool:
            now = self.clock.now()
            return (
                now < until
                and (users is None or users.is_as(seen))
                and (known.token is None or self.tokens.is_now(known.token))
                and (use is None or self._is_noted(use, now))
            )

        return holds

    async def still(self, request: web.Request) -> Identity:
        """Return who sends a request that was let in, by what is known of him now.

        No password is verified again: it is good as long as the users file has none but that.
        """
        return (await self._known(request, again=True)).identity

    async def _known(self, request: web.Request, *, again: bool) -> _Known:
        # Before the header that such a proxy has looked at itself, and may pass on.
        if (identity := self._by_proxy(request)) is not None:
            return _Known(self._with_roles(identity), "proxy")
        if (header := _only(request, "Authorization")) is not None:
            return await self._by_header(request, header, again)
        if (cookie := request.cookies.get(SESSION)) is not None:
            try:
                session = await self._session(cookie)
                return _Known(self._with_roles(await self._of_token(session)), token=session)
            except NotAuthenticated as error:
                if not self._anonymous:
                    raise
                # A browser sends what it has: he is nobody, and may log in again.
                if not again:
                    self.note_refusal(request, error)
        if not self._anonymous:
            raise NotAuthenticated("say who you are")
        return _Known(Identity())

    async def check_password(self, request: web.Request, name: str, password: str) -> User:
        """Return the entry of the user who has this password. Raises `NotAuthenticated`, `TooMany`."""
        assert self.users is not None, "passwords are taken where there is a users file"
        users = await self._users_now()
        caller = request[CALLER]
        # Of names that nobody can have there is no end: all of them count as one.
        whose = name if is_name(name) else ""
        client = network_of(caller.address)
        async with self.guesses.counted(client, whose) as left:
            if (user := await self.users.remembered(name, password)) is not None:
                return user
            async with self.guesses.verifying(client):
                user = await self.users.verify(name, password)
                if user is None:
                    known = name if name in users else None
                    reason = "user or password is wrong"
                    noted = (
                        reason
                        if left > 1
                        else f"{reason}, once too often: others are not looked at for a while"
                    )
                    self.record.note(e.LogInRefused(reason=noted, user=known, address=caller.address), caller)
                    raise WrongPassword(reason)
        return user

    async def log_in(self, request: web.Request, name: str, password: str) -> str:
        assert self.session, "there is a form where there is a users file"
        user = await self.check_password(request, name, password)
        caller = request[CALLER].known_as(await self._listed(name))
        _, token = await self.tokens.issue(
            name, caller, lasts=self.session, kind="session", listed=True, changed=user.changed
        )
        self.record.note(e.LoggedIn(user=name, address=caller.address), caller)
        return token

    async def log_out(self, request: web.Request) -> None:
        scheme, _, named = (_only(request, "Authorization") or "").partition(" ")
        for text in request.cookies.get(SESSION, ""), named.strip() if scheme.lower() == "bearer" else "":
            with suppress(NotAuthenticated):  # what is no session is not ended by this
                token = await self._session(text)
                caller = replace(request[CALLER], user=token.issued.user)
                await self.tokens.revoke(token.id, "the user has logged out", caller)

    def note_refusal(self, request: web.Request, error: Exception) -> None:
        """Put it on record, unless the request only did not say whose it is."""
        caller, proxy = request[CALLER], self.settings.proxy
        named = "Authorization", proxy.header if proxy and is_among(request.remote, self._networks) else None
        said = any(header in request.headers for header in named if header)
        said = said or SESSION in request.cookies or caller.link is not None
        if isinstance(error, WrongPassword) or (isinstance(error, NotAuthenticated) and not said):
            return
        refusal = e.AccessRefused(
            reason=str(error)[:500],
            method=request.method[:20],
            path=request.rel_url.raw_path[:500],
            address=caller.address,
        )
        self.record.note(refusal, caller)

    async def _by_header(self, request: web.Request, header: str, again: bool) -> _Known:
        scheme, _, credentials = header.partition(" ")
        match scheme.lower():
            case "basic" if self.users is not None:
                name, password = _name_and_password(credentials)
                user = (await self._users_now()).get(name)
                if not again:
                    request[_HASH] = user.password if user else ""
                    await self.check_password(request, name, password)
                elif user and user.password != request[_HASH]:
                    raise NotAuthenticated("the password was changed: log in again")
                return _Known(self._with_roles(await self._listed(name)), "basic")
            case "bearer":
                return await self._by_token(credentials.strip())
        schemes = ", ".join(sorted({challenge.partition(" ")[0] for challenge in self.challenges("")}))
        raise NotAuthenticated(f"this is no way to say who you are here; expected {schemes or 'none'}")

    async def _by_token(self, text: str) -> _Known:
        if self.oidc and not text.startswith(PREFIX):
            return _Known(self._with_roles(await self._foreign(await self.oidc.identify(text))), "jwt")
        token = await self.tokens.verify(text)
        if token.issued.kind == "token" and not self.settings.tokens:
            raise NotAuthenticated("tokens are not taken here")
        return _Known(self._with_roles(await self._of_token(token)), token=token)

    async def _session(self, text: str) -> Token:
        """Return the session that a browser or a program has, for which no other token does."""
        token = await self.tokens.verify(text)
        if token.issued.kind != "session":
            raise NotAuthenticated(
                "this is a token and no session: it goes by Authorization: Bearer, and nobody logs it out"
            )
        return token

    async def _of_token(self, token: Token) -> Identity:
        named = token.issued
        identity = await self._listed(named.user, token) if named.listed else Identity(named.user)
        return replace(identity, scopes=token.scopes)

    async def _foreign(self, identity: Identity) -> Identity:
        """Return somebody known elsewhere, who cannot have the name of a user that is known here."""
        if identity.user in await self._users_now():
            raise NotAuthenticated(f"{identity.user} is a user of this server, who logs in here")
        if self.users and self.users.is_missing:
            raise Unavailable(
                "there is no users file, so that nobody knows whose name is a user's of this server"
            )
        return identity

    async def _users_now(self) -> Mapping[str, User]:
        """Return the users of the users file. Raises `Unavailable` when nothing is known of them."""
        try:
            return await self.users.current() if self.users else {}
        except UsersUnreadable:  # which tells where it is
            raise Unavailable(_UNKNOWN) from None

    async def trouble(self) -> tuple[str, bool] | None:
        if not self.users:
            return None
        with suppress(UsersUnreadable):
            await self.users.current()
            if self.users.is_missing:
                return "there is no users file: nobody logs in by password", self.oidc is not None
            if self.users.problem:
                return f"{_UNKNOWN}: they are as they were when it could be read", False
            return None
        return _UNKNOWN, True

    async def _listed(self, name: str, token: Token | None = None) -> Identity:
        """Return a user of the users file, for whom ``token`` was issued."""
        user = (await self._users_now()).get(name)
        if user is None:
            raise NotAuthenticated("there is no such user any more")
        if token and token.issued.kind == "session" and not _is_of(token, user):
            raise NotAuthenticated("the password was changed: log in again")
        return Identity(name, frozenset(user.groups))

    def _by_proxy(self, request: web.Request) -> Identity | None:
        proxy = self.settings.proxy
        if not proxy or not proxy.header or not is_among(request.remote, self._networks):
            return None
        user = _only(request, proxy.header)
        if not user:
            return None
        if not is_name(user):
            raise NotAuthenticated(f"{proxy.header} has no name of a user")
        groups = (_only(request, proxy.groups_header) or "") if proxy.groups_header else ""
        return Identity(user, frozenset(group.strip() for group in groups.split(",") if group.strip()))

    def _with_roles(self, identity: Identity) -> Identity:
        assert identity.user is not None, "somebody was identified"
        if identity.user == SERVER_NAME:
            raise NotAuthenticated(f"{SERVER_NAME} is the server itself, and nobody else")
        return replace(identity, roles=self.settings.roles.of(identity.user, identity.groups))

    def _note_use(self, request: web.Request, known: _Known) -> None:
        """Put on record that somebody says who he is in this way, unless he did so lately."""
        address, now = request[CALLER].address, self.clock.now()
        while first := next(iter(self._used), None):
            if self._is_noted(first, now) and len(self._used) < _SEEN:
                break
            del self._used[first]
        use, user = self._use(known, address), known.identity.user
        if use is None or use in self._used:
            return
        self._used[use] = now
        event: e.LoggedIn | e.TokenUsed
        if known.by and user is not None:
            event = e.LoggedIn(user=user, address=address, by=known.by)
        else:
            event = e.TokenUsed(token=use[1], address=address)
        self.record.note(event, replace(request[CALLER], user=user))

    def _use(self, known: _Known, address: str | None) -> _Use | None:
        """Return what goes on record of somebody who says who he is; None for nothing, as of a session."""
        token = known.token
        how = token.id if token and token.issued.kind == "token" else known.by
        return (known.identity.user, how, network_of(address)) if how else None

    def _is_noted(self, use: _Use, now: datetime) -> bool:
        since = self._used.get(use)
        return since is not None and now - since < _SEEN_AGAIN

    async def _declare_roles(self, backend: Backend) -> None:
        """Put on record who has which role, unless that is the last that was."""
        roles = self.settings.roles
        declared = {role: tuple(getattr(roles, role)) for role in ("operator", "auditor", "admin")}
        recorded = await backend.store.read_stream(e.ROLES_STREAM)
        last = e.decode_security(recorded[-1]) if recorded else None
        event = e.RolesDeclared(roles={role: names for role, names in declared.items() if names})
        if event != (last or e.RolesDeclared(roles={})):
            await backend.store.append(e.ROLES_STREAM, [e.encode(event, SERVER.metadata)])


def _is_of(session: Token, user: User) -> bool:
    """Whether a session was made with the password that the user has."""
    verified = session.issued.changed
    return session.made >= user.changed if verified is None else verified == user.changed


def _only(request: web.Request, header: str) -> str | None:
    """Return what a header says that tells who somebody is, None without it.

    Of two one would be a proxy's, or was looked at there, and the other not: raises `NotAuthenticated`.
    """
    said = request.headers.getall(header, [])
    if len(said) > 1:
        raise NotAuthenticated(f"{header} came {len(said)} times, and is believed only once")
    return said[0] if said else None


def _name_and_password(credentials: str) -> tuple[str, str]:
    """Read the credentials of HTTP Basic (RFC 7617)."""
    try:
        name, colon, password = b64decode(credentials.strip(), validate=True).decode().partition(":")
    except ValueError:  # no base64, no ASCII, or no UTF-8
        raise NotAuthenticated("these are no credentials of HTTP Basic") from None
    if not colon:
        raise NotAuthenticated("these are no credentials of HTTP Basic: expected user:password in base64")
    return name, password
