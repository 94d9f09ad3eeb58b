"""A first look at a job's files: as text, as rows, as headers, and never as what could act."""

from __future__ import annotations

import asyncio
import gzip
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree, html

from tests.harness import SHARED, BasicUsers, Site, running
from tests.web.support import FAIL, SLEEP, keeping
from uws import ResultDeclaration, Service
from uws.web.previews import look

NS = {"p": "urn:uwsd:preview"}
FITS, VOTABLE, JSON, TEXT = "application/fits", "application/x-votable+xml", "application/json", "text/plain"
ROWS = "".join(f"<TR><TD>{number}</TD><TD>a &lt; b</TD></TR>" for number in range(30))
TABLE = (
    '<VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>'
    '<FIELD name="ra" unit="deg" datatype="double"/><FIELD name="note" datatype="char" arraysize="*"/>'
    f"<DATA><TABLEDATA>{ROWS}</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
)
BOMB = (
    '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY f SYSTEM "file:///etc/passwd">]>'
    "<VOTABLE><RESOURCE><TABLE><FIELD name='x'/><DATA><TABLEDATA><TR><TD>&c;&f;</TD></TR></TABLEDATA></DATA>"
    "</TABLE></RESOURCE></VOTABLE>"
)


async def kept(site: Site, content: bytes) -> str:
    """Return the URL of a result with this content."""
    job = await site.run("keep", file=content)
    await site.ended(job)
    return f"{job}/results/kept"


def header(**cards: object) -> bytes:
    """Return a FITS header."""
    lines = [f"{keyword:8}= {value!s:>20}" for keyword, value in cards.items()] + ["END"]
    text = "".join(f"{line:80}" for line in lines)
    return text.ljust(-(-len(text) // 2880) * 2880).encode()


async def test_of_text_the_beginning_is_shown_and_of_logs_the_end(tmp_path: Path) -> None:
    long = b"".join(b"line %d\n" % number for number in range(10_000))
    async with running(tmp_path, keeping(TEXT), FAIL) as site:
        preview = (await site.get(await kept(site, long) + "/preview")).xml
        shown = preview.findtext("p:text", namespaces=NS)
        assert shown
        assert long.startswith(shown.encode())
        assert len(shown) == 16_000
        assert preview.get("part") == "beginning"
        job = await site.run("fail")
        await site.ended(job)
        assert (await site.get(f"{job}/logs/stderr")).text == "first\nlast words\n"
        preview = (await site.get(f"{job}/logs/stderr/preview")).xml
        assert preview.findtext("p:text", namespaces=NS) == "first\nlast words\n"


async def test_logs_can_be_read_while_the_program_runs_and_not_before(tmp_path: Path) -> None:
    async with running(tmp_path, SLEEP) as site:
        job = await site.create("sleep")
        answer = await site.get(f"{job}/logs/stdout")
        assert (answer.status, answer.text.split(":")[0]) == (404, "UsageFault")
        assert (await site.get(f"{job}/logs/passwd")).status == 404
        await site.post(f"{job}/phase", {"PHASE": "RUN"})
        await site.executing(job)
        while (answer := await site.get(f"{job}/logs/stdout")).status == 404:
            pass  # the program is about to be started
        assert (answer.status, answer.body) == (200, b"")


async def test_of_a_votable_columns_with_units_and_the_first_rows_are_shown(tmp_path: Path) -> None:
    async with running(tmp_path, keeping(VOTABLE)) as site:
        url = await kept(site, TABLE.encode()) + "/preview"
        page = html.fromstring((await site.get(url, headers={"Accept": "text/html"})).body)
        assert [column.text_content().strip() for column in page.xpath("//thead//th")] == ["ra (deg)", "note"]
        rows = [[cell.text_content() for cell in row] for row in page.xpath("//tbody/tr")]
        assert rows == [[str(number), "a < b"] for number in range(20)]


@pytest.mark.skipif(not SHARED.exists(), reason="the real data are not at hand")
async def test_the_real_files_are_shown(tmp_path: Path) -> None:
    async with running(tmp_path / "vot", keeping(VOTABLE)) as site:
        url = await kept(site, (SHARED / "data" / "spitzer_example_catalog.xml").read_bytes())
        preview = (await site.get(f"{url}/preview")).xml
        assert len(preview.findall(".//p:row", NS)) == 20
    async with running(tmp_path / "fits", keeping(FITS)) as site:
        url = await kept(site, (SHARED / "data" / "gc_2mass_k.fits").read_bytes())
        preview = (await site.get(f"{url}/preview")).xml
        cards = preview.findtext("p:header", "", NS)
        assert cards.startswith("SIMPLE  =")
        assert "CRVAL1" in cards
        if find_spec("astropy"):
            assert preview.get("picture") == "quicklook"
            picture = await site.get(f"{url}/quicklook")
            assert (picture.status, picture.headers["Content-Type"]) == (200, "image/png")
            assert picture.body.startswith(b"\x89PNG\r\n")


async def test_of_fits_all_headers_are_shown_whatever_data_lie_between(tmp_path: Path) -> None:
    content = header(SIMPLE="T", BITPIX=8, NAXIS=1, NAXIS1=3000) + bytes(5760)
    content += header(XTENSION="'IMAGE   '", BITPIX=-32, NAXIS=2, NAXIS1=10, NAXIS2=10) + bytes(2880)
    async with running(tmp_path, keeping(FITS)) as site:
        preview = (await site.get(await kept(site, content) + "/preview")).xml
        first, second = [element.text or "" for element in preview.findall("p:header", NS)]
        assert "NAXIS1  =                 3000" in first
        assert "XTENSION=" in second


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        (FITS, b""), (FITS, b"SIMPLE  ="), (FITS, b"\xff" * 5760), (FITS, header(NAXIS=1)),
        (FITS, header(SIMPLE="T", BITPIX="x", NAXIS=1, NAXIS1=5)),
        (FITS, header(SIMPLE="T", BITPIX=8, NAXIS=1, NAXIS1=-5)),
        (FITS, header(SIMPLE="T", BITPIX=8, NAXIS=2, NAXIS1=10**18, NAXIS2=10**18)),
        (VOTABLE, b""), (VOTABLE, b"<VOTABLE><TR>"), (VOTABLE, b"\0"), (JSON, b"{"), (JSON, b'"\xff"'),
    ],
)  # fmt: skip
async def test_what_is_not_what_it_is_said_to_be_is_told_and_shown_as_text(
    tmp_path: Path, media_type: str, content: bytes
) -> None:
    async with running(tmp_path, keeping(media_type)) as site:
        answer = await site.get(await kept(site, content) + "/preview")
        assert answer.status == 200
        if content:
            assert answer.xml.findtext("p:problem", "", NS).startswith("it is not what it is said to be")


