"""Files that clients name by URL: fetched from where anybody may go, and from where the operator says."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from prov.model import ProvDocument, ProvEntity, ProvUsage

from tests.daemon import serving
from tests.harness import Answer, Site, running, text
from tests.web.support import FILES, PATIENCE, events_of
from uws import UploadSettings
from uws.model import FileParameter, Service, Upload
from uws.model import events as e
from uws.web.addresses import is_public

CONTENT = bytes(range(256)) * 10
LOOPBACK = UploadSettings(allow_hosts=["127.0.0.1"])


class Elsewhere:
    """A server of files; ``asked`` are the paths, with their queries, that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.host, self.port = "127.0.0.1", 0
        self.scheme = "http"
        self.gone = asyncio.Event()
        """Set when somebody has left without the answer."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        self.headers.append(dict(request.headers))
        match request.path.split("/")[1:]:
            case ["sky.fits" | "sky"]:
                return web.Response(body=CONTENT, content_type="image/fits")
            case ["redirect", status]:
                return web.Response(status=int(status), headers={"Location": request.query["to"]})
            case ["chain", "0"]:
                return web.Response(body=CONTENT)
            case ["chain", more]:
                return web.Response(status=302, headers={"Location": f"/chain/{int(more) - 1}"})
            case ["status", status]:
                return web.Response(status=int(status), body=CONTENT)
            case ["gzipped", _]:
                body = gzip.compress(bytes(3_000_000))
                return web.Response(body=body, headers={"Content-Encoding": request.query["as"]})
            case ["announced", size]:
                return await self._begun(request, headers={"Content-Length": size})
            case ["silent"]:
                return await self._left(request)
            case ["begun"]:
                return await self._begun(request)
            case ["chunked", count]:
                response = web.StreamResponse()
                await response.prepare(request)
                for _ in range(int(count)):
                    await response.write(CONTENT)
                return response
        return web.Response(status=404, text="nothing here")

    async def _begun(self, request: web.Request, headers: dict[str, str] | None = None) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(b"half")
        return await self._left(request)

    async def _left(self, request: web.Request) -> web.StreamResponse:
        """Wait until the client has gone."""
        try:
            await asyncio.Event().wait()
        finally:
            self.gone.set()
        raise AssertionError("not reached")


@asynccontextmanager
async def elsewhere(
    host: str = "127.0.0.1", port: int = 0, tls: SSLContext | None = None
) -> AsyncIterator[Elsewhere]:
    """Serve files from somewhere else."""
    server = Elsewhere()
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        server.host, server.port = host, runner.addresses[0][1]
        server.scheme = "https" if tls else "http"
        yield server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def answering(sent: bytes) -> AsyncIterator[str]:
    """Answer every connection with ``sent`` once a request has come, and close it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Names(AbstractResolver):
    """Gives hosts the addresses that a test wants, each time the next of several."""

    def __init__(self, *answers: str) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if not self._answers:
            raise OSError(socket.EAI_NONAME, "no such name")
        address = self._answers.pop(0)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def name(site: Site, url: str, parameter: str = "image", **more: str) -> Answer:
    """Create a job whose file is at ``url``."""
    return await site.post("/files/async", {"UPLOAD": f"{parameter},{url}", **more})


async def is_refused(site: Site, answer: Answer, complaint: str, status: int = 400) -> None:
    """See that nothing came of a request, nor is left of it."""
    assert (answer.status, answer.text) == (status, f"UsageFault: {complaint}\n")
    assert len((await site.get("/files/async")).xml) == 0
    assert list((site.data.parent / "spool").iterdir()) == list(site.data.iterdir()) == []


# What is fetched


@pytest.mark.parametrize("parameter", ["image", "IMAGE"])
async def test_a_file_at_an_allowed_host_is_fetched_and_shown_as_any_upload(
    tmp_path: Path, parameter: str
) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        answer = await name(site, f"{there.url}/sky.fits?size=1#top", parameter)
        assert answer.status == 303, answer.text
        job = answer.location
        file = await site.get(f"{job}/parameters/image")
        assert (file.body, file.headers["Content-Type"]) == (CONTENT, "image/fits")
        assert file.headers["Content-Disposition"] == "inline; filename*=UTF-8''sky.fits"
        (shown,) = (await site.get(f"{job}/parameters")).xml
        assert (shown.get("byReference"), shown.text) == ("true", f"{job}/parameters/image")
        assert there.asked == ["/sky.fits?size=1"]


