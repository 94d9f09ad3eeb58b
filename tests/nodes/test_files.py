"""Nodes of which each keeps the files of its jobs: clients and jobs get them through any node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from eventstore import to_microseconds
from eventstore.opening import forget
from tests.daemon import serving
from tests.databases import needs_postgres
from tests.execution.programs import Pipe, directory_of, shell
from tests.harness import Answer, BasicUsers, Site, job_id, text
from tests.nodes.conftest import Start
from tests.nodes.link import Link
from tests.nodes.test_nodes import at, nodes_of
from tests.web.support import raw
from uws import QueueSettings, Service
from uws.commands import SERVER
from uws.model import FileParameter, ResultDeclaration
from uws.peers import FRESH, HEADER, sign

pytestmark = needs_postgres
SOON = 20.0
GREETS = shell(
    'echo hello, world > "$UWS_RESULTS/greeting.txt"; echo said; echo muttered >&2',
    name="greet",
    results=[ResultDeclaration(id="greeting", path="greeting.txt")],
)
JOINS = shell(
    'cat "$@" > "$UWS_RESULTS/joined"',
    "{first}",
    ["{second}"],
    name="join",
    parameters={
        "first": FileParameter(required=True),
        "second": FileParameter(),
    },
    results=[ResultDeclaration(id="joined", path="joined")],
)
LOGS = "stdout", "stderr"


@asynccontextmanager
async def apart(
    start: Start, ready: Pipe, gate: Pipe, *services: Service, **options: Any
) -> AsyncIterator[tuple[Site, Site]]:
    """Two nodes, each with files of its own; the second one has something else to do.

    An option ``at`` is where the first one is reached.
    """
    busy = shell('echo $$ > "$1"; read x < "$2"', ready.path, gate.path, name="busy")
    options = {"jobs": None, **options}
    async with (
        start("a", *services, **options) as a,
        start("b", *services, busy, queue=QueueSettings(max_running=1), **{**options, "at": None}) as b,
    ):
        await b.run("busy")
        await ready.numbers(1)
        yield a, b


async def ran(site: Site, service: str, **parameters: Any) -> str:
    """Let a job run to its end; returns its URL."""
    job = await site.run(service, **parameters)
    document = await site.ended(job, **({"user": parameters["user"]} if "user" in parameters else {}))
    assert text(document, "phase") == "COMPLETED"
    return job


def told(answer: Answer) -> dict[str, str]:
    """Return the headers of an answer that are no other request's."""
    passing = {"Date", "X-Request-ID"}
    return {name: value for name, value in answer.headers.items() if name not in passing}


async def uploads(site: Site, job: str) -> list[bytes]:
    """What of a job's uploads is at a node."""
    return [path.read_bytes() for path in directory_of(site, job).glob("uploads/*")]


async def test_files_of_a_job_are_the_same_at_every_node(start: Start, ready: Pipe, gate: Pipe) -> None:
    async with apart(start, ready, gate, GREETS, JOINS) as (a, b):
        job = await ran(a, "greet")
        joined = await ran(a, "join", first=b"one")
        assert not directory_of(b, job).exists()
        paths = [f"{job}/results/greeting", f"{joined}/parameters/first", f"{joined}/parameters/FIRST/1"]
        paths += [f"{job}/logs/{name}" for name in LOGS]
        for path in paths:
            here = await a.get(path)
            assert here.status == 200
            for sent in (
                {}, {"Range": "bytes=1-3"}, {"Range": "bytes=9999-"}, {"Range": "bytes=1-3", "If-Range": "x"},
                {"If-None-Match": here.headers["ETag"]}, {"If-Match": '"other"'},
                {"If-Modified-Since": here.headers["Last-Modified"]},
            ):  # fmt: skip
                for method in ("GET", "HEAD"):
                    one = await a.request(method, path, headers=sent)
                    other = await b.request(method, at(b, path), headers=sent)
                    assert (other.status, other.body) == (one.status, one.body), (path, method, sent)
                    assert told(other) == told(one), (path, method, sent)


