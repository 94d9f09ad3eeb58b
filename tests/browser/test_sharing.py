"""An owner lets others look at his job by the forms on its page; a link opens all that the page leads to."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.access.support import guarded
from tests.browser.support import AXE, NARROW, check_accessibility, check_width, in_chromium, page_in

pytestmark = in_chromium


@pytest.mark.parametrize("script", [True, False], ids=["", "without script"])
async def test_a_link_made_on_a_page_shows_others_the_job_until_it_is_ended(
    tmp_path: Path, chromium: Browser, script: bool
) -> None:
    looks = {"java_script_enabled": script, "viewport": NARROW}
    async with (
        guarded(tmp_path) as (site, _),
        page_in(chromium, **looks) as page,
        page_in(chromium, **looks) as other,
    ):
        await page.goto(f"{site.url}/login?next=/echo")
        await page.get_by_label("User").fill("ann")
        await page.get_by_label("Password").fill("ann's")
        await page.get_by_role("button", name="Log in").click()
        await page.get_by_role("button", name="Run").click()
        await page.wait_for_url("**/echo/async/*")
        job = page.url
        cookies = await page.context.cookies()
        session = {"Cookie": "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in cookies)}
        await site.ended(job, headers=session)

        await page.goto(job)
        await page.get_by_label("Share with a user").fill("bob")
        await page.get_by_role("button", name="Share", exact=True).click()
        await expect(page.get_by_role("row", name="bob")).to_contain_text("you end it")
        await page.goto(job)
        if script:
            if AXE.exists():
                await check_accessibility(page)
            await check_width(page)
        await page.get_by_label("Make a link").select_option("for a week")
        await page.get_by_role("button", name="Make a link").click()
        link = await page.get_by_role("region", name="The new link").get_by_role("link").inner_text()
        if script:
            if AXE.exists():
                await check_accessibility(page)
            await check_width(page)

        await other.goto(link)
        assert other.url == job, "the secret is in the address no more"
        await expect(other.get_by_text("COMPLETED").first).to_be_visible()
        await expect(other.get_by_role("button")).to_have_count(0)
        await other.get_by_role("link", name="out", exact=True).click()
        await expect(other.locator("body")).to_have_text("hello")
        await other.goto(f"{site.url}/echo/async")
        await expect(other.get_by_role("heading", name="Unauthorized (401)")).to_be_visible()

        if script:  # on the page of the job itself
            await page.goto(job)
            await page.get_by_text("With whom it is shared", exact=True).click()
        else:
            await page.goto(f"{job}/shares")
        await (
            page.get_by_role("row", name="Whoever has the link").get_by_role("button", name="End it").click()
        )
        await expect(page.get_by_role("row", name="bob")).to_be_visible()
        await expect(page.get_by_role("row", name="Whoever has the link")).to_have_count(0)
        await other.goto(job)
        await expect(other.get_by_role("heading", name="Unauthorized (401)")).to_be_visible()
