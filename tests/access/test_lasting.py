"""A request that lasts is good no longer than what its sender was let in by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from aiohttp import web

from tests.access.issuer import Issuer
from tests.access.support import basic, bearer, guarded
from tests.access.test_logging_in import PAGE, logged_in, token_for
from tests.access.test_oidc import settings
from tests.harness import ManualClock, Site
from tests.web.support import ECHO, FORM, PATIENCE, until_waiting
from tests.web.test_events import Stream, types
from uws.access.users import hashed
from uws.commands import SERVER
from uws.feed import BEAT
from uws.model import Identity
from uws.model import events as e
from uws.web import Authentication

OF_OPERATORS = msgspec.structs.replace(ECHO, name="ops", groups=["operators"])


class Credentials(NamedTuple):
    """What somebody sends who is let in, and what ends that."""

    headers: dict[str, str]
    end: Callable[[], Awaitable[object]]


Make = Callable[[Site, Authentication, ManualClock], Awaitable[Credentials]]


async def _token(site: Site, authentication: Authentication, clock: ManualClock) -> Credentials:
    token_id, token = await token_for(site, "ann", listed=True)
    return Credentials(bearer(token), lambda: authentication.tokens.revoke(token_id, "lost", SERVER))


async def _expiring(site: Site, authentication: Authentication, clock: ManualClock) -> Credentials:
    _, token = await token_for(site, "ann", lasts=timedelta(minutes=5))

    async def end() -> None:
        clock.advance(minutes=5)

    return Credentials(bearer(token), end)


async def _session(site: Site, authentication: Authentication, clock: ManualClock) -> Credentials:
    cookie = await logged_in(site, "ann")
    return Credentials(cookie, lambda: site.post("/logout", headers={**PAGE, **cookie}))


async def _password(site: Site, authentication: Authentication, clock: ManualClock) -> Credentials:
    async def end() -> None:
        assert authentication.users
        authentication.users.set_password("ann", hashed("another one"))

    return Credentials(basic("ann"), end)


async def _user(site: Site, authentication: Authentication, clock: ManualClock) -> Credentials:
    async def end() -> None:
        assert authentication.users
        authentication.users.remove("ann")

    return Credentials(basic("ann"), end)


WAYS: dict[str, Make] = {
    "a token is revoked": _token,
    "a token expires": _expiring,
    "a session is logged out": _session,
    "a password is changed": _password,
    "a user is removed": _user,
}
all_ways = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
async def served(tmp_path: Path, clock: ManualClock) -> AsyncIterator[tuple[Site, Authentication]]:
    async with guarded(tmp_path, ECHO, OF_OPERATORS, clock=clock) as (site, authentication):
        yield site, authentication


async def change(site: Site, job: str, how: str) -> None:
    """Let something happen to a job of ann's, whatever became of her credentials."""
    await site.node.backend.store.append(
        e.job_stream(job.rpartition("/")[2]), [e.encode(e.RunIdSet(run_id=how), SERVER.metadata)]
    )


@asynccontextmanager
async def listening(
    site: Site, headers: dict[str, str], *urls: str, others: Sequence[dict[str, str]] = ()
) -> AsyncIterator[list[Stream]]:
    """Listen to what is told at each URL, and to the first also with the headers of ``others``."""
    async with AsyncExitStack() as stack:
        streams = []
        for url, sent in [*((url, headers) for url in urls), *((urls[0], other) for other in others)]:
            answer = await stack.enter_async_context(site.session.get(f"{url}/events", headers=sent))
            assert answer.status == 200, await answer.text()
            streams.append(Stream(answer))
            await streams[-1].some(1)
        yield streams


@all_ways
@pytest.mark.parametrize("of_list", [False, True])
@pytest.mark.parametrize("anonymous", [False, True])
async def test_a_stream_of_events_tells_nothing_after_the_end_of_its_credentials(
    tmp_path: Path, clock: ManualClock, way: str, of_list: bool, anonymous: bool
) -> None:
    async with guarded(tmp_path, clock=clock, anonymous=anonymous) as (site, authentication):
        headers, end = await WAYS[way](site, authentication, clock)
        job = (await site.post("/echo/async", headers=headers)).location
        url = site.list_url("echo") if of_list else job
        async with listening(site, headers, url) as (stream,):
            await change(site, job, "before")
            assert types(await stream.some(1)) == ["RunIdSet"]
            await end()
            await change(site, job, "after")
            assert await stream.rest() == []


@all_ways
async def test_a_stream_of_which_nothing_is_told_ends_too(
    served: tuple[Site, Authentication], clock: ManualClock, way: str
) -> None:
    site, authentication = served
    headers, end = await WAYS[way](site, authentication, clock)
    job = (await site.post("/echo/async", headers=headers)).location
    async with listening(site, headers, job, site.list_url("echo")) as streams:
        await end()
        clock.advance(seconds=BEAT)
        for stream in streams:
            assert await stream.rest() == []