async def test_a_program_gets_the_fetched_file(tmp_path: Path) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        job = (await name(site, f"{there.url}/sky.fits", PHASE="RUN")).location
        assert text(await site.ended(job), "phase") == "COMPLETED"
        assert (await site.get(f"{job}/results/out")).body == CONTENT


async def test_a_file_is_fetched_for_a_job_that_waits_for_it(tmp_path: Path) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        job = await site.create("files")
        assert (await site.post(job, {"UPLOAD": f"image,{there.url}/sky.fits"})).status == 303
        assert (await site.get(f"{job}/parameters/image")).body == CONTENT


async def test_files_come_by_url_and_as_parts_in_one_request(tmp_path: Path) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        form = aiohttp.FormData()
        form.add_field("UPLOAD", f"more,param:a;more,{there.url}/sky;image,{there.url}/chain/0;more,param:b")
        form.add_field("a", b"A", filename="1")
        form.add_field("b", b"B", filename="2")
        job = (await site.post("/files/async", form)).location
        numbers = (1, 2, 3)
        files = [(await site.get(f"{job}/parameters/more/{number}")).body for number in numbers]
        assert files == [b"A", CONTENT, b"B"]
        assert (await site.get(f"{job}/parameters/image")).body == CONTENT


@pytest.mark.parametrize("count", [0, 1, 50])
async def test_a_file_of_unknown_length_is_fetched(tmp_path: Path, count: int) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        job = (await name(site, f"{there.url}/chunked/{count}")).location
        assert (await site.get(f"{job}/parameters/image")).body == CONTENT * count


async def test_others_are_told_no_more_than_that_a_file_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        assert (await name(site, f"{there.url}/sky")).status == 303
        (headers,) = there.headers
        assert headers.pop("Host") == f"127.0.0.1:{there.port}"
        assert headers.pop("Connection") == "close"
        assert headers == {"User-Agent": "uwsd", "Accept": "*/*", "Accept-Encoding": "identity"}


async def test_the_event_tells_where_a_file_came_from_without_what_may_be_secret(tmp_path: Path) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        form = aiohttp.FormData()
        form.add_field("UPLOAD", f"image,{there.url}/sky.fits?token=t0p5ecret#also")
        form.add_field("small", b"x", filename="x")
        job = (await site.post("/files/async", form)).location
        (created,) = await events_of(site, job)
        assert isinstance(created, e.JobCreated)
        (fetched,), (sent,) = created.parameters["image"], created.parameters["small"]
        assert isinstance(fetched, Upload)
        assert isinstance(sent, Upload)
        assert fetched.source == f"{there.url}/sky.fits"
        assert (fetched.filename, fetched.size) == ("sky.fits", len(CONTENT))
        assert fetched.sha256 == sha256(CONTENT).hexdigest()
        recorded = await site.node.backend.store.read_all()
        assert "t0p5ecret" not in repr(recorded)
        (event,) = [event for event in recorded if event.type == "JobCreated"]
        assert event.data.count(b'"source"') == 1


async def test_the_provenance_of_a_job_tells_where_its_file_came_from_and_no_secret(tmp_path: Path) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        form = aiohttp.FormData()
        form.add_field("UPLOAD", f"image,{there.url}/sky.fits?token=t0p5ecret#also")
        form.add_field("small", b"x", filename="x")
        form.add_field("PHASE", "RUN")
        job = (await site.post("/files/async", form)).location
        await site.ended(job)
        shown = {}
        for form_ in ("json", "provn"):
            answer = await site.get(f"{job}/provenance?RESPONSEFORMAT={form_}")
            assert "t0p5ecret" not in answer.text
            shown[form_] = ProvDocument.deserialize(content=answer.text, format=form_)
        assert shown["json"] == shown["provn"]
        facts = {
            str(entity.identifier).partition("/")[2]: {str(key): value for key, value in entity.attributes}
            for entity in shown["json"].get_records(ProvEntity)
        }
        fetched, sent = facts["parameters/image/1"], facts["parameters/small/1"]
        assert fetched["voprov:location"] == f"{there.url}/sky.fits"
        assert fetched["voprov:name"] == "sky.fits"
        assert fetched["uwsd:sha256"] == sha256(CONTENT).hexdigest()
        assert (fetched["uwsd:size"], fetched["uwsd:mediaType"]) == (len(CONTENT), "image/fits")
        assert "voprov:location" not in sent
        used = {str(usage.args[1]).partition("/")[2] for usage in shown["json"].get_records(ProvUsage)}
        assert {"parameters/image/1", "parameters/small/1"} <= used


