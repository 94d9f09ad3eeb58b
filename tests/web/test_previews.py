"""A first look at a job's files: as text, as rows, as headers, and never as what could act."""

from __future__ import annotations

import asyncio
import gzip
from base64 import encodebytes
from collections.abc import Callable
from importlib.util import find_spec
from math import nan
from pathlib import Path
from struct import pack

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree, html

from tests.harness import SHARED, BasicUsers, Site, running
from tests.web.support import FAIL, SLEEP, keeping
from uws import ResultDeclaration, Service
from uws.web.looks import look

NS = {"p": "urn:uwsd:preview"}
FITS, VOTABLE, JSON, TEXT = "application/fits", "application/x-votable+xml", "application/json", "text/plain"
ROWS = "".join(f"<TR><TD>{number}</TD><TD>a &lt; b</TD></TR>" for number in range(30))
TABLE = (
    '<VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>'
    '<FIELD name="ra" unit="deg" datatype="double"/><FIELD name="note" datatype="char" arraysize="*"/>'
    f"<DATA><TABLEDATA>{ROWS}</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
)
FIELDS = """<FIELD name="n" datatype="int"><VALUES null="-9"/></FIELD>
    <FIELD name="half" datatype="float"/>
    <FIELD name="band" datatype="char" arraysize="3"/>
    <FIELD name="note" datatype="unicodeChar" arraysize="*"/>
    <FIELD name="xs" datatype="short" arraysize="*"/><FIELD name="xy" datatype="double" arraysize="2"/>
    <FIELD name="ok" datatype="boolean"/><FIELD name="bits" datatype="bit" arraysize="11"/>
    <FIELD name="z" datatype="doubleComplex"/><FIELD name="big" datatype="long"/>"""
BOMB = (
    '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY f SYSTEM "file:///etc/passwd">]>'
    "<VOTABLE><RESOURCE><TABLE><FIELD name='x'/><DATA><TABLEDATA><TR><TD>&c;&f;</TD></TR></TABLEDATA></DATA>"
    "</TABLE></RESOURCE></VOTABLE>"
)


def binary(stream: bytes, kind: str = "BINARY", fields: str = FIELDS, attributes: str = "") -> bytes:
    """Return a VOTable whose values are bytes."""
    text = encodebytes(stream).decode()
    return (
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>'
        f"{fields}<DATA><{kind}><STREAM encoding='base64' {attributes}>\n{text}</STREAM></{kind}></DATA>"
        "</TABLE></RESOURCE></VOTABLE>"
    ).encode()


def packed(number: int, note: str = "naïve") -> bytes:
    """Return a row of the columns of ``FIELDS``."""
    return b"".join(
        (
            pack(">if3s", number, 0.1, b"K\0\0"),
            pack(">i", len(note)) + note.encode("utf-16-be"),
            pack(">ihhh", 3, 1, -2, 3),
            pack(">dd", 266.4, nan),
            b"T" + bytes((0b10110000, 0b01100000)),
            pack(">ddq", 1.5, -1, 2**62),
        )
    )


def cells(preview: etree._Element) -> list[list[str]]:
    return [[cell.text or "" for cell in row] for row in preview.iterfind(".//p:row", NS)]


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


SHOWN = ["0.1", "K", "naïve", "1 -2 3", "266.4 NaN", "T", "10110000011", "1.5 -1", str(2**62)]


@pytest.mark.parametrize("kind", ["BINARY", "BINARY2"])
async def test_of_a_votable_in_bytes_the_first_rows_are_shown_as_if_they_were_text(
    tmp_path: Path, kind: str
) -> None:
    mask = bytes(2) * (kind == "BINARY2")
    stream = b"".join(mask + packed(number) for number in range(30))
    async with running(tmp_path, keeping(VOTABLE)) as site:
        preview = (await site.get(await kept(site, binary(stream, kind)) + "/preview")).xml
        assert preview.find("p:problem", NS) is None
        assert cells(preview) == [[str(number), *SHOWN] for number in range(20)]
        assert preview.get("part") == "beginning"
        names = [column.text for column in preview.iterfind(".//p:column", NS)]
        assert names == ["n", "half", "band", "note", "xs", "xy", "ok", "bits", "z", "big"]