async def test_a_role_a_group_and_a_share_for_a_group_end_with_the_groups_of_their_holder(
    served: tuple[Site, Authentication], clock: ManualClock
) -> None:
    site, authentication = served
    assert authentication.users
    job = (await site.post("/echo/async", headers=basic("ann"))).location
    await site.post(f"{job}/shares", {"WITH": "@friends"}, headers=basic("ann"))
    authentication.users.set_groups("bob", ("friends",))
    others = [basic("ann"), basic("bob")]
    async with listening(site, basic("ops"), job, site.list_url("ops"), others=others) as streams:
        of_role, of_group, of_owner, of_share = streams
        authentication.users.set_groups("ops", ("retired",))
        authentication.users.set_groups("bob", ())
        await change(site, job, "after")
        assert types(await of_owner.some(1)) == ["RunIdSet"]
        assert await of_role.rest() == await of_share.rest() == []
        clock.advance(seconds=BEAT)
        assert await of_group.rest() == []


async def test_a_web_token_is_listened_by_until_it_expires(
    tmp_path: Path, issuer: Issuer, clock: ManualClock
) -> None:
    async with guarded(tmp_path, clock=clock, oidc=settings(issuer.url)) as (site, _):
        headers = bearer(issuer.token())
        job = (await site.post("/echo/async", headers=headers)).location
        async with listening(site, headers, job) as (stream,):
            await change(site, job, "before")
            assert types(await stream.some(1)) == ["RunIdSet"]
            clock.advance(hours=1)
            await change(site, job, "after")
            assert await stream.rest() == []


@all_ways
async def test_who_waits_is_told_nothing_after_the_end_of_his_credentials(
    served: tuple[Site, Authentication], clock: ManualClock, way: str
) -> None:
    site, authentication = served
    headers, end = await WAYS[way](site, authentication, clock)
    job = (await site.post("/echo/async", headers=headers)).location
    async with asyncio.TaskGroup() as group:
        waits = group.create_task(site.get(f"{job}?WAIT=30", headers=headers))
        await until_waiting(site)
        await end()
        await site.node.backend.store.append(
            e.job_stream(job.rpartition("/")[2]), [e.encode(e.JobAborted(reason="no more"), SERVER.metadata)]
        )
    assert waits.result().status == 401


@all_ways
@pytest.mark.parametrize("anonymous", [False, True])
async def test_a_command_whose_credentials_end_while_it_is_sent_does_nothing(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, way: str, anonymous: bool
) -> None:
    async with guarded(tmp_path, clock=clock, anonymous=anonymous) as (site, authentication):
        headers, end = await WAYS[way](site, authentication, clock)
        job = (await site.post("/echo/async", headers=headers)).location
        before = await site.node.backend.store.head()
        commands = [
            ("POST", "/echo/async", b"x=1"),
            ("POST", "/echo/sync", b"x=1"),
            ("POST", job, b"ACTION=DELETE"),
            ("POST", f"{job}/phase", b"PHASE=RUN"),
            ("POST", f"{job}/parameters", b"x=2"),
            ("PUT", f"{job}/parameters/x", b"2"),
            ("POST", f"{job}/shares", b"WITH=bob"),
            ("POST", f"{job}/shares/0", b"ACTION=DELETE"),
        ]
        let_in, ended = asyncio.Semaphore(0), asyncio.Event()
        identify = authentication.identify

        async def noted(request: web.Request) -> Identity:
            identity = await identify(request)
            let_in.release()
            return identity

        async def send(method: str, url: str, body: bytes) -> int:
            async def slowly() -> AsyncIterator[bytes]:
                yield body[:2]
                await ended.wait()
                yield body[2:]

            sent = {**headers, "Content-Type": FORM}
            return (await site.request(method, url, data=slowly(), headers=sent)).status

        async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
            monkeypatch.setattr(authentication, "identify", noted)
            answers = [group.create_task(send(*command)) for command in commands]
            for _ in commands:
                await let_in.acquire()
            await end()
            ended.set()
        assert [answer.result() for answer in answers] == [401] * len(commands)
        after = await site.node.backend.store.read_all(after=before.position)
        assert not [event for event in after if event.stream.startswith("job/")]


async def test_who_is_no_operator_any_more_when_his_command_is_there_does_not_pause_the_queue(
    served: tuple[Site, Authentication], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, authentication = served
    let_in, ended = asyncio.Event(), asyncio.Event()
    identify = authentication.identify

    async def noted(request: web.Request) -> Identity:
        identity = await identify(request)
        let_in.set()
        return identity

    async def slowly() -> AsyncIterator[bytes]:
        yield b"ACTION="
        await ended.wait()
        yield b"PAUSE"

    monkeypatch.setattr(authentication, "identify", noted)
    async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
        sent = {**basic("ops"), "Content-Type": FORM}
        answer = group.create_task(site.post("/queue", slowly(), headers=sent))
        await let_in.wait()
        assert authentication.users
        authentication.users.set_groups("ops", ())
        ended.set()
    assert answer.result().status == 403
    assert not await site.node.backend.store.read_stream(e.QUEUE_STREAM)