async def test_what_is_not_there_is_not_there_at_any_node(start: Start, ready: Pipe, gate: Pipe) -> None:
    async with apart(start, ready, gate, GREETS) as (a, b):
        job = await ran(a, "greet")
        pending = await a.create("greet")
        for url in (f"{job}/results/other", f"{pending}/logs/stdout"):
            assert (await b.get(at(b, url))).status == (await a.get(url)).status == 404
        directory_of(a, job).joinpath("results/greeting.txt").unlink()
        missing = await b.get(at(b, f"{job}/results/greeting"))
        assert (missing.status, missing.text) == (404, "UsageFault: the file greeting.txt is missing\n")
        await a.request("DELETE", job)
        assert (await b.get(at(b, f"{job}/results/greeting"))).status == 410


async def test_pages_with_first_looks_lead_to_the_node_that_was_asked(
    start: Start, ready: Pipe, gate: Pipe
) -> None:
    async with apart(start, ready, gate, GREETS) as (a, b):
        job = await ran(a, "greet")
        for look in (f"{job}/results/greeting/preview", f"{job}/logs/stdout/preview"):
            xml = await b.get(at(b, look))
            assert (xml.status, xml.headers["Content-Type"].partition(";")[0]) == (200, "text/xml")
            for sent in {"Accept": "text/html"}, {}:
                query = "" if sent else "?RESPONSEFORMAT=html"
                page = await b.get(at(b, look) + query, headers=sent)
                assert page.status == 200
                assert page.headers["Content-Type"].startswith("text/html")
                assert a.url not in page.text
                assert b.url in xml.text
                again = await b.get(
                    at(b, look) + query, headers={**sent, "If-None-Match": page.headers["ETag"]}
                )
                assert again.status == 304
        no_image = await b.get(at(b, f"{job}/results/greeting/quicklook"))
        assert (no_image.status, no_image.text) == (
            404,
            "UsageFault: greeting.txt has no image that can be shown\n",
        )


async def test_a_synchronous_request_is_answered_by_a_node_that_did_not_run_its_job(
    start: Start, ready: Pipe, gate: Pipe
) -> None:
    async with apart(start, ready, gate, GREETS) as (_, b):
        made = await b.post("/greet/sync")
        led_on = await b.get(made.location)
        assert led_on.status == 303
        assert (await b.get(led_on.location)).body == b"hello, world\n"
        assert await nodes_of(b, [led_on.location.partition("/results")[0]]) == {"a": 1}


async def test_each_node_finds_out_itself_who_may_read_a_file(start: Start, ready: Pipe, gate: Pipe) -> None:
    async with apart(start, ready, gate, GREETS, authenticator=BasicUsers()) as (a, b):
        job = await ran(a, "greet", user="ada")
        url = at(b, f"{job}/results/greeting")
        mine = await b.get(url, user="ada")
        assert (mine.status, mine.headers["X-VO-Authenticated"]) == (200, "ada")
        assert (await b.get(url, user="eve")).status == 403
        assert (await b.get(url)).status == 401
        link = await b.post(f"{at(b, job)}/shares", {"WITH": "LINK", "EXPIRES": "1d"}, user="ada")
        secret = link.text.strip().partition("?")[2]
        assert (await b.get(f"{url}?{secret}")).body == b"hello, world\n"
        assert (await b.get(f"{url}/preview?{secret}")).status == 200
        assert (await b.get(f"{url}?{secret}x")).status == 401


async def test_a_file_of_a_node_that_is_gone_can_be_had_later(start: Start) -> None:
    async with AsyncExitStack() as stack:
        async with start("a", GREETS, jobs=None) as a:
            job = await ran(a, "greet")
            b = await stack.enter_async_context(start("b", GREETS, jobs=None))
        refused = await b.get(at(b, f"{job}/results/greeting"))
        assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
        assert refused.text == "ServiceUnavailable: the file is on node a, which cannot be reached now\n"
        assert (await b.get(at(b, job))).status == 200
        async with start("a", GREETS, jobs=None) as a:
            await until_at(b, "a", a.url)
            assert (await b.get(at(b, f"{job}/results/greeting"))).body == b"hello, world\n"


async def until_at(site: Site, name: str, url: str) -> None:
    """Return when a node knows where another one is."""
    membership = site.node.backend.membership
    assert membership
    async with asyncio.timeout(SOON):
        while await membership.url_of(name) != url or membership.is_gone(name):
            await asyncio.sleep(0)


# The way between two nodes


LARGE = shell(
    'truncate --size=100M "$UWS_RESULTS/zeros"',
    name="large",
    results=[ResultDeclaration(id="zeros", path="zeros")],
)


