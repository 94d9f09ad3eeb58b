"""The form in which a job that has not run is changed: what it had, what is taken away, what it lacks."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from lxml import html

from tests.harness import Answer, BasicUsers, Site, job_id, running
from tests.web.support import ECHO, FILES, NEEDY, PHASES, TYPES, record
from tests.web.test_order_form import BROWSER, field, order, page_of, problems, submit, values_of

Pairs = list[tuple[str, str | bytes]]


async def form_of(site: Site, job: str, service: str, **options: str) -> html.FormElement:
    return order(await page_of(site, f"/{service}?change-job={job_id(job)}", **options))


async def send(site: Site, job: str, pairs: Pairs, **options: str) -> Answer:
    """Send the form as a browser does."""
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in pairs:
        if isinstance(value, bytes):
            form.add_field(name, value, filename="file.dat" if value else "")
        else:
            form.add_field(name, value)
    return await site.post(f"{job}/parameters?ACTION=REPLACE", form, headers=BROWSER, **options)


async def test_a_job_that_is_kept_for_later_need_not_be_complete_and_its_page_says_what_is_missing(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, NEEDY, executes=False) as site:
        form = order(await page_of(site, "/needy"))
        later, run = form.xpath(".//button[.='Keep it for later']"), form.xpath(".//button[@value='RUN']")
        assert "formnovalidate" in later[0].attrib
        assert "formnovalidate" not in run[0].attrib
        job = (await submit(site, "needy", [("a", ""), ("b", "x"), ("c", "7")])).location
        page = await page_of(site, job)
        assert "without a value for a." in page.get_element_by_id("status").text_content()
        assert not page.xpath("//button[@value='RUN']")
        (link,) = page.xpath("//a[.='Change the parameters']/@href")
        assert (await site.get(f"{site.list_url('needy')}/{link}")).location.endswith(
            f"?change-job={job_id(job)}"
        )
        await send(site, job, [("a", "1"), ("b", "x"), ("c", "7")])
        page = await page_of(site, job)
        assert "without a value" not in page.get_element_by_id("status").text_content()
        assert page.xpath("//button[@value='RUN']")


async def test_the_form_has_what_the_job_has_and_sent_unchanged_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES, executes=False) as site:
        job = await site.create(
            "types", whole="3", band=["J", "K"], text="a", flag="true", RUNID="mine", EXECUTIONDURATION="77"
        )
        before = (await site.get(job)).body
        form = await form_of(site, job, "types")
        assert form.get("action") == f"./types/async/{job_id(job)}/parameters?ACTION=REPLACE"
        answer = await send(site, job, [*form.form_values()])
        assert (answer.status, answer.location) == (303, job)
        assert (await site.get(job)).body == before


async def test_what_is_emptied_and_what_is_no_longer_ticked_is_taken_away(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES, executes=False) as site:
        job = await site.create("types", whole="3", ra="1", band=["J", "K"], text="a", RUNID="mine")
        pairs: Pairs = [("whole", ""), ("ra", "2"), ("text", "a"), ("RUNID", "")]
        assert (await send(site, job, pairs)).status == 303
        assert await values_of(site, job) == [("ra", "2"), ("text", "a")]
        document = await site.document(job)
        assert not document.findtext("{*}runId")
        version = (await site.get(f"{job}/history")).body
        await send(site, job, pairs)
        assert (await site.get(f"{job}/history")).body == version, "the same again is no change"


async def test_files_of_the_job_stay_unless_they_are_unticked_or_another_comes(tmp_path: Path) -> None:
    async with running(tmp_path, FILES, authenticator=BasicUsers(), executes=False) as site:
        job = await site.create("files", user="ada", image=b"the image", more=[b"one", b"two"])
        form = await form_of(site, job, "files", user="ada")
        kept = [value for name, value in form.form_values() if name == "UPLOAD"]
        assert kept == [f"image,{job}/parameters/image", *(f"more,{job}/parameters/more/{n}" for n in (1, 2))]
        answer = await send(site, job, [("UPLOAD", kept[0]), ("UPLOAD", kept[2]), ("image", b"")], user="ada")
        assert answer.status == 303
        assert (await site.get(f"{job}/parameters/image", user="ada")).body == b"the image"
        assert (await site.get(f"{job}/parameters/more", user="ada")).body == b"two"
        await send(site, job, [("image", b"another")], user="ada")
        assert (await site.get(f"{job}/parameters/image", user="ada")).body == b"another"
        assert (await site.get(f"{job}/parameters/more", user="ada")).status == 404


async def test_a_job_is_changed_and_run_in_one_step(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.create("echo", x="before")
        answer = await send(site, job, [("x", "after"), ("PHASE", "RUN")])
        assert answer.location == job
        await site.ended(job)
        assert (await site.get(f"{job}/results/out")).text == "after"


async def test_a_change_that_is_refused_changes_nothing_and_comes_back_beside_its_fields(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, NEEDY, executes=False) as site:
        job = await site.create("needy", a="1", b="x")
        before = (await site.get(job)).body
        pairs: Pairs = [("a", "many"), ("b", ""), ("RUNID", "other"), ("PHASE", "RUN")]
        answer = await send(site, job, pairs)
        assert answer.status == 400
        url = f"{job}/parameters"
        page = html.fromstring(answer.body, base_url=url)
        page.make_links_absolute()
        assert problems(page) == {
            "a": "expected a whole number, got 'many'",
            "b": "a value is required",
        }
        assert field(page, "a")["value"] == "many"
        assert order(page).action == f"{url}?ACTION=REPLACE"
        for link in page.xpath("//nav//a/@href | //main//p/a/@href | //link/@href"):
            assert (await site.get(link)).status in (200, 303), link
        assert (await site.get(job)).body == before


@pytest.mark.parametrize("phase", ["COMPLETED", "EXECUTING", "ABORTED"])
async def test_a_job_that_has_run_is_not_changed(tmp_path: Path, phase: str) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        await record(site, job, *PHASES[phase])
        answer = await site.get(f"/echo?change-job={job_id(job)}", headers=BROWSER)
        assert answer.status == 403
        assert "only possible in HELD, PENDING" in answer.text
        assert not (await page_of(site, job)).xpath("//a[.='Change the parameters']")


async def test_only_the_owner_changes_a_job_and_in_its_own_service(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, NEEDY, authenticator=BasicUsers(), executes=False) as site:
        job = await site.create("echo", user="ada")
        for service, user, status in (("echo", "bob", 403), ("echo", None, 401), ("needy", "ada", 400)):
            answer = await site.get(f"/{service}?change-job={job_id(job)}", user=user)
            assert answer.status == status


async def test_for_programs_replacing_is_an_action_of_its_own_and_no_way_to_create(tmp_path: Path) -> None:
    async with running(tmp_path, TYPES, executes=False) as site:
        job = await site.create("types", whole="3", text="a")
        assert (await site.post(f"{job}/parameters", {"ra": "1"})).status == 303
        assert len(await values_of(site, job)) == 3
        assert (await site.post(job, {"ra": "2", "ACTION": "REPLACE"})).status == 303
        assert await values_of(site, job) == [("ra", "2")]
        answer = await site.post(f"{job}/parameters", {"ra": "400", "ACTION": "REPLACE"})
        assert answer.text == "UsageFault: ra: 400 is above the maximum 360\n"
        assert (await site.post("/types/async", {"ACTION": "REPLACE"})).status == 400
        answer = await site.post(job, {"ACTION": "KEEP"})
        assert "expected DELETE or REPLACE, got 'KEEP'" in answer.text
