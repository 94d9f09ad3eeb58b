"""No page leads to where there is nothing."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urldefrag, urljoin

from lxml import html

from tests.browser.site import full_site
from tests.web.support import GRAPHVIZ

REDIRECTS = (301, 302, 303, 307, 308)


@GRAPHVIZ
async def test_every_link_and_all_that_unfolds_leads_somewhere(tmp_path: Path) -> None:
    async with full_site(tmp_path) as (site, pages):
        # A page of nothing is among them, and a job that is at work though it was never started.
        meant = {pages["not-found"], f"{pages['job-executing']}/logs/"}
        ahead, seen, nowhere = list(pages.values()), set[str](), []
        while ahead:
            url = ahead.pop()
            if url in seen or not url.startswith(site.url):
                continue
            seen.add(url)
            answer = await site.get(url, headers={"Accept": "text/html"})
            if answer.status in REDIRECTS:
                ahead.append(urljoin(url, answer.location))
            elif answer.status != 200:
                nowhere += [url] if not any(url.startswith(known) for known in meant) else []
            elif "html" in answer.headers["Content-Type"]:
                page = html.fromstring(answer.body)
                links = page.xpath(
                    "//@href | //@src | //details/@data-include | //form[@role='search']/@action"
                )
                ahead += [urldefrag(urljoin(url, link)).url for link in links]
        assert not nowhere
        assert len(seen) > 40
