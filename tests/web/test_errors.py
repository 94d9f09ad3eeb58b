"""Errors as clients see them: text, the fault's name first, nothing of the inside, no 500 for a typo."""

from __future__ import annotations

import gzip
import io
import logging
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Overloaded, StoreUnavailable
from tests.harness import Answer, BasicUsers, Site, running
from tests.web.support import ECHO, FIELD, FILES, FORM, MULTIPART, TYPES, exchange, multipart, raw


def checked(answer: Answer, status: int, fault: str = "UsageFault") -> str:
    """Hold an error against its form and return what it says."""
    assert answer.status == status, answer.text
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])
    first = answer.text.partition("\n")[0]
    assert first.startswith(f"{fault}: ")
    assert len(first) > len(f"{fault}: ")
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    return answer.text


@pytest.mark.parametrize(
    ("method", "path", "data", "status", "fault"),
    [
        ("GET", "/nowhere/at/all/of/it", None, 404, "UsageFault"),
        ("GET", "/nowhere", None, 404, "UsageFault"),
        ("GET", "/types/async/none", None, 404, "UsageFault"),
        ("GET", "/types/async?LAST=x", None, 400, "UsageFault"),
        ("POST", "/types/async", {"ra": "400.0"}, 400, "UsageFault"),
        ("POST", "/types/async", "ra=1&ra=2", 400, "MultiValuedParamNotSupported"),
        ("PATCH", "/types/async", None, 405, "UsageFault"),
        ("PUT", "/", None, 405, "UsageFault"),
    ],
)
async def test_errors_are_text_with_the_faults_name_first(
    tmp_path: Path, method: str, path: str, data: object, status: int, fault: str
) -> None:
    async with running(tmp_path, TYPES) as site:
        headers = {"Content-Type": FORM} if isinstance(data, str) else {}
        checked(await site.request(method, path, data=data, headers=headers), status, fault)


