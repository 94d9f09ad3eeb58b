"""What others made, or another site's page, does nothing in the name of a user who opens it in a browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from tests.access.support import basic, guarded
from tests.browser.hostile import HOSTILE, LURE, SEND
from tests.browser.support import in_chromium, tab_in
from tests.harness import BasicUsers, Site, job_id, running
from tests.web.support import ECHO, FILES, keeping
from uws.model import Identity, NotAuthenticated

pytestmark = in_chromium


def logged_in(chromium: Browser) -> AbstractAsyncContextManager[Page]:
    """Give a page whose browser sends the user's credentials wherever it is asked for them."""
    return tab_in(chromium, http_credentials={"username": "ada", "password": "secret"})


async def log_in(page: Page, site: Site, user: str) -> None:
    """Log in by the form; the browser has a cookie then."""
    await page.goto(f"{site.url}/login")
    await page.get_by_label("User").fill(user)
    await page.get_by_label("Password").fill(f"{user}'s")
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url(f"{site.url}/")


class Everybody(BasicUsers):
    """Whoever does not say who he is, is asked: so a browser knows it from the first page on."""

    async def identify(self, request: web.Request) -> Identity:
        identity = await super().identify(request)
        if identity.user is None:
            raise NotAuthenticated("say who you are")
        return identity


async def made(site: Site) -> int:
    return len((await site.get("/echo/async", user="ada")).xml)


async def opened(page: Page, *urls: str) -> None:
    """Open pages, and wait until nothing more comes of each."""
    for url in urls:
        await page.goto(url, wait_until="networkidle")
        assert page.url == url
        assert await page.title() != "acted"


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_result_does_nothing(tmp_path: Path, chromium: Browser, kind: str) -> None:
    media_type, content = HOSTILE[kind]
    async with (
        running(tmp_path, ECHO, keeping(media_type), authenticator=Everybody()) as site,
        logged_in(chromium) as page,
    ):
        job = await site.create("keep", user="ada", file=content.encode(), PHASE="RUN")
        await site.ended(job, user="ada")
        # The user is logged in: what his own page may do, it can.
        await page.goto(f"{site.url}/echo/async")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
        await opened(page, job, f"{job}/results/kept/preview", f"{job}/results/kept")
        if LURE in content and kind != "sniffed":
            await page.get_by_text(LURE).click()
            await expect(page.locator("h1")).to_have_text("Forbidden (403)")
        assert not [one for one in asked if one.startswith("POST")]
        assert await made(site) == 0


async def test_a_hostile_picture_within_a_page_does_nothing(tmp_path: Path, chromium: Browser) -> None:
    media_type, content = HOSTILE["svg"]
    async with (
        running(tmp_path, ECHO, keeping(media_type), authenticator=Everybody()) as site,
        logged_in(chromium) as page,
    ):
        job = await site.create("keep", user="ada", file=content.encode(), PHASE="RUN")
        await site.ended(job, user="ada")
        await opened(page, job)
        assert await page.locator("img").evaluate("picture => picture.naturalWidth") > 0, "it is seen"
        assert await made(site) == 0


async def test_markup_in_what_a_user_sent_does_nothing(tmp_path: Path, chromium: Browser) -> None:
    evil = f'<img src=x onerror="{SEND}">'
    async with (
        running(tmp_path, ECHO, FILES, authenticator=Everybody()) as site,
        logged_in(chromium) as page,
    ):
        job = await site.create("files", user="ada", image=b"x", RUNID=evil)
        lists, services = f"{site.url}/files/async", f"{site.url}/files"
        await opened(page, job, f"{job}/history", lists, f"{services}?from-job={job[-32:]}")
        await page.goto(f"{services}?n={evil}", wait_until="networkidle")
        assert await page.title() != "acted"
        assert await made(site) == 0


