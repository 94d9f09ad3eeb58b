"""The story of an astronomer with a browser, once in Firefox; and what must not happen there, either."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import __main__ as example
from tests.browser.firefox import FIREFOX, Tab, firefox
from tests.browser.hostile import HOSTILE
from tests.browser.support import in_loop
from tests.daemon import serving
from tests.harness import running
from tests.web.support import ECHO, GATE, gate, keeping

pytestmark = [
    pytest.mark.skipif(not FIREFOX, reason="there is no Firefox here: apt-get install firefox-esr"),
    pytest.mark.timeout(180),
    in_loop,
]
EXAMPLES = Path(example.__file__).with_name("uwsd.toml")


async def has_phase(tab: Tab, phase: str) -> None:
    await tab.until(f"document.querySelector('#status .phase')?.textContent === '{phase}'")


async def test_an_image_is_cut_out_watched_and_deleted(tmp_path: Path, image: Path) -> None:
    async with (
        serving(EXAMPLES, "--data", tmp_path / "data", err=tmp_path / "err") as server,
        firefox() as tab,
    ):
        await tab.goto(server.url)
        await tab.click("Image cutout")
        await tab.until("!!document.querySelector('form.order')")
        await tab.choose_file("image", image)
        for name, text in (("ra", "400"), ("dec", "-28.93"), ("size", "5")):
            await tab.fill(name, text)
        await tab.click("More about the job")
        await tab.fill("RUNID", "galactic centre")
        await tab.click("Run")
        assert await tab.run("document.querySelector('[name=ra]').matches(':user-invalid')"), "it is refused"
        await tab.run("document.querySelector('form.order').noValidate = true")
        await tab.click("Run")
        await tab.until("document.querySelector('#e-ra')?.textContent === '400 is above the maximum 360'")
        assert await tab.run("document.querySelector('[name=ra]').value") == "400"
        await tab.fill("ra", "266.4")
        await tab.choose_file("image", image)
        await tab.click("Run")
        await tab.until("document.querySelector('h1')?.textContent === 'galactic centre'")
        await tab.run("window.stillTheSamePage = true")
        await has_phase(tab, "COMPLETED")
        assert await tab.run("window.stillTheSamePage")
        await tab.run("document.querySelector('img').scrollIntoView()")
        await tab.until("document.querySelector('img').naturalWidth > 100")
        assert await tab.run("document.querySelector('time').title.endsWith(' UTC')")
        # A picture that comes now would move what is clicked on away from under the pointer.
        await tab.until("[...document.images].every(one => one.complete)")
        await tab.click("Delete")
        await tab.click("Delete it for good")
        await tab.until("document.querySelector('#jobs')?.textContent.includes('There are none.')")


async def test_a_long_job_is_aborted_and_hostile_results_do_nothing(tmp_path: Path) -> None:
    kept = {kind: keeping(media_type, kind.replace(" ", "-")) for kind, (media_type, _) in HOSTILE.items()}
    with gate(tmp_path / "gate") as door:
        async with running(tmp_path / "data", ECHO, GATE, *kept.values()) as site, firefox() as tab:
            job = await site.run("gate", gate=str(door.path))
            await tab.goto(job)
            await has_phase(tab, "EXECUTING")
            await tab.click("Abort")
            await has_phase(tab, "ABORTED")

            for kind, service in kept.items():
                job = await site.run(service.name, file=HOSTILE[kind][1].encode())
                await site.ended(job)
                for url in (job, f"{job}/results/kept/preview", f"{job}/results/kept"):
                    await tab.goto(url)
                    assert await tab.run("document.title") != "acted"
                    assert await tab.run("location.href") == url
            await tab.goto(site.url)
            assert len((await site.get("/echo/async")).xml) == 0