async def test_authentication_and_authorization_have_faults_of_their_own(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ann")
        checked(await site.get(job), 401, "AuthenticationError")
        checked(await site.get(job, user="bob"), 403, "AuthorizationError")


async def test_every_answer_has_a_request_id_of_its_own(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FILES) as site:
        job = await site.create("echo")
        elsewhere = job.replace("/echo/", "/files/")
        urls = (
            "/",
            "/echo",
            "/echo/async",
            job,
            f"{job}/phase",
            elsewhere,
            "/nowhere",
            "/static/uws.css",
        )
        seen = [(await site.get(url)).headers["X-Request-ID"] for url in (*urls, *urls)]
        assert len(set(seen)) == len(seen)


# What is broken inside


class Broken:
    """A read model or log that fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def fail(self, *_: object, **__: object) -> None:
        raise self._error


async def test_an_internal_error_tells_nothing_but_where_it_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, ECHO) as site:
        broken = Broken(RuntimeError("the secret of the inside"))
        monkeypatch.setattr(site.node.backend.jobs, "page", broken.fail)
        with caplog.at_level(logging.ERROR):
            answer = await site.get("/echo/async")
        said = checked(answer, 500, "DefaultFault")
        assert "secret" not in said
        request_id = answer.headers["X-Request-ID"]
        assert said == f"DefaultFault: an internal error; it is on record as {request_id}\n"
        assert request_id in caplog.text
        assert "the secret of the inside" in caplog.text


@pytest.mark.parametrize(
    ("error", "after"), [(StoreUnavailable("the disk is full"), "5"), (Overloaded(9, 2), "2")]
)
async def test_a_log_that_cannot_be_written_is_503_with_retry_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, after: str
) -> None:
    async with running(tmp_path, FILES) as site:
        with monkeypatch.context() as patch:
            patch.setattr(site.node.backend.store, "append", Broken(error).fail)
            body = multipart(FIELD + b'"image"; filename="x"\r\n\r\ncontent')
            answer = await raw(site, "POST", "/files/async", body, Content_Type=MULTIPART)
        checked(answer, 503, "ServiceUnavailable")
        assert answer.headers["Retry-After"] == after
        assert list(site.data.iterdir()) == []
        assert list((tmp_path / "spool").iterdir()) == []


# Malformed requests

BAD_BODIES: dict[str, tuple[str | bytes, bytes]] = {
    "no boundary": ("multipart/form-data", b"x"),
    "an empty boundary": ("multipart/form-data; boundary=", b"x"),
    "too long a boundary": (f"multipart/form-data; boundary={'x' * 100}", b"x"),
    "no part": (MULTIPART, b"x"),
    "nothing": (MULTIPART, b""),
    "another boundary": (
        MULTIPART,
        b'--OTHER\r\nContent-Disposition: form-data; name="text"\r\n\r\nx\r\n--OTHER--\r\n',
    ),
    "no end": (MULTIPART, multipart(FIELD + b'"text"\r\n\r\nx', end=b"")),
    "no name": (MULTIPART, multipart(b"Content-Type: text/plain\r\n\r\nx")),
    "an empty name": (MULTIPART, multipart(FIELD + b'""\r\n\r\nx')),
    "no header": (MULTIPART, multipart(b"\r\nx")),
    "a header without a colon": (MULTIPART, multipart(b"garbage\r\n\r\nx")),
    "a header that never ends": (MULTIPART, multipart(FIELD + b'"text"; x="' + b"x" * 20_000)),
    "too many headers": (MULTIPART, multipart(FIELD + b'"text"\r\n' + b"a: b\r\n" * 5000 + b"\r\nx")),
    "a multipart in a multipart": (
        MULTIPART,
        multipart(
            FIELD + b'"text"\r\nContent-Type: multipart/mixed; boundary=I\r\n\r\n--I\r\n\r\nx\r\n--I--'
        ),
    ),
    "a name that is not UTF-8": (MULTIPART, multipart(FIELD + b'"\xff"\r\n\r\nx')),
    "a value that is not UTF-8": (MULTIPART, multipart(FIELD + b'"text"\r\n\r\n\xff')),
    "a transfer encoding": (
        MULTIPART,
        multipart(FIELD + b'"image"; filename="x"\r\nContent-Transfer-Encoding: base64\r\n\r\nYWJj'),
    ),
    "another multipart": (
        "multipart/related; boundary=BOUND",
        multipart(b"Content-Type: text/plain\r\n\r\nx"),
    ),
    "bad percent-encoding": (FORM, b"text=%zz"),
    "half a percent-encoding": (FORM, b"text=%4"),
    "a lone percent sign": (FORM, b"text=100%"),
    "bad percent-encoding in a name": (FORM, b"te%xt=1"),
    "a percent-encoded value that is not UTF-8": (FORM, b"text=%ff"),
    "a percent-encoded surrogate": (FORM, b"text=%ed%a0%80"),
    "a percent-encoded name that is not UTF-8": (FORM, b"%ff=1"),
    "bytes that are not UTF-8": (FORM, b"text=\xff"),
    "JSON": ("application/json", b'{"text": 1}'),
    "no content type at all": ("", b"text=1"),
    "a content type that is none": ("nonsense", b"text=1"),
    "a content type that is not UTF-8": (b"\xff;;=", b"text=1"),
}


@pytest.mark.parametrize("what", BAD_BODIES)
async def test_a_malformed_body_is_400(tmp_path: Path, what: str) -> None:
    content_type, body = BAD_BODIES[what]
    async with running(tmp_path, FILES, TYPES) as site:
        job = urlsplit(await site.create("files")).path
        for target in ("/types/async", "/files/async", job, f"{job}/parameters"):
            checked(await raw(site, "POST", target, body, Content_Type=content_type), 400)
        assert len((await site.get("/types/async")).xml) == 0
        assert len((await site.get("/files/async")).xml) == 1
        assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize(
    "header",
    [
        b'form-data; name="text',
        b"form-data; name",
        b"form-data; name=a=b;;",
        b'form-data, name="text"',
        b"form-data; name*=utf-8''%ff",
        b"form-data; name*=none''x",
        b"\xff",
        b"",
    ],
)
async def test_a_part_without_a_readable_name_is_400(tmp_path: Path, header: bytes) -> None:
    async with running(tmp_path, TYPES) as site:
        body = multipart(b"Content-Disposition: " + header + b"\r\n\r\nx")
        checked(await raw(site, "POST", "/types/async", body, Content_Type=MULTIPART), 400)


@pytest.mark.parametrize("query", ["PHASE=%ff", "PHASE=%zz", "PHASE=%", "AFTER=%ed%a0%80", "LAST=1%"])
async def test_a_malformed_query_is_400(tmp_path: Path, query: str) -> None:
    async with running(tmp_path, ECHO) as site:
        job = urlsplit(await site.create("echo")).path
        checked(await raw(site, "GET", f"/echo/async?{query}"), 400)
        checked(await raw(site, "GET", f"{job}?{query}"), 400)
        checked(await raw(site, "POST", f"/echo/async?{query}"), 400)


@pytest.mark.parametrize(
    "segment", ["%ff", "%zz", "%00", "%ed%a0%80", "%2e%2e", "%0d%0aX:y", "%f0%9f%94%ad", "x" * 2000]
)
async def test_a_strange_path_is_404(tmp_path: Path, segment: str) -> None:
    async with running(tmp_path, ECHO) as site:
        job = urlsplit(await site.create("echo")).path
        for target in (f"/{segment}", f"/{segment}/async", f"/echo/async/{segment}", f"{job}/{segment}",
                       f"{job}/parameters/{segment}", f"{job}/results/{segment}"):  # fmt: skip
            answer = await raw(site, "GET", target)
            checked(answer, 404)
            assert "X" not in answer.headers


@pytest.mark.parametrize("agent", [b"\xe9\xff", b"", b"x" * 5000, "🔭".encode()])
async def test_a_strange_user_agent_does_no_harm(tmp_path: Path, agent: bytes) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await raw(site, "POST", "/echo/async", User_Agent=agent)
        assert answer.status == 303
        assert (await site.get(answer.location)).status == 200


# Encodings of the body


@pytest.mark.parametrize("target", ["/types/async", "/files/async", "/types/sync", "/nowhere"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity, gzip", "x"])
async def test_a_body_that_would_have_to_be_unpacked_is_refused_unread(
    tmp_path: Path, target: str, coding: str
) -> None:
    body = gzip.compress(b"text=" + bytes(1_000_000))
    async with running(tmp_path, TYPES, FILES) as site:
        answer = await raw(site, "POST", target, body, Content_Type=FORM, Content_Encoding=coding)
        assert coding in checked(answer, 415)
        assert answer.headers["Accept-Encoding"] == "identity"
        assert len((await site.get("/types/async")).xml) == 0


async def test_who_says_that_a_body_is_as_it_is_is_understood(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        body = b"text=plain"
        answer = await raw(site, "POST", "/types/async", body, Content_Type=FORM, Content_Encoding="identity")
        assert (await site.get(f"{answer.location}/parameters/text")).text == "plain"


@pytest.mark.parametrize("rest", [b"zz\r\nx", b"-5\r\nx", b"\r\n"])
async def test_malformed_chunks_are_400(tmp_path: Path, rest: bytes) -> None:
    async with running(tmp_path, TYPES) as site:
        head = f"POST /types/async HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
        head += "Transfer-Encoding: chunked"
        assert (await exchange(site, head.encode() + b"\r\n\r\n" + rest)).status == 400


# Size

LONG = b"x" * 1_000_001
TOO_LONG: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "form": (FORM, {}, b"text=" + LONG),
    "part": (MULTIPART, {}, multipart(FIELD + b'"text"\r\n\r\n' + LONG)),
    "parts together": (MULTIPART, {}, multipart(*[FIELD + b'"band"\r\n\r\n' + LONG[:400_000]] * 3)),
}


@pytest.mark.parametrize("what", TOO_LONG)
async def test_more_text_than_a_megabyte_is_413(tmp_path: Path, what: str) -> None:
    content_type, headers, body = TOO_LONG[what]
    async with running(tmp_path, TYPES) as site:
        answer = await raw(site, "POST", "/types/async", body, Content_Type=content_type, **headers)
        assert "1000000 bytes" in checked(answer, 413)
        assert len((await site.get("/types/async")).xml) == 0


async def test_a_value_of_more_than_a_megabyte_cannot_be_put(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        job = urlsplit(await site.create("types")).path
        checked(await raw(site, "PUT", f"{job}/parameters/text", LONG), 413)
        assert (await site.get(f"{job}/parameters/text")).status == 404


async def test_text_of_almost_a_megabyte_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        answer = await raw(site, "POST", "/types/async", b"text=" + b"x" * 999_000, Content_Type=FORM)
        assert len((await site.get(f"{answer.location}/parameters/text")).body) == 999_000


async def test_more_than_a_thousand_values_are_413(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES, FILES) as site:
        checked(
            await raw(site, "POST", "/types/async", b"&".join([b"band=J"] * 1001), Content_Type=FORM), 413
        )
        parts = multipart(*[FIELD + b'"band"\r\n\r\nJ'] * 1001)
        checked(await raw(site, "POST", "/types/async", parts, Content_Type=MULTIPART), 413)
        files = multipart(*[FIELD + b'"more"; filename="x"\r\n\r\nx'] * 1001)
        checked(await raw(site, "POST", "/files/async", files, Content_Type=MULTIPART), 413)
        assert list((tmp_path / "spool").iterdir()) == []


async def test_who_is_refused_early_can_go_on_with_the_next_request(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES) as site:
        for _ in range(3):
            large = io.BytesIO(b"text=" + LONG)
            assert (await site.post("/types/async", large, headers={"Content-Type": FORM})).status == 413
            assert (await site.post("/types/async", {"text": "x"})).status == 303


# Anything at all

TARGETS = ("/types/async", "/files/async", "/types/async/none", "/types/async/none/phase")


async def never_500(site: Site, target: str, content_type: str, body: bytes) -> None:
    answer = await raw(site, "POST", target, body, Content_Type=content_type)
    assert answer.status in (303, 400, 404, 413), answer.text
    if answer.status != 303:
        checked(answer, answer.status, answer.text.partition(":")[0])


FRAGMENTS = (
    b"--BOUND", b"--BOUND--", b"\r\n", b"Content-Disposition: form-data; name=", b'"text"', b'"image"',
    b"text=", b'; filename="x"', b"UPLOAD=", b"image,", b"param:", b"http://", b"&", b";", b"%", b"=",
    b"PHASE=RUN", b"RUNID=", b"DESTRUCTION=", b"Content-Type: multipart/mixed; boundary=BOUND",
)  # fmt: skip
BODIES = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=5), max_size=12).map(b"".join)
REQUESTS = st.tuples(st.sampled_from(TARGETS), st.sampled_from([FORM, MULTIPART]), BODIES)


@given(requests=st.lists(REQUESTS, min_size=15, max_size=15))
@settings(max_examples=8, deadline=None)
async def test_no_body_whatever_is_a_500(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[str, str, bytes]]
) -> None:
    async with running(tmp_path_factory.mktemp("data"), TYPES, FILES) as site:
        for request in requests:
            await never_500(site, *request)
