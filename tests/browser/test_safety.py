"""What others made, or another site's page, does nothing in the name of a user who opens it in a browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import Page

from tests.browser.support import chromium, needs_chromium
from tests.harness import BasicUsers, Site, running
from tests.web.support import ECHO, FILES
from uws import FileParameter, ResultDeclaration, Service
from uws.model import NotAuthenticated

pytestmark = [needs_chromium, pytest.mark.timeout(120)]

POST = (
    "fetch('/echo/async', {method: 'POST', body: new URLSearchParams({x: 'evil'}), credentials: 'include'})"
)
SEND = f"document.title = 'acted'; {POST}; if (document.forms.length) document.forms[0].submit()"
FORM = '<form method="post" action="/echo/async"><input name="x" value="evil"/></form>'
HOSTILE = {
    "html": (
        "text/html",
        f'<html><body>{FORM}<script>{SEND}</script><img src=x onerror="{SEND}"></body></html>',
    ),
    "svg": (
        "image/svg+xml",
        f'<svg xmlns="http://www.w3.org/2000/svg" onload="{SEND}"><script>{SEND}</script></svg>',
    ),
    "xml": (
        "application/xml",
        '<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="#"?><doc><h:script '
        f'xmlns:h="http://www.w3.org/1999/xhtml">{SEND}</h:script></doc>',
    ),
    "xhtml": (
        "application/xhtml+xml",
        f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{FORM}<script>{SEND}</script></body></html>',
    ),
    "sniffed": ("text/plain", f"<html><script>{SEND}</script></html>"),
}


def hostile(media_type: str) -> Service:
    """Return a service whose result is the file that it was given."""
    return Service(
        name="keep",
        title="Keep",
        command=["cp", "{file}", "kept"],
        parameters={"file": FileParameter(required=True)},
        results=[ResultDeclaration(id="kept", path="kept", mime=media_type)],
    )


@asynccontextmanager
async def logged_in() -> AsyncIterator[Page]:
    """Give a page whose browser sends the user's credentials wherever it is asked for them."""
    async with chromium() as browser:
        context = await browser.new_context(http_credentials={"username": "ada", "password": "secret"})
        yield await context.new_page()
        await context.close()


class Everybody(BasicUsers):
    """Whoever does not say who he is, is asked: so a browser knows it from the first page on."""

    async def identify(self, request: web.Request) -> str | None:
        if (user := await super().identify(request)) is None:
            raise NotAuthenticated("say who you are")
        return user


async def made(site: Site) -> int:
    return len((await site.get("/echo/async", user="ada")).xml)


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_result_does_nothing(tmp_path: Path, kind: str) -> None:
    media_type, content = HOSTILE[kind]
    async with (
        running(tmp_path, ECHO, hostile(media_type), authenticator=Everybody()) as site,
        logged_in() as page,
    ):
        job = await site.create("keep", user="ada", file=content.encode(), PHASE="RUN")
        await site.ended(job, user="ada")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(f"{request.method} {request.url}"))
        # The user is logged in: what his own page may do, it can.
        await page.goto(f"{site.url}/echo/async")
        before = len(asked)
        for url in (f"{job}/results/kept", f"{job}/results/kept/preview", job):
            await page.goto(url, wait_until="networkidle")
            assert await page.title() != "acted"
        assert not [one for one in asked[before:] if one.startswith("POST")]
        assert await made(site) == 0


async def test_what_is_shown_of_a_hostile_file_within_a_page_does_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, hostile("image/svg+xml"), authenticator=Everybody()) as site:
        job = await site.create("keep", user="ada", file=HOSTILE["svg"][1].encode(), PHASE="RUN")
        await site.ended(job, user="ada")
        async with logged_in() as page:
            await page.goto(job, wait_until="networkidle")
            assert await page.locator("img").count() == 1
            assert await page.title() != "acted"
        assert await made(site) == 0


async def test_an_upload_with_markup_in_its_name_does_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, FILES, authenticator=Everybody()) as site, logged_in() as page:
        job = await site.create("files", user="ada", image=b"x", RUNID=f'<img src=x onerror="{SEND}">')
        for url in (
            job,
            f"{job}/history",
            f"{site.url}/files/async",
            f"{site.url}/files?from-job={job[-32:]}",
        ):
            await page.goto(url, wait_until="networkidle")
            assert await page.title() != "acted"
        assert await made(site) == 0


@asynccontextmanager
async def another_site(target: str) -> AsyncIterator[str]:
    """Serve a page of another origin that sends forms to ``target`` as soon as it is opened."""

    async def attack(_: web.Request) -> web.Response:
        page = f"""<html><body><form method="post" action="{target}"><input name="x" value="evil"></form>
            <script>
            fetch("{target}", {{method: "POST", mode: "no-cors", credentials: "include",
                body: new URLSearchParams({{x: "evil"}})}}).catch(() => 0)
                .finally(() => document.forms[0].submit());
            </script></body></html>"""
        return web.Response(text=page, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", attack)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://localhost:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def test_a_page_of_another_site_orders_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=Everybody()) as site, logged_in() as page:
        await page.goto(f"{site.url}/echo/async")
        await page.get_by_role("link", name="New job").click()
        await page.get_by_role("button", name="Keep it for later").click()
        await page.wait_for_url("**/async/*")
        assert await made(site) == 1, "his own page may"
        async with another_site(f"{site.url}/echo/async") as evil:
            async with page.expect_response(lambda answer: answer.request.method == "POST") as answered:
                await page.goto(evil)
            assert (await answered.value).status == 403
            await page.wait_for_url(f"{site.url}/echo/async")
            await asyncio.wait_for(page.wait_for_load_state("networkidle"), 20)
        assert await made(site) == 1


async def test_no_page_can_be_framed(tmp_path: Path) -> None:
    async def frame(_: web.Request) -> web.Response:
        return web.Response(text=f'<iframe src="{site.url}/echo"></iframe>', content_type="text/html")

    async with running(tmp_path, ECHO) as site, logged_in() as page:
        app = web.Application()
        app.router.add_get("/", frame)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            await page.goto(f"http://localhost:{runner.addresses[0][1]}/", wait_until="networkidle")
            assert page.frames[1].url.startswith("chrome-error:")
        finally:
            await runner.cleanup()
