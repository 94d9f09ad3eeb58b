"""Where a request begins and ends: where a proxy may see that in another way, nothing more is read.

All that is sent here goes to the real socket byte for byte; most of the defence is the parser's.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.harness import Site, running
from tests.web.support import ECHO, FIELD, FILES, FORM, MULTIPART, PATIENCE, TYPES, multipart, raw

HEAD = f"POST /types/async HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
CHUNKED = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n"
BODY = "\r\n\r\n6\r\ntext=x\r\n0\r\n\r\n"
"""The end of a head, and a body in chunks."""
SMUGGLED = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

FORMS = {
    "Content-Length before Transfer-Encoding": f"{HEAD}Content-Length: 6\r\nTransfer-Encoding: chunked{BODY}",
    "Content-Length after Transfer-Encoding": f"{HEAD}Transfer-Encoding: chunked\r\nContent-Length: 6{BODY}",
    "two lengths": f"{HEAD}Content-Length: 6\r\nContent-Length: 7\r\n\r\ntext=x",
    "one length twice": f"{HEAD}Content-Length: 6\r\nContent-Length: 6\r\n\r\ntext=x",
    "a list of lengths": f"{HEAD}Content-Length: 6, 6\r\n\r\ntext=x",
    "a length with a sign": f"{HEAD}Content-Length: +6\r\n\r\ntext=x",
    "a negative length": f"{HEAD}Content-Length: -6\r\n\r\ntext=x",
    "a hexadecimal length": f"{HEAD}Content-Length: 0x6\r\n\r\ntext=x",
    "a length with an underscore": f"{HEAD}Content-Length: 0_6\r\n\r\ntext=x",
    "a length beyond all": f"{HEAD}Content-Length: {10**30}\r\n\r\ntext=x",
    "an empty length": f"{HEAD}Content-Length: \r\n\r\ntext=x",
    "an unknown coding": f"{HEAD}Transfer-Encoding: xchunked{BODY}",
    "chunks, and then not": f"{HEAD}Transfer-Encoding: chunked, identity{BODY}",
    "compressed chunks": f"{HEAD}Transfer-Encoding: gzip, chunked{BODY}",
    "chunks twice": f"{HEAD}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked{BODY}",
    "a space before the colon": f"{HEAD}Transfer-Encoding : chunked{BODY}",
    "a tab of another kind": f"{HEAD}Transfer-Encoding: \x0bchunked{BODY}",
    "chunks in HTTP/1.0": HEAD.replace("1.1", "1.0")
    + f"Connection: keep-alive\r\nTransfer-Encoding: chunked{BODY}",
    "a header on two lines": f"{HEAD}X-A: b\r\n c\r\nContent-Length: 6\r\n\r\ntext=x",
    "a coding on the next line": f"{HEAD}Transfer-Encoding:\r\n chunked{BODY}",
    "lines that end in LF": f"{HEAD}Content-Length: 6\r\n\r\n".replace("\r\n", "\n") + "text=x",
    "one line that ends in LF": f"{HEAD}X-A: b\nContent-Length: 6\r\n\r\ntext=x",
    "CR within a line": f"{HEAD}X-A: b\rX-B: c\r\nContent-Length: 6\r\n\r\ntext=x",
    "NUL in a header": f"{HEAD}X-A: b\0c\r\nContent-Length: 6\r\n\r\ntext=x",
    "LF in a chunk's extension": f"{CHUNKED}6;a\nb\r\ntext=x\r\n0\r\n\r\n",
    "chunks that end in LF": f"{CHUNKED}6\ntext=x\n0\n\n",
    "a size with 0x": f"{CHUNKED}0x6\r\ntext=x\r\n0\r\n\r\n",
    "a size with a sign": f"{CHUNKED}+6\r\ntext=x\r\n0\r\n\r\n",
    "a negative size": f"{CHUNKED}-6\r\ntext=x\r\n0\r\n\r\n",
    "a space before a size": f"{CHUNKED} 6\r\ntext=x\r\n0\r\n\r\n",
    "a size beyond all": f"{CHUNKED}fffffffffffffffff6\r\ntext=x\r\n0\r\n\r\n",
    "a chunk that goes on": f"{CHUNKED}6\r\ntext=xX0\r\n\r\n",
    "no Host": "GET / HTTP/1.1\r\n\r\n",
    "two Hosts": "GET / HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n",
    "a space before all": " GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/0.9": "GET /\r\n\r\n",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 in name": "GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
}
STATUSES = {"compressed chunks": "501"}
"""What is not 400; of most, the parser itself thinks nothing."""


async def sent(site: Site, data: str, *, ends: bool = False) -> str:
    """Send bytes as they are and return all that is answered until the connection is closed."""
    where = urlsplit(site.url)
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        try:
            writer.write(data.encode("latin-1"))
            if ends:
                writer.write_eof()
            return (await reader.read()).decode()
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("form", FORMS)
async def test_a_request_whose_end_is_in_doubt_is_refused_with_all_that_follows(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, TYPES) as site:
        answer = await sent(site, FORMS[form] + SMUGGLED)
        head, _, said = answer.partition("\r\n\r\n")
        assert head.split(" ")[1] == STATUSES.get(form, "400"), answer
        assert said.startswith("UsageFault: ")
        assert "200 OK" not in answer
        assert "X-Request-ID: " in head
        assert len((await site.get("/types/async")).xml) == 0
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("form", ["HTTP/0.9", "HTTP/2 in name"])
async def test_other_versions_of_http_are_refused(tmp_path: Path, form: str) -> None:
    async with running(tmp_path, TYPES) as site:
        answer = await sent(site, FORMS[form])
        assert answer.split(" ")[1] == "505"
        assert answer.endswith("UsageFault: only HTTP/1.1 and HTTP/1.0 are spoken here\n")


async def test_chunks_are_understood_whatever_their_extensions(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        answer = await sent(site, f"{CHUNKED}6;a=b;c\r\ntext=x\r\n0\r\n\r\n{SMUGGLED}")
        assert answer.startswith("HTTP/1.1 303 ")
        assert answer.count("HTTP/1.1 ") == 2  # what follows is a request of its own, of the same client
        assert len((await site.get("/types/async")).xml) == 1


# Lengths that are lies

FILE = multipart(FIELD + b'"image"; filename="x"\r\n\r\ncontent').decode()


@pytest.mark.parametrize(
    ("length", "body"),
    [
        ("Content-Length: 100000", FILE),
        ("Content-Length: 60", FILE),
        ("Transfer-Encoding: chunked", f"{len(FILE):x}\r\n{FILE}\r\n"),
        ("Transfer-Encoding: chunked", f"ffff\r\n{FILE}"),
        ("Content-Length: 100", FILE[:100]),
    ],
)
async def test_an_upload_that_lies_about_its_length_makes_no_job_and_leaves_nothing(
    tmp_path: Path, length: str, body: str
) -> None:
    head = (
        f"POST /files/async HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MULTIPART}\r\nConnection: close\r\n"
    )
    async with running(tmp_path, FILES) as site:
        answer = await sent(site, f"{head}{length}\r\n\r\n{body}", ends=True)
        assert answer == "" or answer.split(" ")[1] == "400", answer
        assert len((await site.get("/files/async")).xml) == 0
        assert list((tmp_path / "spool").iterdir()) == []


# What comes back in headers

EVIL = "%0d%0aX-Evil:%201"


@pytest.mark.parametrize(
    "target",
    [
        f"/echo/async/{EVIL}/phase",
        f"/echo/{EVIL}",
        f"/echo/?{EVIL}",
        f"/echo/async/?PHASE={EVIL}",
        f"/files/async/JOB/{EVIL}",
        f"/files/async/JOB?x={EVIL}",
        f"/static/{EVIL}",
    ],
)
async def test_a_line_end_in_an_address_makes_no_header(tmp_path: Path, target: str) -> None:
    async with running(tmp_path, ECHO, FILES) as site:
        job = (await site.create("echo")).rpartition("/")[2]
        for accept in ("*/*", "text/html"):
            answer = await raw(site, "GET", target.replace("JOB", job), Accept=accept)
            assert answer.status < 500
            assert "X-Evil" not in answer.headers
            assert "\n" not in answer.headers.get("Location", "")


async def test_a_file_whose_name_has_line_ends_and_quotes_is_given_back_in_one_header(tmp_path: Path) -> None:
    name = "a%0D%0AX-Evil: 1%22; filename=x.html"
    async with running(tmp_path, FILES) as site:
        body = multipart(
            FIELD + b'"image"; filename="' + name.encode() + b'"\r\nContent-Type: text/html;x\r\n\r\ncontent',
            FIELD + b"\"small\"; filename*=UTF-8''b%0D%0AX-Evil%3A%201\r\n\r\ncontent",
        )
        job = (await raw(site, "POST", "/files/async", body, Content_Type=MULTIPART)).location
        for parameter in ("image", "small"):
            answer = await site.get(f"{job}/parameters/{parameter}")
            assert answer.status == 200
            assert "X-Evil" not in answer.headers
            assert '"' not in answer.headers["Content-Disposition"]
            assert answer.headers["Content-Disposition"].startswith("inline; filename*=UTF-8''")


async def test_the_id_of_a_request_is_the_servers_whatever_a_client_sends(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await raw(site, "GET", "/echo", X_Request_ID="mine")
        assert answer.headers.get_all("X-Request-ID") != ["mine"]
        assert len(answer.headers.get_all("X-Request-ID")) == 1


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "a@b", "a\tb", "[::1", "a:b", "a,b", "x" * 300 + " ", ".localhost"]
)
async def test_what_is_no_host_leads_nowhere(tmp_path: Path, host: str) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await raw(site, "POST", "/echo/async", Host=host)
        assert answer.status in (303, 400, 421)
        assert answer.status != 303 or answer.location.startswith(f"http://{host.strip()}/echo/async/")


async def test_no_answer_says_what_the_server_is_made_of(tmp_path: Path) -> None:
    forms = (
        "GET / HTTP/1.1\r\nHost: localhost\r\n",
        "GET /a/b/c HTTP/1.1\r\nHost: localhost\r\n",
        "nonsense",
    )
    async with running(tmp_path, ECHO) as site:
        for form in (*forms, "GET /static/uws.css HTTP/1.1\r\nHost: localhost\r\n"):
            answer = await sent(site, f"{form}Connection: close\r\n\r\n")
            head = answer.partition("\r\n\r\n")[0]
            assert "\r\nServer: uwsd" in head
            assert "aiohttp" not in head
            assert "Python" not in head


async def test_a_body_of_no_type_that_does_not_come_is_no_fault_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = "POST /types/async HTTP/1.1\r\nHost: localhost\r\nContent-Type: x/y\r\nContent-Length: 100\r\n\r\n"
    async with running(tmp_path, TYPES) as site:
        assert "Traceback" not in await sent(site, head, ends=True)
    assert not [record for record in caplog.records if record.exc_info]


async def test_what_is_expected_in_vain_is_told_with_the_name_of_a_fault(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await raw(site, "GET", "/echo/async", Expect="foo")
        assert (answer.status, answer.text) == (
            417,
            "UsageFault: Expect: only 100-continue can be expected here\n",
        )
        assert answer.headers["X-Request-ID"]
