"""A job list of any length: sent page by page, ended when its reader leaves, never a part for the whole."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from lxml import etree

from eventstore import Metadata, StoreUnavailable
from projections import Cursor, JobReadModel, JobReference, Page
from tests.harness import NAMESPACES, Site, running
from tests.web.support import ECHO, PATIENCE
from uws import Caller, Changes
from uws.jobs import JobFilter, new_job_id
from uws.jobs.questions import PAGE
from uws.model import events as e
from uws.web.documents import JobList, serialise

MANY = 8 * PAGE + 7


async def make(site: Site, count: int) -> list[str]:
    """Put so many jobs into the log, at once, and return their ids, newest first."""
    store = site.node.backend.store
    created = e.JobCreated(service="echo", declaration="", execution_duration=60, destruction=None)
    await asyncio.gather(
        *(
            store.append(e.job_stream(new_job_id()), [e.encode(created, Metadata())], expected=0)
            for _ in range(count)
        )
    )
    return [reference.id for reference in await site.node.services[0].get_ids_and_phases(None)]


@asynccontextmanager
async def small_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int) -> AsyncIterator[Site]:
    """Serve ``count`` jobs, of which two are read at once."""
    monkeypatch.setattr("uws.jobs.questions.PAGE", 2)
    async with running(tmp_path, ECHO) as site:
        for _ in range(count):
            await site.node.services[0].create_job(Changes(), Caller())
        yield site


async def test_a_long_list_comes_in_chunks_none_of_which_is_large(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        ids = await make(site, MANY)
        assert len(ids) == MANY
        async with site.session.get(site.list_url("echo")) as answer:
            assert answer.status == 200
            assert answer.headers["Transfer-Encoding"] == "chunked"
            assert answer.headers["Content-Type"] == "text/xml; charset=utf-8"
            assert answer.headers["ETag"]
            assert answer.headers["X-Request-ID"]
            sizes, chunk, body = [], 0, b""
            async for part, ends in answer.content.iter_chunks():
                body, chunk = body + part, chunk + len(part)
                if ends:
                    sizes.append(chunk)
                    chunk = 0
        assert [entry.get("id") for entry in etree.fromstring(body)] == ids
        assert len(sizes) > MANY // PAGE - 2
        assert max(sizes) < 3 * len(body) * PAGE / MANY


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
async def test_in_parts_a_list_is_the_same_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    async with small_pages(monkeypatch, tmp_path, count) as site:
        uws = site.node.services[0].at(site.url)
        whole = serialise(JobList(uws).whole(await uws.get_ids_and_phases(None)))
        answer = await site.get("/echo/async")
        assert answer.body == whole
        assert ("Content-Length" in answer.headers) is (count < 2)
        assert (await site.get("/echo/async?LAST=3")).xml.xpath("count(*)") == min(count, 3)
        filtered = await site.get("/echo/async?TEXT=0")
        assert sorted(filtered.xml.xpath("//@id")) == sorted(answer.xml.xpath("//@id"))


async def test_a_short_list_has_its_length(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        await make(site, PAGE - 1)
        answer = await site.get("/echo/async")
        assert int(answer.headers["Content-Length"]) == len(answer.body)


async def test_memory_stays_flat_however_long_the_list_is(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        peaks = []
        for more in (2 * PAGE, 10 * PAGE):
            await make(site, more)
            tracemalloc.start()
            async with site.session.get(site.list_url("echo")) as answer:
                while await answer.content.read(1 << 14):
                    pass
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.5 * peaks[0]


async def test_head_tells_of_a_long_list_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with small_pages(monkeypatch, tmp_path, 9) as site:
        get, head = await site.get("/echo/async"), await site.request("HEAD", "/echo/async")
        assert (head.status, head.body) == (200, b"")
        for name in ("ETag", "Vary", "Cache-Control", "Content-Type"):
            assert head.headers[name] == get.headers[name]
        assert (await site.get("/echo/async")).body == get.body  # on the same connection, in step


class Pages:
    """The job list's pages as they are read; what comes of the ``nth`` one is up to the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read, self.broken_from = 0, 1 << 30
        page = JobReadModel.page

        async def counted(model: JobReadModel, *arguments: Any, **named: Any) -> Sequence[JobReference]:
            self.read += 1
            if self.read >= self.broken_from:
                raise StoreUnavailable("the read models cannot be read: disk I/O error")
            return await page(model, *arguments, **{**named, "before": None} if self.endless else named)

        self.endless = False
        monkeypatch.setattr(JobReadModel, "page", counted)


