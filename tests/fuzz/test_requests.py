"""Whatever is sent: no server error, nothing left behind, nothing in the log that should not be."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.fuzz import grammars
from tests.fuzz.campaign import Campaign, Target, attacked

_NUMBER = st.integers(0, 99)
_DOCUMENTS = ("", "/parameters", "/results", "/history", "/results/out/preview", "/logs/stderr/preview")
_FILES = ("/results/out", "/parameters/image", "/parameters/x", "/logs/stdout", "/logs/stderr")


@pytest.mark.parametrize("half", [0, 1])
async def test_what_the_description_allows_and_what_it_forbids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, campaign: Campaign, half: int
) -> None:
    campaign.seed += half * 1_000_000
    async with attacked(tmp_path, caplog, guarded=half == 1) as target:
        await campaign.run(
            target,
            0.25 if half else 0.15,
            await asyncio.to_thread(_cases, target),
            lambda case: _call(target, *case),
        )


def _cases(target: Target) -> st.SearchStrategy[Any]:
    # Streams of events do not end; they are asked for elsewhere.
    schema = schemathesis.openapi.from_url(f"{target.url}/openapi.json", headers=target.credentials).exclude(
        path_regex="/events$"
    )
    operations = [found.ok() for found in schema.get_all_operations()]
    ways = [
        (operation, mode)
        for operation in operations
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if mode.is_positive
        or operation.query
        or operation.headers
        or operation.body
        or operation.path_parameters
    ]

    @st.composite  # what hypothesis would have to say of all these strategies is long
    def cases(draw: st.DrawFn) -> tuple[schemathesis.Case, int]:
        operation, mode = draw(st.sampled_from(ways))
        return draw(operation.as_strategy(generation_mode=mode)), draw(_NUMBER)

    return cases()


def _call(target: Target, case: schemathesis.Case, number: int) -> None:
    """Send a case, most times about a job that is there."""
    if "job_id" in case.path_parameters and number % 4:
        service, job = target.job(number)
        case.path_parameters["job_id"] = job
        if "service" in case.path_parameters:
            case.path_parameters["service"] = service
        if "result_id" in case.path_parameters:
            case.path_parameters["result_id"] = "out"
    response = case.call(session=target.session, allow_redirects=False)
    target.check(case.as_curl_command(), response.status_code, _Headers(response.headers), response.content)
    case.validate_response(response, checks=[status_code_conformance, content_type_conformance])


class _Headers(dict[str, list[str]]):
    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]  # one value, as of headers
        return self[name.lower()][0] if name.lower() in self else default


async def test_bodies_in_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture, campaign: Campaign) -> None:
    async with attacked(tmp_path, caplog, guarded=True) as target:

        def send(drawn: tuple[grammars.Parts, str, int]) -> None:
            parts, path, number = drawn
            length = len(parts.body) + parts.missing
            path = path.format("/".join(target.job(number)[::-1][:1]))
            target.send("POST", path, parts.body, length=length, Content_Type=parts.content_type)

        paths = st.sampled_from(["/files/async", "/files/sync", "/types/async", "/files/async/{}", "/login"])
        await campaign.run(target, 0.1, st.tuples(grammars.PARTS, paths, _NUMBER), send)


async def test_ranges_and_conditions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, campaign: Campaign
) -> None:
    async with attacked(tmp_path, caplog) as target:

        def send(drawn: tuple[bytes, str, bytes | None, dict[str, bytes], int]) -> None:
            range_, below, if_range, conditions, number = drawn
            service, job = target.jobs[number % 2]
            headers = {
                "Range": range_,
                **({"If_Range": if_range} if if_range is not None else {}),
                **conditions,
            }
            method = "HEAD" if number > 90 else "GET"
            target.send(method, f"/{service}/async/{job}{below}", **headers)

        names = st.sampled_from(["If_Match", "If_None_Match", "If_Modified_Since", "If_Unmodified_Since"])
        conditions = st.dictionaries(names, grammars.CONDITION, max_size=2)
        requests = st.tuples(
            grammars.RANGE, st.sampled_from(_FILES), st.none() | grammars.IF_RANGE, conditions, _NUMBER
        )
        await campaign.run(target, 0.1, requests, send)


async def test_what_is_accepted(tmp_path: Path, caplog: pytest.LogCaptureFixture, campaign: Campaign) -> None:
    async with attacked(tmp_path, caplog) as target:

        def send(drawn: tuple[bytes, str, str, int]) -> None:
            accept, form, path, number = drawn
            service, job = target.jobs[number % 2]
            query = f"?RESPONSEFORMAT={form}" if form else ""
            target.send("GET", path.format(service=service, job=job) + query, Accept=accept)

        paths = [
            "/",
            "/{service}",
            "/{service}/async",
            "/{service}/async/nosuchjob",
            "/metrics",
            "/openapi.json",
        ]
        paths += [f"/{{service}}/async/{{job}}{below}" for below in _DOCUMENTS]
        requests = st.tuples(grammars.ACCEPT, grammars.FORMAT, st.sampled_from(paths), _NUMBER)
        await campaign.run(target, 0.1, requests, send)


async def test_uploads(tmp_path: Path, caplog: pytest.LogCaptureFixture, campaign: Campaign) -> None:
    async with attacked(tmp_path, caplog) as target:
        own = st.tuples(
            _NUMBER, st.sampled_from([*_FILES[:3], *_FILES, "", "/results", "/results/../phase"])
        ).map(lambda drawn: "{}/{}/async/{}{}".format(target.url, *target.jobs[drawn[0] % 2], drawn[1]))

        def send(drawn: tuple[str, str]) -> None:
            path, upload = drawn
            body = urlencode({"UPLOAD": upload}, errors="surrogatepass").encode()
            target.send("POST", path, body, Content_Type=b"application/x-www-form-urlencoded")

        paths = st.sampled_from(["/files/async", "/files/sync", "/echo/async", "/cutout/async"])
        await campaign.run(target, 0.1, st.tuples(paths, grammars.uploads(own)), send)


async def test_times(tmp_path: Path, caplog: pytest.LogCaptureFixture, campaign: Campaign) -> None:
    async with attacked(tmp_path, caplog, guarded=True) as target:

        def send(drawn: tuple[str, str, int]) -> None:
            where, time, number = drawn
            encoded = quote(time, safe="", errors="surrogatepass")
            service, job = target.job(2 + number)
            if where.startswith("?"):
                target.send("GET", f"/{service}/async{where}{encoded}")
                return
            path, _, name = where.format(service=service, job=job).rpartition(" ")
            body = f"{name}={encoded}".encode()
            target.send("POST", path, body, Content_Type=b"application/x-www-form-urlencoded")

        places = [
            "/types/async time", "/types/async DESTRUCTION", "/types/async PHASE=RUN&time",
            "/{service}/async/{job}/destruction DESTRUCTION", "?AFTER=", "?RESPONSEFORMAT=json&AFTER=",
            "?RESPONSEFORMAT=html&AFTER=", "?time=",
        ]  # fmt: skip
        await campaign.run(target, 0.07, st.tuples(st.sampled_from(places), grammars.TIME, _NUMBER), send)


async def test_places_in_streams_of_events(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, campaign: Campaign
) -> None:
    async with attacked(tmp_path, caplog) as target:

        def send(drawn: tuple[str, bytes | None, int]) -> None:
            after, last, number = drawn
            service, job = target.job(number)
            path = f"/{service}/async/events" if number % 3 == 0 else f"/{service}/async/{job}/events"
            headers = {} if last is None else {"Last_Event_ID": last}
            target.send("GET", f"{path}{after}", **headers)

        after = st.sampled_from(
            ["", "?after=0", "?after=3", "?AFTER=-1", "?after=9999999999", "?after=x", "?after="]
        )
        last = st.none() | grammars.CONDITION | st.integers(0, 60).map(lambda number: b"%d" % number)
        await campaign.run(target, 0.03, st.tuples(after, last, _NUMBER), send)


async def test_credentials(tmp_path: Path, caplog: pytest.LogCaptureFixture, campaign: Campaign) -> None:
    async with attacked(tmp_path, caplog, guarded=True) as target:
        good = target.credentials["Authorization"].encode()

        def send(drawn: tuple[bytes | None, bytes | None, tuple[str, str, bytes], int]) -> None:
            authorization, cookie, (method, path, body), number = drawn
            service, job = target.job(number)
            headers = {"Authorization": good if authorization is None else authorization}
            if cookie is not None:
                headers["Cookie"] = cookie
            form = {"Content_Type": b"application/x-www-form-urlencoded"} if body else {}
            target.send(method, path.format(service=service, job=job), body, **headers, **form)

        asked = [
            ("GET", "/{service}/async", b""), ("GET", "/{service}/async/{job}", b""), ("GET", "/login", b""),
            ("GET", "/{service}/capabilities", b""), ("GET", "/{service}/async/{job}?SHARE=x", b""),
            ("POST", "/echo/async", b"x=1"), ("POST", "/{service}/async/{job}/shares", b"WITH=@staff"),
            ("POST", "/login", b"username=eve&password=x"), ("POST", "/login", b"username=%FF&password="),
            ("POST", "/logout", b"x=1"),
        ]  # fmt: skip
        requests = st.tuples(
            st.none() | grammars.AUTHORIZATION, st.none() | grammars.COOKIE, st.sampled_from(asked), _NUMBER
        )
        await campaign.run(target, 0.1, requests, send)
