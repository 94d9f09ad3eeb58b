"""Users and tokens, as admin commands see them."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

import msgspec

from eventstore.tasks import to_the_end
from uws.access.changes import record_change
from uws.access.tokens import Tokens
from uws.access.users import Record, User, Users, digest_of
from uws.commands import Caller
from uws.model import Scope, UsageError, did_you_mean
from uws.model import events as e
from uws.model.text import SERVER_NAME, is_name

from .operations import Administered, Operation, Report

LONGEST_TOKEN = timedelta(days=3660)


class UserEntry(msgspec.Struct, frozen=True):
    """A user of the users file."""

    name: str
    groups: tuple[str, ...]
    roles: tuple[str, ...]
    changed: datetime


class ListUsers(Operation[list[UserEntry]], frozen=True, tag="user list"):
    """Return the users in the users file."""

    needs_read_models = False

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> list[UserEntry]:
        roles = here.settings.auth.roles
        return [
            UserEntry(name, user.groups, tuple(sorted(roles.of(name, user.groups))), user.changed)
            for name, user in sorted(_users(here).all().items())
        ]


class _ChangeUser(Operation[None], frozen=True):
    """Put on record that the users file changes, and change it: both, also when nobody waits for it.

    The password's hash stays out of the record, and out of the server's log.
    """

    needs_read_models = False
    user: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(user={self.user!r})"

    _what: ClassVar[Literal["added", "removed", "password", "groups"]]

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> None:
        await to_the_end(self._carry_out(here, caller))

    async def _carry_out(self, here: Administered, caller: Caller) -> None:
        users, loop = _users(here), asyncio.get_running_loop()

        def record(entry: User | None) -> None:
            groups = entry.groups if entry and self._what in ("added", "groups") else ()
            event = e.UserChanged(user=self.user, change=self._what, groups=groups, entry=digest_of(entry))
            recording = record_change(here.backend.store, _tokens(here), event, caller)
            asyncio.run_coroutine_threadsafe(recording, loop).result()

        async with users.turn:
            await asyncio.to_thread(self._change, users, record)

    def _change(self, users: Users, record: Record) -> None:
        """Change the file, and ``record`` that before."""
        raise NotImplementedError


class AddUser(_ChangeUser, frozen=True, tag="user add"):
    """Make a user. ``password`` is the hash of his password."""

    begins = True
    _what = "added"
    password: str
    groups: tuple[str, ...] = ()

    def _change(self, users: Users, record: Record) -> None:
        users.add(self.user, self.password, self.groups, record)


class SetPassword(_ChangeUser, frozen=True, tag="user passwd"):
    """Give a user another password, by its hash."""

    _what = "password"
    password: str

    def _change(self, users: Users, record: Record) -> None:
        users.set_password(self.user, self.password, record)


class SetGroups(_ChangeUser, frozen=True, tag="user groups"):
    """Have a user in these groups and no others."""

    _what = "groups"
    groups: tuple[str, ...]

    def _change(self, users: Users, record: Record) -> None:
        users.set_groups(self.user, self.groups, record)


class RemoveUser(_ChangeUser, frozen=True, tag="user remove"):
    """Take a user out of the users file, and revoke his tokens."""

    _what = "removed"

    def _change(self, users: Users, record: Record) -> None:
        users.remove(self.user, record)


class NewToken(msgspec.Struct, frozen=True):
    """A token that was just made: nobody can be told its text again."""

    id: str
    token: str
    expires: datetime


class CreateToken(Operation[NewToken], frozen=True, tag="token create"):
    """Make a token for a user. ``scopes`` None is everything that the user may do."""

    begins = True
    needs_read_models = False
    user: str
    seconds: int
    scopes: tuple[Scope, ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= LONGEST_TOKEN.total_seconds():
            raise UsageError(f"--expires: expected 1 s to {LONGEST_TOKEN.days} d, got {self.seconds} s")

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> NewToken:
        if not here.settings.auth.tokens:
            raise UsageError("tokens are not taken here: say tokens = true in [auth]")
        if not is_name(self.user) or self.user == SERVER_NAME:
            raise UsageError(f"--user: nobody is called {self.user!r}")
        auth = here.settings.auth
        users = _users(here) if auth.users is not None else None
        known_elsewhere = auth.oidc or (auth.proxy and auth.proxy.header)
        lasts = timedelta(seconds=self.seconds)
        scopes = None if self.scopes is None else frozenset(self.scopes)
        # Who is being removed at this moment is so before or after.
        async with users.turn if users else nullcontext():
            listed = users is not None and users.find(self.user) is not None
            if users and not listed and not known_elsewhere:
                meant = did_you_mean(self.user, users.all())
                raise UsageError(f"--user: there is no user {self.user}{meant}")
            token_id, token = await _tokens(here).issue(
                self.user, caller, lasts=lasts, scopes=scopes, listed=listed
            )
        return NewToken(token_id, token, here.backend.clock.now() + lasts)


class TokenEntry(msgspec.Struct, frozen=True):
    """A token, without what would let anybody use it. ``ended`` says why it is good no longer."""

    id: str
    made: datetime
    expires: datetime
    scopes: tuple[str, ...] | None
    ended: str | None


class ListTokens(Operation[list[TokenEntry]], frozen=True, tag="token list"):
    """Return the tokens of a user."""

    needs_read_models = False
    user: str

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> list[TokenEntry]:
        now = here.backend.clock.now()
        return [
            TokenEntry(
                token.id,
                token.made,
                token.issued.expires,
                token.issued.scopes,
                token.revoked or ("expired" if token.issued.expires <= now else None),
            )
            for token in await _tokens(here).of_user(self.user)
        ]


class RevokeToken(Operation[bool], frozen=True, tag="token revoke"):
    """End a token at once. Tells whether it was good until now."""

    needs_read_models = False
    token: str
    reason: str = "revoked"

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> bool:
        before = await _tokens(here).revoke(self.token, self.reason, caller)
        return before.revoked is None


class RevokeTokensOf(Operation[int], frozen=True, tag="token revoke --user"):
    """End all tokens of a user at once, and tell how many that were."""

    needs_read_models = False
    user: str
    reason: str = "revoked"

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> int:
        return await _tokens(here).revoke_all(self.user, self.reason, caller)


ACCESS_OPERATIONS: tuple[type[Operation[Any]], ...] = (
    ListUsers,
    AddUser,
    SetPassword,
    SetGroups,
    RemoveUser,
    CreateToken,
    ListTokens,
    RevokeToken,
    RevokeTokensOf,
)


def _users(here: Administered) -> Users:
    name = here.settings.auth.users
    if name is None:
        raise UsageError('there is no users file: say users = "users.json" in [auth]')
    return Users(here.settings.data / name, here.backend.clock)


def _tokens(here: Administered) -> Tokens:
    return Tokens(here.backend.store, here.backend.clock)
