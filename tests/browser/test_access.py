"""Every page can be used by everybody: on a telephone, in the dark, by keyboard alone, by ear."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.site import full_site
from tests.browser.support import (
    NARROW,
    WIDE,
    check_accessibility,
    check_width,
    in_chromium,
    needs_axe,
    page_in,
)

pytestmark = in_chromium

REACHABLE = """() => {
    const all = document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]");
    window.reachable = [...all].filter((one) => one.checkVisibility() && one.tabIndex >= 0);
    return window.reachable.length;
}"""
FOCUS = """() => {
    const held = document.activeElement;
    if (held === document.body) return null;
    const style = getComputedStyle(held);
    return {
        number: window.reachable.indexOf(held),
        folds: held.tagName === "SUMMARY",
        seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0
            && held.getBoundingClientRect().height > 0,
        html: held.outerHTML.slice(0, 120),
    };
}"""
IS_OPEN = "document.activeElement.parentElement.open"


@needs_axe
@pytest.mark.parametrize(("scheme", "size"), [("light", WIDE), ("dark", NARROW)], ids=["light", "dark"])
async def test_no_page_has_what_keeps_anybody_out(
    tmp_path: Path, chromium: Browser, scheme: str, size: dict[str, int]
) -> None:
    looks = {"color_scheme": scheme, "viewport": size}
    async with full_site(tmp_path) as (_, pages), page_in(chromium, **looks) as page:
        for url in pages.values():
            await page.goto(url)
            await unfold_all(page)
            await check_accessibility(page)


async def unfold_all(page: Page) -> None:
    """Open all that can be opened, and wait until it is there."""
    for summary in await page.locator("summary").all():
        await summary.click()
    included = page.locator("details[data-include]")
    for number in range(await included.count()):
        await expect(included.nth(number)).to_have_attribute("data-state", "there")


async def test_no_page_has_to_be_moved_sideways(tmp_path: Path, chromium: Browser) -> None:
    async with full_site(tmp_path) as (_, pages), page_in(chromium) as page:
        for url in pages.values():
            await page.goto(url)
            await unfold_all(page)
            for width in (WIDE["width"], NARROW["width"], 320):
                await page.set_viewport_size({"width": width, "height": 740})
                await check_width(page)


async def test_all_of_every_page_is_reached_by_keyboard_and_seen_to_be(
    tmp_path: Path, chromium: Browser
) -> None:
    async with full_site(tmp_path) as (_, pages), page_in(chromium) as page:
        for url in pages.values():
            await page.goto(url)
            expected = set(range(await page.evaluate(REACHABLE)))
            last = None
            while True:
                await page.keyboard.press("Tab")
                held = await page.evaluate(FOCUS)
                if held is None or held["number"] not in expected | {last}:
                    break
                assert held["seen"], f"{url}: the focus is not seen on {held['html']}"
                last = held["number"]  # a field may have several parts
                expected.discard(last)
                if held["folds"]:
                    for key, is_open in (("Enter", True), ("Space", False)):
                        await page.keyboard.press(key)
                        assert await page.evaluate(IS_OPEN) is is_open, f"{url}: {key} on {held['html']}"
            missing = [await page.evaluate("n => reachable[n].outerHTML", number) for number in expected]
            assert not missing, url


async def test_a_job_is_ordered_looked_at_and_deleted_by_keyboard_alone(
    tmp_path: Path, chromium: Browser
) -> None:
    async with full_site(tmp_path) as (site, pages), page_in(chromium) as page:
        before = len((await site.get("/stars/async")).xml)
        await page.goto(pages["services"])

        async def to(role: str, name: str) -> None:
            wanted = page.get_by_role(role, name=name, exact=True).first  # type: ignore[arg-type]  # a literal
            for _ in range(60):
                await page.keyboard.press("Tab")
                if await wanted.evaluate("one => one === document.activeElement"):
                    return
            raise AssertionError(f"{role} {name} is not reached")

        await to("link", "Bright stars")
        await page.keyboard.press("Enter")
        await to("spinbutton", "ra (deg) (required)")
        await page.keyboard.type("12.5")
        await to("checkbox", "K")
        await page.keyboard.press("Space")
        await to("button", "Keep it for later")
        await page.keyboard.press("Enter")
        await expect(page.locator("#parameters")).to_contain_text("12.5")
        await to("button", "Run")
        await page.keyboard.press("Space")
        await expect(page.locator("#status")).to_contain_text("QUEUED")
        await to("button", "Abort")
        await page.keyboard.press("Enter")
        await expect(page.locator("#status")).to_contain_text("ABORTED")
        for _ in range(60):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.matches('details.confirm > summary')"):
                break
        await page.keyboard.press("Enter")
        await to("button", "Delete it for good")
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("Jobs of Bright stars")
        assert len((await site.get("/stars/async")).xml) == before


async def test_what_a_reader_cannot_see_is_said(tmp_path: Path, chromium: Browser) -> None:
    async with full_site(tmp_path) as (_, pages), page_in(chromium) as page:
        await page.goto(pages["job-executing"])
        await expect(page.get_by_role("status", name="Where the job is")).to_contain_text("EXECUTING")
        assert await page.get_by_role("progressbar", name="Progress").count() == 1
        await page.goto(f"{pages['service']}?ra=400")
        await page.evaluate("document.querySelector('form.order').noValidate = true")
        await page.get_by_role("button", name="Run").click()
        field = page.locator("[name=ra]")
        assert await field.get_attribute("aria-invalid") == "true"
        described = (await field.get_attribute("aria-describedby") or "").split()
        told = [await page.locator(f"#{one}").inner_text() for one in described]
        assert "400 is above the maximum 360" in " ".join(told)
        await expect(page.get_by_role("alert")).to_contain_text("Not accepted")