@pytest.fixture
async def way() -> AsyncIterator[Link]:
    """A way to a node that can be cut."""
    async with Link.to(0) as way:
        yield way


@asynccontextmanager
async def with_a_way(
    start: Start, way: Link, ready: Pipe, gate: Pipe, service: Service
) -> AsyncIterator[Any]:
    """What `apart` is, with all that the second node asks the first one on this way."""
    async with apart(start, ready, gate, service, at=f"http://127.0.0.1:{way.port}") as (a, b):
        way.lead_to(int(a.url.rpartition(":")[2]))
        yield a, b


async def test_a_client_that_goes_away_ends_what_was_asked_for_him(
    start: Start, way: Link, ready: Pipe, gate: Pipe
) -> None:
    async with with_a_way(start, way, ready, gate, LARGE) as (a, b):
        job = await ran(a, "large")
        async with b.session.get(at(b, f"{job}/results/zeros")) as response:
            assert len(await response.content.readexactly(100_000)) == 100_000
            assert way.connections == 1
        async with asyncio.timeout(SOON):
            while way.connections:
                await asyncio.sleep(0.01)


async def test_a_file_that_breaks_off_between_nodes_breaks_off_for_the_client(
    start: Start, way: Link, ready: Pipe, gate: Pipe
) -> None:
    async with with_a_way(start, way, ready, gate, LARGE) as (a, b):
        job = await ran(a, "large")
        async with b.session.get(at(b, f"{job}/results/zeros")) as response:
            await response.content.readexactly(100_000)
            way.break_off()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


