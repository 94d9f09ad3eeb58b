"""What drives browsers in tests: Chromium by Playwright, and what is looked at on every page."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, Route, async_playwright

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
NARROW, WIDE = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
OPTIONS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    # What browsers are about to do by themselves: no page is made by them any more.
    "--disable-features=XSLT",
    # Nothing else than servers of this machine is found, one of them under a name of somebody's.
    "--host-resolver-rules=MAP rebound.example 127.0.0.1, MAP * ~NOTFOUND, "
    "EXCLUDE localhost, EXCLUDE 127.0.0.1",
)
_HERE = {"localhost", "127.0.0.1", None}
"""Where a page may get something from; what has no host is part of the page."""
_STYLED = """<?xml-stylesheet type="text/xsl" href="style.xsl"?><nothing/>"""
_STYLE = """<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
    <xsl:template match="/"><html><body><h1>made here</h1></body></html></xsl:template>
</xsl:stylesheet>"""

in_loop = pytest.mark.asyncio(loop_scope="session")
"""All tests of this package run in one event loop, which is that of their browser."""
in_chromium = [
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here: apt-get install chromium"),
    pytest.mark.timeout(180),
    in_loop,
]
needs_axe = pytest.mark.skipif(
    not AXE.exists(), reason="axe-core is not installed: npm ci --prefix tests/browser"
)


@asynccontextmanager
async def running_chromium() -> AsyncIterator[Browser]:
    """Run a headless Chromium that makes no pages by XSLT; it and all it has started are gone afterwards."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        try:
            assert not await _applies_stylesheets(browser), "this Chromium makes pages of XML by itself"
            yield browser
        finally:
            await browser.close()


async def _applies_stylesheets(browser: Browser) -> bool:
    async def answer(route: Route) -> None:
        is_style = route.request.url.endswith(".xsl")
        await route.fulfill(body=_STYLE if is_style else _STYLED, content_type="text/xml")

    page = await browser.new_page()
    await page.route("**/*", answer)
    await page.goto("http://localhost/")
    count = await page.locator("h1").count()
    await page.close()
    return count > 0


@asynccontextmanager
async def tab_in(chromium: Browser, **options: Any) -> AsyncIterator[Page]:
    """Give a page that shares nothing with others; ``options`` are those of `Browser.new_context`."""
    context = await chromium.new_context(**options)
    context.set_default_timeout(15_000)
    try:
        yield await context.new_page()
    finally:
        await context.close()


@asynccontextmanager
async def page_in(chromium: Browser, **options: Any) -> AsyncIterator[Page]:
    """Give a page as astronomers see it, for pages of ours.

    Whatever the page's scripts fail at, what the policy refuses them, and what they want from elsewhere fails
    the test.
    """
    options = {"viewport": WIDE, "locale": "en-GB", "timezone_id": "Europe/Berlin", **options}
    async with tab_in(chromium, **options) as page:
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda request: None if _is_here(request.url) else wrong.append(request.url))
        yield page
        assert not wrong


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in _HERE


async def check_accessibility(page: Page) -> None:
    """Fail for whatever axe-core holds against a page."""
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    told = [
        f"{violation['id']}: {violation['help']}: {node['html']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
    assert not told, "\n".join([page.url, *told])


async def check_width(page: Page) -> None:
    """Fail when a page has to be moved sideways to be read."""
    wide = await page.evaluate(
        "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
    )
    assert wide <= 0, f"{page.url} is {wide} pixels too wide"