# From where


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:{port}", "127.0.0.1"),
        ("archive.example", "archive.example"),
        ("archive.example:{port}", "archive.example"),
        ("Archive.Example", "ARCHIVE.example"),
        ("xn--bcher-kva.example", "b\u00fccher.example"),
    ],
)
async def test_an_allowed_host_may_have_any_address(tmp_path: Path, entry: str, host: str) -> None:
    async with elsewhere() as there:
        uploads = UploadSettings(allow_hosts=["other.example", entry.format(port=there.port)])
        async with running(tmp_path, FILES, uploads=uploads, resolver=Names("127.0.0.1")) as site:
            answer = await name(site, f"http://{host}:{there.port}/sky.fits")
            assert answer.status == 303, answer.text


async def test_an_allowed_port_opens_no_other(tmp_path: Path) -> None:
    async with elsewhere() as there:
        uploads = UploadSettings(allow_hosts=[f"127.0.0.1:{there.port + 1}", "127.0.0.2"])
        async with running(tmp_path, FILES, uploads=uploads) as site:
            url = f"{there.url}/sky.fits"
            problem = f"image: {url} is at an address that is not public; send the file as a part"
            await is_refused(site, await name(site, url), problem)
        assert there.asked == []


NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.8.8.8",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1",
    "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808", "100::1",
    "2001::1", "2001:db8::1", "2002:7f00:1::1", "3fff::1", "fc00::1", "fd12::1", "fe80::1", "fe80::1%lo",
    "fec0::1", "ff02::1", "ff0e::1",
]  # fmt: skip


async def test_a_name_that_leads_to_an_address_that_is_not_public_is_refused(tmp_path: Path) -> None:
    names = Names(*NOT_PUBLIC)
    async with elsewhere() as there, running(tmp_path, FILES, resolver=names) as site:
        for address in NOT_PUBLIC:
            url = f"http://archive.example:{there.port}/sky.fits"
            problem = f"image: {url} is at an address that is not public; send the file as a part"
            await is_refused(site, await name(site, url), problem)
            assert names.asked.pop() == "archive.example", address
        assert there.asked == []


THIS_MACHINE = [
    "127.0.0.1", "127.1", "2130706433", "017700000001", "0x7f.1", "0", "0.0.0.0", "[::1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1%25lo]", "localhost", "LOCALHOST.", "127.0.0.1.",
    "\u2460\u2461\u2466.0.0.1",
]  # fmt: skip


async def test_no_way_of_writing_this_machine_leads_to_it(tmp_path: Path) -> None:
    async with elsewhere() as there, running(tmp_path, FILES) as site:
        for host in THIS_MACHINE:
            answer = await name(site, f"http://{host}:{there.port}/sky.fits")
            assert answer.status == 400, (host, answer.text)
            assert answer.text.startswith("UsageFault: image: http://")
        assert there.asked == []


async def test_of_several_addresses_only_those_that_are_public_are_tried(tmp_path: Path) -> None:
    class Both(Names):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            return [*await super().resolve(host, port), *await super().resolve(host, port)]

    async with elsewhere() as there, running(tmp_path, FILES, resolver=Both("127.0.0.1", "::1")) as site:
        answer = await name(site, f"http://archive.example:{there.port}/sky.fits")
        assert "is at an address that is not public" in answer.text
        assert there.asked == []


async def test_the_address_that_was_judged_is_the_one_that_is_asked(tmp_path: Path) -> None:
    async with elsewhere() as there, elsewhere("127.0.0.2", there.port) as other:
        names = Names("127.0.0.1", "127.0.0.2")
        uploads = UploadSettings(allow_hosts=["archive.example"])
        async with running(tmp_path, FILES, uploads=uploads, resolver=names) as site:
            assert (await name(site, f"http://archive.example:{there.port}/sky")).status == 303
        assert (names.asked, there.asked, other.asked) == (["archive.example"], ["/sky"], [])