async def test_nothing_unfolds_or_is_read_from_elsewhere(tmp_path: Path) -> None:
    async with running(tmp_path, keeping(VOTABLE)) as site:
        answer = await site.get(await kept(site, BOMB.encode()) + "/preview")
        assert answer.status == 200
        assert "lollol" not in answer.text
        assert "root:" not in answer.text


@pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml", "application/xml", TEXT, VOTABLE])
async def test_what_could_act_is_shown_as_text(tmp_path: Path, media_type: str) -> None:
    evil = b'<html><script>alert(1)</script><img src="x" onerror="alert(1)"></html>'
    async with running(tmp_path, keeping(media_type)) as site:
        url = await kept(site, evil) + "/preview"
        page = html.fromstring((await site.get(url, headers={"Accept": "text/html"})).body)
        assert not page.xpath("//main//script | //main//img | //@onerror")
        if media_type != VOTABLE:
            assert "<script>alert(1)</script>" in page.text_content()


@pytest.mark.skipif(not find_spec("astropy"), reason="without astropy there are no pictures")
@pytest.mark.parametrize("content", [b"no FITS at all", header(SIMPLE="T", BITPIX=8, NAXIS=0)])
async def test_where_there_is_no_image_there_is_no_picture(tmp_path: Path, content: bytes) -> None:
    async with running(tmp_path, keeping(FITS)) as site:
        answer = await site.get(await kept(site, content) + "/quicklook")
        assert (answer.status, answer.text) == (404, "UsageFault: kept has no image that can be shown\n")


async def test_files_are_shown_to_the_owner_alone(tmp_path: Path) -> None:
    async with running(tmp_path, keeping(TEXT), authenticator=BasicUsers()) as site:
        job = await site.create("keep", user="ada", file=b"secret", PHASE="RUN")
        await site.ended(job, user="ada")
        for url in ("results/kept/preview", "results/kept/quicklook", "logs/stdout", "logs/stdout/preview"):
            assert (await site.get(f"{job}/{url}", user="bob")).status == 403
            assert (await site.get(f"{job}/{url}")).status == 401


