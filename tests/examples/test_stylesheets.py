"""The stylesheets turn job documents and job lists into pages that people can read, click and trust."""

import subprocess
import sys
from pathlib import Path

import pytest
from lxml import etree, html

STYLESHEETS = Path(__file__).parents[2] / "static" / "xsl"
VALIDATOR = Path(__file__).parents[3] / "shared" / "bin" / "validate-xml"
UWS = "http://www.ivoa.net/xml/UWS/v1.0"
XLINK = "http://www.w3.org/1999/xlink"
NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"
HREF = f"{{{XLINK}}}href"
ACTIVE = ["PENDING", "QUEUED", "EXECUTING", "HELD", "SUSPENDED"]
PHASES = [*ACTIVE, "COMPLETED", "ERROR", "ABORTED", "ARCHIVED", "UNKNOWN"]
EVIL = "<script>alert('x')</script> & \"more\""


def add(parent: etree._Element, name: str, text: str | None = None, **attributes: str) -> etree._Element:
    """Append a UWS element; without a text it may get children."""
    element = etree.SubElement(
        parent, f"{{{UWS}}}{name}", {k.replace("_", "-"): v for k, v in attributes.items()}
    )
    element.text = text
    return element


def add_or_nil(parent: etree._Element, name: str, text: str | None) -> None:
    element = add(parent, name, text)
    if text is None:
        element.set(NIL, "true")


def job_document(
    phase: str = "COMPLETED",
    *,
    job_id: str = "c4f1",
    run_id: str = "m31",
    parameters: tuple[tuple[str, str], ...] = (("RA", "266.4"), ("BAND", "J"), ("BAND", "K")),
    upload: str = "https://example.org/cutout/async/c4f1/parameters/IMAGE",
    href: str = "https://example.org/cutout/async/c4f1/results/cutout",
    error: str | None = None,
    reason: str | None = None,
) -> etree._Element:
    """Return a UWS 1.1 job."""
    job = etree.Element(f"{{{UWS}}}job", {"version": "1.1"}, {"uws": UWS, "xlink": XLINK})
    add(job, "jobId", job_id)
    add(job, "runId", run_id)
    add_or_nil(job, "ownerId", None)
    add(job, "phase", phase)
    add_or_nil(job, "quote", None)
    add(job, "creationTime", "2030-01-31T12:00:00.123Z")
    started = None if phase in ("PENDING", "QUEUED", "HELD") else "2030-01-31T12:00:01.000Z"
    add_or_nil(job, "startTime", started)
    add_or_nil(job, "endTime", "2030-01-31T12:00:09.000Z" if phase == "COMPLETED" else None)
    add(job, "executionDuration", "60")
    add_or_nil(job, "destruction", "2030-02-07T12:00:00.000Z")
    values = add(job, "parameters")
    add(values, "parameter", upload, id="IMAGE", byReference="true")
    for name, value in parameters:
        add(values, "parameter", value, id=name)
    results = add(job, "results")
    if phase == "COMPLETED":
        add(results, "result", id="cutout", size="1234567", mime_type="application/fits").set(HREF, href)
        add(results, "result", id="preview", size="999", mime_type="image/png").set(HREF, href)
    if error is not None:
        add(add(job, "errorSummary", type="fatal", hasDetail="true"), "message", error)
    if reason is not None:
        etree.SubElement(add(job, "jobInfo"), "{urn:uwsd:jobinfo}reason").text = reason
    return job


def job_list(
    *phases: str, href: str = "https://example.org/cutout/async/", run_id: str = "m31"
) -> etree._Element:
    """Return a UWS 1.1 job list with a job in each of `phases`, called job0, job1, …"""
    jobs = etree.Element(f"{{{UWS}}}jobs", {"version": "1.1"}, {"uws": UWS, "xlink": XLINK})
    for number, phase in enumerate(phases):
        job = add(jobs, "jobref", id=f"job{number}")
        job.set(HREF, f"{href}job{number}")
        add(job, "phase", phase)
        add(job, "runId", run_id)
        add(job, "ownerId", "ada")
        add(job, "creationTime", "2030-01-31T12:00:00.123Z")
    return jobs


def page_of(document: etree._Element) -> html.HtmlElement:
    """Return the page that a browser would show for a job or a job list, at its address."""
    kind = "joblist" if document.tag == f"{{{UWS}}}jobs" else "job"
    transform = etree.XSLT(etree.parse(STYLESHEETS / f"useruws-{kind}-to-html.xsl"))
    return html.document_fromstring(bytes(transform(document.getroottree())))