async def test_where_only_listed_hosts_are_wanted_no_other_is_looked_up(tmp_path: Path) -> None:
    names = Names("93.184.215.14")
    uploads = UploadSettings(public_hosts=False, allow_hosts=["other.example"])
    async with running(tmp_path, FILES, uploads=uploads, resolver=names) as site:
        url = "http://archive.example/sky"
        problem = "is on a host from which files are not fetched here; send the file as a part"
        await is_refused(site, await name(site, url), f"image: {url} {problem}")
    assert names.asked == []


async def test_a_port_of_other_services_is_refused(tmp_path: Path) -> None:
    names = Names("93.184.215.14")
    async with running(tmp_path, FILES, resolver=names) as site:
        for port in (0, 1, 22, 25, 79, 81, 442, 444, 1023):
            url = f"http://archive.example:{port}/sky"
            problem = f"image: {url} is not fetched: its port is neither 80, 443 nor above 1023"
            await is_refused(site, await name(site, url), problem)
    assert names.asked == []


@pytest.mark.parametrize("user", ["ada:t0p5ecret@", "t0p5ecret@", ":t0p5ecret@"])
async def test_a_url_with_credentials_is_refused_without_repeating_them(tmp_path: Path, user: str) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        answer = await name(site, f"http://{user}127.0.0.1:{there.port}/sky")
        problem = "is not fetched: there is a user or a password in the URL"
        await is_refused(site, answer, f"image: {there.url}/sky {problem}")
        assert there.asked == []


PUBLIC = ["1.1.1.1", "93.184.215.14", "100.63.255.255", "172.32.0.1", "192.0.1.1", "223.255.255.255",
          "2606:4700:4700::1111", "2a00:1450::1", "2001:200::1", "::ffff:8.8.8.8",
          "64:ff9b::808:808"]  # fmt: skip


def test_a_public_address_is_known_as_one() -> None:
    assert [address for address in PUBLIC if not is_public(address)] == []


@pytest.mark.parametrize("text", ["", "archive.example", "127.1", "0x7f.0.0.1", "1.1.1.1 ", "1.1.1.1:80"])
def test_what_is_no_address_is_not_public(text: str) -> None:
    assert not is_public(text)


@given(st.ip_addresses())
def test_what_python_does_not_know_as_global_is_not_public(address: IPv4Address | IPv6Address) -> None:
    stands_for_another = address in IPv6Network("::ffff:0:0/96") or address in IPv6Network("64:ff9b::/96")
    if is_public(str(address)) and not stands_for_another:
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(tmp_path: Path, status: int) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        for to in (
            "/sky.fits",
            f"{there.url}/sky.fits",
            f"//127.0.0.1:{there.port}/sky.fits",
            "../sky.fits%23x",
        ):
            answer = await name(site, f"{there.url}/redirect/{status}?to={to}")
            assert answer.status == 303, answer.text
            assert (await site.get(f"{answer.location}/parameters/image")).body == CONTENT
            assert there.asked.pop() == "/sky.fits"


@pytest.mark.parametrize("most", [0, 1, 3])
async def test_a_redirect_too_many_is_refused(tmp_path: Path, most: int) -> None:
    uploads = UploadSettings(allow_hosts=["127.0.0.1"], redirects=most)
    async with elsewhere() as there, running(tmp_path, FILES, uploads=uploads) as site:
        url = f"{there.url}/chain/{most + 1}"
        which = " leads to 127.0.0.1, which" if most else ""
        problem = f"leads on after {most} redirects, which is the most that is followed"
        await is_refused(site, await name(site, url), f"image: {url}{which} {problem}")
        assert len(there.asked) == most + 1
        assert (await name(site, f"{there.url}/chain/{most}")).status == 303


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:7f00:1]", "0.0.0.0", "archive.example"])
async def test_a_redirect_does_not_lead_to_where_one_may_not_go(tmp_path: Path, host: str) -> None:
    async with elsewhere() as there, elsewhere() as other:
        uploads = UploadSettings(allow_hosts=[f"127.0.0.1:{there.port}"])
        async with running(tmp_path, FILES, uploads=uploads, resolver=Names("127.0.0.1")) as site:
            url = f"{there.url}/redirect/302"
            answer = await name(site, f"{url}?to=http://{host}:{other.port}/sky")
            problem = "is at an address that is not public; send the file as a part"
            which = f"leads to {host.strip('[]')}, which"
            await is_refused(site, answer, f"image: {url} {which} {problem}")
        assert other.asked == []


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        ("file:///etc/passwd", " leads to None, which is no http(s) URL"),
        ("ftp://127.0.0.1/x", " leads to 127.0.0.1, which is no http(s) URL"),
        (
            "http://ada:t0p5ecret@127.0.0.1/x",
            " leads to 127.0.0.1, which is not fetched: there is a user or a password in the URL",
        ),
        ("http://[bad", " answered 302, without saying where to go on"),
        ("", " answered 302, without saying where to go on"),
    ],
)
async def test_a_redirect_to_what_is_no_file_of_the_web_is_refused(
    tmp_path: Path, to: str, problem: str
) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        url = f"{there.url}/redirect/302"
        await is_refused(site, await name(site, f"{url}?to={to}"), f"image: {url}{problem}")


