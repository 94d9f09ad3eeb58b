"""What a server is among those that share its log: one of several, or alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from ._errors import EventStoreError, StoreUnavailable
from ._types import EventStore

Duties = Callable[[EventStore], AbstractAsyncContextManager[None]]
"""Begins what the leader does, through the store that is given, and ends it when the context is left."""


class NameTaken(EventStoreError):
    """Another server has the name of this node."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(
            f"another server is node {name} of this log, and was there {seconds:.0f} s ago: "
            "give this one another name"
        )
        self.name = name


MOST_OFF = 5.0
"""Seconds by which a node's clock may differ from the database's: those of two nodes by twice that, and what
they sign for each other is good for longer (`uws.peers.FRESH`)."""


class ClockOff(StoreUnavailable):
    """The clock of this machine is not the database's: what is due by it may not be."""

    def __init__(self, here: datetime, there: datetime) -> None:
        times = (time.astimezone(UTC).isoformat(timespec="seconds") for time in (here, there))
        super().__init__(
            "the clock of this machine, or the database's, is wrong: it is {} here and {} there, "
            "and {:.0f} s are the most by which they may differ".format(*times, MOST_OFF)
        )
        self.here = here
        self.there = there


class UnknownNode(EventStoreError):
    """There is no node of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no node {name} of this log")
        self.name = name


class StillThere(EventStoreError):
    """A node is not to be forgotten: it is heard of."""

    def __init__(self, name: str, seconds: float, gone_after: float) -> None:
        super().__init__(
            f"node {name} was there {seconds:.0f} s ago: stop it, and wait until it is gone, "
            f"{gone_after:.0f} s after it was heard of last"
        )
        self.name = name


class Member(NamedTuple):
    """A node as others see it, last ``seen`` then by the database's clock; ``program`` is its version.

    Its own clock was so many seconds ``ahead`` of that. One that has ``stopped`` has given up its name.
    """

    name: str
    seen: datetime
    url: str
    program: str
    leads: bool
    ahead: float
    stopped: bool

    @property
    def may_lead(self) -> bool:
        """Whether its clock is right."""
        return abs(self.ahead) <= MOST_OFF


class NodeId(NamedTuple):
    """What a node is known by: its ``name``, and an ``identity`` that its data directory alone has.

    ``url`` is where the others reach it, ``program`` its version.
    """

    name: str
    identity: str
    url: str
    program: str


class Membership(Protocol):
    """What a server is among those that share its log. ``name`` is None where it is alone.

    With the ``key``, which they alone have, nodes sign what they ask of each other; it is empty where one is
    alone.
    """

    name: str | None
    key: bytes

    @property
    def cut_off(self) -> str | None:
        """Why the others cannot hear of this one now, since the log cannot be written; None when they do."""
        ...

    @property
    def leads(self) -> bool:
        """Whether it does what only one may do, as far as it knows."""
        ...

    def is_gone(self, name: str | None) -> bool:
        """Whether a node was not heard of for as long as it takes to be gone."""
        ...

    @property
    def others(self) -> Collection[str]:
        """The names of the other nodes that there are or were."""
        ...

    async def url_of(self, name: str) -> str | None:
        """Return where a node is reached that there is or was; None for any other."""
        ...

    async def there(self) -> None:
        """Return when the others count this one as there, and will for some time yet.

        Never again once another server has its name.
        """
        ...

    async def displaced(self) -> NameTaken:
        """Return, when another server has taken the name of this one, what is to be said of it.

        That is final: this one leads no more, and has to end.
        """
        ...

    async def looked(self) -> None:
        """Return when `is_gone` tells of a time after this call, or of nobody: this one is cut off."""
        ...

    async def leave(self) -> None:
        """Be heard of no more, and let any server have the name of this one at once.

        Nothing may run any more that others may start again. Raises `StoreUnavailable`.
        """
        ...

    def leading(self, duties: Duties) -> AbstractAsyncContextManager[None]:
        """Do the ``duties`` whenever this is the one that leads, while the context lasts."""
        ...


class Alone:
    """The only server of a log."""

    name: str | None = None
    key = b""
    cut_off: str | None = None
    leads = True
    others: Collection[str] = ()

    def __init__(self, store: EventStore) -> None:
        self._store = store

    def is_gone(self, name: str | None) -> bool:
        """See `Membership.is_gone`: there was another, of a log that was copied to here."""
        return name is not None

    async def url_of(self, name: str) -> str | None:
        """See `Membership.url_of`: there is no other."""
        return None

    async def there(self) -> None:
        """See `Membership.there`."""

    async def looked(self) -> None:
        """See `Membership.looked`."""

    async def leave(self) -> None:
        """See `Membership.leave`."""

    async def displaced(self) -> NameTaken:
        """See `Membership.displaced`: there is nobody who would."""
        never: asyncio.Future[NameTaken] = asyncio.get_running_loop().create_future()
        return await never

    @asynccontextmanager
    async def leading(self, duties: Duties) -> AsyncIterator[None]:
        """See `Membership.leading`."""
        async with duties(self._store):
            yield