@settings(deadline=None)
@given(st.binary(max_size=6000), st.sampled_from([FITS, VOTABLE, JSON, TEXT]))
def test_any_bytes_can_be_looked_at(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, media_type: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert etree.tostring(look(file, "file", media_type, from_end=False))


async def test_a_picture_is_offered_where_there_are_pixels_only(tmp_path: Path) -> None:
    table = header(SIMPLE="T", BITPIX=8, NAXIS=0)
    table += header(XTENSION="'BINTABLE'", BITPIX=8, NAXIS=2, NAXIS1=4, NAXIS2=2, PCOUNT=0, GCOUNT=1)
    image = header(SIMPLE="T", BITPIX=8, NAXIS=2, NAXIS1=4, NAXIS2=2)
    async with running(tmp_path, keeping(FITS)) as site:
        assert (await site.get(await kept(site, table + bytes(2880)) + "/preview")).xml.get("picture") is None
        offered = (await site.get(await kept(site, image + bytes(2880)) + "/preview")).xml.get("picture")
        assert offered == ("quicklook" if find_spec("astropy") else None)


async def test_of_a_votable_without_a_table_it_is_said_what_it_says(tmp_path: Path) -> None:
    content = (
        b'<VOTABLE><RESOURCE><INFO name="QUERY_STATUS" value="ERROR">bad query</INFO></RESOURCE></VOTABLE>'
    )
    async with running(tmp_path, keeping(VOTABLE)) as site:
        preview = (await site.get(await kept(site, content) + "/preview")).xml
        assert preview.findtext("p:problem", "", NS) == "there is no table in it"
        assert "bad query" in preview.findtext("p:text", "", NS)


async def test_what_is_read_of_a_file_is_bounded_however_it_is_made(tmp_path: Path) -> None:
    wide = Service(
        name="wide",
        title="Much of nothing",
        command=["sh", "-c", '(printf "<VOTABLE>"; yes "<a/>" | head -c 5000000) > kept'],
        results=[ResultDeclaration(id="kept", path="kept", mime=VOTABLE)],
    )
    async with running(tmp_path / "table", wide) as site:
        job = await site.run("wide")
        await site.ended(job)
        preview = await site.get(f"{job}/results/kept/preview")
        assert (preview.status, preview.xml.get("part")) == (200, "beginning")
    for deep in (b"[" * 20_000 + b"]" * 20_000, b"[" * 900 + b"1," * 40_000):
        async with running(tmp_path / str(len(deep)), keeping(JSON)) as site:
            preview = await site.get(await kept(site, deep) + "/preview")
            assert preview.status == 200
            assert len(preview.body) < 50_000


async def test_a_long_header_is_shown_in_part_and_called_right(tmp_path: Path) -> None:
    content = header(SIMPLE="T", BITPIX=8, NAXIS=0, **{f"K{number}": number for number in range(1100)})
    async with running(tmp_path, keeping(FITS)) as site:
        preview = (await site.get(await kept(site, content) + "/preview")).xml
        assert preview.find("p:problem", NS) is None
        assert preview.get("part") == "beginning"
        assert len(preview.findtext("p:header", "", NS).splitlines()) == 1000


@pytest.mark.skipif(not find_spec("astropy"), reason="without astropy there are no pictures")
async def test_no_picture_is_made_of_what_unfolds_and_none_twice(tmp_path: Path) -> None:
    image = header(SIMPLE="T", BITPIX=8, NAXIS=2, NAXIS1=4, NAXIS2=2) + bytes(2880)
    async with running(tmp_path, keeping(FITS)) as site:
        assert (await site.get(await kept(site, gzip.compress(image)) + "/quicklook")).status == 404
        url = await kept(site, image) + "/quicklook"
        answer = await site.get(url)
        assert answer.status == 200
        held = {"If-None-Match": answer.headers["ETag"]}
        assert (await site.get(url, headers=held)).status == 304
        assert (await site.request("HEAD", url)).status == 405


@pytest.mark.skipif(not find_spec("astropy"), reason="without astropy there are no pictures")
async def test_few_pictures_are_waited_for_at_one_time(tmp_path: Path) -> None:
    image = header(SIMPLE="T", BITPIX=8, NAXIS=2, NAXIS1=4, NAXIS2=2) + bytes(2880)
    async with running(tmp_path, keeping(FITS)) as site:
        url = await kept(site, image) + "/quicklook"
        answers = await asyncio.gather(*(site.get(url) for _ in range(12)))
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 503}
        assert all("Retry-After" in answer.headers for answer in answers if answer.status == 503)
        assert (await site.get(url)).status == 200
