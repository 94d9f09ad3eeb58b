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
from playwright.async_api import Browser, expect
from pyvo import samp

from tests.browser.site import full_site
from tests.browser.support import in_chromium, page_in

PORT = 21012


SHOWN = ("table.load.votable", "image.load.fits")

pytestmark = in_chromium


def a_hub_answers() -> bool:
    with closing(socket.socket()) as tried:
        return tried.connect_ex(("127.0.0.1", PORT)) == 0


class Agreeing(samp.WebProfileDialog):  # type: ignore[misc]  # it has no types
    """A user who lets every page in."""

    def show_dialog(self, *_: object) -> None:
        self.consent()


@contextmanager
def hub(lock: Path) -> Iterator[Queue[tuple[str, dict[str, str]]]]:
    """Run a hub and a program that shows tables and images; gives what that is sent, and as what."""
    dialog, shown, over = Agreeing(), Queue[tuple[str, dict[str, str]]](), threading.Event()

    def agree() -> None:
        while not over.wait(0.05):
            dialog.handle_queue()

    user = threading.Thread(target=agree)
    server = samp.SAMPHubServer(
        web_profile_dialog=dialog, lockfile=str(lock), label="of a test", addr="127.0.0.1"
    )
    server.start()
    client = samp.SAMPIntegratedClient(name="Viewer", addr="127.0.0.1")

    def show(_key: str, _sender: str, message: str, params: dict[str, str], _extra: Any) -> None:
        shown.put((message, params))

    try:
        user.start()
        client.connect(hub=server)
        for message in SHOWN:
            client.bind_receive_notification(message, show)
        yield shown
        client.disconnect()
    finally:
        over.set()
        user.join()
        server.stop()


async def test_where_a_hub_answers_tables_and_images_are_sent_to_the_programs_that_show_them(
    tmp_path: Path, chromium: Browser
) -> None:
    if a_hub_answers():
        pytest.skip(f"another SAMP hub has port {PORT}, which the standard fixes")
    async with full_site(tmp_path / "data") as (_, pages), page_in(chromium) as page:
        await page.goto(pages["job"], wait_until="networkidle")
        rows = page.locator("tr[data-samp]")
        await expect(rows).to_have_count(2)
        await expect(page.get_by_role("button", name="SAMP")).to_have_count(0)
        with hub(tmp_path / "hub") as shown:
            await page.reload()
            for message, name in zip(SHOWN, ("stars", "image"), strict=True):
                await page.get_by_role("button", name=f"Send {name} to other programs by SAMP").click()
                sent = await asyncio.to_thread(shown.get, timeout=20)
                assert sent == (message, {"url": f"{pages['job']}/results/{name}", "name": name})
                await expect(rows.filter(has_text=name)).to_contain_text(f"{name} was sent.")