@asynccontextmanager
async def another_site(content: str, host: str = "localhost") -> AsyncIterator[str]:
    """Serve a page of another origin than that of the server, and give its URL."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=content, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://{host}:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["another host", "another port"])
async def test_a_page_of_another_site_orders_nothing(tmp_path: Path, chromium: Browser, host: str) -> None:
    # Nobody has to log in here: were it sent by the user, all of it would be done.
    async with running(tmp_path, ECHO) as site, tab_in(chromium) as page:
        await page.goto(f"{site.url}/echo")
        await page.get_by_role("button", name="Keep it for later").click()
        await page.wait_for_url("**/async/*")
        assert await made(site) == 1, "his own page may"
        jobs, sync = f"{site.url}/echo/async", f"{site.url}/echo/sync?x=evil"
        attack = f"""<form method="post" action="{jobs}"><input name="x" value="evil"></form>
            <script>
              const body = new URLSearchParams({{x: "evil"}});
              const send = (url, more) => fetch(url, {{mode: "no-cors", credentials: "include", ...more}});
              Promise.allSettled([send("{jobs}", {{method: "POST", body}}), send("{sync}")])
                .then(() => document.forms[0].submit());
            </script>"""
        answers: list[tuple[str, str, int]] = []
        page.on("response", lambda answer: answers.append((answer.request.method, answer.url, answer.status)))
        async with another_site(attack, host) as evil:
            await page.goto(evil)
            await expect(page.locator("h1")).to_have_text("Forbidden (403)")
        assert sorted(one for one in answers if one[1] in (jobs, sync)) == [
            ("GET", sync, 403),
            ("POST", jobs, 403),
            ("POST", jobs, 403),
        ]
        assert await made(site) == 1


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["another host", "another port"])
async def test_a_page_of_another_site_orders_nothing_with_the_cookie_of_a_user(
    tmp_path: Path, chromium: Browser, host: str
) -> None:
    async with guarded(tmp_path) as (site, _), tab_in(chromium) as page:
        await log_in(page, site, "ann")
        await page.goto(f"{site.url}/echo")
        await page.get_by_role("button", name="Keep it for later").click()
        await page.wait_for_url("**/async/*")
        jobs, sync = f"{site.url}/echo/async", f"{site.url}/echo/sync?x=evil"
        attack = f"""<form method="post" action="{jobs}"><input name="x" value="evil"></form>
            <script>
              const send = (url, more) => fetch(url, {{mode: "no-cors", credentials: "include", ...more}});
              const body = new URLSearchParams({{ACTION: "DELETE"}});
              Promise.allSettled([send("{page.url}", {{method: "POST", body}}), send("{sync}"),
                send("{site.url}/logout", {{method: "POST"}})]).then(() => document.forms[0].submit());
            </script>"""
        answers: list[tuple[str, str, int]] = []
        page.on("response", lambda answer: answers.append((answer.request.method, answer.url, answer.status)))
        job = page.url
        async with another_site(attack, host) as evil:
            await page.goto(evil)
            await expect(page.locator("h1")).to_have_text(re.compile(r"\(40[13]\)"))
        # The page that is left behind may have an answer to come, too.
        refused = [
            status
            for method, url, status in answers
            if url.startswith(site.url) and (method == "POST" or url == sync)
        ]
        assert len(refused) == 4
        assert set(refused) <= {401, 403}, answers
        listed = await site.get("/echo/async", headers=basic("ann"))
        assert [entry.get("id") for entry in listed.xml] == [job_id(job)]
        await page.goto(job)
        assert await page.title() != "acted"
        await expect(page.get_by_text("PENDING").first).to_be_visible()


async def test_a_page_of_another_site_logs_nobody_in(tmp_path: Path, chromium: Browser) -> None:
    async with guarded(tmp_path) as (site, _), tab_in(chromium) as page:
        attack = f"""<form method="post" action="{site.url}/login"><input name="username" value="bob">
            <input name="password" value="bob's"></form><script>document.forms[0].submit()</script>"""
        for victim in (None, "ann"):
            if victim:
                await log_in(page, site, victim)
            async with another_site(attack) as evil:
                await page.goto(evil)
                await expect(page.locator("h1")).to_have_text("Forbidden (403)")
            await page.goto(f"{site.url}/login")
            await expect(page.get_by_role("main")).to_contain_text(
                f"You are {victim or 'nobody in particular'}."
            )


async def test_a_site_whose_name_has_come_to_mean_this_machine_orders_nothing(
    tmp_path: Path, chromium: Browser
) -> None:
    async with running(tmp_path, ECHO) as site, await chromium.new_page() as page:
        # A refusal is a page, too, of the origin that a script of the other site would have.
        refused = await page.goto(site.url.replace("127.0.0.1", "rebound.example"))
        assert refused
        assert refused.status == 421
        ask = "([url, options]) => fetch(url, options).then(answer => answer.status)"
        assert await page.evaluate(ask, ["/echo/async?PHASE=RUN", {"method": "POST"}]) == 421
        assert await page.evaluate(ask, ["/echo/async", {}]) == 421
        await page.goto(site.url)
        assert await page.evaluate(ask, ["/echo/async", {"method": "POST", "redirect": "manual"}]) == 0
        assert await made(site) == 1


async def test_no_page_can_be_framed(tmp_path: Path, chromium: Browser) -> None:
    async with (
        running(tmp_path, ECHO) as site,
        another_site(f'<iframe src="{site.url}/echo"></iframe>') as other,
        tab_in(chromium) as page,
    ):
        await page.goto(other, wait_until="networkidle")
        assert page.frames[1].url.startswith("chrome-error:")
