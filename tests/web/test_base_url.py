"""How clients reach the server: behind a proxy, under a path prefix, mounted in another application."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.harness import Answer, Site, job_id, running
from tests.web.support import ECHO, FAIL, FILES, SLEEP, raw

PUBLIC = "https://jobs.example.org/vo"


def local(site: Site, url: str, base: str) -> str:
    """Turn a URL that the server told into one that reaches it from here."""
    assert url.startswith(f"{base}/"), url
    return site.url + url.removeprefix(base)


def links(answer: Answer) -> set[str]:
    """Return all that looks like a URL of ours in a document."""
    found = re.findall(r"""https?://[^"'<> ]+""", answer.text)
    return {url for url in found if not url.startswith(("http://www.ivoa.net/", "http://www.w3.org/"))}


def served(tmp_path: Path, way: str) -> tuple[AbstractAsyncContextManager[Site], str | None]:
    """Serve in one of the ways; returns the server and its base URL, None for the one it is asked at."""
    services = (ECHO, FILES, FAIL)
    match way:
        case "proxy":
            return running(tmp_path, *services, base_url=PUBLIC), PUBLIC
        case "proxy with a slash":
            return running(tmp_path, *services, base_url=f"{PUBLIC}/"), PUBLIC
        case "mounted":
            return running(tmp_path, *services, mount="/vo"), None
        case "mounted behind a proxy":
            return running(tmp_path, *services, mount="/inner", base_url=PUBLIC), PUBLIC
    return running(tmp_path, *services), None


WAYS = ("plain", "proxy", "proxy with a slash", "mounted", "mounted behind a proxy")


@pytest.mark.parametrize("way", WAYS)
async def test_every_link_begins_with_the_base_url(tmp_path: Path, way: str) -> None:
    server, public = served(tmp_path, way)
    async with server as site:
        base = public or site.url
        answer = await site.post(
            "/files/async", "UPLOAD=", headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        job = local(site, answer.location, base)
        await site.request("PUT", f"{job}/parameters/image", data=b"content")
        await site.post(f"{job}/phase", {"PHASE": "RUN"})
        await site.ended(job)
        for url in ("/", "/files/async", "/files/uws.xml", job, f"{job}/parameters", f"{job}/results"):
            found = links(await site.get(url))
            assert found or url.endswith("none")
            for link in found:
                assert (await site.get(local(site, link, base))).status == 200, link


@pytest.mark.parametrize("way", WAYS)
async def test_every_location_begins_with_the_base_url(tmp_path: Path, way: str) -> None:
    server, public = served(tmp_path, way)
    async with server as site:
        base = public or site.url
        created = (await site.post("/echo/async")).location
        job = local(site, created, base)
        assert created == f"{base}/echo/async/{job_id(job)}"
        assert (await site.post(f"{job}/parameters", {"x": "1"})).location == created
        assert (await site.post(f"{job}/phase", {"PHASE": "ABORT"})).location == created
        assert (await site.get(f"/fail/async/{job_id(job)}/phase")).location == f"{created}/phase"
        assert (await site.get("/echo/")).location == f"{base}/echo"
        assert (await site.request("DELETE", job)).location == f"{base}/echo/async?LAST=100"


async def test_without_a_base_url_links_are_as_the_request_came(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for host in ("localhost", "jobs.localhost:8080", "[::1]:80", "127.1.2.3"):
            answer = await raw(site, "POST", "/echo/async", Host=host)
            assert answer.location.startswith(f"http://{host}/echo/async/")


async def test_with_a_base_url_links_are_as_it_says_whatever_the_host(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, base_url=PUBLIC) as site:
        for host in ("localhost", "127.0.0.1:8080", "jobs.example.org", "Jobs.Example.org.:80"):
            answer = await raw(site, "POST", "/echo/async", Host=host)
            assert answer.location.startswith(f"{PUBLIC}/echo/async/"), answer.text


async def test_errors_keep_their_form_in_a_mounted_application(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, mount="/vo") as site:
        for method, path, status in (
            ("GET", "/echo/async/none", 404),
            ("GET", "/a/b/c", 404),
            ("PUT", "/echo/async", 405),
        ):
            answer = await site.request(method, path)
            assert answer.status == status
            assert answer.text.startswith("UsageFault: ")
            assert answer.headers["X-Request-ID"]


async def test_a_mounted_application_stops_its_programs_when_it_ends(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP, mount="/vo") as site:
        await site.executing(await site.run("sleep"))
