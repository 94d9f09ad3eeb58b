"""What drives browsers in tests: Chromium by Playwright, and what is looked at on every page."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.harness import SHARED

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
IMAGE = SHARED / "data" / "gc_2mass_k.fits"
NARROW, WIDE = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
WITHOUT_XSLT = "--disable-features=XSLT"
"""What browsers are about to do by themselves: no page is made by them any more."""

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
needs_axe = pytest.mark.skipif(
    not AXE.exists(), reason="axe-core is not installed: npm ci --prefix tests/browser"
)
needs_image = pytest.mark.skipif(not IMAGE.exists(), reason="the real FITS image is not at hand")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run a headless Chromium that makes no pages by XSLT; it and all it has started are gone afterwards."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", WITHOUT_XSLT]
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def page_in(**options: Any) -> AsyncIterator[Page]:
    """Give a page of a new Chromium; ``options`` are those of Playwright's `Browser.new_context`.

    Whatever the page's scripts fail at, and whatever the policy refuses them, fails the test.
    """
    options = {"viewport": WIDE, "locale": "en-GB", "timezone_id": "Europe/Berlin", **options}
    async with chromium() as browser:
        context: BrowserContext = await browser.new_context(**options)
        page = await context.new_page()
        page.set_default_timeout(15_000)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        yield page
        await context.close()
        assert not wrong


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
