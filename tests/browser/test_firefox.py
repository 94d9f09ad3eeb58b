"""The story of an astronomer with a browser, once in Firefox."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import __main__ as example
from tests.browser.firefox import FIREFOX, firefox
from tests.browser.support import IMAGE, needs_image
from tests.daemon import serving

pytestmark = [
    pytest.mark.skipif(not FIREFOX, reason="there is no Firefox here"),
    needs_image,
    pytest.mark.timeout(180),
]
EXAMPLES = Path(example.__file__).with_name("uwsd.toml")


async def test_an_image_is_cut_out_watched_and_deleted(tmp_path: Path) -> None:
    async with (
        serving(EXAMPLES, "--data", tmp_path / "data", err=tmp_path / "err") as server,
        firefox() as tab,
    ):
        await tab.goto(server.url)
        await tab.click("Image cutout")
        await tab.until("!!document.querySelector('form.order')")
        await tab.choose_file("[name=image]", IMAGE)
        for name, text in (("ra", "266.4"), ("dec", "-28.93"), ("size", "5"), ("RUNID", "galactic centre")):
            await tab.fill(name, text)
        await tab.click("Run")
        await tab.until("document.querySelector('h1')?.textContent === 'galactic centre'")
        await tab.run("window.stillTheSamePage = true")
        await tab.until("document.querySelector('#status .phase')?.textContent === 'COMPLETED'")
        assert await tab.run("window.stillTheSamePage")
        await tab.run("document.querySelector('img').scrollIntoView()")
        await tab.until("document.querySelector('img').naturalWidth > 100")
        assert await tab.run("document.querySelector('time').title.endsWith(' UTC')")
        await tab.click("Delete")
        await tab.click("Delete it for good")
        await tab.until("document.querySelector('#jobs')?.textContent.includes('There are none.')")
