"""Bearer tokens and sessions: what the log has of them, which is who they are for, and never the secret."""

from __future__ import annotations

import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Literal

import msgspec

from eventstore import Erased, EventStore, RecordedEvent, new_id
from uws.clock import Clock
from uws.commands import Caller
from uws.model import NotAuthenticated, NotFound, Scope
from uws.model import events as e
from uws.model.units import format_time

PREFIX = "uwsd_"
"""What all tokens begin with, so that they are found where they should not be."""
_TOKEN = re.compile(rf"{PREFIX}([0-9a-f]{{32}})_([A-Za-z0-9_-]{{43}})")
_KNOWN = 10_000


@dataclass(frozen=True)
class Token:
    """A token that was issued. ``revoked`` is why it is good no longer, if it was revoked."""

    id: str
    issued: e.TokenIssued
    made: datetime
    revoked: str | None = None

    @property
    def scopes(self) -> frozenset[Scope] | None:
        """What it is good for; None is all."""
        named = self.issued.scopes
        return None if named is None else frozenset(scope for scope in Scope if scope in named)


class Tokens:
    """Issues, knows and revokes tokens. Raises what the store does."""

    def __init__(self, store: EventStore, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._streams: OrderedDict[str, str] = OrderedDict()
        self._read: OrderedDict[str, tuple[Sequence[RecordedEvent], dict[str, Token]]] = OrderedDict()
        """What streams were when they were read last, and the tokens in them."""

    async def issue(
        self,
        user: str,
        caller: Caller,
        *,
        lasts: timedelta,
        kind: Literal["token", "session"] = "token",
        scopes: frozenset[Scope] | None = None,
        listed: bool = False,
        changed: datetime | None = None,
    ) -> tuple[str, str]:
        """Return a new token's id, and the token itself, which is nowhere else."""
        token_id, secret = new_id(), secrets.token_urlsafe(32)
        issued = e.TokenIssued(
            user=user,
            kind=kind,
            digest=_digest(secret),
            expires=self._clock.now() + lasts,
            scopes=None if scopes is None else tuple(sorted(scopes)),
            listed=listed,
            changed=changed,
        )
        stream = e.session_stream(token_id) if kind == "session" else e.user_stream(user)
        event = msgspec.structs.replace(e.encode(issued, caller.metadata), id=token_id)
        await self._store.append(stream, [event])
        return token_id, f"{PREFIX}{token_id}_{secret}"

    async def verify(self, text: str) -> Token:
        """Return the token with this text. Raises `NotAuthenticated` when it is not good, or not any more."""
        found = _TOKEN.fullmatch(text)
        token = await self._find(found[1]) if found else None
        if not found or not token or not hmac.compare_digest(token.issued.digest, _digest(found[2])):
            raise NotAuthenticated("this is no token that is good here")
        what = token.issued.kind
        if token.revoked is not None:
            raise NotAuthenticated(f"this {what} was revoked")
        if self._clock.now() >= token.issued.expires:
            raise NotAuthenticated(f"this {what} has expired, at {format_time(token.issued.expires)}")
        return token

    def is_now(self, token: Token) -> bool:
        """Whether a token that was verified would be found again as it is; False where that is to be asked.

        Its time is for whoever asks to look at.
        """
        stream = self._streams.get(token.id, "")
        events, tokens = self._read.get(stream, (None, {}))
        return tokens.get(token.id) is token and self._store.recent(stream) is events

    async def revoke(self, token_id: str, reason: str, caller: Caller) -> Token:
        """End a token; one that is ended already stays so. Raises `NotFound`."""
        token = await self._find(token_id)
        if token is None:
            raise NotFound(f"there is no token {token_id}")
        if token.revoked is None:
            event = e.TokenRevoked(token=token_id, reason=reason)
            await self._store.append(self._streams[token_id], [e.encode(event, caller.metadata)])
        return token

    async def revoke_all(self, user: str, reason: str, caller: Caller) -> int:
        """End all tokens of a user, and return how many that were."""
        good = [token for token in await self.of_user(user) if token.revoked is None]
        events = [e.encode(e.TokenRevoked(token=token.id, reason=reason), caller.metadata) for token in good]
        if events:
            await self._store.append(e.user_stream(user), events)
        return len(events)

    async def of_user(self, user: str) -> list[Token]:
        """Return the tokens of a user, in the order in which they were issued; not the sessions."""
        return [*_tokens(await self._store.read_stream(e.user_stream(user))).values()]

    async def _find(self, token_id: str) -> Token | None:
        stream = self._streams.get(token_id)
        if stream is None:
            recorded = await self._store.read_event(token_id)
            if recorded is None or recorded.type != e.TokenIssued.__name__ or recorded.erased:
                return None
            stream = self._streams[token_id] = recorded.stream
            while len(self._streams) > _KNOWN:
                self._streams.popitem(last=False)
        events = await self._store.read_stream(stream)
        seen, tokens = self._read.get(stream, ((), {}))
        if seen is not events:
            tokens = _tokens(events)
            self._read[stream] = events, tokens
            while len(self._read) > _KNOWN:
                self._read.popitem(last=False)
        return tokens.get(token_id)


def _tokens(recorded: Sequence[RecordedEvent]) -> dict[str, Token]:
    found: dict[str, Token] = {}
    for event in recorded:
        if event.erased or event.type == Erased.type:
            continue
        match e.decode_token(event):
            case e.TokenIssued() as issued:
                found[event.id] = Token(event.id, issued, event.recorded_at)
            case e.TokenRevoked(token=token_id, reason=reason) if token_id in found:
                issued_to = found[token_id]
                found[token_id] = Token(token_id, issued_to.issued, issued_to.made, reason)
    return found


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
