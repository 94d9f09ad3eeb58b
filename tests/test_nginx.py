"""The file for nginx: what clients have of the server, they have through it."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.daemon import Client, Daemon, serving
from tests.databases import Server, emptied, needs_postgres
from tests.harness import Site, job_id, running, text
from tests.nginx import FILE, Front, free_ports, fronted, needs_nginx
from tests.nodes.link import Link
from tests.web.support import ECHO, GATE, gate, keeping, until_waiting
from tests.web.test_events import Stream
from uws.config import (
    AuthSettings,
    NodeSettings,
    ProxySettings,
    ServerSettings,
    StoreSettings,
    UploadSettings,
)
from uws.peers import HEADER
from uws.web.authentication import Authentication

pytestmark = needs_nginx
KEEP = keeping("application/octet-stream")
PART = b"0123456789abcdef" * 65_536
"""1 MiB."""


class Both(Client):
    """A client of nginx, and the server behind it."""

    def __init__(self, front: Front, behind: Site) -> None:
        super().__init__(front.url, front.session)
        self.front, self.behind = front, behind


@asynccontextmanager
async def both(
    tmp_path: Path, *services: object, more: object = (), **options: object
) -> AsyncIterator[Both]:
    ports = free_ports(2)
    base_url = f"https://jobs.example.org:{ports[0]}/vo"
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(
            running(tmp_path / "data", *services, base_url=base_url, **options)  # type: ignore[arg-type]
        )
        port = int(behind.url.rpartition(":")[2])
        front = await stack.enter_async_context(
            fronted(tmp_path / "nginx", port, ports=ports, more=more)  # type: ignore[arg-type]
        )
        yield Both(front, behind)
        assert "temporary file" not in front.warnings


async def test_a_job_is_created_listed_and_found_where_clients_are_told_it_is(tmp_path: Path) -> None:
    async with both(tmp_path, ECHO) as site:
        job = await site.create("echo", x="1")
        assert job.startswith(f"{site.url}/echo/async/")
        assert await site.phase(job) == "PENDING"
        listed = await site.get("/echo/async")
        assert job_id(job) in listed.text
        assert (await site.get(site.url)).location == f"{site.url}/"
        plain = await site.get(f"{site.front.plain_url}/echo/async")
        assert (plain.status, plain.location) == (301, "https://jobs.example.org/vo/echo/async")


async def test_who_waits_is_answered_when_the_job_changes_and_when_the_time_is_over(tmp_path: Path) -> None:
    async with both(tmp_path, ECHO) as site:
        job = await site.create("echo", x="1")
        asked = asyncio.get_running_loop().time()
        assert text(await site.document(f"{job}?WAIT=3"), "phase") == "PENDING"
        assert asyncio.get_running_loop().time() - asked >= 3
        waiting = asyncio.create_task(site.document(f"{job}?WAIT=30"))
        await until_waiting(site.behind)
        await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        async with asyncio.timeout(5):
            assert text(await waiting, "phase") == "ABORTED"


async def test_events_come_one_by_one_as_they_happen(tmp_path: Path) -> None:
    with gate(tmp_path / "gate") as held:
        async with both(tmp_path, GATE) as site:
            job = await site.create("gate", gate=str(tmp_path / "gate"))
            async with site.session.get(f"{job}/events") as answer:
                stream = Stream(answer)
                told = [(await stream.some(1))[0].data["phase"]]
                await site.post(f"{job}/phase", {"PHASE": "RUN"})
                while told[-1] != "EXECUTING":  # and the program waits
                    told += [event.data["phase"] for event in await stream.some(1) if event.type == "job"]
                held.let_through()
                while told[-1] != "COMPLETED":
                    told += [event.data["phase"] for event in await stream.some(1) if event.type == "job"]
            assert list(dict.fromkeys(told)) == ["PENDING", "QUEUED", "EXECUTING", "COMPLETED"]


async def test_an_upload_reaches_the_server_as_it_comes_and_lies_nowhere_else(tmp_path: Path) -> None:
    async with both(tmp_path, KEEP) as site:
        spool = site.behind.node.backend.files.data / "spool"
        went = asyncio.Event()

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield PART
            async with asyncio.timeout(20):
                while sum(file.stat().st_size for file in spool.iterdir()) < 10 * len(PART):
                    await asyncio.sleep(0)
            went.set()
            for _ in range(20):
                yield PART

        form = aiohttp.FormData()
        form.add_field("file", parts(), filename="large")
        form.add_field("PHASE", "RUN")
        answer = await site.post("/keep/async", form)
        assert answer.status == 303, answer.text
        assert went.is_set()
        await site.ended(answer.location)
        result = f"{answer.location}/results/kept"
        assert (await site.get(result)).body == PART * 40
        some = await site.get(result, headers={"Range": "bytes=1048570-1048585"})
        assert (some.status, some.body) == (206, (PART * 2)[1_048_570:1_048_586])
        assert some.headers["Content-Range"] == f"bytes 1048570-1048585/{40 * len(PART)}"


async def test_who_somebody_is_no_client_says_by_a_header(tmp_path: Path) -> None:
    proxy = ProxySettings(
        header="X-Remote-User", groups_header="X-Remote-Groups", address_header="X-Forwarded-For",
        addresses=["127.0.0.1"],
    )  # fmt: skip
    authentication = Authentication(AuthSettings(proxy=proxy), tmp_path, anonymous=False)
    async with both(tmp_path, ECHO, authenticator=authentication) as site:
        assert (await site.behind.get("/echo/async", headers={"X-Remote-User": "root"})).status == 200
        assert (await site.get("/echo/async", headers={"X-Remote-User": "root"})).status == 401


@needs_postgres
async def test_no_client_speaks_as_another_node_does(tmp_path: Path, postgres_server: Server) -> None:
    """What he would be refused for by the server never reaches it."""
    node = NodeSettings(name="a", url="http://127.0.0.1:8080")
    store = StoreSettings(url=await emptied(postgres_server), node=node)
    async with both(tmp_path, ECHO, store=store) as site:
        said = {HEADER: f"b a 0 {'0' * 64}"}
        assert (await site.behind.get("/echo/async", headers=said)).status == 401
        assert (await site.get("/echo/async", headers=said)).status == 200


async def test_who_somebody_is_nginx_says_when_it_has_found_out(tmp_path: Path) -> None:
    """As the documentation has it, with passwords that nginx knows."""
    (tmp_path / "passwords").write_text("ann:{PLAIN}secret\n")
    (tmp_path / "passwords").chmod(0o644)
    page = (FILE.parents[1] / "docs/deploying.md").read_text()
    (lines,) = re.findall(r"```nginx\n(.*?auth_basic.*?)```", page, re.DOTALL)
    lines = lines.replace("/etc/nginx/users", str(tmp_path / "passwords"))
    more = [('    proxy_set_header X-Remote-User "";\n', lines)]
    authentication = Authentication(
        AuthSettings(proxy=ProxySettings(header="X-Remote-User", addresses=["127.0.0.1"])),
        tmp_path, anonymous=False,
    )  # fmt: skip
    async with both(tmp_path, ECHO, authenticator=authentication, more=more) as site:
        assert (await site.get("/echo/async")).status == 401
        job = await site.create("echo", x="1", user="ann")
        assert text(await site.document(job, user="ann"), "ownerId") == "ann"
        lied = await site.get("/echo/async", user="ann", headers={"X-Remote-User": "root"})
        assert lied.headers["X-VO-Authenticated"] == "ann"


async def test_metrics_are_refused_to_all_but_those_who_are_named(tmp_path: Path) -> None:
    async with both(tmp_path, ECHO) as site:
        assert (await site.behind.get("/metrics")).status == 200
        async with site.session.get(f"{site.url}/metrics") as answer:
            assert answer.status == 403
        assert (await site.get("/availability")).status == 200
        assert site.front.warnings.count("access forbidden by rule") == 1


async def test_while_nobody_answers_clients_are_told_to_come_back(tmp_path: Path) -> None:
    (nobody,) = free_ports(1)
    async with fronted(tmp_path / "nginx", nobody) as front:
        answer = await Client(front.url, front.session).get("/echo/async")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert answer.text.startswith("ServiceUnavailable: ")


NODE = """
store = "{url}"
jobs = "jobs"