def addresses(page: html.HtmlElement, at: str) -> set[str]:
    """Return every address that a page at `at` refers to or posts to."""
    page.make_links_absolute(at)
    return {link for _, _, link, _ in page.iterlinks()}


def buttons(page: html.HtmlElement) -> dict[str, tuple[str, str, str]]:
    """Return each button's label with its form's method and address, and what it sends."""
    return {
        button.text_content(): (
            button.xpath("string(ancestor::form/@method)"),
            button.xpath("string(ancestor::form/@action)"),
            f"{button.get('name')}={button.get('value')}",
        )
        for button in page.xpath("//section[@id='actions']//button")
    }


def text_of(page: html.HtmlElement) -> str:
    return " ".join(page.text_content().split())


@pytest.mark.skipif(not VALIDATOR.exists(), reason="the schemas are not at hand")
def test_the_documents_that_these_tests_are_made_with_are_valid(tmp_path: Path) -> None:
    documents = [job_document(phase, error=EVIL, reason=EVIL) for phase in PHASES]
    documents += [job_list(), job_list(*PHASES)]
    files = [tmp_path / f"{number}.xml" for number in range(len(documents))]
    for file, document in zip(files, documents, strict=True):
        file.write_bytes(etree.tostring(document))
    checked = subprocess.run([sys.executable, VALIDATOR, *files], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("document", [job_document(), job_list("PENDING"), job_list()])
def test_a_page_says_its_language_and_has_a_title_and_one_main_heading(document: etree._Element) -> None:
    page = page_of(document)
    assert page.get("lang") == "en"
    assert page.findtext("head/title")
    assert len(page.xpath("//h1")) == 1
    assert page.xpath("//meta[@name='viewport']")


@pytest.mark.parametrize("document", [job_document("HELD", error="no", reason="no"), job_list(*PHASES)])
def test_a_page_has_no_script_and_no_style_but_the_two_files(document: etree._Element) -> None:
    page = page_of(document)
    assert not page.xpath("//style | //@style | //@*[starts-with(name(), 'on')] | //script/text()")
    assert len(page.xpath("//link[@rel='stylesheet']")) == len(page.xpath("//script[@src]")) == 1


@pytest.mark.parametrize("document", [job_document("HELD"), job_document("COMPLETED"), job_list(*PHASES)])
def test_headers_and_labels_say_what_every_cell_and_field_is(document: etree._Element) -> None:
    page = page_of(document)
    assert all(header.get("scope") in ("col", "row") for header in page.xpath("//th"))
    labelled = set(page.xpath("//label/@for"))
    assert {field.get("id") for field in page.xpath("//input | //select")} == labelled
    ids = page.xpath("//@id")
    assert len(ids) == len(set(ids))
    assert set(page.xpath("//@aria-labelledby")) <= set(ids)


@pytest.mark.parametrize("phase", PHASES)
def test_the_phase_is_a_word_and_not_only_a_colour(phase: str) -> None:
    for page in (page_of(job_document(phase)), page_of(job_list(phase))):
        (badge,) = page.find_class("phase")
        assert badge.text_content() == phase
        assert phase in badge.classes


@pytest.mark.parametrize("phase", PHASES)
def test_a_page_offers_what_can_be_done_in_the_phase_and_nothing_else(phase: str) -> None:
    expected = {"Delete it for good": ("post", "./c4f1", "ACTION=DELETE")}
    links = ["../?from-job=c4f1"]
    if phase in ("PENDING", "HELD"):
        expected["Run"] = ("post", "./c4f1/phase", "PHASE=RUN")
        links.insert(0, "../?change-job=c4f1")
    if phase in ACTIVE:
        expected["Abort"] = ("post", "./c4f1/phase", "PHASE=ABORT")
    page = page_of(job_document(phase))
    assert buttons(page) == expected
    assert page.xpath("//section[@id='actions']/a/@href") == links


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2030-01-31T12:00:00.000Z", "2030-01-31T12:30:00.000Z", ["start", "end"]),
        ("2030-01-31T12:30:00.000Z", "2030-01-31T12:30:00.000Z", ["start", "end"]),
        ("2030-01-31T12:30:01.000Z", "2030-01-31T12:30:00.000Z", ["start"]),
        (None, "2030-01-31T12:30:00.000Z", ["end"]),
        ("2030-01-31T12:30:00.000Z", "", ["start"]),
    ],
)
def test_a_job_is_expected_to_start_before_it_is_expected_to_end(
    start: str | None, end: str, expected: list[str]
) -> None:
    document = job_document("QUEUED")
    quote = document.find(f"{{{UWS}}}quote")
    assert quote is not None
    quote.text = end
    if start:
        etree.SubElement(add(document, "jobInfo"), "{urn:uwsd:jobinfo}expectedStart").text = start
    told = page_of(document).get_element_by_id("status").text_content()
    assert [word for word in told.split() if word in ("start", "end")] == expected


