"""What a browser does of its own accord with a stream of events."""

from __future__ import annotations

import asyncio
from pathlib import Path

from playwright.async_api import Browser, Page

from tests.browser.support import in_chromium, page_in
from tests.harness import running
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