# What gives no file


async def test_an_answer_other_than_200_is_refused_and_no_secret_repeated(tmp_path: Path) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        for status in (201, 204, 206, 300, 304, 401, 404, 500, 503):
            url = f"{there.url}/status/{status}"
            answer = await name(site, f"{url}?token=t0p5ecret")
            await is_refused(site, answer, f"image: {url} answered {status}")


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"", "the connection was closed"),
        (b"HTTP/1.1 200 OK\r\n", "the connection was closed"),
        (b"220 mail.example ESMTP\r\n\r\n", "the answer is not HTTP as is right"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "the answer is not HTTP as is right"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n", "the answer is not HTTP as is right"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "it broke off before its end"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhalf and more",
            "the answer is not HTTP as is right",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "it broke off before its end",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nmany\r\nhalf\r\n",
            "the answer is not HTTP as is right",
        ),
    ],
)
async def test_an_answer_that_is_not_whole_or_not_http_is_refused(
    tmp_path: Path, sent: bytes, problem: str
) -> None:
    async with answering(sent) as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        answer = await name(site, f"{there}/sky")
        await is_refused(site, answer, f"image: {there}/sky could not be fetched: {problem}")


async def test_a_host_that_is_down_is_told(tmp_path: Path) -> None:
    async with elsewhere() as there:
        pass
    async with running(tmp_path, FILES, uploads=LOOPBACK) as site:
        problem = f"image: {there.url}/sky could not be fetched: the host cannot be reached"
        await is_refused(site, await name(site, f"{there.url}/sky"), problem)


async def test_a_host_without_an_address_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, resolver=Names()) as site:
        url = "http://archive.example/sky"
        problem = f"image: {url} could not be fetched: no address of the host is known"
        await is_refused(site, await name(site, url), problem)


@pytest.mark.parametrize("host", ["x" * 64, "a..b", "a" * 300, "a%2eb", "-"])
async def test_a_name_that_no_host_can_have_is_told(tmp_path: Path, host: str) -> None:
    async with running(tmp_path, FILES) as site:
        answer = await name(site, f"http://{host}/sky")
        assert answer.status == 400
        assert "could not be fetched: " in answer.text


@pytest.mark.parametrize("path", ["silent", "begun", "announced/100"])
async def test_a_host_that_falls_silent_is_told(tmp_path: Path, path: str) -> None:
    uploads = UploadSettings(allow_hosts=["127.0.0.1"], longest_silence=0.2)
    async with elsewhere() as there, running(tmp_path, FILES, uploads=uploads) as site:
        url = f"{there.url}/{path}"
        problem = f"image: {url} could not be fetched: nothing came for 0.2 s"
        await is_refused(site, await name(site, url), problem)


@pytest.mark.parametrize("path", ["silent", "begun"])
async def test_a_fetch_that_takes_too_long_is_told(tmp_path: Path, path: str) -> None:
    uploads = UploadSettings(allow_hosts=["127.0.0.1"], longest_fetch=0.3, longest_silence=1000)
    async with elsewhere() as there, running(tmp_path, FILES, uploads=uploads) as site:
        url = f"{there.url}/{path}"
        answer = await site.post("/files/async", {"UPLOAD": f"more,{there.url}/sky;image,{url}"})
        problem = "could not be fetched: what a request fetches must be there within 0.3 s"
        await is_refused(site, answer, f"image: {url} {problem}")


