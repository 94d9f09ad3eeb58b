"""Changes of the users file go on record: before they are made, or when somebody has made them by hand."""

from __future__ import annotations

from eventstore import EventStore
from uws.commands import SERVER, Caller
from uws.model import events as e

from .tokens import Tokens
from .users import Users, digest_of


async def record_change(store: EventStore, tokens: Tokens, change: e.UserChanged, caller: Caller) -> None:
    """Put on record what becomes of a user; with his entry, his tokens are over."""
    if change.entry is None:
        await tokens.revoke_all(change.user, "the user was removed", caller)
    await store.append(e.USERS_STREAM, [e.encode(change, caller.metadata)])


async def record_edits(store: EventStore, tokens: Tokens, users: Users) -> None:
    """Put on record where the file is not as the record has it.

    So it is when somebody has edited it, or when it was not changed after all, after that was on record.
    While there is none, nothing is known of anybody.
    """
    async with users.turn:
        known: dict[str, str | None] = {}
        for recorded in await store.read_stream(e.USERS_STREAM):
            match None if recorded.erased else e.decode_security(recorded):
                case e.UserChanged() as change:
                    known[change.user] = change.entry
        there = await users.current()
        if users.is_missing:
            return
        for name in sorted({*known, *there}):
            user = there.get(name)
            if known.get(name) != (entry := digest_of(user)):
                edited = e.UserChanged(
                    user=name, change="edited", groups=user.groups if user else (), entry=entry
                )
                await record_change(store, tokens, edited, SERVER)
