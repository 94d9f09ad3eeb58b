"""``make screenshots``: every page, narrow and wide, light and dark, for the documentation."""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from PIL import Image
from playwright.async_api import Page

from tests.browser.site import full_site
from tests.browser.support import NARROW, WIDE, running_chromium

WHERE = Path(__file__).parents[2] / "docs" / "pages"
PICTURES = "Promise.all([...document.images].map(one => { one.loading = 'eager'; return one.decode(); }))"
"""They are fetched when they are scrolled to, and looked at here before."""
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


async def main() -> None:
    """Write one file a page: its four looks beside each other."""
    WHERE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as data:
        async with full_site(Path(data)) as (_, pages), running_chromium() as browser:
            looks: dict[str, list[bytes]] = {name: [] for name in pages}
            for size in (NARROW, WIDE):
                for scheme in SCHEMES:
                    context = await browser.new_context(
                        viewport={"width": size["width"], "height": size["height"]},
                        color_scheme=scheme,
                        locale="en-GB",
                        timezone_id="UTC",
                    )
                    page = await context.new_page()
                    for name, url in pages.items():
                        looks[name].append(await _taken(page, url))
                    await context.close()
    for name, taken in looks.items():
        _beside(taken).save(WHERE / f"{name}.png", optimize=True)


async def _taken(page: Page, url: str) -> bytes:
    await page.goto(url)
    await page.evaluate(PICTURES)
    return await page.screenshot(full_page=True)


def _beside(taken: list[bytes]) -> Image.Image:
    """Return one picture of few colours: what the pages have of them is few."""
    images = [Image.open(BytesIO(one)).convert("RGB") for one in taken]
    gap = 16
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    whole = Image.new("RGB", (width, max(image.height for image in images)), "#808080")
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + gap
    return whole.quantize(64, dither=Image.Dither.NONE)


if __name__ == "__main__":
    asyncio.run(main())
