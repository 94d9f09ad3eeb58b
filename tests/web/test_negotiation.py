"""Which form a client gets, by Accept (RFC 9110 section 12.5.1) and RESPONSEFORMAT."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import Site, job_id, running
from tests.web.support import ECHO
from uws.web.negotiation import HTML, JSON, XML, negotiate

OFFERED = (XML, JSON)


@pytest.mark.parametrize(
    "accept",
    [
        "", "*/*", "text/xml", "application/xml", "text/*", "application/*", "text/html", "image/png",
        "application/json;q=0", "application/json;q=0.0, */*", "application/json;q=0.5, text/xml",
        "application/json, text/xml", "application/json, application/xml", "*/*;q=0",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "application/json;q=2", "application/json;q=many", "application/json;q=", "json", "application/",
        "application/json;q=0.9999", "application/x-votable+xml;content=datalink", ",,;;=\"",
        "applicationn/json",
        "text/plain;note=\"a, application/json\"",
    ],
)  # fmt: skip
def test_xml_is_what_is_sent_unless_json_is_preferred(accept: str) -> None:
    assert negotiate(accept, OFFERED) is XML


@pytest.mark.parametrize(
    "accept",
    [
        "application/json", "APPLICATION/JSON", "application/json;charset=utf-8", "application/json ; q=0.1",
        "application/json; Q=0.001", "application/json, text/plain, */*", "application/json, */*;q=0.9",
        "text/xml;q=0.8, application/xml;q=0.7, application/json;q=0.9", "text/html, application/json",
        "text/xml;q=0, application/xml;q=0, */*", "text/*, application/json", "*/*, application/json",
        "application/*;q=0.2, text/*;q=0.1, application/xml;q=0.1", "nonsense, application/json",
        "application/json;v=\"1,2\", text/xml;q=0.5",
    ],
)  # fmt: skip
def test_json_is_sent_to_those_who_prefer_it(accept: str) -> None:
    assert negotiate(accept, OFFERED) is JSON


def test_of_equally_wanted_forms_the_one_that_is_named_wins_then_the_first() -> None:
    assert negotiate("*/*, text/html", (XML, JSON, HTML)) is HTML
    assert negotiate("text/html, application/json", (XML, JSON, HTML)) is JSON
    assert negotiate("text/html, application/json", (XML, HTML, JSON)) is HTML


@given(st.text(alphabet='aplictonjsxml/*;,=q.015" \\', max_size=60) | st.text(max_size=60))
def test_any_accept_gives_one_of_the_forms(accept: str) -> None:
    assert negotiate(accept, OFFERED) in OFFERED


async def urls(site: Site) -> list[str]:
    """Return the URLs of all resources that have forms."""
    job = await site.create("echo")
    return ["/echo/async", "/echo/uws.xml", job, f"{job}/parameters", f"{job}/results"]


async def test_accept_and_responseformat_give_the_same(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for url in await urls(site):
            answer = await site.get(url, headers={"Accept": "application/json"})
            assert answer.headers["Content-Type"] == "application/json"
            for value in ("json", "application/json", "JSON", "Application/Json"):
                assert (await site.get(f"{url}?RESPONSEFORMAT={value}")).body == answer.body
                assert (await site.get(f"{url}?responseformat={value}")).body == answer.body


async def test_xml_is_the_default_and_can_be_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for url in await urls(site):
            answer = await site.get(url)
            assert answer.headers["Content-Type"] == "text/xml; charset=utf-8"
            for value in ("xml", "text/xml", "application/xml"):
                assert (await site.get(f"{url}?RESPONSEFORMAT={value}")).body == answer.body


async def test_responseformat_wins_over_accept(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for url in await urls(site):
            answer = await site.get(f"{url}?RESPONSEFORMAT=xml", headers={"Accept": "application/json"})
            assert answer.headers["Content-Type"].startswith("text/xml")
            answer = await site.get(f"{url}?RESPONSEFORMAT=json", headers={"Accept": "text/xml"})
            assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("value", ["", "votable", "xhtml", "application/x-votable+xml", "*/*", "json,xml"])
async def test_any_other_responseformat_is_400_and_those_there_are_are_named(
    tmp_path: Path, value: str
) -> None:
    async with running(tmp_path, ECHO) as site:
        for url in await urls(site):
            answer = await site.get(url, params={"RESPONSEFORMAT": value})
            assert answer.status == 400
            expected = (
                "expected one of xml, text/xml, application/xml, json, application/json, html, text/html"
            )
            assert answer.text == f"UsageFault: RESPONSEFORMAT: {expected}, got {value!r}\n"
            assert (await site.get(f"{url}?RESPONSEFORMAT=xml&RESPONSEFORMAT=json")).status == 400


async def test_several_accept_headers_are_one_list(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        headers = [("Accept", "text/xml;q=0.1"), ("Accept", "application/json;q=0.2")]
        answer = await site.get("/echo/async", headers=headers)
        assert answer.headers["Content-Type"] == "application/json"


async def test_simple_values_are_text_whatever_is_accepted(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo", x="1")
        for name in ("phase", "executionduration", "destruction", "quote", "error", "owner", "parameters/x"):
            answer = await site.get(f"{job}/{name}", headers={"Accept": "application/json"})
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


async def test_the_form_that_was_asked_for_is_kept_on_the_way_to_a_jobs_own_url(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, ECHO.__class__(name="other", title="O", command=["true"])) as site:
        job = await site.create("echo")
        answer = await site.get(f"/other/async/{job_id(job)}?RESPONSEFORMAT=json")
        assert (answer.status, answer.location) == (303, f"{job}?RESPONSEFORMAT=json")