async def test_what_a_row_in_bytes_lacks_is_shown_as_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, keeping(VOTABLE)) as site:
        preview = (await site.get(await kept(site, binary(packed(-9, ""))) + "/preview")).xml
        assert cells(preview) == [["", "0.1", "K", "", *SHOWN[3:]]]
        masked = binary(bytes((0b01000000, 0b01000000)) + packed(7), "BINARY2")
        preview = (await site.get(await kept(site, masked) + "/preview")).xml
        assert cells(preview) == [["7", "", *SHOWN[1:8], ""]]
        assert preview.get("part") is None


LONG = '<FIELD name="x" datatype="double" arraysize="*"/>'


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (binary(packed(1)[:-1]), "its values end within row 1"),
        (binary(packed(1) + b"\0"), "its values end within row 2"),
        (binary(pack(">i", 2**31 - 1), fields=LONG), "its values end within row 1"),
        (binary(pack(">i", -1), fields=LONG), "a value says that it has -1 items"),
        (binary(b"1").replace(b"MQ==", b"MQ=!"), "its values are not in base64"),
        (binary(b"1").replace(b"MQ==", "é".encode()), "its values are not in base64"),
        (
            binary(bytes(8), fields=LONG.replace("*", "9" * 18)),
            "its values end within row 1",
        ),
        (
            binary(bytes(8), fields=LONG.replace("*", "many")),
            "the column x: expected an arraysize such as 3, 2x3 or *, got 'many'",
        ),
        (
            binary(bytes(8), fields=LONG.replace("double", "quad")),
            "the column x: expected a datatype, got 'quad'",
        ),
    ],
)
async def test_of_values_that_are_not_as_said_it_is_told_what_is_wrong(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    async with running(tmp_path, keeping(VOTABLE)) as site:
        preview = (await site.get(await kept(site, content) + "/preview")).xml
        assert preview.findtext("p:problem", "", NS) == f"it is not what it is said to be: {problem}"


async def test_of_values_that_cannot_be_read_here_the_columns_are_shown(tmp_path: Path) -> None:
    async with running(tmp_path, keeping(VOTABLE)) as site:
        for content, where in (
            (binary(b"", attributes="href='http://127.0.0.1/x'"), "in another file"),
            (binary(b"", "FITS"), "a FITS file within it"),
            (binary(b"").replace(b"base64", b"gzip"), "written in the encoding gzip"),
        ):
            preview = (await site.get(await kept(site, content) + "/preview")).xml
            said = f"its values are {where}: only the columns are shown"
            assert preview.findtext("p:problem", "", NS) == said
            assert len(preview.findall(".//p:column", NS)) == 10


async def test_of_a_large_table_in_bytes_little_is_read(tmp_path: Path) -> None:
    array = pack(">i", 50_000) + pack(">d", 1.5) * 50_000
    (tmp_path / "large").write_bytes(binary(array * 10, fields=LONG))
    large = msgspec.structs.replace(keeping(VOTABLE), command=["cp", str(tmp_path / "large"), "kept"])
    async with running(tmp_path / "data", large) as site:
        preview = (await site.get(await kept(site, b"") + "/preview")).xml
        assert (preview.find("p:problem", NS), preview.get("part")) == (None, "beginning")
        assert cells(preview) == [["1.5 " * 50]] * 3, "there are three in the first 2 MB of the file"


@pytest.mark.skipif(not find_spec("astropy"), reason="astropy, which writes these tables, is not installed")
@pytest.mark.parametrize("form", ["binary", "binary2"])
async def test_a_table_is_shown_alike_in_whichever_form_astropy_writes_it(tmp_path: Path, form: str) -> None:
    from astropy.io.votable import from_table
    from astropy.table import MaskedColumn, Table

    table = Table(
        {
            "i": MaskedColumn([1, 2, 3], mask=[False, form == "binary2", False], dtype="i4"),
            "f": MaskedColumn([0.1, 1e30, -2.5], dtype="f4"),
            "d": MaskedColumn([1 / 3, 2, 3], dtype="f8"),
            "s": MaskedColumn(["one", "", "three"]),
            "b": MaskedColumn([True, False, True]),
            "a": MaskedColumn([[1, 2], [3, 4], [5, 6]], dtype="i2"),
        }
    )
    shown = []
    async with running(tmp_path / "data", keeping(VOTABLE)) as site:
        for each in ("tabledata", form):
            from_table(table).to_xml(str(tmp_path / each), tabledata_format=each)
            preview = (await site.get(await kept(site, (tmp_path / each).read_bytes()) + "/preview")).xml
            shown.append(cells(preview))
    assert shown[0] == shown[1]
    assert len(shown[1]) == 3


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


FORMS = ("J", "E", "4A", "3I", "L", "11X", "M", "K", "1PD(3)", "1QA(9)", "0D", "B", "I")
NAMES = ("n", "half", "band", "xs", "ok", "bits", "z", "big", "ys", "note", "none", "signed", "scaled")
CARDS = {"TNULL1": -9, "TUNIT2": "'mag'", "TZERO8": 2**63, "TZERO12": -128, "TSCAL13": 0.5, "TZERO13": 1}


def fits_row(number: int) -> bytes:
    """Return a row of a table whose columns are ``FORMS``, of which three values lie in ``HEAP``."""
    return b"".join(
        (
            pack(">if4s3h", number, 0.1, b"it's", 1, -2, 3),
            b"T" + bytes((0b10110000, 0b01100000)),
            pack(">ddq", 1.5, -1, 2**62),
            pack(">ii", 3, 0) + pack(">qq", 5, 24),
            pack(">Bh", 0, 7),
        )
    )


HEAP = pack(">ddd", 1, nan, 2.5) + b"words"
IN_FITS = [
    "0.1",
    "it's",
    "1 -2 3",
    "T",
    "10110000011",
    "1.5 -1",
    str(2**62 + 2**63),
    "1 NaN 2.5",
    "words",
    "",
]


def fits_table(content: bytes, count: int, **cards: object) -> bytes:
    """Return a FITS file with a table of so many rows and a heap."""
    columns = {f"TFORM{n}": f"'{form}'" for n, form in enumerate(FORMS, start=1)}
    columns |= {f"TTYPE{n}": f"'{name}'" for n, name in enumerate(NAMES, start=1)}
    size = {
        "NAXIS1": len(fits_row(0)),
        "NAXIS2": count,
        "PCOUNT": len(HEAP),
        "GCOUNT": 1,
        "TFIELDS": len(FORMS),
    }
    head = header(SIMPLE="T", BITPIX=8, NAXIS=0)
    head += header(**{"XTENSION": "'BINTABLE'", "BITPIX": 8, "NAXIS": 2, **size, **columns, **CARDS, **cards})
    return head + content.ljust(-(-len(content) // 2880) * 2880, b"\0")


@pytest.mark.parametrize("pack_it", [bytes, gzip.compress])
async def test_of_a_fits_table_columns_with_units_and_the_first_rows_are_shown(
    tmp_path: Path, pack_it: Callable[[bytes], bytes]
) -> None:
    content = fits_table(b"".join(map(fits_row, range(30))) + HEAP, 30)
    async with running(tmp_path, keeping(FITS)) as site:
        preview = (await site.get(await kept(site, pack_it(content)) + "/preview")).xml
        assert preview.find("p:problem", NS) is None
        assert cells(preview) == [[str(number), *IN_FITS, "-128", "4.5"] for number in range(20)]
        columns = preview.findall(".//p:column", NS)
        assert [column.text for column in columns] == list(NAMES)
        assert [column.get("unit") for column in columns[:2]] == ["", "mag"]
        assert preview.get("part") == "beginning"
        assert len(preview.findall("p:header", NS)) == 2
        few = fits_table(fits_row(-9) + HEAP, 1)
        preview = (await site.get(await kept(site, pack_it(few)) + "/preview")).xml
        assert cells(preview) == [["", *IN_FITS, "-128", "4.5"]]
        assert preview.get("part") is None


@pytest.mark.skipif(not find_spec("astropy"), reason="astropy is not installed")
def test_the_table_of_these_tests_is_one_for_astropy(tmp_path: Path) -> None:
    from astropy.io import fits

    (tmp_path / "file").write_bytes(fits_table(fits_row(5) + HEAP, 1))
    with fits.open(tmp_path / "file") as hdus:
        row = hdus[1].data[0]
        assert (row["n"], row["band"], row["big"], row["signed"], row["scaled"]) == (
            5,
            "it's",
            2**62 + 2**63,
            -128,
            4.5,
        )
        assert (list(row["ys"])[::2], "".join(row["note"])) == ([1, 2.5], "words")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (fits_table(fits_row(1), 40)[:8640], "the file ends before the end of row 1"),
        (
            fits_table(fits_row(1), 1, TFORM1="'J J'", NAXIS1=5),
            "its columns do not make up its rows of 5 bytes",
        ),
        (fits_table(b"", 1, TFORM1="'?'"), "expected a format such as 1J or 1PE(9), got TFORM1 = '?'"),
        (
            fits_table(fits_row(1).replace(pack(">ii", 3, 0), pack(">ii", 3, 2**30)), 1),
            f"a value says that it has 3 items at byte {2**30} of the heap",
        ),
        (
            fits_table(fits_row(1).replace(pack(">ii", 3, 0), pack(">ii", -3, 0)), 1),
            "a value says that it has -3 items at byte 0 of the heap",
        ),
        (
            fits_table(fits_row(1) + HEAP, 1, THEAP=2**70),
            "a value says that it has 3 items at byte 0 of the heap",
        ),
    ],
)
async def test_of_a_fits_table_that_is_not_as_said_it_is_told_what_is_wrong(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    async with running(tmp_path, keeping(FITS)) as site:
        preview = (await site.get(await kept(site, content) + "/preview")).xml
        assert preview.findtext("p:problem", "", NS) == f"a table is not as it should be: {problem}"
        assert len(preview.findall("p:header", NS)) == 2


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
    assert etree.tostring(look(path, "file", media_type, from_end=False))


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
async def test_no_picture_is_made_twice(tmp_path: Path) -> None:
    image = header(SIMPLE="T", BITPIX=8, NAXIS=2, NAXIS1=4, NAXIS2=2) + bytes(2880)
    async with running(tmp_path, keeping(FITS)) as site:
        url = await kept(site, image) + "/quicklook"
        answer = await site.get(url)
        assert answer.status == 200
        held = {"If-None-Match": answer.headers["ETag"]}
        assert (await site.get(url, headers=held)).status == 304
        assert (await site.request("HEAD", url)).status == 405


@pytest.mark.skipif(not find_spec("astropy"), reason="without astropy there are no pictures")
async def test_of_fits_that_is_compressed_as_a_whole_a_bounded_beginning_is_shown(tmp_path: Path) -> None:
    image = header(SIMPLE="T", BITPIX=8, NAXIS=2, NAXIS1=4, NAXIS2=2) + bytes(range(8)) + bytes(2872)
    wide = header(SIMPLE="T", BITPIX=8, NAXIS=2, NAXIS1=300_000, NAXIS2=1000)
    endless = gzip.compress(wide) + gzip.compress(bytes(10_000_000)) * 30 + gzip.compress(image)
    async with running(tmp_path, keeping("image/x-fits-gzip")) as site:
        packed = gzip.compress(image)
        for content, headers, status in (
            (packed, 1, 200),
            (packed[:-9], 1, 200),
            (endless, 1, 404),
            (b"\x1f\x8bno gzip at all", 0, 404),
        ):
            url = await kept(site, content)
            preview = (await site.get(f"{url}/preview")).xml
            assert len(preview.findall("p:header", NS)) == headers
            assert (preview.find("p:problem", NS) is None) == bool(headers)
            assert (await site.get(f"{url}/quicklook")).status == status


@pytest.mark.skipif(not find_spec("astropy"), reason="without astropy there are no pictures")
async def test_of_an_image_without_any_value_it_is_said_so_where_the_picture_would_be(tmp_path: Path) -> None:
    empty = header(SIMPLE="T", BITPIX=-32, NAXIS=2, NAXIS1=4, NAXIS2=2) + pack(">f", nan) * 8 + bytes(2848)
    words = "in kept, no pixel that would be shown has a value"
    async with running(tmp_path, keeping(FITS)) as site:
        url = await kept(site, empty) + "/quicklook"
        answer = await site.get(url)
        assert (answer.status, answer.text) == (404, f"UsageFault: {words}\n")
        accept = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"  # of <img> in Chromium
        answer = await site.get(url, headers={"Accept": accept})
        assert (answer.status, answer.headers["Content-Type"]) == (404, "image/svg+xml")
        assert answer.xml.findtext("{http://www.w3.org/2000/svg}text") == words


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


async def test_who_looks_at_files_keeps_nobody_waiting_who_fetches_one(tmp_path: Path) -> None:
    slow = b"<VOTABLE>" + b"<FIELD datatype='bit'/>" * 15_000
    async with running(tmp_path, keeping(VOTABLE)) as site:
        url = await kept(site, slow)
        looks = [asyncio.ensure_future(site.get(f"{url}/preview")) for _ in range(30)]
        await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
        assert (await site.get(url)).body == slow
        assert sum(look.done() for look in looks) < 15, "it need not wait for those who look"
        assert {answer.status for answer in await asyncio.gather(*looks)} == {200}