async def test_a_node_that_does_not_answer_is_not_waited_for_without_end(
    start: Start, way: Link, ready: Pipe, gate: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uws.peers.SILENCE", 0.5)
    async with with_a_way(start, way, ready, gate, GREETS) as (a, b):
        job = await ran(a, "greet")
        way.cut()
        refused = await b.get(at(b, f"{job}/results/greeting"))
        assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
        assert "on node a, which cannot be reached now" in refused.text


# What nodes say to each other


def signature(site: Site, method: str, path: str, *, by: str = "b", to: str = "a", late: float = 0) -> str:
    """Sign as nodes do, ``late`` seconds ago."""
    backend = site.node.backend
    assert backend.membership
    sent = backend.clock.now() - timedelta(seconds=late)
    return sign(backend.membership.key, method, path, by=by, to=to, at=to_microseconds(sent))


async def test_who_has_no_key_cannot_ask_as_a_node_does(
    start: Start, ready: Pipe, gate: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with what he says, he is refused, also what he might have by himself."""
    caplog.set_level(logging.DEBUG)
    async with apart(start, ready, gate, GREETS, authenticator=BasicUsers()) as (a, _):
        job, other = await ran(a, "greet", user="ada"), await ran(a, "greet", user="ada")
        path = f"/greet/async/{job_id(job)}/results/greeting"
        elsewhere = f"/greet/async/{job_id(other)}/results/greeting"
        assert (await a.get(path)).status == 401
        good = signature(a, "GET", path)
        assert (await a.get(path, headers={HEADER: good})).body == b"hello, world\n"
        by, to, at, mac = good.split()
        forged = [
            "", "b", "b a", f"b a {at}", f"b a {at} ", f"{by} {to} {at} {mac[:-1]}", f"{by} {to} {at} {mac}0",
            f"{by} {to} {at} {'0' * 64}", f"{by} {to} {int(at) + 1} {mac}", f"c {to} {at} {mac}",
            f"{by} {to} -1 {mac}", f"{by} {to} ٣ {mac}", f"{by} {to} {'9' * 5000} {mac}",
            f"{by} {to} {at} {mac.upper()}", f"ü {to} {at} {mac}", f"{by} {to} {at} {mac}ü",
        ]  # fmt: skip
        stale = [signature(a, "GET", path, late=FRESH + 1), signature(a, "GET", path, late=-FRESH - 1)]
        replayed = [
            signature(a, "GET", elsewhere),
            signature(a, "GET", f"{path}?x=1"),
            signature(a, "HEAD", path),
        ]
        for said in [*forged, *stale, *replayed, signature(a, "GET", path, to="b")]:
            refused = await a.get(path, headers={HEADER: said}, user="ada")
            assert refused.status == 401, said
            assert "this was not signed by another node, for this one, just now" in refused.text
        assert (await a.get(elsewhere, headers={HEADER: good})).status == 401
        for said in f"\udcff {to} {at} {mac}", f"{by} {to} {at} \udcff", "\udcff":
            refused = await raw(a, "GET", path, X_Uwsd_Node=said.encode(errors="surrogateescape"))
            assert refused.status == 401, said
        assert "Traceback" not in caplog.text
        twice = [(HEADER, good), (HEADER, good)]
        assert (await a.get(path, headers=twice)).status == 401
        key = a.node.backend.membership.key  # type: ignore[union-attr]
        assert len(key) == 32
        assert key.hex() not in caplog.text
        assert mac not in caplog.text


async def test_nodes_read_files_of_each_other_and_nothing_else(start: Start, ready: Pipe, gate: Pipe) -> None:
    async with apart(start, ready, gate, GREETS, authenticator=BasicUsers()) as (a, _):
        job = await ran(a, "greet", user="ada")
        below = f"/greet/async/{job_id(job)}"
        for method, path in (
            ("GET", below), ("GET", f"{below}/parameters"), ("GET", f"{below}/history"),
            ("GET", "/greet/async"), ("GET", f"{below}/results"), ("GET", "/"), ("GET", "/queue"),
            ("GET", "/audit"), ("GET", "/nothing"), ("GET", "/healthz"), ("POST", f"{below}/phase"),
            ("DELETE", below), ("POST", "/greet/async"), ("PUT", f"{below}/parameters/x"),
            ("POST", f"{below}/shares"), ("DELETE", f"{below}/results/greeting"),
        ):  # fmt: skip
            said = signature(a, method, path)
            refused = await a.request(
                method, path, headers={HEADER: said}, data=b"" if method != "GET" else None
            )
            assert refused.status in (401, 404, 405), (method, path)
            assert "X-Uwsd-Node" in refused.text or refused.status != 401
        assert await a.phase(job, user="ada") == "COMPLETED"


async def test_a_node_hands_on_nothing_that_another_has_handed_on(
    start: Start, ready: Pipe, gate: Pipe
) -> None:
    async with apart(start, ready, gate, GREETS) as (a, b):
        job = await ran(a, "greet")
        path = f"/greet/async/{job_id(job)}/results/greeting"
        said = signature(b, "GET", path, by="c", to="b")
        answer = await b.get(path, headers={HEADER: said})
        assert (answer.status, answer.text) == (404, "UsageFault: the file is not on this node\n")


async def test_nodes_with_one_directory_for_all_do_not_ask_each_other(start: Start) -> None:
    async with start("a", GREETS) as a:
        job = await ran(a, "greet")
        path = f"/greet/async/{job_id(job)}/results/greeting"
        said = signature(a, "GET", path)
        assert (await a.get(path, headers={HEADER: said})).status == 401


async def test_nodes_below_a_path_reach_each_other(start: Start, ready: Pipe, gate: Pipe) -> None:
    async with apart(start, ready, gate, GREETS, mount="/vo/jobs") as (a, b):
        job = await ran(a, "greet")
        assert (await b.get(f"{b.url}/greet/async/{job_id(job)}/results/greeting")).body == b"hello, world\n"


DECLARED = """
store = "{url}"

[services.greet]
title = "Greet"
command = ["echo", "hello"]
results = [{{ id = "greeting", path = "-" }}]
"""


async def test_nodes_of_one_declaration_reach_each_other_where_they_listen(tmp_path: Path, url: str) -> None:
    """Whichever has run a job: the other one gets its files from there."""
    file = tmp_path / "uwsd.toml"
    file.write_text(DECLARED.format(url=url))
    async with AsyncExitStack() as stack:
        a, b = [
            await stack.enter_async_context(
                serving(file, "--node", name, "--data", tmp_path / name, err=tmp_path / f"{name}.stderr")
            )
            for name in "ab"
        ]
        job = await a.run("greet")
        await a.ended(job)
        for daemon in (a, b):
            found = await daemon.get(f"{daemon.url}/greet/async/{job_id(job)}/results/greeting")
            assert found.body == b"hello\n"


async def test_a_node_that_gives_the_place_of_another_is_named_in_the_log(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async with start("a", JOINS, jobs=None) as a, start("b", JOINS, jobs=None, at=a.url) as b:
        sent = f"{await b.create('join', first=b'one')}/parameters/first"
        away = await a.get(at(a, sent))
        assert (away.status, "on node b, which cannot be reached now" in away.text) == (503, True)
    assert f"node b says that it is reached at {a.url}, where this one is" in caplog.text


# Files that clients send


async def test_a_job_is_started_where_there_is_room_whoever_was_sent_its_files(
    start: Start, ready: Pipe, gate: Pipe
) -> None:
    large = b"0123456789abcdef" * 60_000
    async with apart(start, ready, gate, JOINS) as (a, b):
        job = await b.run("join", first=large, second=b"two")
        document = await b.ended(job)
        assert text(document, "phase") == "COMPLETED"
        assert await nodes_of(b, [job]) == {"a": 1}
        for site in (a, b):
            assert (await site.get(f"{at(site, job)}/results/joined")).body == large + b"two"
        assert len(await uploads(b, job)) == len(await uploads(a, job)) == 2
        await a.request("DELETE", at(a, job))
        await until_without(job, a, b)


async def until_without(job: str, *sites: Site) -> None:
    """Return when no node has anything of a job."""
    async with asyncio.timeout(SOON):
        while any(directory_of(site, job).exists() for site in sites):
            await asyncio.sleep(0)


async def test_files_of_one_job_may_be_sent_to_different_nodes(start: Start, ready: Pipe, gate: Pipe) -> None:
    async with apart(start, ready, gate, JOINS) as (a, b):
        job = await a.create("join", first=b"one")
        form = aiohttp.FormData()
        form.add_field("second", b"two", filename="second")
        changed = await b.post(f"{at(b, job)}/parameters", form)
        assert changed.status == 303
        for site in (a, b):
            for name, content in ("first", b"one"), ("second", b"two"):
                assert (await site.get(f"{at(site, job)}/parameters/{name}")).body == content
        await b.post(f"{at(b, job)}/phase", {"PHASE": "RUN"})
        await b.ended(at(b, job))
        assert (await b.get(at(b, f"{job}/results/joined"))).body == b"onetwo"


async def test_a_file_that_is_replaced_at_one_node_goes_at_the_other(start: Start) -> None:
    async with start("a", JOINS, jobs=None) as a, start("b", JOINS, jobs=None) as b:
        job = await a.create("join", first=b"one", second=b"two")
        replaced = await b.request("PUT", f"{at(b, job)}/parameters/first", data=b"another")
        assert replaced.status == 204
        async with asyncio.timeout(SOON):
            while await uploads(a, job) != [b"two"]:
                await asyncio.sleep(0)
        assert await uploads(b, job) == [b"another"]
        assert (await a.get(f"{job}/parameters/first")).body == b"another"
        await b.request("DELETE", at(b, job))
        await until_without(job, a, b)


async def test_a_file_of_a_job_elsewhere_can_be_an_input(start: Start, ready: Pipe, gate: Pipe) -> None:
    async with apart(start, ready, gate, GREETS, JOINS) as (a, b):
        first, second = await ran(a, "greet"), await a.create("join", first=b"given")
        form = aiohttp.FormData()
        form.add_field("UPLOAD", f"first,{at(b, first)}/results/greeting")
        form.add_field("UPLOAD", f"second,{at(b, second)}/parameters/first")
        form.add_field("PHASE", "RUN")
        job = (await b.post(b.list_url("join"), form)).location
        await b.ended(job)
        assert (await b.get(f"{job}/results/joined")).body == b"hello, world\ngiven"


async def test_a_job_whose_files_are_on_a_node_that_is_gone_waits_for_it_and_keeps_nobody_waiting(
    start: Start,
) -> None:
    async with start("b", JOINS, jobs=None) as b:
        async with start("a", JOINS, jobs=None) as a:
            waits = [at(b, await a.create("join", first=b"one")) for _ in range(20)]
        for job in waits:
            assert (await b.post(f"{job}/phase", {"PHASE": "RUN"})).status == 303
        goes_on = await ran(b, "join", first=b"other")
        assert (await b.get(f"{goes_on}/results/joined")).body == b"other"
        assert {await b.phase(job) for job in waits} == {"QUEUED"}
        async with asyncio.timeout(SOON):
            while not b.node.backend.membership.is_gone("a"):  # type: ignore[union-attr]
                await asyncio.sleep(0)
        shown = "".join((await b.document(waits[0])).itertext())
        assert "files that it needs are on node a, which cannot be reached" in shown
        async with start("a", JOINS, jobs=None) as a:
            for job in waits:
                assert text(await b.ended(job), "phase") == "COMPLETED"
            assert (await a.get(f"{at(a, waits[0])}/results/joined")).body == b"one"


async def test_that_a_job_waits_for_files_that_cannot_be_had_is_told_whenever_that_is_so(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the node that has them is gone, and also while it is asked again."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("uws.execution.scheduler.AGAIN", 0.1)
    async with start("b", JOINS, jobs=None) as b:
        async with start("a", JOINS, jobs=None, gone_after=3600) as a:
            job = at(b, await a.create("join", first=b"one"))
        await b.post(f"{job}/phase", {"PHASE": "RUN"})

        def tried() -> int:
            return caplog.text.count(f"job {job_id(job)} is not started here for now")

        async with asyncio.timeout(SOON):
            while not tried():
                await asyncio.sleep(0)
            while tried() < 4:
                shown = "".join((await b.document(job)).itertext())
                assert "files that it needs are on node a, which cannot be reached" in shown
        async with start("a", JOINS, jobs=None):
            assert text(await b.ended(job), "phase") == "COMPLETED"


async def test_a_file_that_was_changed_at_its_node_is_given_to_no_program(
    start: Start, ready: Pipe, gate: Pipe
) -> None:
    async with apart(start, ready, gate, JOINS) as (a, b):
        job = await b.create("join", first=b"one")
        (path,) = directory_of(b, job).glob("uploads/*")
        path.write_bytes(b"two")
        await b.post(f"{job}/phase", {"PHASE": "RUN"})
        waiting = asyncio.create_task(b.document(f"{job}?WAIT=2&PHASE=QUEUED"))
        assert text(await waiting, "phase") == "QUEUED"
        shown = "".join((await a.document(at(a, job))).itertext())  # by the one that has tried
        assert "files that it needs cannot be had now" in shown
        assert await uploads(a, job) == []
        path.write_bytes(b"one")
        await b.ended(job)
        assert (await b.get(f"{job}/results/joined")).body == b"one"


async def test_who_comes_too_late_to_start_a_job_keeps_nothing_of_it(start: Start) -> None:
    services = GREETS, JOINS
    async with start("a", *services, jobs=None) as a, start("b", *services, jobs=None) as b:
        jobs = [await site.run("greet") for site in (a, b) * 10]
        jobs += [await site.run("join", first=b"one", second=b"two") for site in (a, b) * 5]
        for job in jobs:
            assert text(await a.ended(at(a, job)), "phase") == "COMPLETED"
        started = await nodes_of(a, jobs)
        assert started.total() == len(jobs)
        async with asyncio.timeout(SOON):
            for job in jobs:
                ran_at_a = (await nodes_of(a, [job]))["a"]
                idle = b if ran_at_a else a
                sent_to = a if job.startswith(a.url) else b
                while directory_of(idle, job).exists() and (idle is not sent_to or "/greet/" in job):
                    await asyncio.sleep(0)
        for job in jobs:
            await b.request("DELETE", at(b, job))
        await until_without(jobs[-1], a, b)


async def test_what_a_server_kept_while_it_was_alone_is_found_when_it_is_one_of_several(
    start: Start, tmp_path: Path
) -> None:
    async with start("a", GREETS, JOINS, jobs=tmp_path / "a/jobs") as a:  # so that events name no node
        job = await ran(a, "greet")
        waits = await a.create("join", first=b"one")
    async with (
        start("b", GREETS, JOINS, jobs=None) as b,
        start("c", GREETS, JOINS, jobs=None) as c,
        start("a", GREETS, JOINS, jobs=None) as a,
    ):
        for site in (b, c):
            await until_at(site, "a", a.url)
            assert (await site.get(f"{at(site, job)}/results/greeting")).body == b"hello, world\n"
            assert (await site.get(f"{at(site, waits)}/parameters/first")).body == b"one"
        await b.post(f"{at(b, waits)}/phase", {"PHASE": "RUN"})
        await b.ended(at(b, waits))
        for site in (a, b, c):
            assert (await site.get(f"{at(site, waits)}/results/joined")).body == b"one"


async def test_a_file_of_which_nobody_knows_the_node_is_had_from_the_first_that_has_it(
    start: Start, way: Link, tmp_path: Path
) -> None:
    """A node that does not answer keeps nobody waiting, and is told of only where no other has the file."""
    async with start("z", JOINS, jobs=tmp_path / "z/jobs") as z:
        job = await z.create("join", first=b"one")
    sent = f"/join/async/{job_id(job)}/parameters/first"
    silent = f"http://127.0.0.1:{way.port}"
    async with start("z", JOINS, jobs=None) as z, start("b", JOINS, jobs=None) as b:
        async with start("a", JOINS, jobs=None, at=silent) as a:
            way.lead_to(int(a.url.rpartition(":")[2]))
            await until_at(b, "a", silent)
            await until_at(b, "z", z.url)
            way.cut()
            async with asyncio.timeout(SOON):
                assert (await b.get(sent)).body == b"one"
                way.mend()
                while way.connections:
                    await asyncio.sleep(0)
        assert (await b.get(sent)).body == b"one"
        (path,) = directory_of(z, job).glob("uploads/*")
        path.unlink()
        away = await b.get(sent)
        assert away.text == "ServiceUnavailable: the file is on node a, which cannot be reached now\n"
        async with start("a", JOINS, jobs=None) as a:
            await until_at(b, "a", a.url)
            assert (await b.get(sent)).status == 404


async def test_files_of_a_node_that_was_retired_are_gone_when_it_is_forgotten(
    start: Start, url: str, tmp_path: Path
) -> None:
    async with start("a", GREETS, JOINS, jobs=tmp_path / "a/jobs") as a:  # so that uploads name no node
        job = await ran(a, "greet")
        waits = await a.create("join", first=b"one")
    async with start("b", GREETS, JOINS, jobs=None) as b:
        member = b.node.backend.membership
        assert member
        files = f"{at(b, job)}/results/greeting", f"{at(b, waits)}/parameters/first"
        assert [(await b.get(file)).status for file in files] == [503, 503]
        await forget(url, "a", gone_after=0)
        async with asyncio.timeout(SOON):
            while "a" in member.others:
                await member.looked()
        assert [(await b.get(file)).status for file in files] == [404, 404]


async def test_what_a_node_has_of_a_job_that_went_while_it_was_not_there_goes_when_it_is_back(
    start: Start,
) -> None:
    async with start("b", JOINS, jobs=None) as b:
        async with start("a", JOINS, jobs=None) as a:
            job = await a.create("join", first=b"one")
            left = directory_of(a, job)
        await b.request("DELETE", at(b, job))
        assert left.exists()
        async with start("a", JOINS, jobs=None):
            assert not left.exists()


@pytest.mark.parametrize("then", ["is stopped", "is there"])
async def test_what_was_fetched_for_a_job_that_is_not_started_there_goes(
    start: Start, way: Link, ready: Pipe, gate: Pipe, then: str
) -> None:
    """The queue is paused when one node has fetched what another was sent."""
    busy = shell('echo $$ > "$1"; read x < "$2"', ready.path, gate.path, name="busy")
    one = QueueSettings(max_running=1)
    url = f"http://127.0.0.1:{way.port}"
    async with start("b", JOINS, busy, jobs=None, queue=one, at=url) as b, AsyncExitStack() as stack:
        way.lead_to(int(b.url.rpartition(":")[2]))
        a = await stack.enter_async_context(start("a", JOINS, jobs=None))
        await b.run("busy")
        await ready.numbers(1)
        way.cut()
        job = await b.run("join", first=b"one")
        async with asyncio.timeout(SOON):
            while not way.connections:
                await asyncio.sleep(0)
        await b.node.backend.queueing.pause(None, SERVER)
        way.mend()
        copies = directory_of(a, job)
        async with asyncio.timeout(SOON):
            while await uploads(a, job) != [b"one"]:
                await asyncio.sleep(0)
        if then == "is there":
            await b.post(f"{job}/phase", {"PHASE": "ABORT"})
        else:
            await stack.aclose()
            gate.send()
            await b.node.backend.queueing.resume(None, SERVER)
            assert text(await b.ended(job), "phase") == "COMPLETED"
            assert copies.exists()
            await stack.enter_async_context(start("a", JOINS, jobs=None))
        async with asyncio.timeout(SOON):
            while copies.exists():
                await asyncio.sleep(0)
        assert await uploads(b, job) == [b"one"]
