"""The one of several nodes that leads: there is one, and what it wants done too late is not done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import pytest

from eventstore import EventStore, TermPassed, open_store
from eventstore._database import connect
from eventstore.membership import Membership, NameTaken, NodeId
from eventstore.nodes import Clocks, joined, members
from tests.databases import needs_postgres
from tests.eventstore.support import events
from tests.nodes.link import Link

pytestmark = needs_postgres
GONE_AFTER = 30.0
BEAT = 2.0
PATIENCE = 30.0
_AWAITED = "SELECT query_start FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted"


class Time:
    """The clocks of all nodes of a test: they stand still until somebody waits for something."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.clocks = Clocks(lambda: self.now, lambda: self.now, self._sleep)
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._slept = asyncio.Event()

    async def until(self, so: Callable[[], Any], *, asleep: int) -> None:
        """Let time pass until it is ``so``, from sleep to sleep, whenever so many of the nodes' tasks sleep.

        One that is there has two, which both do when nobody keeps them waiting.
        """
        async with asyncio.timeout(PATIENCE):
            while not so():
                self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]
                if len(self._sleepers) < asleep:
                    self._slept.clear()
                    await self._slept.wait()
                    continue
                self.now, first = min(self._sleepers, key=lambda sleeper: sleeper[0])
                first.set_result(None)

    async def _sleep(self, seconds: float) -> None:
        awake = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, awake))
        self._slept.set()
        await awake


class Node(NamedTuple):
    """A node, the stores with which it was told to lead so far, and the ends of the leases it was given."""

    store: EventStore
    member: Membership
    led_with: list[EventStore]
    leases: list[float]


class Told(Exception):
    """What goes wrong with a node that nobody has foreseen."""


@pytest.fixture
def time() -> Time:
    return Time()


@asynccontextmanager
async def node(
    url: str,
    name: str,
    time: Time,
    *,
    of: str = "",
    gone_after: float = GONE_AFTER,
    clocks: Clocks | None = None,
    fails: Callable[[], object] = lambda: False,
) -> AsyncIterator[Node]:
    """A node whose data directory is ``of`` a name; what hears of its leases ``fails`` when it is so."""
    leases: list[float] = []
    led_with: list[EventStore] = []

    @asynccontextmanager
    async def lead(store: EventStore) -> AsyncIterator[None]:
        led_with.append(store)
        yield

    def leased(until: float) -> None:
        if fails():
            raise Told
        leases.append(until)

    async with AsyncExitStack() as stack:
        store = await open_store(url)
        stack.push_async_callback(store.close)
        itself = NodeId(name, f"of {of or name}", f"http://{name}.example", "1.0")
        member = await stack.enter_async_context(
            joined(store, itself, gone_after=gone_after, leased=leased, clocks=clocks or time.clocks)
        )
        await stack.enter_async_context(member.leading(lead))
        yield Node(store, member, led_with, leases)