async def test_a_resolver_that_does_not_answer_is_told(tmp_path: Path) -> None:
    class Asleep(Names):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            await asyncio.Event().wait()
            raise AssertionError("not reached")

    async with running(
        tmp_path, FILES, uploads=UploadSettings(longest_silence=0.2), resolver=Asleep()
    ) as site:
        url = "http://archive.example/sky"
        problem = f"image: {url} could not be fetched: nothing came for 0.2 s"
        await is_refused(site, await name(site, url), problem)


async def test_a_fetch_ends_when_the_client_leaves(tmp_path: Path) -> None:
    uploads = UploadSettings(allow_hosts=["127.0.0.1"], longest_fetch=1000, longest_silence=1000)
    async with elsewhere() as there, running(tmp_path, FILES, uploads=uploads) as site:
        asking = asyncio.ensure_future(name(site, f"{there.url}/begun"))
        async with asyncio.timeout(PATIENCE):
            while not list((tmp_path / "spool").iterdir()):
                await asyncio.sleep(0)
            asking.cancel()
            await there.gone.wait()
            while list((tmp_path / "spool").iterdir()):
                await asyncio.sleep(0)
        assert len((await site.get("/files/async")).xml) == 0


# Size


@pytest.mark.parametrize("path", ["sky", "chunked/1", "announced/101"])
async def test_a_fetched_file_has_a_maximum_size(tmp_path: Path, path: str) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        answer = await name(site, f"{there.url}/{path}", "small")
        await is_refused(site, answer, "small: the file is larger than the maximum 100 B", 413)


async def test_one_request_cannot_fetch_more_than_its_parameters_may_hold(tmp_path: Path) -> None:
    one = Service(
        name="files",
        title="One",
        command=["true"],
        parameters={"f": FileParameter(max_size=len(CONTENT) + 1)},
    )
    async with elsewhere() as there, running(tmp_path, one, uploads=LOOPBACK) as site:
        answer = await site.post("/files/async", {"UPLOAD": f"f,{there.url}/sky;f,{there.url}/sky"})
        await is_refused(site, answer, "f: the file is larger than the maximum 1 B", 413)


async def test_one_request_fetches_16_files_at_most(tmp_path: Path) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        for count, status in ((17, 413), (16, 303)):
            answer = await site.post("/files/async", {"UPLOAD": ";".join([f"more,{there.url}/sky"] * count)})
            assert answer.status == status, answer.text
        assert len(there.asked) == 16


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "br", "gzip, gzip"])
async def test_a_file_that_was_compressed_on_its_way_is_refused(tmp_path: Path, coding: str) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        url = f"{there.url}/gzipped/sky.fits"
        problem = f"image: {url} was sent compressed ({coding}), though asked for as it is"
        await is_refused(site, await name(site, f"{url}?as={coding}"), problem)


@pytest.mark.parametrize("file", ["sky.fits.gz", "SKY.TGZ"])
async def test_a_file_that_is_named_as_compressed_stays_so(tmp_path: Path, file: str) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        answer = await name(site, f"{there.url}/gzipped/{file}?as=x-gzip")
        assert answer.status == 303, answer.text
        async with site.session.get(f"{answer.location}/parameters/image") as response:
            assert gzip.decompress(await response.read()) == bytes(3_000_000)


# Before anything is fetched


@pytest.mark.parametrize(
    ("form", "complaint"),
    [
        ({"UPLOAD": "image,{url};imag,{url}"}, "imag: no file parameter (did you mean image?); "
         "files: image, small, more"),
        ({"UPLOAD": "image,{url};small,param:b"}, "UPLOAD: there is no part 'b' in this request"),
        ({"UPLOAD": "image,{url}", "PHASE": "NOW"}, "PHASE: expected RUN or ABORT, got 'NOW'"),
        ({"UPLOAD": "image,{url}", "EXECUTIONDURATION": "x"},
         "EXECUTIONDURATION: expected a whole number, at least 0, got 'x'"),
        ({"UPLOAD": "image,{url}/" + "x" * 8000}, None),
    ],
)  # fmt: skip
async def test_a_request_that_is_wrong_anyway_fetches_nothing(
    tmp_path: Path, form: dict[str, str], complaint: str | None
) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        url = f"{there.url}/sky"
        answer = await site.post("/files/async", {key: value.format(url=url) for key, value in form.items()})
        size = len(url) + 8001
        await is_refused(site, answer, complaint or f"UPLOAD: a URL has at most 8000 characters, not {size}")
        assert there.asked == []