[server]
base_url = "{base_url}"

[auth]
allow_anonymous = true

[services.quick]
title = "Quick"
command = ["true"]
"""


def node(file: Path, port: int) -> AbstractAsyncContextManager[Daemon]:
    """Run one of several servers of a declaration."""
    named, err = f"n{port}", file.with_name(f"{secrets.token_hex(4)}.stderr")
    return serving(file, "--node", named, "--data", file.with_name(named), port=port, err=err)


@needs_postgres
@pytest.mark.parametrize("taken_out", [False, True])
async def test_nodes_are_restarted_one_after_the_other_and_no_client_sees_it(
    tmp_path: Path, postgres_server: Server, taken_out: bool
) -> None:
    """Who looks or waits does not; nor does who creates jobs, when nginx is told before."""
    url = await emptied(postgres_server)
    *ports, secure, plain = free_ports(4)
    base_url = f"https://jobs.example.org:{secure}/vo"
    file = tmp_path / "uwsd.toml"
    file.write_text(NODE.format(url=url, base_url=base_url))
    answers, created, over = set[str](), list[str](), asyncio.Event()
    async with fronted(tmp_path / "nginx", *ports, ports=(secure, plain)) as front, AsyncExitStack() as stack:
        nodes = {port: await stack.enter_async_context(node(file, port)) for port in ports}
        site = Client(front.url, front.session)
        job = await site.create("quick")

        async def look(query: str) -> None:
            while not over.is_set():
                answers.add(f"GET {(await site.get(job + query)).status}")

        async def create() -> None:
            while not over.is_set():
                try:
                    answer = await site.post("/quick/async", {"PHASE": "RUN"})
                except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                    continue  # nginx, when its file is read again, closes connections without a request
                answers.add(f"POST {answer.status}")
                if answer.status == 303:
                    created.append(job_id(answer.location))

        async with asyncio.TaskGroup() as clients:
            for query in ("", "/phase", "?WAIT=5", "?WAIT=5", "?WAIT=5"):
                clients.create_task(look(query))
            clients.create_task(create())
            for port in ports:
                before = len(created)
                if taken_out:
                    await front.take(port, out=True)
                assert await nodes[port].stop() == 0
                while len(created) < before + 20:
                    await asyncio.sleep(0.01)
                await stack.enter_async_context(node(file, port))
                if taken_out:
                    await front.take(port, out=False)
            over.set()
            await site.post(f"{job}/phase", {"PHASE": "ABORT"})
        assert answers - {"POST 503"} == {"GET 200", "POST 303"}
        assert not taken_out or "POST 503" not in answers
        listed = (await site.get("/quick/async")).text
        assert {job_id(job), *created} <= set(re.findall(r'<uws:jobref id="(\w+)"', listed))


@needs_postgres
async def test_a_node_that_has_lost_its_database_is_passed_over(
    tmp_path: Path, postgres_server: Server
) -> None:
    url = await emptied(postgres_server)
    ports = free_ports(2)
    base_url = f"https://jobs.example.org:{ports[0]}/vo"
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(AsyncExitStack())
        link = await way.enter_async_context(Link.to(postgres_server.port))
        nodes = []
        for name, database in ("a", link.url()), ("b", url):
            store = StoreSettings(url=database, jobs=tmp_path / "jobs", node=NodeSettings(name=name))
            node = running(tmp_path / name, ECHO, store=store, base_url=base_url)
            nodes.append(await stack.enter_async_context(node))
        behind = [int(node.url.rpartition(":")[2]) for node in nodes]
        front = await stack.enter_async_context(fronted(tmp_path / "nginx", *behind, ports=ports))
        site = Client(front.url, front.session)
        job = await site.create("echo", x="1")
        await way.aclose()
        async with asyncio.timeout(20):
            while (await nodes[0].get("/echo/async")).status != 503:
                pass
        assert [(await site.get(f"{job}/phase")).status for _ in range(6)] == [200] * 6


def test_it_waits_for_longer_than_the_server_takes() -> None:
    server, uploads = ServerSettings(), UploadSettings()
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", FILE.read_text())
    assert int(seconds) > max(server.longest_wait, server.sync_seconds, uploads.longest_fetch)