def test_a_job_is_deleted_in_two_steps() -> None:
    (summary,) = page_of(job_document()).xpath("//details[not(@open)][.//button[@value='DELETE']]/summary")
    assert summary.text_content() == "Delete"


def test_duration_and_destruction_can_be_changed_and_show_what_is_set() -> None:
    page = page_of(job_document("PENDING"))
    forms = {form.get("action"): dict(form.form_values()) for form in page.forms if form.inputs.keys()}
    assert forms["./c4f1/executionduration"] == {"EXECUTIONDURATION": "60"}
    assert forms["./c4f1/destruction"] == {"DESTRUCTION": "2030-02-07T12:00:00.000Z"}


@pytest.mark.parametrize("phase", PHASES)
def test_settings_that_the_phase_no_longer_allows_are_not_offered(phase: str) -> None:
    fields = set(page_of(job_document(phase)).xpath("//input/@name"))
    assert ("EXECUTIONDURATION" in fields) == (phase in ("PENDING", "HELD", "QUEUED"))
    assert ("DESTRUCTION" in fields) == (phase != "ARCHIVED")


@pytest.mark.parametrize("base", ["https://example.org", "https://example.org/deep/prefix"])
def test_every_address_of_a_job_page_works_behind_a_path_prefix(base: str) -> None:
    page = page_of(job_document("PENDING", upload="/u", error="no"))
    own = {link for link in addresses(page, f"{base}/cutout/async/c4f1") if not link.endswith("/u")}
    job = f"{base}/cutout/async/c4f1"
    assert own == {
        f"{base}/",
        f"{base}/login",
        f"{base}/static/uws.css",
        f"{base}/static/uws.js",
        f"{base}/static/uws.svg",
        f"{base}/cutout/",
        f"{base}/cutout/?change-job=c4f1",
        f"{base}/cutout/?from-job=c4f1",
        f"{base}/cutout/async",
        f"{job}#main",
        job,
        f"{job}/phase",
        f"{job}/executionduration",
        f"{job}/destruction",
        f"{job}/error",
        f"{job}/history",
        *(f"{job}/provenance?RESPONSEFORMAT={form}" for form in ("svg", "json", "provn")),
    }


@pytest.mark.parametrize("name", ["async", "uws.xml"])
def test_every_address_of_a_job_list_works_at_both_its_names_and_behind_a_prefix(name: str) -> None:
    page = page_of(job_list("PENDING", href="elsewhere:"))
    found = addresses(page, f"https://example.org/deep/cutout/{name}")
    assert {
        "https://example.org/deep/static/uws.css",
        "https://example.org/deep/",
        "https://example.org/deep/cutout/",
        "https://example.org/deep/cutout/async",
        "https://example.org/deep/cutout/async/job0",
    } <= found
    assert all(link.startswith("https://example.org/deep/") for link in found)


def test_what_the_pages_link_to_is_there() -> None:
    page = page_of(job_document())
    for link in page.xpath("//head/link/@href | //script/@src"):
        assert (STYLESHEETS.parent / link.removeprefix("../../static/")).is_file()


def test_the_filter_of_the_list_has_every_phase_and_shows_what_is_in_force() -> None:
    document = job_list("PENDING")
    for name, fact in (("phase", "ERROR"), ("text", EVIL), ("after", "2030-01-31T12:00:00")):
        document.addprevious(etree.ProcessingInstruction(f"uwsd-{name}", fact))
    (form,) = page_of(document).forms
    assert form.method == "GET"
    assert form.inputs["PHASE"].value_options == [
        "",
        *sorted(PHASES, key=form.inputs["PHASE"].value_options.index),
    ]
    assert dict(form.form_values()) == {"PHASE": "ERROR", "TEXT": EVIL, "AFTER": "2030-01-31T12:00:00"}


