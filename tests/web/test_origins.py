"""A page of another site cannot make a user's browser command anything."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.harness import job_id, running
from tests.web.support import ACTIONS, ECHO, raw
from uws import make_uws_application
from uws.config import Settings

FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "{own}"},
    {"Sec-Fetch-Site": "nonsense"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "{own}.evil.example"},
    {"Origin": ""},
]
OWN = [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "{own}"}, {}]


def sent(headers: dict[str, str], own: str) -> dict[str, str]:
    return {name: value.replace("{own}", own) for name, value in headers.items()}


@pytest.mark.parametrize("headers", FOREIGN)
async def test_no_command_of_another_sites_page_is_carried_out(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        before = (await site.get(f"{job}/history")).body
        for method, path, body in [("POST", "", {"PHASE": "RUN"}), *ACTIONS]:
            answer = await site.request(method, job + path, data=body, headers=sent(headers, site.url))
            assert answer.status == 403
            assert answer.text.startswith("AuthorizationError: this was sent by a page of another site")
        answer = await site.post("/echo/async", {"x": "1"}, headers=sent(headers, site.url))
        assert answer.status == 403
        assert (await site.get(f"{job}/history")).body == before
        assert len((await site.get("/echo/async")).xml) == 1


@pytest.mark.parametrize("headers", OWN)
async def test_own_pages_and_clients_that_are_no_browsers_may_command(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.post("/echo/async", {"x": "1"}, headers=sent(headers, site.url))
        assert answer.status == 303


async def test_the_origin_is_that_by_which_clients_reach_the_server(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, base_url="https://jobs.example.org/uws") as site:
        own = {"Origin": "https://jobs.example.org"}
        assert (await site.post("/echo/async", {"x": "1"}, headers=own)).status == 303
        other = {"Origin": "https://example.org"}
        assert (await site.post("/echo/async", {"x": "1"}, headers=other)).status == 403


async def test_whoever_comes_from_elsewhere_may_look(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo")
        for url in ("/", "/echo", "/echo/async", job, f"{job}/history"):
            assert (await site.get(url, headers={"Sec-Fetch-Site": "cross-site"})).status == 200


STRANGERS = ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example:80",
             "10.0.0.1", "[::2]", "0.0.0.0", "2130706433"]  # fmt: skip


@pytest.mark.parametrize("base_url", [None, "https://jobs.example.org/vo"])
@pytest.mark.parametrize("host", STRANGERS)
async def test_a_name_that_has_come_to_mean_this_machine_reaches_nothing(
    tmp_path: Path, host: str, base_url: str | None
) -> None:
    own = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    looks = (
        "/",
        "/echo/async",
        "/healthz",
        "/metrics",
        "/static/uws.css",
        "/echo/sync",
        "/echo/capabilities",
    )
    async with running(tmp_path, ECHO, base_url=base_url) as site:
        job = f"/echo/async/{job_id(await site.create('echo'))}"
        asked = [("POST", "/echo/async?PHASE=RUN"), ("DELETE", job), *(("GET", url) for url in (job, *looks))]
        for method, url in asked:
            answer = await raw(site, method, url, **own)
            name = host if host[0] == "[" else host.partition(":")[0]
            assert answer.status == 421
            assert answer.text.startswith(f"UsageFault: the Host {name} is not this server; ")
            assert ("jobs.example.org" if base_url else "base_url") in answer.text
        assert len((await site.get("/echo/async")).xml) == 1


async def test_a_proxy_that_is_not_reached_by_name_may_send_any_host(tmp_path: Path) -> None:
    runner = web.AppRunner(make_uws_application(Settings(data=tmp_path / "data", services=(ECHO,))))
    await runner.setup()
    try:
        await web.UnixSite(runner, str(tmp_path / "socket")).start()
        connector = aiohttp.UnixConnector(str(tmp_path / "socket"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://jobs.example.org/echo/async", allow_redirects=False) as answer,
        ):
            assert answer.headers["Location"].startswith("http://jobs.example.org/echo/async/")
    finally:
        await runner.cleanup()
