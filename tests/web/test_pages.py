"""Pages: who gets them, that they are what the stylesheets make of the XML, and what they may do."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from lxml import etree, html

from tests.harness import HREF, BasicUsers, ManualClock, Site, job_id, running
from tests.web.support import ECHO, FAIL, FILES, NEEDY, PHASES, TYPES, record
from uws.jobs import UserUWS
from uws.model import events as e
from uws.web.pages import STATIC

CHROMIUM = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7"
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
NEWER_JAVA = "text/html, image/gif, image/jpeg, */*; q=0.2"
XML, HTML, JSON = "text/xml; charset=utf-8", "text/html; charset=utf-8", "application/json"
EVIL = "</script><script>alert('x')</script> ?> & \"more\""
ACCEPT = [
    (None, XML), ("*/*", XML), ("text/xml", XML), ("application/xml", XML), ("", XML),
    ("application/x-votable+xml", XML), (JAVA, XML), (NEWER_JAVA, XML), ("text/xml, text/html;q=0.9", XML),
    ("text/html;q=0.5, application/xml;q=0.6", XML), ("text/html;q=0, */*", XML),
    (CHROMIUM, HTML), (FIREFOX, HTML), ("text/html", HTML), ("text/html, */*;q=0.1", HTML),
    ("application/xml;q=0.5, text/html;q=0.6", HTML), ("application/json", JSON),
]  # fmt: skip


async def resources(site: Site) -> list[str]:
    """Return the URLs of all that has a page, of a job that has ended."""
    job = await site.run("echo", x=EVIL)
    await site.ended(job)
    return [
        "/",
        "/echo",
        "/echo/async?LIMIT=50",
        job,
        *(f"{job}/{below}" for below in ("parameters", "results", "history")),
    ]


async def test_pages_are_for_those_who_prefer_them_and_xml_for_all_others(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for url in await resources(site):
            for accept, expected in ACCEPT:
                skip = ["Accept"] if accept is None else []
                headers = {} if accept is None else {"Accept": accept}
                answer = await site.get(url, headers=headers, skip_auto_headers=skip)
                assert (answer.status, answer.headers["Content-Type"]) == (200, expected), (url, accept)
                assert answer.headers["Vary"] == "Accept"
            assert (await site.get(url, params={"RESPONSEFORMAT": "html"})).text.startswith("<!DOCTYPE html>")
        job = (await resources(site))[3]
        for url in (f"{job}/results/out/preview", f"{job}/logs/stdout/preview"):
            for accept, expected in ACCEPT:
                answer = await site.get(url, headers={"Accept": accept or "*/*"})
                assert answer.headers["Content-Type"] == (XML if expected is JSON else expected)


async def test_a_page_has_one_style_sheet_and_one_script_and_nothing_of_both_within(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        urls = await resources(site)
        for url in (*urls, f"{urls[3]}/results/out/preview", f"/echo?from-job={job_id(urls[3])}", "/nowhere"):
            answer = await site.get(url, headers={"Accept": "text/html"})
            page = html.fromstring(answer.body, base_url=url if url.startswith("http") else site.url + url)
            page.make_links_absolute()
            assert page.xpath("//link[@rel='stylesheet']/@href") == [f"{site.url}/static/uws.css"]
            assert page.xpath("//script/@src") == [f"{site.url}/static/uws.js"]
            assert not page.xpath("//style | //@style | //script/text() | //@*[starts-with(name(), 'on')]")


async def test_who_only_asks_for_the_head_of_a_page_gets_it(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for url in await resources(site):
            page = await site.get(url, headers={"Accept": FIREFOX})
            head = await site.request("HEAD", url, headers={"Accept": FIREFOX})
            assert (head.status, head.body) == (200, b"")
            for name in ("Content-Type", "Content-Length", "ETag", "Vary"):
                assert head.headers[name] == page.headers[name]


async def test_where_there_are_users_a_page_varies_with_them(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        await site.create("echo", user="ada")
        tags = set()
        for user in ("ada", "bob", None):
            answer = await site.get("/echo/async", user=user, headers={"Accept": CHROMIUM})
            assert answer.headers["Vary"] == "Accept, Authorization, Cookie"
            assert answer.headers["Cache-Control"] == "private, no-cache"
            tags.add(answer.headers["ETag"])
        assert len(tags) == 3


@pytest.mark.skipif(not shutil.which("java"), reason="there is no Java here")
async def test_a_java_program_that_asks_for_nothing_in_particular_gets_xml(tmp_path: Path) -> None:
    program = tmp_path / "Get.java"
    program.write_text(
        "public class Get { public static void main(String[] urls) throws Exception {"
        " for (String url : urls) System.out.println("
        "new java.net.URL(url).openConnection().getContentType()); } }"
    )
    async with running(tmp_path, ECHO) as site:
        urls = [url if url.startswith("http") else site.url + url for url in await resources(site)]
        command = ["java", program, *urls]
        ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
        assert ran.stdout.splitlines() == [XML] * len(urls)


async def test_each_form_is_held_and_asked_for_again_by_itself(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        for url in await resources(site):
            tags = {}
            for accept in ("text/xml", "text/html", "application/json"):
                tags[accept] = (await site.get(url, headers={"Accept": accept})).headers["ETag"]
            assert len(set(tags.values())) == 3
            for accept in tags:
                for other, tag in tags.items():
                    headers = {"Accept": accept, "If-None-Match": tag}
                    assert (await site.get(url, headers=headers)).status == (304 if other == accept else 200)


@pytest.mark.skipif(not shutil.which("xsltproc"), reason="there is no xsltproc here")
async def test_a_page_is_what_xsltproc_makes_of_the_xml(tmp_path: Path) -> None:
    services = (ECHO, TYPES, FAIL, NEEDY)
    async with running(tmp_path / "data", *services, clock=ManualClock(), executes=False) as site:
        urls = ["/", "/echo", "/types", "/types?ra=1&ra=2&band=J&word=x", "/echo/async?LIMIT=50"]
        urls += [
            "/echo/async?LIMIT=2",
            "/echo/async?LIMIT=50&PHASE=ERROR&TEXT=%3C%3F%3E",
            "/echo/async?LIMIT=50&PHASE=ERROR&PHASE=HELD&RUNID=%3C%3E&x=a+%26",
            "/types/async?LIMIT=50",
        ]
        for phase in PHASES:
            job = await site.create("echo", x=EVIL, RUNID=phase)
            await record(site, job, *PHASES[phase])
            urls += [job, f"{job}/parameters", f"{job}/results", f"{job}/history"]
        await record(site, await site.create("echo"), *PHASES["EXECUTING"], e.ProgressMade(fraction=0.35))
        await site.post("/echo/sync")
        urls += [await site.run("echo", RUNID="QUEUED"), f"/echo?from-job={job_id(job)}"]
        kept = await site.create("needy", b="x")
        urls += [kept, f"/needy?change-job={job_id(kept)}"]
        for url in urls:
            await assert_equal_to_what_xsltproc_makes(site, url, tmp_path)
    async with running(tmp_path / "other", ECHO, FAIL) as site:
        urls = await resources(site)
        job, failed = urls[3], await site.run("fail")
        await site.ended(failed)
        urls += [f"{job}/results/out/preview", f"{job}/logs/stdout/preview", failed, f"{failed}/history"]
        for url in urls:
            await assert_equal_to_what_xsltproc_makes(site, url, tmp_path)


async def assert_equal_to_what_xsltproc_makes(site: Site, url: str, directory: Path) -> None:
    document = await site.get(url)
    page = (await site.get(url, headers={"Accept": "text/html"})).body
    file = directory / "document.xml"
    file.write_bytes(document.body)
    (named,) = document.xml.xpath("preceding-sibling::processing-instruction('xml-stylesheet')")
    stylesheet = STATIC / "xsl" / Path(urlsplit(named.get("href")).path).name
    made = subprocess.run(["xsltproc", "--nonet", stylesheet, file], capture_output=True, check=True)
    assert html.tostring(html.fromstring(made.stdout)) == html.tostring(html.fromstring(page)), url
    assert made.stdout == page, url


async def test_what_stands_in_jobs_stays_text(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        job = await site.run("echo", x=EVIL, RUNID=EVIL)
        await site.ended(job)
        for url in (
            job,
            f"{job}/parameters",
            f"{job}/history",
            "/echo/async",
            "/echo",
            f"/echo?from-job={job_id(job)}",
        ):
            page = html.fromstring((await site.get(url, headers={"Accept": "text/html"})).body)
            assert not page.xpath("//body//script")
        listed = await site.get("/echo/async", params={"TEXT": EVIL}, headers={"Accept": "text/html"})
        page = html.fromstring(listed.body)
        assert len(page.xpath("//tbody/tr")) == 1
        assert page.xpath("string(//input[@name='TEXT']/@value)") == EVIL.replace("?>", "? >")


# Errors


async def test_errors_are_pages_for_those_who_prefer_them_and_text_for_others(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, authenticator=BasicUsers()) as site:
        job = await site.create("echo", user="ada")
        for method, url, user, status in (
            ("GET", "/nowhere", None, 404), ("GET", "/echo/async/nothing", None, 404),
            ("GET", job, "bob", 403), ("GET", job, None, 401), ("PATCH", job, "ada", 405),
            ("GET", "/echo/async?PHASE=NONE", None, 400),
            ("POST", f"{job}/phase", "ada", 400),
        ):  # fmt: skip
            page = await site.request(method, url, user=user, headers={"Accept": CHROMIUM})
            plain = await site.request(method, url, user=user)
            assert page.status == plain.status == status
            assert page.headers["Content-Type"] == HTML
            fault, _, message = plain.text.strip().partition(": ")
            shown = html.fromstring(page.body)
            assert [p.text_content() for p in shown.xpath("//*[@class='error']/p")] == [message, fault]
            assert page.headers.get("WWW-Authenticate") == plain.headers.get("WWW-Authenticate")
            assert page.headers.get("Allow") == plain.headers.get("Allow")
            assert page.headers["Vary"] == plain.headers["Vary"] == "Accept"
            assert page.headers["X-Request-ID"]


async def test_what_went_wrong_within_is_told_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, ECHO) as site:
        with monkeypatch.context() as patch:
            patch.setattr(UserUWS, "list_state", None)
            answer = await site.get("/echo/async", headers={"Accept": CHROMIUM})
        assert (answer.status, answer.headers["Content-Type"]) == (500, HTML)
        page = html.fromstring(answer.body)
        request_id = answer.headers["X-Request-ID"]
        expected = f"an internal error; it is on record as {request_id}"
        assert [p.text_content() for p in page.xpath("//*[@class='error']/p")] == [expected, "DefaultFault"]


async def test_the_links_of_an_error_page_work_behind_a_prefix(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, mount="/deep") as site:
        page = html.fromstring((await site.get("/nowhere/at/all", headers={"Accept": "text/html"})).body)
        assert page.xpath("string(//link[@rel='stylesheet']/@href)") == "/deep/static/uws.css"
    async with running(tmp_path, ECHO, base_url="https://example.org/uws") as site:
        page = html.fromstring((await site.get("/nowhere", headers={"Accept": "text/html"})).body)
        assert page.xpath("string(//link[@rel='stylesheet']/@href)") == "/uws/static/uws.css"


# What a browser lets pages and files do


async def test_no_answer_lets_a_browser_do_more_than_our_pages_need(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        urls = await resources(site)
        job = urls[3]
        for url in (
            *urls,
            "/nowhere",
            "/availability",
            f"{job}/phase",
            "/static/uws.css",
            "/echo/parameters.json",
        ):
            for accept in ("text/xml", "text/html"):
                headers = (await site.get(url, headers={"Accept": accept})).headers
                assert headers["X-Content-Type-Options"] == "nosniff"
                policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
                assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
                assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
                assert "unsafe" not in headers["Content-Security-Policy"]
        for url in (f"{job}/results/out", f"{job}/logs/stdout"):
            for given, status in (
                ({}, 200),
                ({"Accept": CHROMIUM}, 200),
                ({"Range": "bytes=0-1"}, 206),
            ):
                answer = await site.get(url, headers=given)
                assert answer.status == status
                assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("mount", [None, "/deep"])
async def test_nor_does_an_answer_that_is_no_page(tmp_path: Path, mount: str | None) -> None:
    async with running(tmp_path, ECHO, FILES, authenticator=BasicUsers(), mount=mount) as site:
        job = await site.create("echo", user="ada")
        tag = (await site.get(job, user="ada")).headers["ETag"]
        upload = await site.create("files", user="ada", image=b"<script>alert(1)</script>")
        browser = {"Accept": CHROMIUM}
        for method, url, status, headers, data in (
            ("GET", "/echo/", 303, {}, None),
            ("GET", job, 304, {"If-None-Match": tag}, None),
            ("POST", job, 303, browser, {"x": "1"}),
            ("POST", f"{job}/phase", 400, browser, {"PHASE": "FLY"}),
            ("POST", "/files/async", 400, browser, {"n": "x"}),
            ("POST", "/files/async", 400, {}, {"n": "x"}),
            ("PUT", f"{job}/parameters/x", 204, browser, "1"),
            ("PATCH", job, 405, browser, None),
            ("GET", "/static/nothing", 404, browser, None),
            ("GET", f"{job}/results/out", 404, browser, None),
            ("POST", "/echo/async", 403, {"Sec-Fetch-Site": "cross-site"}, None),
            ("DELETE", job, 303, browser, None),
        ):
            answer = await site.request(method, url, user="ada", headers=headers, data=data)
            assert answer.status == status
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert "unsafe" not in answer.headers["Content-Security-Policy"]
        answer = await site.get(f"{upload}/parameters/image", user="ada", headers=browser)
        assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
        assert (await site.get(job)).status == 401


# The list


async def test_pages_of_a_filtered_list_lead_to_every_such_job_once_whatever_happens_meanwhile(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        made = [await site.create("echo", RUNID=f"number {number} <&>") for number in range(6)]
        others = [await site.create("echo") for _ in range(3)]
        url, seen, first = f"{site.url}/echo/uws.xml?PHASE=PENDING&TEXT=%3C%26%3E&LIMIT=2", [], set()
        while url:
            page = html.fromstring((await site.get(url, headers={"Accept": CHROMIUM})).body)
            seen += [job_id(link) for link in page.xpath("//tbody//a/@href")]
            (form,) = page.forms
            assert dict(form.form_values()) == {"PHASE": "PENDING", "TEXT": "<&>", "AFTER": ""}
            first.update(page.xpath("//nav[@class='pages']/a[.='Newest jobs']/@href"))
            url = page.xpath("string(//nav[@class='pages']/a[.='Older jobs']/@href)")
            await site.create("echo", RUNID="newer <&>")
            if others:
                await site.request("DELETE", others.pop())
        assert seen == [job_id(job) for job in made[::-1]]
        assert first == {f"{site.url}/echo/async?PHASE=PENDING&TEXT=%3C%26%3E&LIMIT=2"}


async def test_pages_of_the_list_lead_to_every_job_once(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        made = [job_id(await site.create("echo")) for _ in range(7)][::-1]
        url, seen = f"{site.url}/echo/async?LIMIT=3", []
        while url:
            page = html.fromstring((await site.get(url, headers={"Accept": "text/html"})).body)
            seen += [job_id(link) for link in page.xpath("//tbody//a/@href")]
            url = page.xpath("string(//nav[@class='pages']/a[.='Older jobs']/@href)")
        assert seen == made


async def test_the_list_marks_what_a_synchronous_request_made_and_tells_progress_and_ends(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with running(tmp_path, ECHO, clock=clock, executes=False) as site:
        waiting = await site.create("echo", RUNID="waits")
        at_work, done = await site.create("echo"), await site.create("echo")
        await record(site, at_work, *PHASES["EXECUTING"], e.ProgressMade(fraction=0.35))
        clock.advance(seconds=90)
        await record(site, done, *PHASES["EXECUTING"], e.ProgressMade(fraction=0.8), e.JobCompleted())
        answer = await site.post("/echo/sync", {"RUNID": "at once"})
        (entry,) = (await site.get("/echo/async?RUNID=at+once")).xml
        page = html.fromstring((await site.get("/echo/async", headers={"Accept": CHROMIUM})).body)
        rows = {
            row.xpath("string(.//a/@href)"): [" ".join(cell.text_content().split()) for cell in row]
            for row in page.xpath("//tbody/tr")
        }
        created, ended = "2026-01-01 00:00:00 UTC", "2026-01-01 00:01:30 UTC"
        assert rows == {
            waiting: ["waits", "PENDING", created, ""],
            at_work: [job_id(at_work), "EXECUTING 35%", created, ""],
            done: [job_id(done), "COMPLETED", created, ended],
            entry.get(HREF): ["at once (synchronous)", "QUEUED", ended, ""],
        }
        assert answer.location.endswith(job_id(entry.get(HREF) or ""))
        page = html.fromstring((await site.get(entry.get(HREF) or "", headers={"Accept": CHROMIUM})).body)
        assert "a synchronous request" in page.get_element_by_id("facts").text_content()


async def test_filters_that_were_left_blank_are_gone_from_the_url(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        browser = {"Accept": FIREFOX}
        answer = await site.get("/echo/async?PHASE=&TEXT=m+31&AFTER=", headers=browser)
        assert (answer.status, answer.location) == (303, f"{site.url}/echo/async?TEXT=m+31")
        answer = await site.get("/echo/async?PHASE=&TEXT=", headers=browser)
        assert (answer.status, answer.location) == (303, f"{site.url}/echo/async")
        assert (await site.get("/echo/async?PHASE=")).status == 400


async def test_the_filter_form_sent_again_shows_the_same_jobs_unless_its_boxes_are_unticked(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        for run_id, x, phase in (
            ("a <&> b", "1", "PENDING"), ("a <&> b", "1", "ABORTED"), ("a <&> b", "2", "ABORTED"),
            ("other", "1", "PENDING"), ("a <&> b", "1", "EXECUTING"),
        ):  # fmt: skip
            await record(site, await site.create("echo", x=x, RUNID=run_id), *PHASES[phase])
        query = "PHASE=PENDING&phase=ABORTED&RUNID=a+%3C%26%3E+b&X=1&LAST=9"
        page = html.fromstring((await site.get(f"/echo/async?{query}", headers={"Accept": CHROMIUM})).body)
        assert len(page.xpath("//tbody/tr")) == 2
        (form,) = page.forms
        sent = [(name, value) for name, value in form.form_values() if value]
        assert sorted(sent) == [
            ("LAST", "9"), ("PHASE", "ABORTED"), ("PHASE", "PENDING"), ("RUNID", "a <&> b"), ("x", "1")
        ]  # fmt: skip
        boxes = [label.text_content().strip() for label in page.xpath("//label[input]")]
        assert boxes == ["PHASE: ABORTED", "RUNID: a <&> b", "LAST: 9", "x: 1"]
        for left_out, count in (("", 2), ("x", 3), ("RUNID", 3)):
            again = [pair for pair in sent if pair[0] != left_out]
            answer = await site.get("/echo/async", params=again, headers={"Accept": CHROMIUM})
            assert len(html.fromstring(answer.body).xpath("//tbody/tr")) == count
        answer = await site.get("/echo/async?RUNID=nobody", headers={"Accept": CHROMIUM})
        assert "No job is like that." in answer.text


async def test_a_page_of_the_list_is_shown_where_its_links_lead_somewhere(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        answer = await site.get("/echo/async/?LAST=100", headers={"Accept": FIREFOX})
        assert (answer.status, answer.location) == (303, f"{site.url}/echo/async?LAST=100")
        assert (await site.get("/echo/async/?LAST=100")).status == 200


async def test_every_stylesheet_is_well_formed() -> None:
    for stylesheet in (STATIC / "xsl").iterdir():
        etree.XSLT(etree.parse(stylesheet))


# What is asked for on the page of a job


async def test_a_time_of_destruction_that_is_past_is_a_mistake_on_a_page_and_now_for_clients(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        job = await site.create("echo")
        past = {"DESTRUCTION": "2020-01-01T00:00:00Z"}
        answer = await site.post(f"{job}/destruction", past, headers={"Accept": CHROMIUM})
        assert answer.status == 400
        assert "this time is past" in html.fromstring(answer.body).get_element_by_id("problem").text_content()
        assert (await site.get(job)).status == 200
        assert (await site.post(f"{job}/destruction", past)).status == 303


@pytest.mark.parametrize(
    ("below", "sent", "told"),
    [
        ("destruction", "to<morrow>", "'to<morrow>' is not a UTC time"),
        ("destruction", "2020-01-01", "this time is past; to be rid of the job now, delete it"),
        ("destruction", "", "DESTRUCTION is missing"),
        ("executionduration", "1e3", "expected a whole number, at least 0, got '1e3'"),
        ("executionduration", "-1", "expected a whole number, at least 0, got '-1'"),
    ],
)
async def test_a_setting_that_is_refused_is_told_beside_its_field_which_keeps_what_was_typed(
    tmp_path: Path, below: str, sent: str, told: str
) -> None:
    async with running(tmp_path, ECHO, executes=False, mount="/deep") as site:
        job = await site.create("echo", RUNID="mine")
        before = (await site.get(job)).body
        url, name = f"{job}/{below}", below.upper()
        answer = await site.post(url, {name: sent}, headers={"Accept": CHROMIUM})
        assert (answer.status, answer.headers["Content-Type"]) == (400, HTML)
        page = html.fromstring(answer.body, base_url=url)
        page.make_links_absolute()
        (field,) = page.xpath("//*[@name=$name]", name=name)
        assert (field.get("value") or "", field.get("type"), field.get("aria-invalid")) == (
            sent,
            "text",
            "true",
        )
        assert told in page.get_element_by_id(field.get("aria-describedby")).text_content()
        (alert,) = page.xpath("//*[@role='alert']")
        assert told in alert.text_content()
        assert alert.xpath(".//a/@href") == [f"{url}#{field.get('id')}"]
        assert len(page.find_class("problem")) == 1
        assert {form.action for form in page.forms} == {url, job} | {
            f"{job}/{other}" for other in ("phase", "destruction", "executionduration")
        }
        for link in page.xpath("//nav//a/@href | //link/@href | //a[@class='button']/@href"):
            assert (await site.get(link)).status in (200, 303), link
        assert (await site.get(job)).body == before
        if "past" not in told:
            assert (await site.post(url, {name: sent})).text.startswith("UsageFault: ")


async def test_who_deletes_a_job_on_its_page_is_led_to_the_whole_list(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO, executes=False) as site:
        for headers, query in (({"Accept": CHROMIUM}, ""), ({}, "?LAST=100")):
            job = await site.create("echo")
            answer = await site.post(job, {"ACTION": "DELETE"}, headers=headers)
            assert answer.location == f"{site.url}/echo/async{query}"


async def test_a_job_that_nobody_has_run_is_not_expected_to_end(tmp_path: Path) -> None:
    async with running(tmp_path, ECHO) as site:
        await site.ended(await site.run("echo"))
        job = await site.create("echo")
        page = html.fromstring((await site.get(job, headers={"Accept": CHROMIUM})).body)
        assert "Expected to end" not in page.text_content()
