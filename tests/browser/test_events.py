"""What a browser does of its own accord with a stream of events."""

from __future__ import annotations

import asyncio
from pathlib import Path

from playwright.async_api import Browser, Page, expect

from tests.browser.support import in_chromium, page_in
from tests.harness import Site, running
from tests.web.support import ECHO, PATIENCE, PHASES, record
from uws.model import events as e
from uws.web.events import STREAMS

pytestmark = in_chromium

LISTEN = """url => {
    const source = window.source = new EventSource(url);
    const heard = window.heard = [];
    let waiting = [];
    const hear = what => {
        heard.push(what);
        waiting = waiting.filter(one => !one());
    };
    source.onerror = () => hear(source.readyState === EventSource.CLOSED ? "closed" : "again");
    source.addEventListener("job", event => hear(JSON.parse(event.data).type));
    source.addEventListener("end", () => hear("end"));
    window.until = last => new Promise(done => {
        const look = () => heard.at(-1) === last && (done(heard), true);
        look() || waiting.push(look);
    });
}"""


async def until(page: Page, last: str) -> list[str]:
    """Return all that was heard when ``last`` is the last of it."""
    async with asyncio.timeout(PATIENCE):
        heard: list[str] = await page.evaluate("last => until(last)", last)
        return heard


async def test_it_hears_all_once_and_asks_no_more_when_the_job_has_ended(
    tmp_path: Path, chromium: Browser
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site, page_in(chromium) as page:
        job = await site.create("echo")
        await page.goto(site.url)
        await page.evaluate(LISTEN, f"{job}/events")
        await until(page, "JobCreated")
        for event in PHASES["EXECUTING"]:
            await record(site, job, event)
        await until(page, "JobStarted")
        await record(site, job, e.JobCompleted())
        expected = ["JobCreated", "JobQueued", "JobStarted", "JobCompleted", "end", "again", "closed"]
        assert await until(page, "closed") == expected


async def test_it_comes_back_by_itself_and_hears_what_it_has_missed(
    tmp_path: Path, chromium: Browser
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site, page_in(chromium) as page:
        job = await site.create("echo")
        await page.goto(site.url)
        await page.evaluate(LISTEN, f"{job}/events")
        await until(page, "JobCreated")
        for request in site.app[STREAMS]._open.values():
            assert request.transport
            request.transport.abort()
        for event in PHASES["COMPLETED"]:
            await record(site, job, event)
        expected = ["JobCreated", "again", "JobQueued", "JobStarted", "JobCompleted", "end"]
        assert await until(page, "end") == expected


async def test_many_pages_that_are_seen_share_the_connections_of_the_browser(
    tmp_path: Path, chromium: Browser
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site, page_in(chromium) as first:
        pages = [first, *[await first.context.new_page() for _ in range(7)]]
        for page in pages:
            await page.goto(f"{site.url}/echo/async", timeout=PATIENCE * 1000)
        await until_there_are(site, 4)
        await site.create("echo", RUNID="one")
        for page in pages[4:]:  # the newest, as it happens; a page that stands aside would take longer
            await expect(page.locator("#jobs")).to_contain_text("one", timeout=10_000)
        for page in pages[:4]:
            await expect(page.locator("#jobs")).to_contain_text("one", timeout=40_000)
        for page in pages[4:]:
            await page.close()
        await until_there_are(site, 4)
        await site.create("echo", RUNID="two")
        for page in pages[:4]:
            await expect(page.locator("#jobs")).to_contain_text("two", timeout=10_000)


async def until_there_are(site: Site, count: int) -> None:
    """Return when so many streams have somebody at their other end."""
    async with asyncio.timeout(PATIENCE):
        while sum(bool(request.transport) for request in site.app[STREAMS]._open.values()) != count:
            await asyncio.sleep(0)


async def test_a_page_is_fetched_again_for_what_has_happened_since_and_for_nothing_else(
    tmp_path: Path, chromium: Browser
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site, page_in(chromium) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for url in (await site.create("echo"), f"{site.url}/echo/async"):
            asked.clear()
            await page.goto(url)
            await until_there_are(site, 1)
            job = await site.create("echo") if url.endswith("/async") else url
            await site.post(job, {"x": "changed"})
            shown = page.locator("#jobs tbody tr" if job != url else "#parameters td.value")
            await expect(shown.first).to_contain_text(job[-32:] if job != url else "changed")
            assert sum(one == url for one in asked) == 2
            await page.goto("about:blank")
            await until_there_are(site, 0)
