"""A result is sent to other programs of the desktop by SAMP (1.3, section 5: the Web Profile)."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from playwright.async_api import expect
from pyvo import samp

from tests.browser.site import full_site
from tests.browser.support import needs_chromium, page_in

PORT = 21012


def a_hub_answers() -> bool:
    with closing(socket.socket()) as tried:
        return tried.connect_ex(("127.0.0.1", PORT)) == 0


pytestmark = [
    needs_chromium,
    pytest.mark.timeout(120),
    pytest.mark.skipif(a_hub_answers(), reason="the desktop's own SAMP hub runs"),
]


class Agreeing(samp.WebProfileDialog):  # type: ignore[misc]
    """A user who lets every page in."""

    def show_dialog(self, *_: object) -> None:
        self.consent()


@contextmanager
def hub(lock: Path) -> Iterator[Queue[dict[str, str]]]:
    """Run a hub and a program that shows tables; gives what that is sent."""
    dialog, shown, over = Agreeing(), Queue[dict[str, str]](), threading.Event()

    def agree() -> None:
        while not over.wait(0.05):
            dialog.handle_queue()

    user = threading.Thread(target=agree)
    server = samp.SAMPHubServer(
        web_profile_dialog=dialog, lockfile=str(lock), label="of a test", addr="127.0.0.1"
    )
    server.start()
    client = samp.SAMPIntegratedClient(name="Table viewer", addr="127.0.0.1")

    def show(_key: str, _sender: str, _mtype: str, params: dict[str, str], _extra: Any) -> None:
        shown.put(params)

    try:
        user.start()
        client.connect(hub=server)
        client.bind_receive_notification("table.load.votable", show)
        yield shown
        client.disconnect()
    finally:
        over.set()
        user.join()
        server.stop()


async def test_where_a_hub_answers_a_table_is_sent_to_the_programs_that_show_tables(tmp_path: Path) -> None:
    async with full_site(tmp_path / "data") as (_, pages), page_in() as page:
        await page.goto(pages["job"], wait_until="networkidle")
        await expect(page.locator("tr[data-samp]")).to_have_count(1)
        await expect(page.get_by_role("button", name="SAMP")).to_have_count(0)
        with hub(tmp_path / "hub") as shown:
            await page.reload()
            await page.get_by_role("button", name="Send stars to other programs by SAMP").click()
            sent = await asyncio.to_thread(shown.get, timeout=20)
            assert sent == {"url": f"{pages['job']}/results/stars", "name": "stars"}
            await expect(page.locator("tr[data-samp]")).to_contain_text("stars was sent.")
