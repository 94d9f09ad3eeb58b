"""VOSI capabilities: valid, complete, and true of how the server lets clients in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web
from lxml import etree

from tests.access.support import basic, guarded
from tests.harness import NAMESPACES, Answer, BasicUsers, running
from tests.web.support import ECHO
from tests.web.test_documents import schemas
from tests.web.test_examples import service
from uws import Identity, NotAuthenticated, ResultDeclaration, Service

XSI_TYPE = f"{{{NAMESPACES['xsi']}}}type"
CAPABILITIES, AVAILABILITY = (f"ivo://ivoa.net/std/VOSI#{name}" for name in ("capabilities", "availability"))
UWS, EXAMPLES = "ivo://ivoa.net/std/UWS#rest-1.1", "ivo://ivoa.net/std/DALI#examples"
BASIC, BEARER = "ivo://ivoa.net/sso#BasicAA", "ivo://ivoa.net/sso#OAuth"
ANYBODY, NAMELESS = "anybody", "nameless"


def checked(answer: Answer) -> etree._Element:
    """Hold a document against the schema, where it is at hand."""
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/xml; charset=utf-8"
    document = answer.xml
    assert document.tag == "{http://www.ivoa.net/xml/VOSICapabilities/v1.0}capabilities"
    if schemas():
        schemas().assertValid(document)
    return document


def offered(document: etree._Element) -> dict[str | None, list[tuple[str | None, str]]]:
    """Return by standard where it is served, and how one says who one is."""
    return {
        capability.get("standardID"): [
            (interface.findtext("accessURL"), method_of(interface))
            for interface in capability.iter("interface")
        ]
        for capability in document
    }


def method_of(interface: etree._Element) -> str:
    found = interface.find("securityMethod")
    return ANYBODY if found is None else found.get("standardID", NAMELESS)


class Strict(BasicUsers):
    """Lets nobody pass who does not say who he is."""

    def __init__(self, challenge: str) -> None:
        self.challenge = challenge

    async def identify(self, request: web.Request) -> Identity:
        identity = await super().identify(request)
        if identity.user is None:
            raise NotAuthenticated("say who you are")
        return identity


async def test_every_endpoint_is_named_with_the_standard_it_keeps(tmp_path: Path) -> None:
    async with running(tmp_path / "data", service(tmp_path), ECHO) as site:
        document = checked(await site.get("/say/capabilities"))
        base = f"{site.url}/say"
        assert offered(document) == {
            CAPABILITIES: [(f"{base}/capabilities", ANYBODY)],
            AVAILABILITY: [(f"{base}/availability", ANYBODY)],
            EXAMPLES: [(f"{base}/examples", ANYBODY)],
            UWS: [(f"{base}/async", ANYBODY)],
            None: [(f"{base}/sync", ANYBODY)],
        }
        assert all(interface.get(XSI_TYPE) == "vs:ParamHTTP" for interface in document.iter("interface"))
        for (url, _), *_ in offered(document).values():
            assert (await site.get(url or "")).status in (200, 303)
        # What a service does not have is not named.
        assert EXAMPLES not in offered(checked(await site.get("/echo/capabilities")))


async def test_the_media_type_of_an_answer_is_told_where_it_is_sure(tmp_path: Path) -> None:
    def declared(name: str, **more: object) -> Service:
        results = [ResultDeclaration(id="out", path="-", **more)]  # type: ignore[arg-type]  # by name
        return Service(name=name, title="T", command=["true"], results=results)

    fits, unsure = declared("fits", mime="image/fits"), declared("unsure", mime="image/fits", optional=True)
    async with running(tmp_path, fits, unsure, declared("unknown")) as site:
        assert checked(await site.get("/fits/capabilities")).findtext(".//resultType") == "image/fits"
        for name in ("unsure", "unknown"):
            assert checked(await site.get(f"/{name}/capabilities")).find(".//resultType") is None


@pytest.mark.parametrize(
    ("challenge", "anonymous", "methods"),
    [
        ('Basic realm="a, Bearer b"', True, [ANYBODY, BASIC]),
        ('Basic realm="uws"', False, [BASIC]),
        ('bearer, BASIC realm="uws", charset="UTF-8"', False, [BEARER, BASIC]),
        ("Negotiate", False, [NAMELESS]),
        ("", True, [ANYBODY, NAMELESS]),
    ],
)
async def test_security_methods_are_those_that_the_authenticator_has(
    tmp_path: Path, challenge: str, anonymous: bool, methods: Sequence[str]
) -> None:
    authenticator = BasicUsers() if anonymous else Strict(challenge)
    authenticator.challenge = challenge
    async with running(tmp_path, ECHO, authenticator=authenticator) as site:
        # Whoever asks is told the same.
        for options in ({}, {"user": "ann"}, {"headers": {"Authorization": "Basic nonsense"}}):
            found = offered(checked(await site.get("/echo/capabilities", **options)))
            assert [method for _, method in found[CAPABILITIES]] == [ANYBODY]
            assert [method for _, method in found[UWS]] == methods
            assert [method for _, method in found[None]] == methods
        assert (await site.get("/echo/async")).status == (200 if anonymous else 401)


async def test_addresses_are_those_by_which_clients_reach_the_server(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, base_url="https://jobs.example.org/vo/") as site:
        document = checked(await site.get("/echo/capabilities"))
        urls = [element.text for element in document.iter("accessURL")]
        assert all((url or "").startswith("https://jobs.example.org/vo/echo/") for url in urls)


async def test_a_service_that_is_not_offered_has_no_capabilities(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for resource in ("capabilities", "availability"):
            answer = await site.get(f"/ecoh/{resource}")
            assert (answer.status, answer.text) == (
                404,
                "UsageFault: there is no service ecoh (did you mean echo?)\n",
            )


async def test_a_client_that_may_be_nobody_learns_that_it_can_be_somebody(tmp_path: Path) -> None:
    async with guarded(tmp_path, anonymous=True) as (site, _):
        url = "/echo/capabilities"
        nobody, ann = await site.get(url), await site.get(url, headers=basic("ann"))
        assert [answer.status for answer in (nobody, ann)] == [200, 200]
        challenges = nobody.headers.getall("WWW-Authenticate")
        assert [challenge.partition(" ")[0] for challenge in challenges] == ["Basic", "ivoa_bearer", "Bearer"]
        assert "X-VO-Authenticated" not in nobody.headers
        assert ann.headers["X-VO-Authenticated"] == "ann"
        assert "WWW-Authenticate" not in ann.headers
        assert "Authorization" in ann.headers["Vary"]
        wrong = await site.get(url, headers=basic("ann", "wrong"))
        assert (wrong.status, "X-VO-Authenticated" in wrong.headers) == (200, False)
        assert wrong.headers.getall("WWW-Authenticate") == challenges


async def test_every_answer_says_whom_the_server_takes_a_client_for(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (site, _):
        for url, status in (("/echo/async", 200), ("/nothing", 404), ("/echo/async/none", 404)):
            answer = await site.get(url, headers=basic("ann"))
            assert (answer.status, answer.headers["X-VO-Authenticated"]) == (status, "ann")
        refused = await site.get("/echo/async", headers=basic("ann", "wrong"))
        assert (refused.status, "X-VO-Authenticated" in refused.headers) == (401, False)
