"""The one of several nodes that leads: there is one, and what it wants done too late is not done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import pytest

from eventstore import EventStore, TermPassed, open_store
from eventstore.membership import Membership, NodeId
from eventstore.nodes import members
from eventstore.opening import membership
from tests.databases import needs_postgres
from tests.eventstore.support import events
from tests.nodes.link import Link

pytestmark = needs_postgres
GONE_AFTER = 1.0
PATIENCE = 30.0


class Node(NamedTuple):
    """A node, the stores with which it was told to lead so far, and the ends of the leases it was given."""

    store: EventStore
    member: Membership
    led_with: list[EventStore]
    leases: list[float]

    async def leads(self) -> EventStore:
        async with asyncio.timeout(PATIENCE):
            while not self.led_with:
                await asyncio.sleep(0)
        return self.led_with[-1]


@asynccontextmanager
async def node(url: str, name: str) -> AsyncIterator[Node]:
    leases: list[float] = []
    led_with: list[EventStore] = []

    @asynccontextmanager
    async def lead(store: EventStore) -> AsyncIterator[None]:
        led_with.append(store)
        yield

    async with AsyncExitStack() as stack:
        store = await open_store(url)
        stack.push_async_callback(store.close)
        itself = NodeId(name, f"of {name}", f"http://{name}.example", "1.0")
        member = await stack.enter_async_context(
            membership(store, itself, gone_after=GONE_AFTER, leased=leases.append)
        )
        await stack.enter_async_context(member.leading(lead))
        yield Node(store, member, led_with, leases)


async def test_what_a_leader_wants_written_after_its_term_is_refused(url: str, link: Link) -> None:
    """It may not know yet that it is over; whatever it writes as anybody may is taken."""
    async with node(link.url(), "a") as old, AsyncExitStack() as stack:
        was = await old.leads()
        await was.append("x", events("in time"))
        new = await stack.enter_async_context(node(url, "b"))
        assert not new.led_with
        link.cut()
        late = asyncio.create_task(was.append("x", events("late")))
        now = await new.leads()
        await now.append("x", events("after it"))
        link.mend()
        with pytest.raises(TermPassed):
            await late
        with pytest.raises(TermPassed):
            await was.erase("x", reason="late")
        with pytest.raises(TermPassed):
            await was.prune(1, ended_by=["Said"], reason="late")
        await old.store.append("x", events("by anybody"))
        read = [event.data.decode() for event in await new.store.read_stream("x")]
        assert read == ["in time", "after it", "by anybody"]


async def test_of_appends_sent_together_those_of_a_past_term_are_refused_and_no_others(
    url: str, link: Link
) -> None:
    async with node(link.url(), "a") as old, AsyncExitStack() as stack:
        was = await old.leads()
        link.cut()
        waiting = asyncio.create_task(was.append("x/0", events("x")))
        await (await stack.enter_async_context(node(url, "b"))).leads()
        late = [
            asyncio.create_task((was, old.store)[number % 2].append(f"x/{number}", events("x")))
            for number in range(1, 7)
        ]
        await asyncio.sleep(0)
        link.mend()
        outcomes = await asyncio.gather(waiting, *late, return_exceptions=True)
        assert [isinstance(outcome, TermPassed) for outcome in outcomes] == [True, *[False, True] * 3]


async def test_a_node_is_gone_when_it_was_not_heard_of_and_back_when_it_is(url: str, link: Link) -> None:
    async with node(url, "a") as here, node(link.url(), "b"):
        assert not here.member.is_gone("b")
        link.cut()
        async with asyncio.timeout(PATIENCE):
            while not here.member.is_gone("b"):
                await asyncio.sleep(0)
        link.mend()
        async with asyncio.timeout(PATIENCE):
            while here.member.is_gone("b"):
                await asyncio.sleep(0)
        assert not here.member.is_gone("a")


async def test_who_was_cut_off_takes_nobody_for_gone(url: str, link: Link) -> None:
    async with node(link.url(), "a") as here, node(url, "b"):
        link.cut()
        begun, now = time.monotonic(), 0.0
        while now < begun + 2 * GONE_AFTER:
            now = time.monotonic()
            assert not here.member.is_gone("b")
            await asyncio.sleep(0.01)
        link.mend()
        before = len(here.leases)
        async with asyncio.timeout(PATIENCE):
            while len(here.leases) < before + 2:
                await asyncio.sleep(0)
                assert not here.member.is_gone("b")


async def test_a_node_that_was_never_there_is_gone_after_a_while(url: str) -> None:
    async with node(url, "a") as here:
        assert not here.member.is_gone("z")
        async with asyncio.timeout(PATIENCE):
            while not here.member.is_gone("z"):
                await asyncio.sleep(0)


async def test_the_members_of_a_log_are_told_with_the_one_that_leads(url: str) -> None:
    async with node(url, "a") as first, node(url, "b"):
        await first.leads()
        told = await members(url)
        assert [(member.name, member.url, member.leads) for member in told] == [
            ("a", "http://a.example", True),
            ("b", "http://b.example", False),
        ]
    assert [member.leads for member in await members(url)] == [False, False]