@pytest.mark.parametrize("broken_from", [1, 2])
async def test_what_fails_before_the_first_byte_has_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_from: int
) -> None:
    async with small_pages(monkeypatch, tmp_path, 9) as site:
        Pages(monkeypatch).broken_from = broken_from
        answer = await site.get("/echo/async")
        assert answer.status == 503
        assert answer.text.startswith("ServiceUnavailable: the read models cannot be read")
        assert answer.headers["Retry-After"]
        assert "ETag" not in answer.headers


async def test_a_list_that_breaks_off_is_never_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with small_pages(monkeypatch, tmp_path, 9) as site:
        Pages(monkeypatch).broken_from = 4
        with caplog.at_level(logging.ERROR), pytest.raises(aiohttp.ClientError):
            await site.get("/echo/async")
        assert "the job list broke off" in caplog.text
        monkeypatch.undo()
        assert len((await site.get("/echo/async")).xml) == 9


@asynccontextmanager
async def reading(site: Site, query: str = "") -> AsyncIterator[asyncio.StreamReader]:
    """Ask for a list on a connection of its own, and take no more of it than is read."""
    address = urlsplit(site.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1000)
    try:
        writer.write(f"GET /echo/async?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"<uws:jobs")
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


async def until_none_is_read(site: Site, pages: Pages) -> None:
    """Return when no page is read any more while others are answered."""
    async with asyncio.timeout(PATIENCE):
        seen = -1
        while pages.read != seen:
            seen = pages.read
            for _ in range(20):
                await site.get("/availability")


async def test_a_client_that_does_not_read_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, ECHO) as site:
        await make(site, PAGE)
        pages = Pages(monkeypatch)
        pages.endless = True
        async with reading(site) as reader:
            await until_none_is_read(site, pages)
            seen = pages.read
            while pages.read == seen:
                await reader.readuntil(b"</uws:jobref>")


async def test_a_client_that_leaves_ends_its_list_and_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, ECHO) as site:
        await make(site, PAGE)
        pages = Pages(monkeypatch)
        pages.endless = True
        async with reading(site) as reader:
            while pages.read < 10:
                await reader.readuntil(b"</uws:jobref>")
        await until_none_is_read(site, pages)
    assert [entry for entry in caplog.records if entry.levelno >= logging.WARNING] == []


async def test_a_client_that_leaves_ends_the_search_for_what_there_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, ECHO) as site:
        pages = Pages(monkeypatch)

        async def in_vain(*_: object, **__: object) -> Page:
            pages.read += 1
            await asyncio.sleep(0)
            return Page([], Cursor(1, 1))

        monkeypatch.setattr(JobReadModel, "entries", in_vain)
        async with reading(site, "TEXT=never"):
            while pages.read < 10:
                await site.get("/availability")
        await until_none_is_read(site, pages)


async def test_others_are_answered_while_a_long_list_is_sent(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        await make(site, MANY)
        async with site.session.get(site.list_url("echo")) as answer:
            await answer.content.readuntil(b"</uws:jobref>")
            assert (await site.get("/availability")).status == 200
            assert (await site.post("/echo/async", {"x": "1"})).status == 303
            body = await answer.content.read()
        assert body.endswith(b"</uws:jobs>\n")


async def test_a_filter_that_finds_little_reads_on_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, ECHO) as site:
        wanted = [await site.create("echo", x="rare") for _ in range(2)]
        for _ in range(9):
            await site.node.services[0].create_job(Changes(), Caller())
        entries = site.node.backend.jobs.entries

        async def few(*arguments: Any, **named: Any) -> Any:
            return await entries(*arguments, **named, examine=2)

        monkeypatch.setattr(site.node.backend.jobs, "entries", few)
        document = (await site.get("/echo/async?x=rare")).xml
        assert document.xpath("//@xlink:href", namespaces=NAMESPACES) == wanted[::-1]
        assert len((await site.get("/echo/async?x=never")).xml) == 0
        assert len((await site.get("/echo/async?x=rare&LAST=1")).xml) == 1


async def test_pages_are_of_bounded_size(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        ids = await make(site, 2 * PAGE + 1)
        sizes, found = [], []
        async for page in site.node.services[0].pages(None, JobFilter(), last=2 * PAGE):
            sizes.append(len(page))
            found += [reference.id for reference in page]
        assert (sizes, found) == ([PAGE, PAGE], ids[:-1])
