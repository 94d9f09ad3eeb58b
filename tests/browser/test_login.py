"""A user logs in by the page that a refusal leads to, does his work, and logs out."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.access.support import guarded
from tests.browser.support import AXE, NARROW, check_accessibility, check_width, in_chromium, page_in

pytestmark = in_chromium


@pytest.mark.parametrize("script", [True, False], ids=["", "without script"])
async def test_who_is_refused_logs_in_does_his_work_and_logs_out(
    tmp_path: Path, chromium: Browser, script: bool
) -> None:
    async with (
        guarded(tmp_path) as (site, _),
        page_in(chromium, java_script_enabled=script, viewport=NARROW, color_scheme="dark") as page,
    ):
        await page.goto(f"{site.url}/echo/async?PHASE=PENDING")
        await expect(page.get_by_role("heading", name="Unauthorized (401)")).to_be_visible()
        await page.get_by_role("link", name="Log in").click()
        await page.get_by_label("User").fill("ann")
        await page.get_by_label("Password").fill("wrong")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_have_text("user or password is wrong")
        await expect(page.get_by_label("User")).to_have_value("ann")
        if script:
            if AXE.exists():
                await check_accessibility(page)
            await check_width(page)
        await page.get_by_label("Password").fill("ann's")
        await page.get_by_role("button", name="Log in").click()
        await expect(page).to_have_url(f"{site.url}/echo/async?PHASE=PENDING")

        await page.goto(f"{site.url}/echo")
        await page.get_by_role("button", name="Keep it for later").click()
        await expect(page.get_by_text("PENDING").first).to_be_visible()

        await page.get_by_role("link", name="Who you are").click()
        await expect(page.get_by_role("main")).to_contain_text("You are ann.")
        if script and AXE.exists():
            await check_accessibility(page)
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("main")).to_contain_text("You are nobody in particular.")
        await page.goto(f"{site.url}/echo/async")
        await expect(page.get_by_role("heading", name="Unauthorized (401)")).to_be_visible()