@asynccontextmanager
async def held_turn(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Write to the log, as a pruning does, until COMMIT or the end of the context."""
    await (await open_store(url)).close()  # there is one from now on
    connection = await connect(url)
    try:
        await connection.execute("BEGIN; SELECT take_turn()")
        yield connection
    finally:
        connection.terminate()


async def awaits_turn(connection: asyncpg.Connection) -> object:
    """Return, when somebody waits for what this connection does, since when."""
    while (since := await connection.fetchval(_AWAITED)) is None:
        pass
    return since


async def test_what_a_leader_wants_written_after_its_term_is_refused(
    url: str, link: Link, time: Time
) -> None:
    """It may not know yet that it is over; whatever it writes as anybody may is taken."""
    async with node(link.url(), "a", time) as old, AsyncExitStack() as stack:
        await time.until(lambda: old.led_with, asleep=2)
        was = old.led_with[-1]
        await was.append("x", events("in time"))
        new = await stack.enter_async_context(node(url, "b", time))
        assert not new.led_with
        link.cut()
        late = asyncio.create_task(was.append("x", events("late")))
        await time.until(lambda: new.led_with, asleep=2)
        await new.led_with[-1].append("x", events("after it"))
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
    url: str, link: Link, time: Time
) -> None:
    async with node(link.url(), "a", time) as old, AsyncExitStack() as stack:
        await time.until(lambda: old.led_with, asleep=2)
        was = old.led_with[-1]
        link.cut()
        waiting = asyncio.create_task(was.append("x/0", events("x")))
        new = await stack.enter_async_context(node(url, "b", time))
        await time.until(lambda: new.led_with, asleep=2)
        late = [
            asyncio.create_task((was, old.store)[number % 2].append(f"x/{number}", events("x")))
            for number in range(1, 7)
        ]
        await asyncio.sleep(0)
        link.mend()
        outcomes = await asyncio.gather(waiting, *late, return_exceptions=True)
        assert [isinstance(outcome, TermPassed) for outcome in outcomes] == [True, *[False, True] * 3]


async def test_who_begins_to_lead_is_not_ended_in_place_of_the_one_before_who_is_gone(
    url: str, time: Time
) -> None:
    """It waits for its turn, and the database still says that the one before leads."""
    async with node(url, "a", time) as first:
        await time.until(lambda: first.led_with, asleep=2)
    async with held_turn(url) as turn, AsyncExitStack() as stack:
        second = await stack.enter_async_context(node(url, "b", time))
        await awaits_turn(turn)
        third = await stack.enter_async_context(node(url, "c", time))
        await time.until(lambda: third.member.is_gone("a"), asleep=3)
        looked = time.now
        await time.until(lambda: time.now > looked + GONE_AFTER, asleep=3)
        await turn.execute("COMMIT")
        await time.until(lambda: second.led_with or third.led_with, asleep=3)
        assert second.member.leads
        assert not third.led_with


async def test_a_node_that_waits_for_its_turn_to_lead_is_there(url: str, time: Time) -> None:
    async with held_turn(url) as turn, node(url, "a", time) as here:
        since, begun = await awaits_turn(turn), time.now
        await time.until(lambda: here.leases[-1] > begun + GONE_AFTER, asleep=1)
        await turn.execute("SELECT pg_stat_clear_snapshot()")
        assert await awaits_turn(turn) == since
        assert not here.led_with
        await turn.execute("COMMIT")
        await time.until(lambda: here.led_with, asleep=1)


async def test_a_node_whose_name_was_taken_is_told_so_and_leads_no_more(
    url: str, link: Link, time: Time
) -> None:
    """It was not heard of, and another server has begun under its name. That is final."""
    async with node(link.url(), "a", time, of="old") as old, AsyncExitStack() as stack:
        await time.until(lambda: old.led_with, asleep=2)
        link.cut()
        connection = await connect(url)
        await connection.execute("UPDATE node SET seen = seen - interval '1 h'")
        connection.terminate()
        new = await stack.enter_async_context(node(url, "a", time, of="new"))
        link.mend()
        told = asyncio.ensure_future(old.member.displaced())
        await time.until(told.done, asleep=2)
        assert isinstance(told.result(), NameTaken)
        assert not old.member.leads
        await time.until(lambda: new.led_with, asleep=2)
        assert len(old.led_with) == 1
        there = asyncio.ensure_future(old.member.there())
        await time.until(lambda: new.leases[-1] > old.leases[-1] + GONE_AFTER, asleep=2)
        assert not there.done()
        there.cancel()


async def test_a_node_goes_on_when_its_programs_cannot_be_told_that_it_is_there(url: str, time: Time) -> None:
    ills = [True] * 3
    async with node(url, "a", time, fails=lambda: bool(ills and ills.pop())) as here:
        await time.until(lambda: here.led_with, asleep=2)
        await time.until(lambda: len(here.leases) > 3, asleep=2)
        assert not ills
        assert len(here.led_with) == 1


async def test_a_node_goes_on_after_what_nobody_has_foreseen(url: str, time: Time) -> None:
    ills = [True] * 3

    async def sleep(seconds: float) -> None:
        if seconds == BEAT and ills:
            ills.pop()
            raise Told
        await time.clocks.sleep(seconds)

    async with node(url, "a", time, clocks=time.clocks._replace(sleep=sleep)) as here:
        await time.until(lambda: not ills, asleep=1)
        leased, led = len(here.leases), len(here.led_with)
        await time.until(lambda: len(here.leases) > leased + 3, asleep=1)
        await time.until(lambda: here.member.leads, asleep=2)
        assert len(here.led_with) - led <= 1


async def test_a_node_is_gone_when_it_was_not_heard_of_and_back_when_it_is(
    url: str, link: Link, time: Time
) -> None:
    async with node(url, "a", time) as here, node(link.url(), "b", time):
        assert not here.member.is_gone("b")
        link.cut()
        await time.until(lambda: here.member.is_gone("b"), asleep=2)
        link.mend()
        await time.until(lambda: not here.member.is_gone("b"), asleep=2)
        assert not here.member.is_gone("a")


@pytest.mark.parametrize("factor", [0.1, 4])
async def test_a_node_is_gone_after_the_time_that_it_goes_by_itself(
    url: str, link: Link, time: Time, factor: float
) -> None:
    async with (
        node(url, "a", time) as here,
        node(link.url(), "b", time, gone_after=factor * GONE_AFTER) as far,
    ):
        await time.until(lambda: len(here.leases) > 3, asleep=4)
        link.cut()
        begun = time.now
        await time.until(lambda: here.member.is_gone("b"), asleep=2)
        assert far.leases[-1] < time.now
        assert time.now - begun == pytest.approx(factor * GONE_AFTER, abs=3 * BEAT)


async def test_what_a_server_was_given_counts_until_its_next_one_has_shortened_it(
    url: str, link: Link, time: Time
) -> None:
    """That one is cut off when it was heard of once: programs may have the lease of before yet."""
    async with node(url, "a", time) as here:
        async with node(url, "b", time, gone_after=4 * GONE_AFTER) as before:
            pass
        async with node(link.url(), "b", time, fails=link.cut) as after:
            assert len(after.leases) == 1
            await time.until(lambda: here.member.is_gone("b"), asleep=2)
            assert time.now > before.leases[-1]
            link.mend()


async def test_who_was_cut_off_takes_nobody_for_gone(url: str, link: Link, time: Time) -> None:
    async with node(link.url(), "a", time) as here, node(url, "b", time):
        await time.until(lambda: len(here.leases) > 3, asleep=4)
        link.cut()
        begun = time.now

        def passed() -> bool:
            assert not here.member.is_gone("b")
            return time.now > begun + 2 * GONE_AFTER

        await time.until(passed, asleep=2)
        link.mend()
        before = len(here.leases)

        def heard() -> bool:
            assert not here.member.is_gone("b")
            return len(here.leases) > before + 2

        await time.until(heard, asleep=2)


async def test_a_node_that_was_never_there_is_gone_after_a_while(url: str, time: Time) -> None:
    async with node(url, "a", time) as here:
        assert not here.member.is_gone("z")
        await time.until(lambda: here.member.is_gone("z"), asleep=2)


async def test_the_members_of_a_log_are_told_with_the_one_that_leads(url: str, time: Time) -> None:
    async with node(url, "a", time) as first:
        await time.until(lambda: first.led_with, asleep=2)
        async with node(url, "b", time):
            told = await members(url)
            assert [(member.name, member.url, member.leads) for member in told] == [
                ("a", "http://a.example", True),
                ("b", "http://b.example", False),
            ]
    assert [member.leads for member in await members(url)] == [False, False]