def test_a_list_that_is_longer_leads_on_and_back() -> None:
    document = job_list("PENDING")
    for name, url in (("next", "https://example.org/older"), ("first", "https://example.org/newest")):
        document.addprevious(etree.ProcessingInstruction(f"uwsd-{name}", url))
    links = page_of(document).xpath("//nav[@aria-label='Pages']/a")
    assert [(link.text, link.get("href")) for link in links] == [
        ("Newest jobs", "https://example.org/newest"),
        ("Older jobs", "https://example.org/older"),
    ]
    assert not page_of(job_list("PENDING")).xpath("//nav[@aria-label='Pages']")


def test_a_row_of_the_list_says_what_the_document_says() -> None:
    (row,) = page_of(job_list("EXECUTING")).xpath("//tbody/tr")
    cells = [cell.text_content().strip() for cell in row]
    assert cells == ["m31", "EXECUTING", "2030-01-31 12:00:00 UTC", "", "ada"]
    assert row.xpath(".//a/@href") == ["https://example.org/cutout/async/job0"]
    assert row.xpath(".//time/@datetime") == ["2030-01-31T12:00:00.123Z"]
    (row,) = page_of(job_list("EXECUTING", run_id="")).xpath("//tbody/tr")
    assert row[0].text_content().strip() == "job0"


def test_an_empty_list_says_so() -> None:
    page = page_of(job_list())
    assert not page.xpath("//table")
    assert "none" in text_of(page)


def test_results_have_links_media_types_and_sizes_and_pictures_are_shown() -> None:
    href = "https://example.org/cutout/async/c4f1/results/cutout"
    page = page_of(job_document(href=href))
    rows = page.xpath("//section[@id='results']//tbody/tr")
    cells = [[cell.text_content().strip() for cell in row] for row in rows]
    assert cells == [["cutout", "application/fits", "1.2 MB"], ["preview", "image/png", "999 B"]]
    assert page.xpath("//tbody//a[.='cutout']/@href") == [href]
    assert page.xpath("//img/@src") == [href]
    assert page.xpath("//img/@alt") == ["Result preview"]


def test_every_value_of_a_parameter_is_shown_and_an_upload_is_linked() -> None:
    page = page_of(job_document())
    rows = page.xpath("//section[@id='parameters']//tbody/tr")
    assert [row[0].text_content().strip() for row in rows] == ["IMAGE", "RA", "BAND", "BAND"]
    assert [row[1].text_content() for row in rows][1:] == ["266.4", "J", "K"]
    assert rows[0].xpath(".//a/@href") == ["https://example.org/cutout/async/c4f1/parameters/IMAGE"]


def test_a_failed_job_says_why_and_where_the_full_text_is() -> None:
    page = page_of(job_document("ERROR", error="no such star"))
    (section,) = page.find_class("error")
    assert "no such star" in section.text_content()
    assert section.xpath(".//a/@href") == ["./c4f1/error"]
    assert not page_of(job_document("COMPLETED")).find_class("error")


def test_what_else_the_server_tells_about_a_job_is_shown() -> None:
    page = page_of(job_document("ABORTED", reason="stopped after 60 s"))
    (status,) = page.xpath("//section[@id='status']")
    assert "stopped after 60 s" in text_of(status)


def test_a_value_that_is_not_there_yet_is_said_in_words() -> None:
    facts = page_of(job_document("PENDING")).xpath("//section[@id='facts']//dd")
    assert [fact.text_content().strip() for fact in facts] == [
        "c4f1",
        "m31",
        "nobody in particular",
        "2030-01-31 12:00:00 UTC",
        "not yet",
        "not yet",
        "1 min",
        "2030-02-07 12:00:00 UTC",
    ]


def test_text_from_outside_stays_text() -> None:
    document = job_document(job_id=EVIL, run_id=EVIL, parameters=((EVIL, EVIL),), error=EVIL, reason=EVIL)
    page = page_of(document)
    assert not page.xpath("//body//script")
    assert text_of(page).count(EVIL) >= 5
    assert EVIL in text_of(page_of(job_list("PENDING", run_id=EVIL)))


@pytest.mark.parametrize(
    "href", ["javascript:alert(1)//", " JavaScript:alert(1)", "data:text/html,x", "httpx:y", ""]
)
def test_an_address_that_a_browser_could_execute_becomes_no_link(href: str) -> None:
    page = page_of(job_document(href=href, upload=href, job_id="javascript:alert(1)"))
    listed = page_of(job_list("PENDING", href=href))
    links = addresses(page, "https://example.org/s/async/x") | addresses(
        listed, "https://example.org/s/async"
    )
    assert all(link.startswith("https://example.org/") for link in links)
    assert not page.xpath("//img")
