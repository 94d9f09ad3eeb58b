"""What an astronomer does with nothing but a browser: order, watch, look, abort, delete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from examples import __main__ as example
from tests.browser.support import in_chromium, page_in, tab_in
from tests.daemon import serving
from tests.harness import running
from tests.web.support import ECHO, GATE, gate
from uws import FileParameter, IntParameter, ResultDeclaration, Service, StrParameter

pytestmark = in_chromium
with_and_without_script = pytest.mark.parametrize(
    "script", [True, False], ids=["with script", "without script"]
)
EXAMPLES = Path(example.__file__).with_name("uwsd.toml")
STEPS = Service(
    name="steps",
    title="One step after the other",
    command=[
        "sh",
        "-c",
        'echo "0.35 reading the catalogue" > "$UWS_PROGRESS"; read line < "$1"; '
        'echo "0.8 writing" > "$UWS_PROGRESS"; read line < "$1"; echo done',
        "steps",
        "{gate}",
    ],
    parameters={"gate": StrParameter(required=True)},
    results=[ResultDeclaration(id="said", path="-")],
)


async def test_the_pages_of_this_browser_are_made_by_the_server(tmp_path: Path, chromium: Browser) -> None:
    async with running(tmp_path, ECHO) as site, tab_in(chromium) as page:
        answer = await page.goto(f"{site.url}/echo/async?RESPONSEFORMAT=xml")
        assert answer
        assert "text/xml" in answer.headers["content-type"]
        assert "<?xml-stylesheet" in await answer.text()
        await expect(page.locator("h1")).to_have_count(0)
        await page.goto(f"{site.url}/echo/async")
        await expect(page.locator("h1")).to_have_text("Jobs of Echo")


@with_and_without_script
async def test_an_image_is_cut_out_looked_at_and_deleted(
    tmp_path: Path, chromium: Browser, image: Path, script: bool
) -> None:
    async with (
        serving(EXAMPLES, "--data", tmp_path / "data", err=tmp_path / "err") as server,
        page_in(chromium, java_script_enabled=script) as page,
    ):
        await page.goto(server.url)
        await page.get_by_role("link", name="Image cutout", exact=True).click()
        await page.get_by_label("image").set_input_files(image)
        await page.get_by_label("ra").fill("266.4")
        await page.get_by_label("dec").fill("-28.93")
        await page.get_by_label("size").fill("5")
        await page.get_by_text("More about the job").click()
        await page.get_by_label("Name of the job").fill("galactic centre")
        await page.get_by_role("button", name="Run").click()
        await expect(page.locator("h1")).to_have_text("galactic centre")
        await until_completed(page, script)
        assert await width_of(page.get_by_alt_text("Result preview")) > 100
        await page.get_by_text("First look at cutout", exact=True).click()
        if not script:
            await page.get_by_role("link", name="First look at cutout").click()
        await expect(page.locator("pre")).to_contain_text("CRVAL1")
        assert await width_of(page.get_by_alt_text("Quick look at cutout.fits")) > 10
        if not script:
            await page.go_back()
        await page.get_by_text("History", exact=True).click()
        if not script:
            await page.get_by_role("link", name="History").click()
        await expect(page.locator("ol.timeline li")).to_have_count(4)
        if not script:
            await page.go_back()
        await page.get_by_text("Delete", exact=True).click()
        await page.get_by_role("button", name="Delete it for good").click()
        await expect(page.locator("h1")).to_have_text("Jobs of Image cutout")
        await expect(page.locator("#jobs")).to_contain_text("There are none.")


async def width_of(picture: Locator) -> int:
    """Return how many pixels a picture has, once it is there."""
    await picture.scroll_into_view_if_needed()
    await expect(picture).to_have_js_property("complete", True)
    width: int = await picture.evaluate("picture => picture.naturalWidth")
    return width


async def until_completed(page: Page, script: bool) -> None:
    """Wait: the page changes by itself, or is reloaded by its reader."""
    status = page.locator("#status .phase")
    if script:
        await page.evaluate("window.stillTheSamePage = true")
        await expect(status).to_have_text("COMPLETED", timeout=60_000)
        assert await page.evaluate("window.stillTheSamePage")
        return
    while await status.inner_text() != "COMPLETED":
        assert await status.inner_text() in ("QUEUED", "EXECUTING")
        await page.reload()


async def test_progress_is_seen_without_reloading(tmp_path: Path, chromium: Browser) -> None:
    with gate(tmp_path / "gate") as door:
        async with running(tmp_path / "data", STEPS) as site, page_in(chromium) as page:
            await page.goto(f"{site.url}/steps")
            await page.get_by_label("gate").fill(str(door.path))
            await page.get_by_role("button", name="Run").click()
            status = page.locator("#status")
            await page.evaluate("window.stillTheSamePage = true")
            await expect(status).to_contain_text("reading the catalogue")
            bar = page.get_by_role("progressbar", name="Progress")
            assert await bar.get_attribute("value") == "0.35"
            door.let_through()
            await expect(status).to_contain_text("writing")
            await expect(bar).to_have_attribute("value", "0.8")
            door.let_through()
            await expect(status).to_contain_text("COMPLETED")
            await expect(bar).to_have_count(0)
            await expect(page.locator("#results")).to_contain_text("said")
            assert await page.evaluate("window.stillTheSamePage")


@with_and_without_script
async def test_a_long_job_is_aborted(tmp_path: Path, chromium: Browser, script: bool) -> None:
    with gate(tmp_path / "gate") as door:
        async with (
            running(tmp_path / "data", GATE) as site,
            page_in(chromium, java_script_enabled=script) as page,
        ):
            job = await site.run("gate", gate=str(door.path))
            await site.executing(job)
            await page.goto(job)
            await expect(page.locator("#status")).to_contain_text("EXECUTING")
            await page.get_by_role("button", name="Abort").click()
            if not script:
                await site.ended(job)
                await page.reload()
            await expect(page.locator("#status")).to_contain_text("ABORTED")
            await expect(page.get_by_role("button", name="Abort")).to_have_count(0)


async def test_the_list_changes_by_itself_and_leads_to_jobs(tmp_path: Path, chromium: Browser) -> None:
    async with running(tmp_path, ECHO) as site, page_in(chromium) as page:
        await page.goto(f"{site.url}/echo/async")
        await expect(page.locator("#jobs")).to_contain_text("There are none.")
        job = await site.run("echo", RUNID="mine")
        row = page.locator("#jobs tbody tr")
        await expect(row).to_contain_text("COMPLETED")
        await site.create("echo", RUNID="other")
        await expect(row).to_have_count(2)
        await page.get_by_label("Phase").select_option("COMPLETED")
        await page.get_by_role("button", name="Show").click()
        await expect(row).to_have_count(1)
        await page.get_by_role("link", name="mine").click()
        assert page.url == job


@with_and_without_script
async def test_what_is_refused_is_said_beside_its_field_which_keeps_what_was_typed(
    tmp_path: Path, chromium: Browser, script: bool
) -> None:
    service = Service(
        name="picky",
        title="Picky",
        command=["true"],
        parameters={
            "count": IntParameter(min=1, max=9, required=True),
            "word": StrParameter(pattern="(?:a|b)+"),
            "file": FileParameter(),
        },
    )
    async with (
        running(tmp_path, service) as site,
        page_in(chromium, java_script_enabled=script) as page,
    ):
        await page.goto(f"{site.url}/picky")
        await page.get_by_label("count").fill("12")
        await page.get_by_role("button", name="Run").click()
        assert await page.get_by_label("count").evaluate("field => field.validity.rangeOverflow")
        assert page.url == f"{site.url}/picky", "the browser itself has refused it"
        await page.get_by_label("count").fill("3")
        await page.get_by_label("word").fill("xyz")
        await page.get_by_role("button", name="Run").click()
        await expect(page.get_by_role("alert")).to_contain_text("does not match the pattern")
        await expect(page.locator("#e-word")).to_have_text("'xyz' does not match the pattern (?:a|b)+")
        await expect(page.get_by_label("word")).to_have_value("xyz")
        await expect(page.get_by_label("count")).to_have_value("3")
        await page.get_by_label("word").fill("ab")
        await page.get_by_role("button", name="Run").click()
        await expect(page.locator("h1")).to_have_text(re.compile("^Job "))
        await until_completed(page, script)


async def test_times_are_those_of_the_reader_and_say_utc_when_asked(
    tmp_path: Path, chromium: Browser
) -> None:
    async with running(tmp_path, ECHO) as site, page_in(chromium, timezone_id="Asia/Kathmandu") as page:
        await site.create("echo")
        await page.goto(f"{site.url}/echo/async")
        time = page.locator("tbody time")
        utc = await time.get_attribute("title") or ""
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", utc)
        assert await time.inner_text() != utc
        style = "{ dateStyle: 'medium', timeStyle: 'medium', timeZone: 'Asia/Kathmandu' }"
        local = await time.evaluate(f"time => new Date(time.dateTime).toLocaleString('en-GB', {style})")
        assert await time.inner_text() == local


async def test_more_values_can_be_given_than_there_are_fields(tmp_path: Path, chromium: Browser) -> None:
    service = Service(
        name="many", title="Many", command=["true"], parameters={"value": IntParameter(multiple=True)}
    )
    async with running(tmp_path, service) as site, page_in(chromium) as page:
        await page.goto(f"{site.url}/many")
        await page.get_by_role("button", name="One more value").click()
        fields = page.locator("input[name=value]")
        for number in range(3):
            await fields.nth(number).fill(str(number))
        await page.get_by_role("button", name="Keep it for later").click()
        await expect(page.locator("#parameters tbody tr")).to_have_count(3)
        await expect(page.locator("#status")).to_contain_text("PENDING")