# Commands that come again


async def keyed(site: Site, url: str, to: str = "/files/async") -> Answer:
    return await site.post(to, {"UPLOAD": f"image,{url}"}, headers={"Idempotency-Key": "k"})


@pytest.mark.parametrize("new", [True, False])
async def test_a_command_that_comes_again_fetches_nothing_again(tmp_path: Path, new: bool) -> None:
    async with running(tmp_path, FILES, uploads=LOOPBACK) as site:
        to = "/files/async" if new else urlsplit(await site.create("files")).path
        async with elsewhere() as there:
            first = await keyed(site, f"{there.url}/sky?a=1", to)
            again = await keyed(site, f"{there.url}/sky?a=1", to)
            assert len(there.asked) == 1
        later = await keyed(site, f"{there.url}/sky?a=1", to)  # though nobody is there any more
        answers = {(answer.status, answer.location) for answer in (first, again, later)}
        assert answers == {(303, first.location)}
        assert len((await site.get("/files/async")).xml) == 1
        assert (await site.get(f"{first.location}/parameters/image")).body == CONTENT


async def test_another_url_or_a_part_is_another_command(tmp_path: Path) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        assert (await keyed(site, f"{there.url}/sky")).status == 303
        assert (await keyed(site, f"{there.url}/sky?a=1")).status == 422
        form = aiohttp.FormData()
        form.add_field("image", CONTENT, filename="sky", content_type="image/fits")
        answer = await site.post("/files/async", form, headers={"Idempotency-Key": "k"})
        assert answer.status == 422
        assert there.asked == ["/sky"]


async def test_a_fetch_that_failed_leaves_its_key_free(tmp_path: Path) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        assert (await keyed(site, f"{there.url}/none")).status == 400
        assert (await keyed(site, f"{there.url}/sky")).status == 303


# TLS


def certificate(directory: Path, host: str) -> tuple[Path, SSLContext]:
    """Make a certificate that nobody but its owner has signed, and what serves under it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = directory / "certificate.pem", directory / "key.pem"
    public.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context


async def test_a_certificate_that_nobody_trusts_is_told(tmp_path: Path) -> None:
    _, tls = certificate(tmp_path, "localhost")
    uploads = UploadSettings(allow_hosts=["localhost"])
    async with elsewhere(tls=tls) as there, running(tmp_path / "data", FILES, uploads=uploads) as site:
        url = f"https://localhost:{there.port}/sky"
        problem = "could not be fetched: its certificate is not trusted (self-signed certificate)"
        await is_refused(site, await name(site, url), f"image: {url} {problem}")
        assert there.asked == []


async def test_a_host_that_does_not_speak_tls_is_told(tmp_path: Path) -> None:
    async with elsewhere() as there, running(tmp_path, FILES, uploads=LOOPBACK) as site:
        url = f"https://127.0.0.1:{there.port}/sky"
        problem = f"image: {url} could not be fetched: the host does not speak TLS as is right"
        await is_refused(site, await name(site, url), problem)


FILE = """
[uploads]
allow_hosts = ["localhost", "127.0.0.1"]

[services.files]
title = "Files"
command = ["cat", "{image}"]

[services.files.parameters]
image = { type = "file", required = true }
"""


async def test_a_trusted_certificate_counts_for_its_host_alone(tmp_path: Path) -> None:
    trusted, tls = certificate(tmp_path, "localhost")
    file = tmp_path / "uwsd.toml"
    file.write_text(FILE)
    async with (
        elsewhere(tls=tls) as there,
        elsewhere() as plain,
        serving(file, env={"SSL_CERT_FILE": str(trusted)}) as daemon,
    ):
        secure = f"https://localhost:{there.port}"
        job = (await name(daemon, f"{secure}/sky")).location
        assert (await daemon.get(f"{job}/parameters/image")).body == CONTENT
        other = await name(daemon, f"{there.url}/sky")
        assert other.status == 400
        assert "its certificate is not trusted (IP address mismatch" in other.text
        down = await name(daemon, f"{secure}/redirect/302?to={plain.url}/sky")
        assert down.text == f"UsageFault: image: {secure}/redirect/302 leads from https to http\n"
        assert plain.asked == []
